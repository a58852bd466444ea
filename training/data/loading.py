"""The option `--data`: the data set to train on.

    mnist           MNIST, downloaded if it is missing
    idx:DIR         MNIST, Fashion-MNIST, KMNIST or EMNIST files; idx:DIR#emnist-letters chooses (formats/idx_sets.py)
    folder:DIR      a subfolder of images for each class, or train/ and test/ with those (formats/folder.py)
    npz:FILE        a NumPy archive (formats/npz.py)

If a data set has no test set, a share of each class is held out as one (splits.py).
"""

from pathlib import Path

from common.progress import Progress
from training.data.dataset import DataSet, Images
from training.data.formats.folder import load_folder
from training.data.formats.idx import read_pair
from training.data.formats.idx_sets import load_idx
from training.data.formats.npz import load_npz
from training.data.mnist_download import MNIST_SHA256, fetch_mnist
from training.data.splits import TEST_SHARE
from training.errors import DataError
from training.settings import TrainingSettings

FORMS = "mnist, idx:DIR, idx:DIR#SET, folder:DIR or npz:FILE"


def load_chosen(settings: TrainingSettings, progress: Progress) -> DataSet:
    """Load the data set in the settings; see `load`."""
    return load(
        settings.data,
        mnist_directory=settings.data_dir,
        progress=progress,
        seed=settings.test_seed,
        test_share=settings.test_share,
    )


def load(
    spec: str,
    *,
    mnist_directory: Path,
    progress: Progress,
    seed: int = 0,
    test_share: float = TEST_SHARE,
) -> DataSet:
    """Load the data set that `spec` names; its test images stay unread.

    Args:
        spec: `mnist`, `idx:DIR`, `idx:DIR#SET`, `folder:DIR` or `npz:FILE`.
        mnist_directory: the directory of MNIST, to which it is downloaded if it is missing.
        progress: for messages about held-out and skipped images.
        seed: of a held-out test set. Keep it while other seeds vary, or models will be compared on different test sets.
        test_share: share of each class that is held out.

    Raises:
        DataError: `spec` is invalid, or the data is.
    """
    if spec == "mnist":
        return load_mnist(mnist_directory, progress)
    form, colon, path = spec.partition(":")
    if not colon or not path or "\0" in path:
        raise DataError(f"{spec!r} is not a data set: give {FORMS}")
    match form:
        case "idx":
            return load_idx(path, seed=seed, test_share=test_share, progress=progress)
        case "folder":
            return load_folder(Path(path), seed=seed, test_share=test_share, progress=progress)
        case "npz":
            return load_npz(Path(path), seed=seed, test_share=test_share, progress=progress)
        case _:
            raise DataError(f"{spec!r} is not a data set: give {FORMS}")


def load_mnist(directory: Path, progress: Progress) -> DataSet:
    """Load MNIST, after downloading it if `directory` lacks it.

    Raises:
        DataError: it cannot be downloaded.
    """
    paths = fetch_mnist(directory, progress)

    def part(prefix: str) -> Images:
        return read_pair(paths[f"{prefix}-images-idx3-ubyte"], paths[f"{prefix}-labels-idx1-ubyte"], 10)

    return DataSet(
        name="mnist",
        classes=tuple("0123456789"),
        sha256=MNIST_SHA256,
        training=part("train"),
        read_test=lambda: part("t10k"),
        is_handwriting=True,
    )
