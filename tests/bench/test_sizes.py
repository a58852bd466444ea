"""The bench of sizes: it trains once, measures every size, and its table and figure say what was measured."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench.training import sizes
from bench.training.sizes import CONNECTIONS, Network, Size, curve, table
from bundle.repository import Bundle
from common.errors import ConfigurationError
from tests.training.sets import archive
from training.settings import TrainingSettings

Bench = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a data set, where the bench publishes."""
    directory = tmp_path_factory.mktemp("sizes")
    archive(directory / "noisy.npz")
    return directory


@pytest.fixture
def finished(place: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a function that runs the bench to its end: its results, and what it printed."""

    def run(*words: str) -> tuple[dict[str, Any], str]:
        files = {"--json": place / "s.json", "--svg": place / "s.svg"}
        options = {
            "--data": f"npz:{place / 'noisy.npz'}",
            "--models": place / "models",
            "--runs": place / "runs",
        }
        pairs = (f"{name}={value}" for name, value in {**files, **options}.items())
        assert sizes.main(["--quick", *pairs, "--device=cpu", "--threads=1", *words]) == 0
        return json.loads(files["--json"].read_text()), capsys.readouterr().out

    return run


def test_the_same_command_trains_only_what_is_missing(finished: Bench, place: Path) -> None:
    """The second time one student is gone; the others, their teacher, all errors and the times are as before."""
    first, printed = finished()
    assert printed.count('"trained"') == 5
    assert [(size["layers"], size["weights"]) for size in first["sizes"]] == [
        ("784-8-3", 784 * 8 + 8 + 8 * 3 + 3),
        ("784-16-8-3", 784 * 16 + 16 + 16 * 8 + 8 + 8 * 3 + 3),
    ]
    shutil.rmtree(place / "models" / "plain-16-8-0")
    second, printed = finished("--rounds=0")
    assert re.findall(r'"trained": "[^"]*/models/([^"]+)"', printed) == ["plain-16-8-0/1"]
    assert second == first


def test_the_teacher_is_the_only_difference_between_two_students(finished: Bench, place: Path) -> None:
    """Both are augmented like their teacher, whose digest is in the manifest of the distilled one alone."""
    finished("--rounds=0")
    teacher, distilled, plain = (
        Bundle.open(place / "models" / name / "1").manifest
        for name in ("teacher", "distilled-8-0", "plain-8-0")
    )
    assert distilled.teachers == {str(place / "models" / "teacher" / "1"): teacher.digest}
    assert plain.teachers == {}
    differing = {
        name for name, value in plain.hyperparameters.items() if distilled.hyperparameters[name] != value
    }
    assert differing == {"name", "teachers"}
    for name in ("augmentation", "translation", "scaling"):
        assert plain.hyperparameters[name] == teacher.hyperparameters[name] != 0


def test_every_size_is_timed_with_every_number_of_connections(finished: Bench) -> None:
    """One figure of each, as `--quick` has one round."""
    results, _ = finished()
    for size in results["sizes"]:
        assert [*size["microseconds"]] == [str(connections) for connections in CONNECTIONS]
        assert all(len(found) == 1 and found[0] > 0 for found in size["microseconds"].values())


def test_a_given_teacher_is_taken(finished: Bench, place: Path) -> None:
    """It is not trained again, and other students are published beside those of the first teacher."""
    finished("--rounds=0")
    other = place / "models" / "plain-16-8-0" / "1"
    _, printed = finished("--rounds=0", f"--teacher={other}", "--no-plain")
    assert re.findall(r'"trained": "[^"]*/models/([^"]+)"', printed) == [
        "distilled-8-0/2",
        "distilled-16-8-0/2",
    ]


def test_a_size_can_have_its_own_number_of_seeds() -> None:
    """The others have those of `--seeds`; what is no number is named."""
    student = TrainingSettings()
    found = [sizes._size(student, text, 2) for text in ("32", "16-8:5")]
    assert [(settings.hidden, seeds) for settings, seeds in found] == [((32,), 2), ((16, 8), 5)]
    for wrong in ("8:0", "8:many"):
        with pytest.raises(ConfigurationError, match=f"--sizes: {wrong}"):
            sizes._size(student, wrong, 2)


def test_a_size_has_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """None is an error before anything is loaded."""
    assert sizes.main(["--seeds", "0"]) == 2
    assert "--seeds is at least 1" in capsys.readouterr().err


def test_a_teacher_that_is_not_there_is_a_sentence(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is trained then."""
    data = f"--data=npz:{place / 'noisy.npz'}"
    assert sizes.main([data, "--device=cpu", f"--teacher={place / 'nobody' / '1'}"]) == 2
    assert "--teacher: " in capsys.readouterr().err


def network(test: float) -> Network:
    """Return a network with a test error."""
    return Network(seed=0, test=test, validation=1.0, changed={"moved": 2 * test})


def rows(**changes: object) -> list[Size]:
    """Return two sizes that were never trained, with `changes`."""
    values: Mapping[str, Any] = {
        "distilled": [network(0.7), network(0.8)],
        "plain": [network(0.9), network(1.1)],
        "microseconds": {connections: [30.0, 20.0, 10.0] for connections in CONNECTIONS},
        **changes,
    }
    return [Size(layers=f"784-{name}-10", weights=1234, **values) for name in ("8", "16-8")]


def test_the_table_has_means_deviations_and_medians() -> None:
    """0.7 and 0.8 are 0.75 ± 0.07; of three rounds the middle one counts."""
    head, _, first, _ = table(rows()).splitlines()
    assert head.split(" | ")[-3:] == ["us at 1", "us at 16", "us at 64 |"]
    assert first.strip("| ").split(" | ") == [
        *("784-8-10", "1,234", "0.75% ± 0.07", "1.00% ± 0.14", "1.50% ± 0.14"),
        *["20.0 (10.0 to 30.0)"] * 3,
    ]


def test_one_seed_has_no_deviation() -> None:
    """And what was not trained or timed is empty."""
    *_, alone = table(rows(distilled=[network(0.7)], plain=[], microseconds={})).splitlines()
    assert [cell.strip() for cell in alone.strip("|").split("|")] == [
        *("784-16-8-10", "1,234", "0.70%", "", "1.40%"),
        *[""] * 3,
    ]


@pytest.mark.parametrize("plain", [[], [network(0.9)]])
def test_the_figure_has_a_panel_for_each_number_of_connections(plain: list[Network]) -> None:
    """It is well-formed, follows the page's theme, names the sizes, and shows only what was trained."""
    figure = curve(rows(plain=plain))
    words = [text.text for text in ET.fromstring(figure).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314  ours
    assert words.count("16-8") == words.count("8") == len(CONNECTIONS)
    assert {"us a request, 1 connection", "us a request, 64 connections", "distilled"} <= {*words}
    assert ("without teacher" in words) == bool(plain)
    assert "prefers-color-scheme: dark" in figure
