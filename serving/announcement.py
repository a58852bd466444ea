"""What is printed when the service is ready: a command that works as printed, and what to expect."""

import shlex
from pathlib import Path

from bundle.manifest import SAMPLE_FILE
from serving.errors import NotReadyError
from serving.settings import ServiceSettings
from serving.state import ModelState

EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  to recognise, not to bind


def announcement(state: ModelState, settings: ServiceSettings) -> str | None:
    """Return a curl line for the bundle's sample image, and its label; None while nothing is ready."""
    try:
        bundle = state.engine().bundle
    except NotReadyError:
        return None
    command = shlex.join(
        [
            "curl",
            "--data-binary",
            f"@{_shortest(bundle.path / SAMPLE_FILE)}",
            "-H",
            "Content-Type: image/png",
            f"{base_url(settings)}/predict",
        ]
    )
    manifest = bundle.manifest
    return (
        f"\nServing {manifest.name} version {bundle.version} ({state.provider}). Try it:\n\n    {command}\n\n"
        f"The answer's label should be {manifest.sample_label!r}. Or open {base_url(settings)}/ and draw.\n"
    )


def base_url(settings: ServiceSettings) -> str:
    """Return the URL under which this machine reaches the service."""
    host = EVERY_ADDRESS.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _shortest(path: Path) -> Path:
    """Return `path` relative to the working directory where it lies below it."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed
        return path
    return path.relative_to(here) if path.is_relative_to(here) else path
