"""Known data sets, MNIST and its siblings: class names, orientation, and the numbers of the labels.

A set is known by the names of its files (`known_by_name`), or by its labels (`known_by_labels`), because MNIST,
Fashion-MNIST and KMNIST are published in files of the same names.

Sources of a set's names and orientation are said beside it. Hashes of MNIST's, Fashion-MNIST's, KMNIST's, EMNIST's,
QMNIST's and Kannada-MNIST's labels were computed from files whose published MD5 they have (torchvision 0.29's
`datasets/mnist.py`, mnists 0.4; Kannada-MNIST publishes none).
"""

import hashlib
import string
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imagesets.names.file_names import read_name

MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of MNIST's files, uncompressed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownSet:
    """A known data set."""

    name: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    """What the names of its files begin with: words joined by dashes, without those of part and role."""
    prefixed: bool = True
    """Whether all its files are named so; if not, some are named as MNIST's are."""
    labels: tuple[int, ...] = ()
    """The number of each class in its files; empty counts from 0."""
    transposed: bool = False
    """Whether its images are stored column by column, in every container of numbers in which it is published."""
    handwriting: bool = True
    """Whether its images are handwriting, which keeps its class when it is rotated or deformed a little."""

    def names(self) -> dict[int, str]:
        """Return the name of each number in the set's files."""
        return dict(zip(self.labels or range(len(self.classes)), self.classes, strict=True))

    def has_files(self, prefix: str) -> bool:
        """Return whether files may be the set's by the words in their names, joined by dashes."""
        return any(prefix == start or prefix.startswith(f"{start}-") for start in self.files)


_FASHION = "T-shirt/top|Trouser|Pullover|Dress|Coat|Sandal|Shirt|Sneaker|Bag|Ankle boot"
_KUZUSHIJI_49 = (
    "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわゐゑをんゝ"
)
_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
"""Letters whose upper and lower case look alike are one class: EMNIST's paper, section II."""
_HAM10000 = (
    "Actinic keratoses|Basal cell carcinoma|Benign keratosis-like lesions|Dermatofibroma|Melanocytic nevi|"
    "Vascular lesions|Melanoma"
)
"""In the order of hmnist_28_28_L.csv, which is not that of DermaMNIST."""
_ORGANS = (
    "bladder|femur-left|femur-right|heart|kidney-left|kidney-right|liver|lung-left|lung-right|pancreas|spleen"
)
_MEDMNIST = {
    "octmnist": "choroidal neovascularization|diabetic macular edema|drusen|normal",
    "pneumoniamnist": "normal|pneumonia",
    "breastmnist": "malignant|normal, benign",
    "tissuemnist": (
        "Collecting Duct, Connecting Tubule|Distal Convoluted Tubule|Glomerular endothelial cells|"
        "Interstitial endothelial cells|Leukocytes|Podocytes|Proximal Tubule Segments|Thick Ascending Limb"
    ),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}
"""The sets of 28x28 gray images with one label each: medmnist 3.0.2, `info.py`."""


def _emnist(split: str, classes: str, labels: tuple[int, ...] = ()) -> KnownSet:
    name = f"emnist-{split}"
    return KnownSet(name=name, files=(name,), classes=tuple(classes), labels=labels, transposed=True)


def _photographs(
    name: str, classes: str, files: tuple[str, ...] = (), labels: tuple[int, ...] = ()
) -> KnownSet:
    names = tuple(classes.split("|"))
    return KnownSet(name=name, files=files or (name,), classes=names, labels=labels, handwriting=False)


_DIGITS = tuple(string.digits)

KNOWN = {
    known.name: known
    for known in (
        KnownSet(name="mnist", files=(), prefixed=False, classes=_DIGITS),
        # Their README in facebookresearch/qmnist; xnist is all of NIST's digits.
        KnownSet(name="qmnist", files=("qmnist",), classes=_DIGITS),
        KnownSet(name="xnist", files=("xnist",), classes=_DIGITS),
        # The table of labels in its README.
        KnownSet(
            name="fashion-mnist",
            files=("fashion-mnist",),
            prefixed=False,
            classes=tuple(_FASHION.split("|")),
            handwriting=False,
        ),
        # rois-codh/kmnist, kmnist_classmap.csv: torchvision names them o, ki, su, tsu, na, ha, ma, ya, re, wo.
        KnownSet(name="kmnist", files=("kmnist",), prefixed=False, classes=tuple("おきすつなはまやれを")),
        # k49_classmap.csv; its Romanised names would not be unique.
        KnownSet(name="kuzushiji-49", files=("k49", "kuzushiji-49"), classes=tuple(_KUZUSHIJI_49)),
        # Its paper, section II, and emnist-*-mapping.txt; transposed: tensorflow-datasets 4.9, mnists 0.4.
        _emnist("byclass", string.digits + string.ascii_uppercase + string.ascii_lowercase),
        _emnist("bymerge", _MERGED),
        _emnist("balanced", _MERGED),
        _emnist("letters", string.ascii_uppercase, tuple(range(1, 27))),
        _emnist("digits", string.digits),
        _emnist("mnist", string.digits),
        # vinayprabhu/Kannada_MNIST: the numerals 0 to 9; Dig-MNIST is a second test set, by other writers.
        KnownSet(name="kannada-mnist", files=("kannada-mnist",), classes=_DIGITS),
        KnownSet(name="dig-mnist", files=("dig-mnist",), classes=_DIGITS),
        # Readers of csvTrainImages 60k x 784.csv: numpy.reshape(..., order="F") makes them upright.
        KnownSet(
            name="arabic-digits",
            files=("csv-60k-x-784", "csv-60k-x-1", "csv-10k-x-784", "csv-10k-x-1"),
            classes=_DIGITS,
            transposed=True,
        ),
        # Readers of A_Z Handwritten Data.csv: upright.
        KnownSet(name="az-handwritten", files=("a-z-handwritten",), classes=tuple(string.ascii_uppercase)),
        # Its description: 0 to 25 are A to Z, without J (9) and Z (25), which are moved when they are signed.
        _photographs(
            "sign-mnist", "|".join("ABCDEFGHIKLMNOPQRSTUVWXY"), labels=tuple(n for n in range(25) if n != 9)
        ),
        # Both are published as hmnist_28_28_L.csv. Colorectal: Kather and others (2016), folders 01_TUMOR to 08_EMPTY.
        _photographs("ham10000", _HAM10000, ("hmnist-28-28-l",)),
        _photographs(
            "colorectal-histology",
            "Tumor|Stroma|Complex|Lympho|Debris|Mucosa|Adipose|Empty",
            ("hmnist-28-28-l",),
            tuple(range(1, 9)),
        ),
        *(_photographs(name, classes) for name, classes in _MEDMNIST.items()),
    )
}
"""Name to data set."""

LABELS_SHA256 = {
    MNIST_SHA256["train-labels-idx1-ubyte"]: "mnist",
    MNIST_SHA256["t10k-labels-idx1-ubyte"]: "mnist",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9": "fashion-mnist",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34": "fashion-mnist",
    "2a16eeae62da984b8bd24fa32e31d47291f01dac3fe84d5594f304f71e7d374b": "kmnist",
    "a11dc742be8e781a40a92f53d6a4957e7b7d36df2faa097659131ebfd8fd60c6": "kmnist",
    "a9c2984bf327d013e469d8b66e4bf6e4e98aaeebddc35d1c869b2cd3d1806e12": "emnist-balanced",
    "91807a38b4dab13f65fed7d9cac9fa6e7d27fc8c24f52327b8e6435ebfe18e90": "emnist-balanced",
    "2c05edd703ce311a0961a63e90b718c5fd02456ae81706f1753817eee522efb6": "emnist-byclass",
    "842d01413932b3ce7afbc9990376a16f8880a212bb42d66fa2922b4218cf300a": "emnist-byclass",
    "162d901969cc8f9706ef17fcb1043a4dbdd185b9155593c75b56409b7fa2e154": "emnist-bymerge",
    "17b8bd69b4e584fa425d7268b1f58882ef4bf7f241a6116fa606bb6d36839b5a": "emnist-bymerge",
    "86013a4b932e35477a90ecff239cf492643795cf3c68dd6b7fae3264fb24316b": "emnist-digits",
    "a456cc5cfc928851403b513f94937b9d7570f424ea6d56dce3b28f6c0723608a": "emnist-digits",
    "e8e94c3f4353d5532fd9604b939cb4c76e7847945b9b0d9ff7884d881dead6bc": "emnist-letters",
    "22dbcde0a929a7f166bdac863b9195b2994d840a1e082f8f6daaeac5606376a6": "emnist-letters",
    "b5dade35dd22e02c3c6579167b8f17269bcdda2c6126abd598399160bb47317b": "emnist-mnist",
    "a0ffd2d4ce92418e020d53cf36f2b6c154c4f59344098a5e8d3c6e588109f0a0": "emnist-mnist",
    "dbc433804379831d5aa1f78549bc9a1db7266c82d319f407d05246e3e45b6753": "qmnist",
    "42d8a31792fb59dcec85b8e5b62bd03598c1a96f4edffe6f6a3e95daac9319ef": "kannada-mnist",
    "2a4fb3eec0877aa3d4ab80d8f59374733af9b2b2966e8be0e50efe715f443a4d": "kannada-mnist",
    "270a721d62dee2a1e9459e0192e425c086de49f1f9610fb3d7b9f457e3dd83fe": "dig-mnist",
}
"""SHA-256 of a part's labels as an IDX file to the set's name; so they are told apart in every container."""

LABEL_COUNTS = {(327, 514, 1099, 115, 6705, 142, 1113): "ham10000"}
"""Images of each class, by number, to the set's name: HAM10000's paper, table 1; no other set has these."""


def known_by_name(name: str) -> KnownSet | None:
    """Return the known set that a file's or folder's name or `#SET` begins with, such as `emnist-letters-test.csv`.

    None if none fits, or two sets have files of that name.
    """
    text = read_name(name).prefix
    if known := KNOWN.get(name) or KNOWN.get(text):
        return known
    fit = [known for known in KNOWN.values() if known.has_files(text)]
    return fit[0] if len(fit) == 1 else None


def known_by_labels(labels: npt.NDArray[np.integer[Any]]) -> KnownSet | None:
    """Return the known set of which these are the labels of a whole part, in its order; else None."""
    if not len(labels) or labels.min() < 0 or labels.max() > 255:
        return None
    content = struct.pack(">2I", 0x801, len(labels)) + labels.astype(np.uint8).tobytes()
    counts = tuple(np.bincount(labels).tolist())
    name = LABELS_SHA256.get(hashlib.sha256(content).hexdigest()) or LABEL_COUNTS.get(counts)
    return KNOWN[name] if name else None
