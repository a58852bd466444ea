"""Paths of models and their versions: `models/NAME` and `models/NAME/VERSION`. Without any reading of a bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.store_urls import is_store_url, shown_store_url

MANIFEST_FILE = "manifest.json"
MAX_VERSION_DIGITS = 18
"""An int64 holds 18 digits, and so do JSON readers."""


def version_of(name: str) -> int | None:
    """Return the version number in a directory name, a positive integer without a leading 0, or None."""
    digits = name.isascii() and name.isdigit() and len(name) <= MAX_VERSION_DIGITS
    return int(name) if digits and name[0] != "0" else None


def split_version(path: Path) -> tuple[Path, int | None]:
    """Return `models/NAME` and the version, given the directory of a version; else the path and None.

    A model may be named 1, so a directory is a version's if it has a manifest.
    """
    version = version_of(path.name)
    if version is None or not is_file(path / MANIFEST_FILE):
        return path, None
    return path.parent, version


def only_model(directory: Path) -> Path:
    """Return the only model or version below a directory that is neither, else the directory.

    An unpacked archive and a volume have such a directory above what was packed: `/opt/ml/model/NAME/VERSION`.
    """
    if _is_model(directory):
        return directory
    inner = [path for path in _entries(directory) if _is_model(path)]
    return inner[0] if len(inner) == 1 else directory


def has_model(directory: Path) -> bool:
    """Tell whether a directory is a version, has versions, or is one that `only_model` looks into."""
    return _is_model(only_model(directory))


def _is_model(directory: Path) -> bool:
    """Tell whether a directory is a version or has versions."""
    inner = [path for path in _entries(directory) if version_of(path.name) is not None]
    return any(is_file(path / MANIFEST_FILE) for path in (directory, *inner))


def _entries(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if not path.name.startswith(".")]
    except (OSError, ValueError):  # no directory; a name that is too long, or has a NUL byte
        return []


def file_instead_of_directory(path: Path) -> str | None:
    """Return a sentence with the remedy if a path that should be a directory is a file, else None."""
    if not is_file(path):
        return None
    if is_file(path.parent / MANIFEST_FILE):
        return f"{path} is a file of a version: give the version's directory, {path.parent}"
    return (
        f"{path} is a file: give the directory of a model, models/NAME, or of a version, models/NAME/VERSION"
    )


def with_version(settings: Any) -> Any:
    """Return settings whose `model` is a version's directory or URL as if they had its model and `version`.

    Nobody asks a store here, so a URL that ends in a number is a version's.

    A directory above the only model stands for that model (`only_model`).

    Raises:
        ValueError: `model` is a file, or `version` is another one.
    """
    given = settings.get("model") if isinstance(settings, Mapping) else None
    if not isinstance(given, str | Path):
        return settings
    model, version = _split(given)
    if version is None:
        return {**settings, "model": model}
    other = settings.get("version")
    if str(other).lower() not in ("none", "null", "", str(version)):
        shown = shown_store_url(str(given)) if is_store_url(given) else given
        raise ValueError(f"version: {other} is not the version of the model {shown}: omit one of them")
    return {**settings, "model": model, "version": version}


def _split(given: str | Path) -> tuple[str | Path, int | None]:
    if isinstance(given, str) and is_store_url(given):
        above, _, last = given.rstrip("/").rpartition("/")
        version = version_of(last)
        return (given, None) if version is None else (above, version)
    if (wrong := file_instead_of_directory(Path(given))) is not None:
        raise ValueError(f"model: {wrong}")
    return split_version(only_model(Path(given)))


def is_file(path: Path) -> bool:
    """Tell whether there is a file; false for a path that the system does not take."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a NUL byte
        return False
