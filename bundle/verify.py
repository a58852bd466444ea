"""Re-check a published bundle from its bytes alone: what `python -m bundle verify` does."""

from pathlib import Path

from bundle.errors import BundleError
from bundle.golden import GoldenExamples
from bundle.manifest import FILES, GOLDEN_FILE, MANIFEST_FILE, OPTIONAL_FILES, is_complete
from bundle.repository import CONFIG_FILE, Bundle
from bundle.triton import config_pbtxt


def problems(path: Path) -> list[str]:
    """Return everything that is wrong with the version directory `path`; an empty list if nothing is.

    Checked: the manifest's schema, form and digest; that every file is there, that no other is,
    and each one's SHA-256; the golden examples' shapes and sums; Triton's `config.pbtxt`.
    """
    try:
        bundle = Bundle.open(path)
    except BundleError as error:
        return [str(error)]
    found = []
    manifest = bundle.manifest
    if not is_complete(manifest.files):
        found.append(f"{MANIFEST_FILE} lists {sorted(manifest.files)}, a bundle is {sorted(FILES)}")
    for name in sorted(set(manifest.files) & {*FILES, *OPTIONAL_FILES}):  # other names could lead anywhere
        try:
            data = bundle.read(name)
            if name == GOLDEN_FILE:
                GoldenExamples.from_bytes(data, manifest)
        except BundleError as error:
            found.append(str(error))
    strangers = {entry.name for entry in bundle.path.iterdir()} - {*manifest.files, MANIFEST_FILE}
    found += [f"{name} does not belong to the bundle: remove it" for name in sorted(strangers)]
    expected = config_pbtxt(manifest.name, len(manifest.classes)).encode()
    config = bundle.path.parent / CONFIG_FILE
    try:
        unchanged = config.read_bytes() == expected
    except OSError:
        unchanged = False
    if not unchanged:
        found.append(f"{config} is missing or not what was published: Triton would not serve this")
    return found
