"""The arithmetic of `bench serving`, against closed forms and by hand."""

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.comparison import chart, openloop, readme, report
from bench.gpu.command import first_win
from bench.load.generator import Result
from bench.load.statistics import Reading, middle, percentile, ratio, spread
from bench.load.wire import Message, open_inference_binary, open_inference_file, predictions, tensors
from bundle.images.plain_png import decode
from tests.conftest import ROOT


def reading(rate: float, **others: float) -> Reading:
    """Return a reading with this rate, and the same small figures else."""
    figures = {"p50": 0.001, "p99": 0.002, "cpu": 1e-4, "rss": 2.0, "pss": 1.0, "busy": 0.2} | others
    return Reading(rate=rate, errors=1, wrong=0, checked=20, **figures)


def vars_of(one: Reading) -> dict[str, float]:
    """Return a reading as the JSON file has it."""
    return {name: getattr(one, name) for name in one.__slots__}


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_the_smallest_value_with_enough_below(values: list[float], share: float) -> None:
    """Counting by hand: at least the share is no greater, and of every smaller value less than the share."""
    found = percentile(np.array(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    smaller = [value for value in values if value < found]
    assert len(smaller) < share * len(values)


def test_the_percentiles_of_one_to_a_hundred() -> None:
    """The nearest rank: of 1..100 the median is 50 and p99 is 99; of nothing there is none."""
    values = np.arange(100.0, 0, -1)
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (50, 99)
    assert math.isnan(percentile(np.array([]), 0.5))


def test_the_middle_of_rounds_is_the_median_and_errors_add_up() -> None:
    """One slow round does not move the figure, and no error is lost."""
    found = middle([reading(100), reading(900), reading(110)])
    assert (found.rate, found.errors, found.checked) == (110, 3, 60)
    with pytest.raises(ValueError, match="no round"):
        middle([])


def test_every_round_lies_within_the_spread() -> None:
    """By hand: the farthest of 90, 100 and 120 is a fifth of the median away; one round has none."""
    assert spread([reading(90), reading(120), reading(100)], "rate") == pytest.approx(0.2)
    assert spread([reading(1, p99=0.004), reading(1, p99=0.001), reading(1, p99=0.004)], "p99") == 0.75
    assert math.isnan(spread([reading(100)], "rate"))
    assert math.isnan(spread([reading(0), reading(0)], "rate"))


def test_a_ratio_without_a_baseline_is_none() -> None:
    """Nothing is divided by a server that was not measured."""
    assert ratio(3, 2) == 1.5
    assert math.isnan(ratio(3, 0))


def test_the_table_has_each_figure_with_its_ratio_to_naive_flask() -> None:
    """By hand: ten times the rate, a fourth of the p99, the fastest first; images are counted in batches."""
    rounds = {"flask": [reading(100, p99=0.008)], "glyph": [reading(1000), reading(970), reading(1200)]}
    table = report.piece_table("png", rounds)
    head, _, first, second = table.splitlines()
    assert head.startswith("| server | requests/s | ± % | x |")
    assert [cell.strip() for cell in first.split("|")][1:10] == [
        *("**Glyph**", "1,000", "20", "10.0", "1.00", "1.00", "2.00", "0.25", "100"),
    ]
    assert second.startswith("| naive Flask | 100 | - | 1.00 |")
    assert "| 6,400 |" in report.piece_table("batch", {"flask": [reading(100)]})


def test_targets_are_met_or_not() -> None:
    """Glyph beside Mosec, at 3.9 and at 4 times; its CPU time; and the float graph beside session.run alone."""
    for rate, met in ((390, "no"), (400, "yes")):
        readings = {"glyph": [vars_of(reading(rate, cpu=57e-6))], "mosec": [vars_of(reading(100))]}
        table = report.aims_table({"closed": {"png/16": readings}})
        assert f"Mosec's | {rate / 100:.2f} | at least 4 | {met} |" in table
        assert "CPU µs | 57.00 | at most 55 | no |" in table
    rates = {"glyph": 150, "glyph-float32": 96, "mosec": 90, "triton": 100, "session-run": 100}
    batches = {name: [vars_of(reading(rate))] for name, rate in rates.items()}
    table = report.aims_table({"closed": {"batch/64": batches}})
    assert "best peer's | 1.50 | at least 1.5 | yes |" in table
    assert "share of session.run alone | 0.96 | at least 0.95 | yes |" in table


def test_who_decodes_as_glyph_does_is_no_peer() -> None:
    """Mosec with Glyph's decoder is faster here, and Glyph is compared with Mosec."""
    rates = {"glyph": 300, "mosec": 100, "mosec-decoder": 1000, "glyph-gthread": 900, "wsgi-constant": 5000}
    readings = {name: [vars_of(reading(rate))] for name, rate in rates.items()}
    table = report.aims_table({"closed": {"batch/16": readings}})
    assert "images/s, as a multiple of the best peer's | 3.00 | at least 1.5 | yes |" in table


def test_a_sweep_ends_with_the_first_rate_that_is_not_kept_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of a hundred a second that gives 85: the middle one of its tries decides, so one bad one does not."""
    bad = iter([40])  # of all tries the first

    def measure(*_: object, rate: float | None = None) -> tuple[Reading, Result]:
        if rate is None:
            return reading(100), Result()
        return reading(rate), Result(completed=int(next(bad, min(rate, 85)) * 2), late=0.001)

    monkeypatch.setattr(openloop, "measure", measure)
    nobody: Any = None
    points = openloop.sweep(nobody, "png", 2.0, 3, nobody, nobody)
    assert [point["share"] for point in points] == [0.1, 0.3, 0.5, 0.7, 0.8, 0.9]
    assert [round(point["answered"], 2) for point in points] == [1, 1, 1, 1, 1, 0.94]


def test_charts_are_well_formed_and_have_every_server() -> None:
    """Both pictures parse as XML and name all servers."""
    titles = {"glyph": "Glyph", "flask": "naive <Flask>"}
    bars = chart.bars({"glyph": {1: 5.0, 64: 50.0}, "flask": {1: 2.0, 64: 5.0}}, titles, "rates")
    points = [{"offered": 10.0, "p99": 0.001}, {"offered": 900.0, "p99": 0.4}]
    for text in (bars, chart.lines({"glyph": points, "flask": points}, titles, "load")):
        words = {"".join(element.itertext()) for element in ET.fromstring(text)}  # noqa: S314  it is ours
        assert set(titles.values()) <= words
    assert "50 · 10.0x" in bars


def test_the_open_inference_protocol_goes_there_and_back() -> None:
    """A binary request says where its JSON ends; binary and JSON answers give the same numbers."""
    images = np.arange(2 * 784, dtype=np.uint8).reshape(2, 28, 28)
    request = open_inference_binary(images)
    length = int(request.headers["Inference-Header-Content-Length"])
    assert request.body[length:] == images.tobytes()
    rows = np.array([[0.25, 0.75]], "<f4")
    head = b'{"outputs":[{"name":"probabilities","shape":[1,2]}]}'
    binary = Message(head + rows.tobytes(), {"inference-header-content-length": str(len(head))})
    plain = Message(b'{"outputs":[{"shape":[1,2],"data":[0.25,0.75]}]}')
    assert (tensors(binary) == rows).all()
    assert (tensors(plain) == rows).all()
    assert (predictions(Message(b'{"predictions":[{"probabilities":{"a":0.25,"b":0.75}}]}')) == rows).all()


def test_a_file_in_the_open_inference_protocol_has_its_length_before_it() -> None:
    """A BYTES tensor of one element: its size as four bytes, little-endian, and the PNG, whose pixels are the image."""
    images = np.arange(784, dtype=np.uint8).reshape(1, 28, 28)
    request = open_inference_file(images)
    length = int(request.headers["Inference-Header-Content-Length"])
    data = request.body[length:]
    assert json.loads(request.body[:length])["inputs"][0]["parameters"] == {"binary_data_size": len(data)}
    assert int.from_bytes(data[:4], "little") == len(data) - 4
    assert (decode(data[4:]) == images[0]).all()


DOCUMENT: dict[str, Any] = {
    "about": {"machine": {"cpu": "Test CPU", "instructions": ["avx2"]}, "date": "1 May 2026"},
    "closed": {
        "png/64": {
            "glyph": [vars_of(reading(rate, p99=0.004)) for rate in (900, 1000, 1010)],
            "flask": [vars_of(reading(100))],
            "wsgi-constant": [vars_of(reading(5000))],
        },
        "png/1": {"glyph": [vars_of(reading(70))], "flask": [vars_of(reading(10))]},
        "batch/64": {"glyph": [vars_of(reading(10))], "session-run": [vars_of(reading(20))]},
    },
}


def test_the_readme_has_its_part_from_the_run_and_all_else_as_it_was(tmp_path: Path) -> None:
    """By hand: servers without floors, each with its spread; text around the markers stays; written twice is once."""
    file = tmp_path / "README.md"
    file.write_text(f"before\n{readme.BEGIN}old figures\n{readme.END}after\n")
    for _ in range(2):
        readme.write(file, DOCUMENT)
        text = file.read_text()
        assert text.startswith(f"before\n{readme.BEGIN}")
        assert text.endswith(f"{readme.END}after\n")
        assert "| **Glyph** | 1,000 | 10 | 10.0 | 4.00 |\n| naive Flask | 100 | - | 1.00 | 2.00 |\n\n" in text
        assert "At one connection Glyph answers 70, the best peer, naive Flask, 10." in text
        assert "Glyph 640, session.run alone 1,280." in text
        assert "old figures" not in text


def test_a_readme_without_markers_is_left_alone(tmp_path: Path) -> None:
    """It is an error that names the markers; so is a run without the table's figures."""
    file = tmp_path / "README.md"
    file.write_text(f"{readme.END}{readme.BEGIN}")
    with pytest.raises(ValueError, match="each once, in this order"):
        readme.write(file, DOCUMENT)
    with pytest.raises(ValueError, match="64 connections"):
        readme.part(DOCUMENT | {"closed": {}})
    assert file.read_text() == f"{readme.END}{readme.BEGIN}"


def test_the_readme_and_the_report_are_of_one_run() -> None:
    """Each row of README.md's table is in docs/benchmarks.md, of one PNG at 64 connections; so are machine and day."""
    text = (ROOT / "README.md").read_text().split(readme.BEGIN)[1].split(readme.END)[0]
    page = (ROOT / "docs/benchmarks.md").read_text()
    table = page.split("## One PNG")[1].split("### 64 connections")[1].split("## ")[0]
    ours, theirs = ({cells[0]: cells for cells in _rows(part)} for part in (text, table))
    assert len(ours) > 5
    for name, (_, rate, spread_of, multiple, p99) in ours.items():
        of = theirs[name]
        assert (rate, spread_of, multiple, p99) == (of[1], of[2], of[3], of[6])
    words = " ".join(text.split())
    said = re.search(r"\n(.*?), \d+ cores; .*?; ([^;]*?)(?:, commit|\.)", page)
    assert said is not None
    assert f"an {said[1]} for the servers" in words
    assert f", {said[2]}, as" in words


def _rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_a_gpu_wins_from_where_it_is_ahead_to_the_end() -> None:
    """A lead that is lost again at a larger batch is none."""
    cpu = {1: 10.0, 2: 10.0, 4: 10.0}
    assert first_win(cpu, {1: 20.0, 2: 5.0, 4: 20.0}) == 4
    assert first_win(cpu, {1: 20.0, 2: 20.0, 4: 20.0}) == 1
    assert first_win(cpu, {1: 20.0, 2: 20.0, 4: 10.0}) is None
