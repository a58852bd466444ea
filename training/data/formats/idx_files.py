"""Find the IDX files of a data set by name, and hash their uncompressed content."""

import hashlib
import re
import struct
from collections import defaultdict
from pathlib import Path

from bundle.manifest import IMAGE_SIZE
from common.atomic_files import CHUNK_BYTES
from training.data.formats.idx import open_idx
from training.data.formats.known_sets import KNOWN, KnownSet
from training.errors import DataError

FILE = re.compile(
    r"(?:(?P<prefix>.+)-)?(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(?P<gz>\.gz)?"
)

UNNAMED = "one without a prefix (#mnist, #fashion-mnist or #kmnist)"

Files = dict[tuple[str, str], Path]
"""The files of a set by part and kind: `("train", "images")` and so on."""


def find_sets(directory: Path) -> dict[str, Files]:
    """Return the sets in a directory, by prefix.

    Raises:
        DataError: the directory cannot be listed, or has two files for a part of a set.
    """
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise DataError(f"{directory} cannot be listed: {error.strerror}") from None
    sets: defaultdict[str, Files] = defaultdict(dict)
    for name in names:  # sorted: the raw file comes before its .gz
        if not (match := FILE.fullmatch(name)) or name.startswith("."):
            continue
        part = "train" if match["part"] == "train" else "test"
        files = sets[match["prefix"] or ""]
        there = files.setdefault((part, match["kind"]), directory / name)
        if there.name not in (name, name.removesuffix(".gz")):
            raise DataError(f"{directory} has both {there.name} and {name}: remove one of them")
    return dict(sets)


def hashes(files: Files, part: str, count: int) -> dict[Path, str]:
    """Return the SHA-256s of the uncompressed images and labels of a part.

    Args:
        files: of the set.
        part: `train` or `test`.
        count: the number of images.

    Raises:
        DataError: a file cannot be read, or its header or size is not that of `count` images of 28x28 or labels.
    """
    images, labels = files[(part, "images")], files[(part, "labels")]
    pixels = IMAGE_SIZE * IMAGE_SIZE
    return {
        images: _sha256_raw(images, struct.pack(">4I", 0x803, count, IMAGE_SIZE, IMAGE_SIZE), count * pixels),
        labels: _sha256_raw(labels, struct.pack(">2I", 0x801, count), count),
    }


def _sha256_raw(path: Path, header: bytes, size: int) -> str:
    """Return the SHA-256 of the uncompressed content of an IDX file, without holding it in memory.

    Args:
        path: the file, raw or `.gz`.
        header: the expected header.
        size: the expected number of bytes after it; at most one more is read.

    Raises:
        DataError: the file cannot be read, or has another header or size.
    """
    digest, count, head = hashlib.sha256(), 0, b""
    size += len(header)
    with open_idx(path) as file:
        while count <= size and (chunk := file.read(min(CHUNK_BYTES, size + 1 - count))):
            head = head or chunk[: len(header)]
            digest.update(chunk)
            count += len(chunk)
    if head != header or count != size:
        raise DataError(
            f"{path} starts with {head.hex(' ') or 'nothing'} and has {'more than ' if count > size else ''}"
            f"{min(count, size)} bytes; by its labels it should start with {header.hex(' ')} and have {size}"
        )
    return digest.hexdigest()


def parse(path: str) -> tuple[Path, str]:
    """Split `DIR#SET`, unless a directory has that name."""
    directory, mark, chosen = path.rpartition("#")
    return (Path(directory), chosen) if mark and not Path(path).is_dir() else (Path(path), "")


def choose(directory: Path, chosen: str) -> tuple[str, Files, KnownSet | None]:
    """Return the prefix and the files of the chosen or only set, and its `KnownSet` if it is one.

    Raises:
        DataError: there is no set, or several and none is chosen, or a file of the set is missing.
    """
    sets = find_sets(directory)
    if not sets:
        raise DataError(
            f"{directory} has no IDX files: put train-images-idx3-ubyte and train-labels-idx1-ubyte there, raw or "
            "as .gz, and optionally t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"
        )
    labels = ", ".join(repr(prefix) if prefix else UNNAMED for prefix in sorted(sets))
    known = KNOWN.get(chosen)
    if chosen and chosen in sets:
        prefix = chosen
    elif known and not known.prefixed and "" in sets:
        prefix = ""
    elif chosen:
        raise DataError(f"{directory} has no set {chosen!r}; it has {labels}")
    elif len(sets) > 1:
        example = max(sets)
        raise DataError(
            f"{directory} has several sets, {labels}: choose one, as in idx:{directory}#{example}"
        )
    else:
        (prefix,) = sets
    files = sets[prefix]
    for part in dict.fromkeys(["train", *(part for part, _ in files)]):
        for kind, axes in (("images", 3), ("labels", 1)):
            if (part, kind) not in files:
                start = f"{prefix}-{part}" if prefix else part.replace("test", "t10k")
                raise DataError(f"{directory} lacks {start}-{kind}-idx{axes}-ubyte (or .gz)")
    return prefix, files, known or KNOWN.get(prefix)
