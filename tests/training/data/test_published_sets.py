"""Every published set of docs/data.md that has labels can be trained on."""

from pathlib import Path

import pytest

from bench.support.published_sets import SETS, enter_labels
from common.progress import Progress
from imagesets.names import known_sets
from imagesets.names.known_sets import KNOWN
from training.data.loading import load

LABELLED = [title for title, row in SETS.items() if not row.refused and "training" not in row.unlabelled]


@pytest.mark.parametrize("title", LABELLED)
def test_a_published_set_is_loaded_with_its_classes(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken images of one set are listed; sets of handwriting are known as such, to be augmented."""
    row = SETS[title]
    folder = tmp_path / "set"
    folder.mkdir()
    made = row.make()
    row.write(folder, made)
    if row.by_labels:
        monkeypatch.setattr(known_sets, "LABELS_SHA256", enter_labels(row, made))
    data = load(
        row.spec.format(folder),
        mnist_directory=tmp_path,
        progress=Progress(quiet=True),
        pixels=row.pixels,
        skip_bad=tmp_path / "bad.txt" if row.broken else None,
    )
    assert data.classes == tuple(row.classes.values())
    if row.name:
        assert data.is_handwriting == KNOWN[row.name].handwriting
    if row.broken:
        assert len((tmp_path / "bad.txt").read_text().splitlines()) == row.broken
