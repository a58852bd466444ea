"""The bench of the two arithmetics: a row for each size, or a sentence."""

from pathlib import Path

import pytest

from bench.serving.arithmetic import main
from bench.support.models import publish_synthetic
from serving.model.engine import BUCKETS


def test_each_size_has_a_row_of_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes are the service's own; each ratio is that of the two figures before it."""
    model = publish_synthetic(tmp_path).path.parent
    assert main(["--model", str(model), "--rounds", "1"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith("Largest difference of a logit, alone and in batches of 64")
    assert "float32 0.0e+00, integer 0.0e+00" in last  # of a single layer
    rows = [line.split() for line in lines[4:]]
    assert [int(row[0]) for row in rows] == [*BUCKETS]
    for _, *figures in rows:
        for floats, integers, ratio in (map(float, figures[:3]), map(float, figures[3:])):
            # All three are rounded to two decimals, which is a tenth of a figure as small as 0.05 us.
            least, most = (
                (floats - 0.005) / (integers + 0.005),
                (floats + 0.005) / max(integers - 0.005, 1e-9),
            )
            assert least - 0.00501 <= ratio <= most + 0.00501


def test_a_version_without_the_graph_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to compare then, and the exit code says so."""
    model = publish_synthetic(tmp_path, integer=None).path.parent
    assert main(["--model", str(model)]) == 2
    assert "has no model.integer.onnx" in capsys.readouterr().err
