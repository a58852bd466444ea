"""Training and the scorer read the same pixels and the same labels from the same file, whatever holds them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.support.published_sets import SETS, enter_labels
from common.progress import Progress
from imagesets.image_set import FORMS, open_set
from imagesets.names import known_sets
from imagesets.source import Options
from serving.scoring.inputs.sources import open_inputs
from serving.scoring.pipeline import decode_slices
from serving.scoring.plan import Plan
from serving.scoring.reporting.labels import open_labels
from training.data.loading import load

LABELLED = [title for title, row in SETS.items() if not row.refused and "training" not in row.unlabelled]
Rows = Counter[tuple[str, bytes]]


def trained(spec: str, tmp_path: Path, **options: Any) -> tuple[tuple[str, ...], Rows]:
    """Return the classes, and how often each labelled image is in the set, by training's reading."""
    data = load(spec, mnist_directory=tmp_path, progress=Progress(quiet=True), **options)
    rows: Rows = Counter()
    for part in (data.training, data.validation, data.test()):
        if part is not None:
            rows.update(
                (data.classes[label], image.tobytes())
                for image, label in zip(part.images, part.labels.tolist(), strict=True)
            )
    return data.classes, rows


def scored(spec: str, classes: tuple[str, ...], options: Options) -> Rows:
    """Return how often each labelled image is in the input, by the scorer's reading."""
    sources = [source for source in open_inputs([spec], options) if source.labels() is not None]
    labels = open_labels("input", classes, sources)
    rows: Rows = Counter()
    plan = Plan(sources, 1000)
    for part in range(plan.parts):
        for slices in plan.slices(part, 64):
            chunk = decode_slices(slices, "white-on-black", None)
            found = labels.indices(chunk).tolist()
            rows.update(
                (classes[label], chunk.images[row].tobytes())
                for row, label in enumerate(found)
                if row not in chunk.errors
            )
    return rows


def as_a_set(spec: str, options: Options) -> str:
    """Return `FORM:PATH` for a plain folder, which is to the scorer everything in it."""
    if spec.partition(":")[0] in FORMS or not Path(spec.partition("#")[0]).is_dir():
        return spec
    found = open_set(spec, options).found
    form = "npy" if found.startswith("a .npy file for each class") else found.split()[0]
    return f"{form.replace('image', 'folder')}:{spec}"


@pytest.mark.parametrize("title", LABELLED)
def test_both_halves_read_the_same_labels(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every published set: names of classes, orientation, ranges of numbers, what is skipped."""
    row = SETS[title]
    if title.endswith("MATLAB"):
        pytest.importorskip("scipy", reason="MATLAB files are read by SciPy")
    folder = tmp_path / "set"
    folder.mkdir()
    made = row.make()
    row.write(folder, made)
    if row.by_labels:
        monkeypatch.setattr(known_sets, "LABELS_SHA256", enter_labels(row, made))
    spec = row.spec.format(folder)
    bad = tmp_path / "bad.txt" if row.broken else None
    classes, expected = trained(spec, tmp_path, pixels=row.pixels, skip_bad=bad)
    options = Options(pixels=row.pixels)
    assert scored(as_a_set(spec, options), classes, options) == expected
    assert expected


def test_letters_are_upright_and_named_in_both(tmp_path: Path) -> None:
    """EMNIST Letters by single files, as both halves are given them: transposed, with labels from 1."""
    row = SETS["EMNIST Letters, IDX"]
    folder = tmp_path / "set"
    folder.mkdir()
    row.write(folder, row.make())
    images = min(folder.rglob("*letters-train-images*"))
    labels = min(folder.rglob("*letters-train-labels*"))
    found = open_inputs([str(images)], Options())
    classes = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    own, given = (open_labels(which, classes, found).classes for which in ("input", str(labels)))
    assert own.tolist() == given.tolist()
    assert sorted(set(own.tolist())) == list(range(26))
    (stored,) = open_set(f"idx:{images}", Options()).sources
    assert stored.transposed
