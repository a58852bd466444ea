"""Known data sets, MNIST and its siblings: class names, orientation, and label offset."""

import hashlib
import re
import string
from dataclasses import dataclass
from pathlib import Path

from training.data.mnist_download import MNIST_SHA256
from training.errors import DataError, reading

MAX_MAPPING_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownSet:
    """A known data set."""

    name: str
    classes: tuple[str, ...]
    prefixed: bool = False
    """Whether the names of its files start with its name."""
    first_label: int = 0
    """The label of the first class."""
    transposed: bool = False
    """Whether its images are stored column by column."""
    handwriting: bool = True
    """Whether its images are handwriting, which keeps its class when it is rotated or deformed a little."""


def _emnist(split: str, classes: str, first_label: int = 0) -> KnownSet:
    return KnownSet(
        name=f"emnist-{split}",
        classes=tuple(classes),
        prefixed=True,
        first_label=first_label,
        transposed=True,
    )


_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
"""Letters whose upper and lower case look alike are one class: EMNIST's paper, section II."""

_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Source: the table of labels in Fashion-MNIST's README."""

KNOWN = {
    known.name: known
    for known in (
        KnownSet(name="mnist", classes=tuple(string.digits)),
        KnownSet(name="fashion-mnist", classes=_FASHION, handwriting=False),
        # Source: kmnist_classmap.csv; torchvision names them o, ki, su, tsu, na, ha, ma, ya, re, wo.
        KnownSet(name="kmnist", classes=tuple("おきすつなはまやれを")),
        _emnist("byclass", string.digits + string.ascii_uppercase + string.ascii_lowercase),
        _emnist("bymerge", _MERGED),
        _emnist("balanced", _MERGED),
        _emnist("letters", string.ascii_uppercase, first_label=1),
        _emnist("digits", string.digits),
        _emnist("mnist", string.digits),
    )
}
"""Name to data set."""

TRAINING_LABELS_SHA256 = {
    MNIST_SHA256["train-labels-idx1-ubyte"]: "mnist",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9": "fashion-mnist",
}
"""SHA-256 of the raw training labels to the set's name, for sets with the same file names."""
KMNIST_LABELS_GZ_MD5 = "e144d726b3acfaa3e44228e80efcd344"
"""MD5 of KMNIST's published, compressed training labels. Source: torchvision."""


def recognised(labels: Path, raw_sha256: str) -> KnownSet | None:
    """Return the known set of a file of training labels, or None.

    Raises:
        DataError: the file cannot be read.
    """
    if name := TRAINING_LABELS_SHA256.get(raw_sha256):
        return KNOWN[name]
    with reading(labels):
        md5 = hashlib.md5(labels.read_bytes(), usedforsecurity=False).hexdigest()
    return KNOWN["kmnist"] if md5 == KMNIST_LABELS_GZ_MD5 else None


def read_mapping(path: Path, first_label: int) -> list[str]:
    """Read EMNIST's mapping file: a label and one or more ASCII codes a line.

    If a class has two codes, as in EMNIST Letters, the first, of the upper case, becomes its name.

    Raises:
        DataError: the file cannot be read, or a line is invalid or out of order.
    """
    with reading(path), path.open("rb") as file:
        lines = file.read(MAX_MAPPING_BYTES).decode("ascii", "replace").split("\n")
    names: list[str] = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        label = str(first_label + len(names))
        code = int(fields[1]) if fields[1:] and re.fullmatch(r"\d{1,3}", fields[1], re.ASCII) else 0
        if fields[0] != label or not 32 < code < 127:
            raise DataError(
                f"{path}, line {number}, is {line[:50]!r}; label {label} and an ASCII code is expected"
            )
        names.append(chr(code))
    return names
