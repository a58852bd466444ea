"""Proves a version in a child process, which can be timed and killed: `python -m serving.model.prove`.

Nobody knows beforehand what a graph does when it is loaded and run on its golden examples: it may compute for hours,
take all memory, or crash the process. The child opens the version exactly as a worker does and prints the result as
one line of JSON. On CUDA the child creates a context beside the worker's; this has not been tried on a GPU yet.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from bundle.errors import BundleError, GoldenMismatchError, InvalidBundleError
from common.errors import one_line
from serving.errors import ProviderError
from serving.model.proof_table import Status
from serving.system.memory import limit_memory
from serving.system.parent_death import end_with_parent

if TYPE_CHECKING:
    from bundle.repository import Bundle
    from serving.model.engine import Engine, Provider
    from serving.settings import ServiceSettings

log = logging.getLogger("glyph.serving")

POLL_SECONDS = 0.05
MAX_REASON = 1000
"""Maximum length in characters of a failure's reason, because every readiness probe returns it."""
OOM_SCORE_ADJ = "1000"
"""The child's `/proc/self/oom_score_adj` (proc(5)): when memory runs out, the kernel kills it and no serving worker."""
ProofResult = tuple[Status, str]
"""The status, and the reason where the version or CUDA failed."""


def prove(
    path: Path, provider: "Provider", settings: "ServiceSettings", seconds: float, shutdown: threading.Event
) -> ProofResult:
    """Prove the version in the directory `path` in a child process, and return the result.

    The result is `unknown` if `shutdown` was set or the child was told to end: that says nothing about the version.

    Args:
        path: the version's directory.
        provider: the execution provider.
        settings: the service's settings, which the child opens the version with.
        seconds: how long the child may take before it is killed.
        shutdown: set when this process ends.

    Raises:
        OSError: the child cannot be started.
    """
    task = {"path": str(path), "provider": provider, "parent": os.getpid()}
    argument = orjson.dumps(task | {"settings": settings.model_dump(mode="json")}).decode()
    deadline = time.monotonic() + seconds
    with subprocess.Popen(
        [sys.executable, "-m", "serving.model.prove", argument],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        process_group=0,  # so that Ctrl-C reaches only the service, which then ends the child
    ) as child:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    output, _ = child.communicate(timeout=POLL_SECONDS)
                    return child_result(child.returncode, output)
                if shutdown.is_set():
                    return "unknown", ""
                if time.monotonic() > deadline:
                    return took_longer(seconds)
        finally:
            child.kill()


def took_longer(seconds: float) -> ProofResult:
    """Return the result of a child that was killed at its deadline."""
    return "invalid", f"loading and proving it took longer than {seconds:g} s"


def child_result(code: int, output: bytes) -> ProofResult:
    """Return the result that the child's exit code and its line of output mean."""
    if -code in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        return "unknown", ""
    if code == -signal.SIGKILL:
        return "invalid", "the process that proves it was killed by SIGKILL, probably for lack of memory"
    if code < 0:
        return "invalid", f"the process that proves it crashed by {signal.Signals(-code).name}"
    try:
        status, reason = orjson.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        return "invalid", f"the process that proves it ended with exit code {code} and printed no result"
    return status, reason


def open_bounded(bundle: "Bundle", provider: "Provider", settings: "ServiceSettings") -> "Engine":
    """Open an unproven version with the service's settings, as `bounded` does.

    Raises:
        InvalidBundleError: as `open_version`, or it takes more memory than is free.
        ProviderError: as `open_version`.
    """
    from serving.model.engine import open_version

    return bounded(provider, lambda: open_version(bundle, provider, settings))


def bounded(provider: "Provider", open_unproven: Callable[[], "Engine"]) -> "Engine":
    """Open an unproven version, on the CPU within the free memory. On CUDA there is no such limit.

    Raises:
        InvalidBundleError: it takes more memory than is free.
    """
    if provider != "cpu":
        return open_unproven()
    try:
        with limit_memory():
            return open_unproven()
    except MemoryError as error:
        raise InvalidBundleError("loading and proving it takes more memory than there is") from error


def main() -> None:
    """Prove the version that the one argument names, and print the result; this is what the child runs."""
    task = orjson.loads(sys.argv[1])
    prepare_child(task["parent"])
    from serving.settings import ServiceSettings

    settings = ServiceSettings.model_validate(task["settings"])
    sys.stdout.buffer.write(orjson.dumps(_open(Path(task["path"]), task["provider"], settings)) + b"\n")


def prepare_child(parent: int) -> None:
    """Have this process end with its parent, and before all others if memory runs out."""
    end_with_parent(parent)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJ)


def _open(path: Path, provider: "Provider", settings: "ServiceSettings") -> ProofResult:
    return attempt(
        path,
        provider,
        settings.device_id,
        settings.trusted_keys,
        lambda bundle: open_bounded(bundle, provider, settings),
    )


def attempt(
    path: Path,
    provider: "Provider",
    device_id: int,
    trusted: Path | None,
    open_unproven: Callable[["Bundle"], "Engine"],
) -> ProofResult:
    """Open the version in the directory `path`, and return what came of it; `trusted` as for `Bundle.open`."""
    from bundle.repository import Bundle
    from serving.model.engine import choose_provider

    try:
        choose_provider(provider, device_id)  # this also loads CUDA's libraries
        open_unproven(Bundle.open(path, trusted, mounted=True))
    except GoldenMismatchError as error:
        return "golden_mismatch", one_line(error, MAX_REASON)
    except BundleError as error:
        return "invalid", one_line(error, MAX_REASON)
    except ProviderError as error:
        return "provider_error", one_line(error, MAX_REASON)
    except Exception as error:
        log.exception("proving %s failed", path)
        return "invalid", f"an unexpected error: {one_line(error, MAX_REASON)}"
    return "proven", ""


if __name__ == "__main__":
    main()
