"""The option `--data`: the data set to train on.

    mnist           MNIST, downloaded if it is missing
    PATH            a file or folder in any container that people have: `imagesets/image_set.py` finds out
    FORM:PATH       idx, npz, npy, mat, csv, parquet, tar, zip or folder, where several are there
    PATH#SET        one of several sets, such as idx:DIR#emnist-letters

If a set has no test images, a share of each class is held out (splits.py). Test images are not decoded before
`DataSet.test()`: until then the headers of image files are checked, and the files are hashed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from bundle.images.contract import Resize
from common.progress import Progress
from imagesets.errors import DataError
from imagesets.formats.files.listing import FileSource, listing_sha256
from imagesets.image_set import FORMS, ImageSet, open_set, split_form
from imagesets.labels import UNKNOWN, LabelColumn, merged, of_codes
from imagesets.names.class_names import checked_names
from imagesets.names.file_names import without_compression
from imagesets.source import Options, Part, Source
from imagesets.streams import raw_sha256
from training.data.class_names import LEAST_TO_TRAIN, check_counts, say_untested
from training.data.dataset import DataSet, Images
from training.data.mnist_download import fetch_mnist
from training.data.problems import Problems
from training.data.reading import Rows, read_rows
from training.data.splits import TEST_SHARE, hold_out, say_held_out
from training.settings import TrainingSettings

TABLES = (".csv", ".tsv", ".parquet")
"""What competitions publish their test images in, without labels."""
Mask = npt.NDArray[np.bool_]


def load_chosen(settings: TrainingSettings, progress: Progress) -> DataSet:
    """Load the data set in the settings; see `load`."""
    return load(
        settings.data,
        mnist_directory=settings.data_dir,
        progress=progress,
        seed=settings.test_seed,
        test_share=settings.test_share,
        pixels=settings.pixels,
        label_column=settings.label_column,
        classes=settings.classes,
        skip_bad=settings.skip_bad,
        resize=settings.resize,
    )


def load(
    spec: str,
    *,
    mnist_directory: Path,
    progress: Progress,
    seed: int = 0,
    test_share: float = TEST_SHARE,
    pixels: Literal["auto", "0..1", "0..255"] = "auto",
    label_column: str | None = None,
    classes: Path | None = None,
    skip_bad: Path | None = None,
    resize: Resize | None = None,
) -> DataSet:
    """Load the data set that `spec` names; its test images stay unread.

    Args:
        spec: `mnist`, `PATH`, `FORM:PATH`, or one of these with `#SET`.
        mnist_directory: the directory of MNIST, to which it is downloaded if it is missing.
        progress: for messages about what was found, held out and skipped.
        seed: of a held-out test set. Keep it while other seeds vary, or models will be compared on different test sets.
        test_share: share of each class that is held out.
        pixels: the range of numbers that are not unsigned bytes.
        label_column: the column of the labels in a table; None finds it.
        classes: a file of class names, one a line.
        skip_bad: a file to list images in that cannot be read, which are left out; None ends with an error.
        resize: how images of other sizes become 28x28; None rejects them.

    Raises:
        DataError: `spec` is invalid, or the data is.
    """
    if spec == "mnist":
        return load_mnist(mnist_directory, progress)
    if spec.partition(":")[0].isalpha() and ":" in spec and not split_form(spec)[0]:
        raise DataError(f"{spec!r} is not a data set: give mnist, PATH, or one of {_forms()}")
    options = Options(
        pixels=pixels, label_column=label_column, classes=classes, resize=resize, say=progress.say
    )
    found = open_set(spec, options)
    progress.say(f"data: {found.found}")
    return _Loading(found, progress, Problems(str(found.path), skip_bad), resize).data_set(
        seed=seed, test_share=test_share
    )


def _forms() -> str:
    return ", ".join(f"{form}:PATH" for form in FORMS)


def load_mnist(directory: Path, progress: Progress) -> DataSet:
    """Load MNIST, after downloading it if `directory` lacks it.

    Raises:
        DataError: it cannot be downloaded.
    """
    fetch_mnist(directory, progress)
    found = open_set(f"idx:{directory}#mnist", Options())
    return _Loading(found, progress, Problems(str(found.path))).data_set(seed=0, test_share=TEST_SHARE)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The labelled images of a part, unread."""

    sources: Sequence[Source]
    labels: LabelColumn

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the files of images and labels; folders are hashed as they are read."""
        found: dict[str, str] = {}
        for source in self.sources:
            if not isinstance(source, FileSource):
                found |= source.sha256()
            for path in source.label_files:
                found |= raw_sha256(path)
        return found


@dataclass(frozen=True, slots=True)
class _Loading:
    """Loads a set that was found: its parts, labels, and images."""

    found: ImageSet
    progress: Progress
    problems: Problems
    resize: Resize | None = None

    @property
    def where(self) -> Path:
        """Return the path of the set, for messages."""
        return self.found.path

    def data_set(self, *, seed: int, test_share: float) -> DataSet:
        """Read all but the test images."""
        training = self._part("training")
        if training is None:
            raise DataError(f"{self.where} has no training images: give a set that has some")
        self._refuse_strays(training)
        classes = checked_names(training.labels.values, str(self.where))
        labels = training.labels.codes
        check_counts(labels, classes, LEAST_TO_TRAIN, str(self.where))
        validation, test = self._part("validation", classes), self._part("test", classes)
        held_out = np.zeros(len(labels), dtype=bool)
        if test is None:
            held_out = hold_out(
                self._keys(training), labels, classes, share=test_share, seed=seed, where=str(self.where)
            )
            say_held_out(str(self.where), held_out, seed, self.progress)
        else:
            say_untested(f"the test set of {self.where}", test.labels.codes, classes, self.progress)

        before = {part: part.hashes() for part in (training, validation, test) if part is not None}
        rows = read_rows(
            training.sources,
            self.problems,
            self.progress,
            "reading images",
            decoded=~held_out,
            resize=self.resize,
        )
        later = self._checked(test)
        extra = None
        if validation is not None:
            extra = read_rows(
                validation.sources,
                self.problems,
                self.progress,
                "reading validation images",
                resize=self.resize,
            )
        self.problems.settle(self.progress)

        known = self.found.known()
        digests = _folder_hash(
            [
                (part, read)
                for part, read in ((training, rows), (validation, extra), (test, later))
                if part and read
            ]
        )
        kept = np.flatnonzero(~held_out & ~rows.bad)
        if len(kept) and rows.images[kept].max() == 1:
            self.progress.say(
                f"{self.where} has no pixel above 1, and bytes are taken as 0..255, so all images are nearly black: if "
                "1 is white, multiply them by 255"
            )
        if rows.bad.any():
            check_counts(labels[kept], classes, LEAST_TO_TRAIN, str(self.where))

        def read_test() -> Images:
            if test is None:
                return self._held_out(training, rows, held_out)
            if test.hashes() != before[test]:
                raise DataError(f"{self.where} was changed during training: train again")
            return self._again(test, later)

        return DataSet(
            name=known.name if known else self.found.name,
            classes=classes,
            sha256={name: value for hashes in before.values() for name, value in hashes.items()} | digests,
            training=Images(images=rows.images[kept], labels=labels[kept]),
            validation=None
            if validation is None or extra is None
            else Images(images=extra.images[~extra.bad], labels=validation.labels.codes[~extra.bad]),
            read_test=read_test,
            is_handwriting=known is not None and known.handwriting,
        )

    def _part(self, part: Part, classes: Sequence[str] | None = None) -> _Part | None:
        """Return a part with its labels, as indices into `classes` if they are given; None if it has no labels."""
        sources = self.found.part(part)
        if empty := [source.name for source in sources if not source.count]:
            raise DataError(f"{empty[0]} is empty: add images, or remove it")
        columns = [source.labels() for source in sources]
        unlabelled = [source.name for source, column in zip(sources, columns, strict=True) if column is None]
        if not sources:
            return None
        if unlabelled and part != "training" and without_compression(unlabelled[0]).lower().endswith(TABLES):
            self.progress.say(f"{unlabelled[0]} has no labels: it is not used as the {part} set")
            return None
        if unlabelled and part != "training":
            raise DataError(
                f"{unlabelled[0]} has no labels: add them, or remove it to have a {part} set held out"
            )
        if unlabelled:
            raise DataError(
                f"{unlabelled[0]} has no labels to train on: give a set with labels, put them beside the images, or "
                "name a table's column of them with --label-column (docs/data.md)"
            )
        labels = merged([column for column in columns if column is not None])
        if (labels.codes == UNKNOWN).any():
            row = int(np.flatnonzero(labels.codes == UNKNOWN)[0])
            raise DataError(
                f"{sources[0].name} has no label for row {row}: give one for each image, or leave it out"
            )
        if classes is not None:
            labels = of_codes(_by_name(labels, classes, f"the {part} set of {self.where}"), classes)
        return _Part(sources, labels)

    def _refuse_strays(self, training: _Part) -> None:
        """Refuse what a folder has in the wrong place, all at once."""
        for source in training.sources:
            for path, kind, *found in getattr(source, "problems", ()):
                self.problems.add(path, kind, *found)
        self.problems.settle(self.progress)

    def _keys(self, part: _Part) -> list[str]:
        """Return what identifies each image in the choice of the test set: its path, or its number."""
        if all(isinstance(source, FileSource) for source in part.sources):
            return [path for source in part.sources for path in source.take(0, source.count).rows]
        return [str(index) for index in range(len(part.labels))]

    def _checked(self, test: _Part | None) -> Rows | None:
        """Check the headers of a test set's image files, and hash them; of arrays, whether the last image is there."""
        if test is None:
            return None
        if not any(source.needs_decoding for source in test.sources):
            for source in test.sources:
                source.take(source.count - 1, 1)
                source.close()
            return None
        nothing = np.zeros(len(test.labels), dtype=bool)
        return read_rows(
            test.sources,
            self.problems,
            self.progress,
            "checking test images",
            decoded=nothing,
            resize=self.resize,
        )

    def _again(self, test: _Part, before: Rows | None) -> Images:
        now = read_rows(test.sources, self.problems, self.progress, "reading test images", resize=self.resize)
        self.problems.settle(self.progress)
        if before is not None:
            self._check_unchanged(test, before, now)
        return Images(images=now.images[~now.bad], labels=test.labels.codes[~now.bad])

    def _check_unchanged(self, part: _Part, before: Rows, now: Rows) -> None:
        changed = [old != new for old, new in zip(before.digests, now.digests, strict=True)]
        if any(changed):
            row = self._keys(part)[changed.index(True)]
            raise DataError(f"{self.where / row} was changed during training: train again")

    def _held_out(self, training: _Part, before: Rows, held_out: Mask) -> Images:
        if not before.digests:
            images, bad = before.images, before.bad
        else:
            now = read_rows(
                training.sources,
                self.problems,
                self.progress,
                "reading test images",
                decoded=held_out,
                resize=self.resize,
            )
            self.problems.settle(self.progress)
            self._check_unchanged(training, before, now)
            images, bad = now.images, now.bad
        kept = np.flatnonzero(held_out & ~bad)
        return Images(images=images[kept], labels=training.labels.codes[kept])


def _by_name(labels: LabelColumn, classes: Sequence[str], where: str) -> npt.NDArray[np.int64]:
    """Return the labels of a part as indices into the training classes: both are named alike."""
    places = {name: place for place, name in enumerate(classes)}
    occurring = [labels.values[code] for code in np.unique(labels.codes).tolist()]
    if unknown := [value for value in occurring if value not in places]:
        raise DataError(
            f"{where} has label {unknown[0]!r}, which no training image has: add some, or leave it out"
        )
    return np.array([places.get(value, UNKNOWN) for value in labels.values], dtype=np.int64)[labels.codes]


def _folder_hash(parts: Sequence[tuple[_Part, Rows]]) -> dict[str, str]:
    """Return the hash of the listing of all image files, empty if there are none."""
    paths: list[bytes] = []
    digests: list[bytes] = []
    for part, rows in parts:
        if not all(isinstance(source, FileSource) for source in part.sources):
            continue
        paths += [
            path for source in part.sources if isinstance(source, FileSource) for path in source.paths()
        ]
        digests += rows.digests
    return {"folder": listing_sha256(paths, digests)} if paths else {}
