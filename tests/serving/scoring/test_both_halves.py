"""Both halves alike: the scorer has the labels and pixels of a published set that training has."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.support.published_sets import SETS, PublishedSet, enter_labels
from bundle.images.contract import WHITE_ON_BLACK
from common.progress import Progress
from imagesets.errors import DataError
from imagesets.image_set import FORMS, open_set, split_form
from imagesets.names import known_sets
from imagesets.source import PARTS, Options, RawRows, Source
from serving.scoring.inputs.decoding import decode_files
from serving.scoring.inputs.sources import open_inputs
from serving.scoring.reporting.labels import open_labels
from training.data.loading import load

LABELLED = [title for title, row in SETS.items() if not row.refused and "training" not in row.unlabelled]
Examples = list[tuple[str, bytes]]
"""The name of each image's class, and its pixels."""


def with_form(spec: str) -> str:
    """Return `spec` with the form of the one set in it: of a folder without it the scorer takes everything."""
    if split_form(spec)[0] or not Path(spec).is_dir():
        return spec
    count = sum(source.count for source in open_set(spec, Options()).sources)
    for form in FORMS:
        try:
            sources = open_set(f"{form}:{spec}", Options()).sources
        except DataError:
            continue
        if sum(source.count for source in sources) == count:
            return f"{form}:{spec}"
    raise AssertionError(spec)


def trained(row: PublishedSet, spec: str, place: Path) -> tuple[Sequence[str], Examples]:
    """Return the classes, and what training reads: the parts for training, validation and test."""
    data = load(
        spec,
        mnist_directory=place,
        progress=Progress(quiet=True),
        pixels=row.pixels,
        skip_bad=place / "bad.txt",
    )
    parts = [data.training, *([data.validation] if data.validation else []), data.test()]
    examples = [
        (data.classes[label], image.tobytes())
        for part in parts
        for image, label in zip(part.images, part.labels.tolist(), strict=True)
    ]
    return data.classes, examples


def scored(row: PublishedSet, spec: str, classes: Sequence[str]) -> Examples:
    """Return what the scorer reads, part by part; images that cannot be read are left out."""
    sources = open_inputs([with_form(spec)], Options(pixels=row.pixels))
    kept = [s for part in PARTS for s in sources if (s.part or "training") == part not in row.unlabelled]
    labels = open_labels("input", classes, kept).classes.tolist()
    assert min(labels) >= 0
    images = [image for source in kept for image in pixels_of(source)]
    return [(classes[label], image) for label, image in zip(labels, images, strict=True) if image is not None]


def pixels_of(source: Source) -> list[bytes | None]:
    """Return the pixels of each row, None for one with an error."""
    rows = source.take(0, source.count)
    if isinstance(rows, RawRows) and rows.pixels is not None:
        images, errors = rows.pixels, rows.errors
    else:
        files = rows.files if isinstance(rows, RawRows) else rows.read()
        assert files is not None
        decoded = decode_files(files, WHITE_ON_BLACK)
        images, errors = decoded.images, decoded.errors
    source.close()
    return [None if at in errors else np.asarray(image).tobytes() for at, image in enumerate(images)]


@pytest.mark.parametrize("title", LABELLED)
def test_the_scorer_reads_a_published_set_as_training_does(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images, upright, with the same labels by name, in the same order within each part."""
    row = SETS[title]
    made = row.make()
    row.write(tmp_path, made)
    if row.by_labels:
        monkeypatch.setattr(known_sets, "LABELS_SHA256", enter_labels(row, made))
    spec = row.spec.format(tmp_path)
    classes, of_training = trained(row, spec, tmp_path)
    of_scoring = scored(row, spec, classes)
    if row.one_part or "test" not in row.parts or "test" in row.unlabelled:  # training has held out images
        of_training, of_scoring = sorted(of_training), sorted(of_scoring)
    assert [label for label, _ in of_scoring] == [label for label, _ in of_training]
    assert of_scoring == of_training
