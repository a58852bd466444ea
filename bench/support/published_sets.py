"""Image sets as their authors publish them and as others pass them on, a few images of each, for tests.

    row = SETS["EMNIST Letters, IDX"]
    made = row.make()
    row.write(directory, made)
    open_set(row.spec.format(directory), Options())

Names of files, types, shapes, label values, order and orientation are the real ones; docs/data.md has a line for each
row, or for several. Sources: torchvision 0.29 `datasets/mnist.py`; Keras `datasets/mnist.py`; the READMEs of
zalandoresearch's fashion-mnist, rois-codh's kmnist, facebookresearch's qmnist, vinayprabhu's Kannada_MNIST, myleott's
mnist_png and googlecreativelab's quickdraw-dataset; mnists 0.4 for EMNIST; extra-keras-datasets 1.2 for matlab.zip;
medmnist 3.0 `info.py`; huggingface/datasets `features.py`; CLIP_benchmark's `webdataset_builder.py`;
tensorflow-datasets 4.9 for MNIST-C and Binarized MNIST; Kaggle's sets by their readers.
"""

import bz2
import gzip
import io
import json
import lzma
import pickle
import string
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.atomic_files import sha256_bytes
from imagesets.names.known_sets import KNOWN, LABELS_SHA256
from imagesets.source import Part

Images = npt.NDArray[np.uint8]
EACH: Mapping[Part, int] = {"training": 4, "validation": 3, "test": 2}
"""Images of each class, by part."""
MNIST_NAMES: Mapping[Part, str] = {"training": "train", "test": "t10k"}
PLAIN_NAMES: Mapping[Part, str] = {"training": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True, kw_only=True, slots=True)
class MadePart:
    """The images of a part in the order of the file, upright, and the number of each one's class."""

    images: Images
    """`uint8[n, 28, 28]`."""
    labels: npt.NDArray[np.int64]


Made = Mapping[Part, MadePart]
Write = Callable[[Path, Made], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedSet:
    """A set in one of the containers in which it is published."""

    write: Write
    """Writes it into a folder."""
    classes: Mapping[int, str]
    """The name of each number of its labels, in the order of the classes."""
    line: str = ""
    """The line of docs/data.md where that is of several rows; empty is the row's own title."""
    parts: Sequence[Part] = ("training", "test")
    spec: str = "{}"
    """`--data` and `--input`: the folder is put in for the braces."""
    one_part: bool = False
    """Whether nothing in it says that the images are the training part."""
    unlabelled: frozenset[Part] = frozenset()
    """Parts without labels."""
    by_labels: str = ""
    """The known set as which its labels are recognised; those that are made must be entered."""
    name: str = ""
    """Of the known set that it is."""
    broken: int = 0
    """Image files that cannot be decoded."""
    sorted: bool = False
    """Whether its labels are in ascending order."""
    pixels: Literal["auto", "0..1", "0..255"] = "auto"
    """As it must be declared."""
    ones: bool = False
    """Whether its pixels are 0 and 255 alone."""
    refused: str = ""
    """A pattern of the message with which it is refused, and the way round."""

    def make(self) -> Made:
        """Return its images and labels; those of every part are others."""
        return {part: self._part(part, seed) for seed, part in enumerate(self.parts)}

    def _part(self, part: Part, seed: int) -> MadePart:
        random = np.random.default_rng(seed)
        labels = np.repeat(np.array([*self.classes]), EACH[part])
        if not self.sorted:
            labels = random.permutation(labels)
        images = random.integers(0, 256, (len(labels), 28, 28), np.uint8)
        return MadePart(
            images=np.where(images > 127, 255, 0).astype(np.uint8) if self.ones else images, labels=labels
        )


def _numbers(count: int) -> Mapping[int, str]:
    return {number: str(number) for number in range(count)}


DIGITS = _numbers(10)
SETS: dict[str, PublishedSet] = {}
"""The rows of docs/data.md."""


def _row(title: str, write: Write, classes: Mapping[int, str] = DIGITS, **fields: Any) -> None:
    SETS[title] = PublishedSet(write=write, classes=classes, **fields)


def enter_labels(row: PublishedSet, made: Made) -> dict[str, str]:
    """Return `known_sets.LABELS_SHA256` with what was made as the labels of the set that the row is known as."""
    content = idx_bytes(made["training"].labels.astype(np.uint8))
    return {**LABELS_SHA256, sha256_bytes(content): row.by_labels}


# Files


def idx_bytes(array: npt.NDArray[Any]) -> bytes:
    """Return an IDX file."""
    code = {"u1": 0x08, "i4": 0x0C}[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def _idx(
    images: str,
    labels: str,
    *,
    names: Mapping[Part, str] = MNIST_NAMES,
    pack: Callable[[bytes], bytes] = gzip.compress,
    transposed: bool = False,
) -> Write:
    """Return a writer of IDX files; the braces in their names are the part's."""

    def write(root: Path, made: Made) -> None:
        for part, content in made.items():
            upright = content.images
            stored = upright.transpose(0, 2, 1) if transposed else upright
            _put(root / images.format(names[part]), pack(idx_bytes(np.ascontiguousarray(stored))))
            _put(root / labels.format(names[part]), pack(idx_bytes(content.labels.astype(np.uint8))))

    return write


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _plain(data: bytes) -> bytes:
    return data


def _all(*writers: Write) -> Write:
    def write(root: Path, made: Made) -> None:
        for writer in writers:
            writer(root, made)

    return write


def _csv(
    name: str,
    header: Callable[[int], str] | None = None,
    *,
    label: str = "label",
    last: bool = False,
    names: Mapping[Part, str] = PLAIN_NAMES,
    transposed: bool = False,
    unlabelled: frozenset[str] = frozenset(),
    first: Mapping[str, Callable[[int, int], str]] = {},
    texts: Sequence[str] = (),
) -> Write:
    """Return a writer of tables.

    Args:
        name: of the file, with braces for the part's.
        header: returns the name of the column of a pixel, counted from 0; None writes none.
        label: the name of the column of the labels.
        last: whether that is the last one.
        names: of the parts.
        transposed: whether the pixels are column by column.
        unlabelled: parts without a column of labels.
        first: columns before all others; they return the cell of a row by its number and label.
        texts: what is written instead of the labels' numbers.
    """

    def write(root: Path, made: Made) -> None:
        for part, content in made.items():
            images = content.images.transpose(0, 2, 1) if transposed else content.images
            lines = []
            if header is not None:
                cells = [header(place) for place in range(784)]
                lines.append([*first, *_with(cells, label, last, part in unlabelled)])
            for row, pixels in enumerate(images.reshape(-1, 784).tolist()):
                number = int(content.labels[row])
                cells = _with(
                    map(str, pixels), texts[number] if texts else str(number), last, part in unlabelled
                )
                lines.append([*(cell(row, number) for cell in first.values()), *cells])
            _put(root / name.format(names[part]), "".join(",".join(line) + "\n" for line in lines).encode())

    return write


def _with(cells: Iterable[str], label: str, last: bool, without: bool) -> list[str]:
    return [*cells] if without else [*cells, label] if last else [label, *cells]


def _from_zero(place: int) -> str:
    return f"pixel{place}"


def _from_one(place: int) -> str:
    return f"pixel{place + 1}"


def _padded(place: int) -> str:
    return f"pixel{place:04d}"


def _by_place(place: int) -> str:
    return f"{place // 28 + 1}x{place % 28 + 1}"


def png_bytes(image: Images, kind: str = "PNG") -> bytes:
    """Return an image file, by default PNG, that decodes to the same pixels."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def _members(made: Made, names: Mapping[Part, str], classes: Mapping[int, str]) -> dict[str, bytes]:
    """Return image files by part and class."""
    files = {}
    for part, content in made.items():
        for row, (image, label) in enumerate(zip(content.images, content.labels.tolist(), strict=True)):
            files[f"{names[part]}/{classes[label]}/{row}.png"] = png_bytes(image)
    return files


def _folders(top: str, names: Mapping[Part, str], classes: Mapping[int, str]) -> Write:
    def write(root: Path, made: Made) -> None:
        for name, data in _members(made, names, classes).items():
            _put(root / top / name, data)

    return write


def _tar(path: Path, files: Mapping[str, bytes], mode: Any = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.pax_headers = {"mtime": "1700000000.5"}
            archive.addfile(member, io.BytesIO(data))


def _parquet(path: str, feature: Any, label: str = "label") -> Write:
    """Return a writer of a data set of the Hugging Face Hub; `feature` is that of the labels in its metadata."""

    def write(root: Path, made: Made) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        features = {"image": {"_type": "Image"}, label: feature}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        for part, content in made.items():
            images = [{"bytes": png_bytes(image), "path": None} for image in content.images]
            table = pa.table({"image": pa.array(images, kind), label: pa.array(content.labels, pa.int64())})
            (root / path.format(PLAIN_NAMES[part])).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.replace_schema_metadata(metadata), root / path.format(PLAIN_NAMES[part]))

    return write


def _names(names: Iterable[str]) -> Any:
    return {"names": [*names], "_type": "ClassLabel"}


# MNIST

_IMAGES, _LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"

_row("MNIST, IDX", _idx(f"{_IMAGES}.gz", f"{_LABELS}.gz"))
_row(
    "MNIST, IDX unpacked under the dotted names",
    _idx("{}-images.idx3-ubyte", "{}-labels.idx1-ubyte", pack=_plain),
)
_row(
    "MNIST, Kaggle mnist-dataset",
    _all(
        _idx("{}-images.idx3-ubyte", "{}-labels.idx1-ubyte", pack=_plain),
        _idx(
            f"{_IMAGES}/{_IMAGES}".replace("{}", "{0}"),
            f"{_LABELS}/{_LABELS}".replace("{}", "{0}"),
            pack=_plain,
        ),
    ),
)
_row(
    "MNIST, torchvision's folder",
    _all(
        _idx(f"MNIST/raw/{_IMAGES}", f"MNIST/raw/{_LABELS}", pack=_plain),
        _idx(f"MNIST/raw/{_IMAGES}.gz", f"MNIST/raw/{_LABELS}.gz"),
    ),
    by_labels="mnist",
    name="mnist",
)
_row("MNIST, IDX whose ending is wrong", _idx(f"{_IMAGES}.gz", _LABELS, pack=_plain))
_row("MNIST, IDX compressed by xz", _idx(f"{_IMAGES}.xz", f"{_LABELS}.xz", pack=lzma.compress))
_row("MNIST, IDX compressed by bzip2", _idx(f"{_IMAGES}.bz2", f"{_LABELS}.bz2", pack=bz2.compress))


def _npz(name: str, **keys: str) -> Write:
    """Return a writer of one archive; the braces in the keys of `images` and `labels` are the part's name."""
    names = {**PLAIN_NAMES}

    def write(root: Path, made: Made) -> None:
        arrays: dict[str, Any] = {}
        for part, content in made.items():
            arrays[keys["images"].format(names[part])] = content.images
            labels = content.labels.astype(np.uint8)
            arrays[keys["labels"].format(names[part])] = labels[:, None] if "column" in keys else labels
        np.savez_compressed(root / name, **arrays)

    return write


_row(
    "MNIST, Keras",
    _npz("mnist.npz", images="x_{}", labels="y_{}"),
    spec="{}/mnist.npz",
    name="mnist",
)


def _sample_submission(root: Path, _: Made) -> None:
    _put(root / "sample_submission.csv", b"ImageId,Label\n1,0\n2,0\n")


_row(
    "MNIST, Kaggle digit-recognizer",
    _all(_csv("{}.csv", _from_zero, unlabelled=frozenset({"test"})), _sample_submission),
    unlabelled=frozenset({"test"}),
)
_row("MNIST, Kaggle mnist-in-csv", _csv("mnist_{}.csv", _by_place), name="mnist")
_row("MNIST, CSV without a header", _csv("mnist_{}.csv"), name="mnist")
_row("MNIST, Hugging Face", _parquet("mnist/{}-00000-of-00001.parquet", _names(string.digits)))
_row(
    "MNIST, Hugging Face, converted",
    _parquet("mnist/{}/0000.parquet", _names(string.digits)),
)
_row(
    "MNIST, OpenML mnist_784",
    _csv("mnist_784.csv", _from_one, label="class", last=True),
    parts=("training",),
    spec="{}/mnist_784.csv",
    one_part=True,
)
_PNG_NAMES: Mapping[Part, str] = {"training": "training", "test": "testing"}
_row("MNIST, PNG in folders", _folders("mnist_png", _PNG_NAMES, DIGITS))


def _png_tar(root: Path, made: Made) -> None:
    files = {f"mnist_png/{name}": data for name, data in _members(made, _PNG_NAMES, DIGITS).items()}
    _tar(root / "mnist_png.tar.gz", files, "w:gz")


def _png_zip(root: Path, made: Made) -> None:
    with zipfile.ZipFile(root / "mnist_png.zip", "w") as archive:
        archive.writestr("__MACOSX/mnist_png/._training", b"\0")
        for name, data in _members(made, _PNG_NAMES, DIGITS).items():
            archive.writestr(f"mnist_png/{name}", data)


_row("MNIST, PNG in a tar archive", _png_tar, spec="{}/mnist_png.tar.gz")
_row("MNIST, PNG in a zip archive", _png_zip, spec="{}/mnist_png.zip")


def _pickle(root: Path, made: Made) -> None:
    content = tuple((part.images.reshape(-1, 784) / np.float32(255), part.labels) for part in made.values())
    (root / "mnist.pkl.gz").write_bytes(gzip.compress(pickle.dumps(content)))


_row(
    "MNIST, mnist.pkl.gz",
    _pickle,
    parts=("training", "validation", "test"),
    spec="{}/mnist.pkl.gz",
    refused=r"pickle.*numpy\.savez",
)


# MNIST's relatives


def _qmnist(root: Path, made: Made) -> None:
    for part, content in made.items():
        name = f"qmnist-{PLAIN_NAMES[part]}"
        table = np.full((len(content.labels), 8), 7, np.int32)
        table[:, 0] = content.labels
        _put(root / f"{name}-images-idx3-ubyte.gz", gzip.compress(idx_bytes(content.images)))
        _put(root / f"{name}-labels-idx2-int.gz", gzip.compress(idx_bytes(table)))


def _qmnist_test_labels(root: Path, made: Made) -> None:
    data = idx_bytes(made["test"].labels.astype(np.uint8))
    _put(root / "qmnist-test-labels-idx1-ubyte.gz", gzip.compress(data))


_row("QMNIST, IDX", _all(_qmnist, _qmnist_test_labels), name="qmnist")


def _mnist_c(root: Path, made: Made) -> None:
    folder = root / "mnist_c" / "shot_noise"
    folder.mkdir(parents=True)
    for part, content in made.items():
        np.save(folder / f"{PLAIN_NAMES[part]}_images.npy", content.images[..., None])
        np.save(folder / f"{PLAIN_NAMES[part]}_labels.npy", content.labels)


_row("MNIST-C, a corruption", _mnist_c, spec="{}/mnist_c/shot_noise")


def _amat(name: str, *, labelled: bool, names: Mapping[Part, str], floats: bool = True) -> Write:
    def write(root: Path, made: Made) -> None:
        for part, content in made.items():
            lines = []
            for pixels, label in zip(content.images.reshape(-1, 784), content.labels.tolist(), strict=True):
                cells = [f"{value / 255:.7f}" if floats else str(value // 255) for value in pixels.tolist()]
                lines.append(" ".join([*cells, f"{label:.7f}"] if labelled else cells))
            _put(root / name.format(names[part]), "".join(f"{line}\n" for line in lines).encode())

    return write


_row(
    "Rotated MNIST",
    _amat(
        "mnist_all_rotation_normalized_float_{}.amat",
        labelled=True,
        names={"training": "train_valid", "test": "test"},
    ),
)
_row(
    "Binarized MNIST",
    _amat(
        "binarized_mnist_{}.amat",
        labelled=False,
        floats=False,
        names={"training": "train", "validation": "valid", "test": "test"},
    ),
    parts=("training", "validation", "test"),
    ones=True,
    pixels="0..1",
    unlabelled=frozenset({"training", "validation", "test"}),
)


def _infinite(root: Path, made: Made) -> None:
    _put(root / "mnist8m-patterns-idx3-ubyte", idx_bytes(made["training"].images))
    _put(root / "mnist8m-labels-idx1-ubyte", idx_bytes(made["training"].labels.astype(np.uint8)))


_row("Infinite MNIST", _infinite, parts=("training",), one_part=True)

_GLYPHS = dict(enumerate("ABCDEFGHIJ"))
_BROKEN = ("A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png", "F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png")


def _not_mnist(root: Path, made: Made) -> None:
    top = root / "notMNIST_small"
    for row, (image, label) in enumerate(
        zip(made["training"].images, made["training"].labels.tolist(), strict=True)
    ):
        _put(top / _GLYPHS[label] / f"QmFzZTY0{row}=.png", png_bytes(image))
    for name in _BROKEN:
        _put(top / name, b"")


def _not_mnist_mat(root: Path, made: Made) -> None:
    from scipy.io import savemat

    content = made["training"]
    images = np.moveaxis(content.images, 0, -1).astype(np.float64)
    savemat(root / "notMNIST_small.mat", {"images": images, "labels": content.labels.astype(np.float64)})


_row(
    "notMNIST, folders",
    _not_mnist,
    _GLYPHS,
    parts=("training",),
    spec="{}/notMNIST_small",
    one_part=True,
    broken=2,
)
_row(
    "notMNIST, MATLAB",
    _not_mnist_mat,
    parts=("training",),
    spec="{}/notMNIST_small.mat",
    one_part=True,
)


# Sets with class names of their own


def _known(name: str) -> dict[str, Any]:
    return {"classes": KNOWN[name].names(), "name": name}


_SHIRT = ("T - shirt / top", *KNOWN["fashion-mnist"].classes[1:])

_row(
    "Fashion-MNIST, IDX",
    _idx(f"{_IMAGES}.gz", f"{_LABELS}.gz"),
    by_labels="fashion-mnist",
    **_known("fashion-mnist"),
)
_row("Fashion-MNIST, Kaggle", _csv("fashion-mnist_{}.csv", _from_one), **_known("fashion-mnist"))
_row(
    "Fashion-MNIST, Hugging Face",
    _parquet("fashion_mnist/{}-00000-of-00001.parquet", _names(_SHIRT)),
    dict(enumerate(_SHIRT)),
)
_row("KMNIST, IDX", _idx(_IMAGES, _LABELS, pack=_plain), by_labels="kmnist", **_known("kmnist"))


def _single_arrays(
    images: str,
    labels: str,
    save: Callable[..., None] = np.savez_compressed,
    names: Mapping[Part, str] = PLAIN_NAMES,
) -> Write:
    """Return a writer of archives of one array each, `arr_0`."""

    def write(root: Path, made: Made) -> None:
        for part, content in made.items():
            save(root / images.format(names[part]), content.images)
            save(root / labels.format(names[part]), content.labels.astype(np.uint8))

    return write


def _class_map(root: Path, name: str, classes: Iterable[str]) -> None:
    rows = "".join(f"{number},U+{ord(char):04X},{char}\n" for number, char in enumerate(classes))
    (root / name).write_text(f"index,codepoint,char\n{rows}", encoding="utf-8")


def _k49_map(root: Path, _: Made) -> None:
    _class_map(root, "k49_classmap.csv", KNOWN["kuzushiji-49"].classes)


def _kmnist_map(root: Path, _: Made) -> None:
    _class_map(root, "kmnist_classmap.csv", KNOWN["kmnist"].classes)


_KMNIST_NPZ = _single_arrays("kmnist-{}-imgs.npz", "kmnist-{}-labels.npz")
_K49_NPZ = _single_arrays("k49-{}-imgs.npz", "k49-{}-labels.npz")


def _other_kmnist(root: Path, _: Made) -> None:
    """Write KMNIST beside Kuzushiji-49, with images and labels that are not those of the row."""
    other = PublishedSet(write=_KMNIST_NPZ, classes=DIGITS, parts=("test", "training"))
    other.write(root, other.make())


_row("KMNIST, npz", _all(_KMNIST_NPZ, _kmnist_map), **_known("kmnist"))
_row("Kuzushiji-49, npz", _all(_K49_NPZ, _k49_map), **_known("kuzushiji-49"))
_row(
    "Kuzushiji-49, Kaggle kuzushiji",
    _all(_K49_NPZ, _k49_map, _other_kmnist, _kmnist_map),
    spec="{}#k49",
    **_known("kuzushiji-49"),
)
_row(
    "Kannada-MNIST, IDX",
    _idx(
        "X_kannada_MNIST_{}-idx3-ubyte.gz",
        "y_kannada_MNIST_{}-idx1-ubyte.gz",
        names=PLAIN_NAMES,
    ),
    **_known("kannada-mnist"),
)
_row(
    "Kannada-MNIST, npz",
    _single_arrays("X_kannada_MNIST_{}.npz", "y_kannada_MNIST_{}.npz", np.savez),
    **_known("kannada-mnist"),
)


def _kannada_csv(root: Path, made: Made) -> None:
    _csv("{}.csv", _from_zero)(root, {"training": made["training"]})
    _csv("{}.csv", _from_zero, unlabelled=frozenset({"test"}), first={"id": lambda row, _: str(row)})(
        root, {"test": made["test"]}
    )
    _csv("Dig-MNIST.csv", _from_zero)(root, {"training": made["test"]})
    _put(root / "sample_submission.csv", b"id,label\n0,0\n")


_row("Kannada-MNIST, Kaggle competition", _kannada_csv, unlabelled=frozenset({"test"}))


def _emnist_splits(write: Callable[[str], Write]) -> Callable[[str], Write]:
    """Return a writer of all splits into one folder; those other than the chosen one have other images."""

    def writer(split: str) -> Write:
        def write_all(root: Path, made: Made) -> None:
            for name in ("letters", "digits"):
                if name != split:
                    other = PublishedSet(
                        write=write(name), classes=KNOWN[f"emnist-{name}"].names(), parts=("test", "training")
                    )
                    other.write(root, other.make())
            write(split)(root, made)

        return write_all

    return writer


def _mapping(root: Path, split: str) -> None:
    known = KNOWN[f"emnist-{split}"]
    codes = [
        f"{number} {ord(name)}" + (f" {ord(name.lower())}" if split == "letters" else "")
        for number, name in known.names().items()
    ]
    (root / f"emnist-{split}-mapping.txt").write_bytes("".join(f"{line}\r\n" for line in codes).encode())


def _emnist_idx(split: str) -> Write:
    names = (f"emnist-{split}-{{}}-images-idx3-ubyte.gz", f"emnist-{split}-{{}}-labels-idx1-ubyte.gz")
    files = _idx(*names, names=PLAIN_NAMES, transposed=True)
    return _all(files, lambda root, _: _mapping(root, split))


def _emnist_csv(split: str) -> Write:
    files = _csv(f"emnist-{split}-{{}}.csv", transposed=True)
    return _all(files, lambda root, _: _mapping(root, split))


def _emnist_mat(split: str) -> Write:
    def write(root: Path, made: Made) -> None:
        from scipy.io import savemat

        names = KNOWN[f"emnist-{split}"].names()
        mapping = np.array([[float(number), float(ord(name))] for number, name in names.items()])
        parts: dict[str, Any] = {
            PLAIN_NAMES[part]: {
                "images": content.images.transpose(0, 2, 1).reshape(-1, 784),
                "labels": content.labels[:, None].astype(np.float64),
                "writers": np.arange(len(content.labels), dtype=np.float64)[:, None],
            }
            for part, content in made.items()
        }
        savemat(root / f"emnist-{split}.mat", {"dataset": {**parts, "mapping": mapping}}, do_compression=True)

    return write


for _split, _title in {
    "byclass": "By_Class",
    "bymerge": "By_Merge",
    "balanced": "Balanced",
    "letters": "Letters",
    "digits": "Digits",
    "mnist": "MNIST",
}.items():
    _emnist = _known(f"emnist-{_split}")
    for _container, _write in (("IDX", _emnist_splits(_emnist_idx)), ("Kaggle", _emnist_splits(_emnist_csv))):
        _title_of = f"EMNIST {_title}, {_container}"
        _spec = f"{{}}#emnist-{_split}"
        _row(_title_of, _write(_split), line=f"EMNIST, {_container}", spec=_spec, **_emnist)
    _spec = f"{{}}/emnist-{_split}.mat"
    _row(f"EMNIST {_title}, MATLAB", _emnist_mat(_split), line="EMNIST, MATLAB", spec=_spec, **_emnist)


def _emnist_zip(root: Path, made: Made) -> None:
    _emnist_idx("letters")(root, made)
    with zipfile.ZipFile(root / "gzip.zip", "w") as archive:
        for path in sorted(root.glob("emnist-*")):
            archive.write(path, f"gzip/{path.name}")
            path.unlink()


_row(
    "EMNIST, gzip.zip as it is",
    _emnist_zip,
    KNOWN["emnist-letters"].names(),
    spec="{}/gzip.zip",
    refused="unpack",
)


# Tables of Kaggle


_row("Sign Language MNIST", _csv("sign_mnist_{}.csv", _from_one), **_known("sign-mnist"))
for _title, _name in {"HAM10000": "ham10000", "Colorectal Histology MNIST": "colorectal-histology"}.items():
    _row(
        _title,
        _csv("hmnist_28_28_L.csv", _padded, last=True),
        parts=("training",),
        spec=f"{{}}/hmnist_28_28_L.csv#{_name}",
        one_part=True,
        **_known(_name),
    )
_row(
    "A-Z Handwritten",
    _csv("A_Z Handwritten Data.csv"),
    parts=("training",),
    spec="{}/A_Z Handwritten Data.csv",
    one_part=True,
    sorted=True,
    **_known("az-handwritten"),
)
_CHARACTERS = tuple(sorted(set(string.printable) - set(string.whitespace)))
_QUOTED = tuple('"' + text.replace('"', '""') + '"' for text in _CHARACTERS)
_row(
    "Typeface MNIST",
    _csv(
        "TMNIST_Data.csv",
        lambda place: str(place + 1),
        label="labels",
        first={"names": lambda row, _: f"Font{row}-Regular"},
    ),
    parts=("training",),
    spec="{}/TMNIST_Data.csv",
    one_part=True,
)
_row(
    "Typeface MNIST, 94 characters",
    _csv(
        "94_character_TMNIST.csv",
        lambda place: str(place + 1),
        label="labels",
        first={"names": lambda row, _: f"Font{row}-Regular"},
        texts=_QUOTED,
    ),
    dict(enumerate(_CHARACTERS)),
    parts=("training",),
    spec="{}/94_character_TMNIST.csv",
    one_part=True,
)


def _arabic(root: Path, made: Made) -> None:
    for part, name, size in (("training", "Train", "60k"), ("test", "Test", "10k")):
        content = made[part]  # type: ignore[index]
        rows = content.images.transpose(0, 2, 1).reshape(-1, 784).tolist()
        _put(
            root / f"csv{name}Images {size} x 784.csv",
            "".join(",".join(map(str, row)) + "\n" for row in rows).encode(),
        )
        _put(
            root / f"csv{name}Label {size} x 1.csv",
            "".join(f"{label}\n" for label in content.labels.tolist()).encode(),
        )


_row("Arabic Handwritten Digits", _arabic, **_known("arabic-digits"))


def _ardis(root: Path, made: Made) -> None:
    for part, content in made.items():
        rows = content.images.reshape(-1, 784).astype(np.float64)
        np.savetxt(root / f"ARDIS_{PLAIN_NAMES[part]}_2828.csv", rows)
        np.savetxt(root / f"ARDIS_{PLAIN_NAMES[part]}_labels.csv", np.eye(10)[content.labels])


_row("ARDIS IV", _ardis)


# Medical sets

_MED_PARTS = ("training", "validation", "test")
for _title in ("OCT", "Pneumonia", "Breast", "Tissue", "OrganA", "OrganC", "OrganS"):
    _name = f"{_title.lower()}mnist"
    _row(
        f"{_title}MNIST (MedMNIST)",
        _npz(f"{_name}.npz", images="{}_images", labels="{}_labels", column="1"),
        line="MedMNIST, gray",
        parts=_MED_PARTS,
        spec=f"{{}}/{_name}.npz",
        **_known(_name),
    )


def _chest(root: Path, made: Made) -> None:
    arrays: dict[str, Any] = {}
    for part, content in made.items():
        arrays[f"{PLAIN_NAMES[part]}_images"] = content.images
        arrays[f"{PLAIN_NAMES[part]}_labels"] = np.ones((len(content.labels), 14), np.uint8)
    np.savez_compressed(root / "chestmnist.npz", **arrays)


_row("ChestMNIST (MedMNIST)", _chest, parts=_MED_PARTS, spec="{}/chestmnist.npz", refused="one class")


def _blood(root: Path, made: Made) -> None:
    arrays: dict[str, Any] = {}
    for part, content in made.items():
        arrays[f"{PLAIN_NAMES[part]}_images"] = np.repeat(content.images[..., None], 3, axis=3)
        arrays[f"{PLAIN_NAMES[part]}_labels"] = content.labels[:, None].astype(np.uint8)
    np.savez_compressed(root / "bloodmnist.npz", **arrays)


_row(
    "BloodMNIST (MedMNIST)",
    _blood,
    _numbers(8),
    parts=_MED_PARTS,
    spec="{}/bloodmnist.npz",
    refused="colours to gray",
)


# Drawings, shards and others


_DRAWN = {0: "The Eiffel Tower", 1: "aircraft carrier", 2: "cat"}


def _quick_draw(prefix: str) -> Write:
    def write(root: Path, made: Made) -> None:
        content = made["training"]
        for number, name in _DRAWN.items():
            np.save(root / f"{prefix}{name}.npy", content.images[content.labels == number].reshape(-1, 784))

    return write


for _title, _prefix in {"Quick, Draw!": "", "Quick, Draw!, by a browser": "full_numpy_bitmap_"}.items():
    _row(_title, _quick_draw(_prefix), _DRAWN, parts=("training",), one_part=True, sorted=True)


def _web_dataset(root: Path, made: Made) -> None:
    for part, content in made.items():
        half = len(content.labels) // 2
        for shard, rows in enumerate((range(half), range(half, len(content.labels)))):
            files = {}
            for row in rows:
                files[f"s{row:07d}.webp"] = png_bytes(content.images[row], "WEBP")
                files[f"s{row:07d}.cls"] = str(content.labels[row]).encode()
            _tar(root / PLAIN_NAMES[part] / f"{shard}.tar", files)
        _put(root / PLAIN_NAMES[part] / "nshards.txt", b"2")
    _put(root / "classnames.txt", "\n".join(string.digits).encode())


_row("MNIST, WebDataset", _web_dataset)


def _libsvm(root: Path, made: Made) -> None:
    lines = []
    for pixels, label in zip(
        made["training"].images.reshape(-1, 784), made["training"].labels.tolist(), strict=True
    ):
        cells = (f"{at + 1}:{value}" for at, value in enumerate(pixels.tolist()) if value)
        lines.append(f"{label} {' '.join(cells)}\n")
    _put(root / "mnist", "".join(lines).encode())


_row("MNIST, LIBSVM", _libsvm, parts=("training",), spec="{}/mnist", refused="LIBSVM.*784 columns")


def _hdf5(root: Path, _: Made) -> None:
    (root / "usps.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2048))


_row("USPS, HDF5", _hdf5, spec="{}/usps.h5", refused=r"HDF5.*numpy\.savez")
