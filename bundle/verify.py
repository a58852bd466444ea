"""Verify a published bundle from its bytes alone: `python -m bundle verify`."""

from pathlib import Path

from bundle import reading
from bundle.errors import BundleError
from bundle.manifest import MANIFEST_FILE, SIGNATURE_FILE
from bundle.repository import CONFIG_FILE, Bundle, has_config
from common.errors import one_line


def problems(path: Path, trusted: Path | None = None) -> list[str]:
    """Return all problems of the version directory `path`; an empty list if it passes.

    Verified are each file, as every reader does (`reading.py`), that there are no other files, and Triton's
    `config.pbtxt`. With `trusted`, public keys, it must be signed by one of them.
    """
    try:
        bundle = Bundle.open(path, trusted)
    except BundleError as error:
        return [str(error)]
    found = []
    for name in sorted(bundle.manifest.files):
        try:
            reading.check(bundle.path, bundle.manifest, name)
        except BundleError as error:
            found.append(str(error))
    try:
        there = {entry.name for entry in bundle.path.iterdir()}
    except OSError as error:
        found.append(f"{path} cannot be listed: {error.strerror}")
        there = set()
    strangers = there - {*bundle.manifest.files, MANIFEST_FILE, SIGNATURE_FILE}
    found += [f"{one_line(name)} does not belong to the bundle: remove it" for name in sorted(strangers)]
    if not has_config(bundle.path.parent, bundle.manifest):
        config = bundle.path.parent / CONFIG_FILE
        found.append(f"{config} is missing or was changed: Triton cannot serve this model")
    return found
