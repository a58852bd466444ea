"""Test error against CPU time a request of networks of several sizes, with distillation and without.

    python -m bench sizes                               the curve of docs/training.md
    python -m bench sizes --sizes 256-128 --seeds 1 --rounds 0 --student-set distill_temperature=4
    python -m bench sizes --quick                       two tiny networks, to see that it works

One teacher is trained, or taken by `--teacher`, then a student of each size and seed with the teacher, and one with the
same settings without. A seed determines the initial weights, the order, the augmentation and the validation split. The
teacher has the first seed, so only the students of this seed have validation images that their teacher was not trained
on: choose settings by those. The test set influences nothing: it is evaluated after training.

The CPU time is that of the whole request path (`python -m bench budget`) with the first student of each size, in rounds
that interleave the sizes; the figure is the median of the rounds. It needs an idle core.

All networks are published below MODELS, and the same command resumes: what is published with the same settings, data
and teacher is not trained again. They have the default preset's settings where the help states no others; options of
`fit` hold for teacher and students, `--teacher-set epochs=60` and `--student-set epochs=60` for one side.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.comparison.rounds import machine
from bench.serving.budget import RequestPath, requests_of
from bench.support.options import bench_parser
from bench.training.presets import side_by_side
from bench.training.published import RESUMED, add_settings_of, named, settings_of, shape, trained
from bundle.errors import BundleError
from bundle.repository import Bundle
from common.atomic_files import write_whole
from common.configuration import Layer, add_options, parse
from common.errors import ConfigurationError
from common.progress import Progress
from serving.model.store import ModelStore
from serving.predict.pipeline import Pipeline
from serving.settings import load_settings
from serving.telemetry.metrics import Metrics
from training.augmentation.policy import apply_policy
from training.data.dataset import DataSet
from training.data.loading import load_chosen
from training.defaults import preset_layer
from training.errors import exit_code
from training.report.figures import STYLE, TRAINING, VALIDATION, svg
from training.settings import TrainingSettings

CONNECTIONS = (1, 16, 64)
LOOPS = 3
"""Loops of a path in a round, of which the fastest counts."""
PLACE = Path("runs/sizes")
FIRST: Mapping[str, object] = {**RESUMED, "models": PLACE / "models", "runs": PLACE / "runs"}
TEACHER: Mapping[str, object] = {"hidden": (1024, 512), "epochs": 40}
STUDENT: Mapping[str, object] = {"epochs": 80, "learning_rate": 8e-3}
"""Chosen on the validation set of seed 0, with the images as they are, moved and turned."""
SIZES = "64-32,128-64,256-128,384-192,512-256"
QUICK: Mapping[str, object] = {"hidden": (32,), "epochs": 1}
QUICK_SIZES = "8,16-8"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" '
THEME = """<style>
text { font-family: system-ui, sans-serif }
svg { --ink: #24292f; --line: #8c959f; --training: #2868c8; --validation: #c2570c }
@media (prefers-color-scheme: dark) { svg { --ink: #c9d1d9; --training: #6ba6ff; --validation: #ff9d57 } }
</style>"""
"""The colours of the report's figures, for a file of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """The errors of a published network, in percent."""

    seed: int
    test: float
    validation: float
    changed: Mapping[str, float]
    """Test error after each change of the images (`training/model/robustness.py`)."""

    @classmethod
    def of(cls, bundle: Bundle) -> "Network":
        """Read the manifest."""
        manifest = bundle.manifest
        changed = {change: _percent(accuracy) for change, accuracy in manifest.robustness.items()}
        return cls(
            seed=manifest.dataset.split_seed,
            test=_percent(manifest.test.accuracy),
            validation=_percent(manifest.validation.accuracy),
            changed=changed,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The networks of one size."""

    layers: str
    weights: int
    """Weights and biases."""
    distilled: Sequence[Network]
    plain: Sequence[Network]
    """The same without the teacher."""
    microseconds: Mapping[int, Sequence[float]]
    """CPU time of a request, by the number of connections: one of each round."""

    @classmethod
    def of(
        cls,
        settings: TrainingSettings,
        data: DataSet,
        distilled: Sequence[Bundle],
        plain: Sequence[Bundle],
    ) -> "Size":
        """Return a size without its times."""
        widths = (784, *settings.hidden, len(data.classes))
        return cls(
            layers=shape(settings, data),
            weights=sum((before + 1) * after for before, after in itertools.pairwise(widths)),
            distilled=[Network.of(bundle) for bundle in distilled],
            plain=[Network.of(bundle) for bundle in plain],
            microseconds={},
        )


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    return exit_code(lambda: _measure(parse(_parser(), arguments, TrainingSettings), Progress()))


def _parser() -> argparse.ArgumentParser:
    """Return the parser; its help states the defaults of both sides."""
    parser = bench_parser("sizes", __doc__)
    parser.add_argument(
        "--sizes",
        default=SIZES,
        help=f"hidden layers of the students; 256-128:5 is with 5 seeds (default: {SIZES})",
    )
    parser.add_argument("--seeds", type=int, default=2, help="students of a size and kind (default: 2)")
    parser.add_argument("--teacher", type=Path, help="a published version; without it one is trained")
    add_settings_of(parser, "teacher", "student")
    parser.add_argument("--no-plain", action="store_true", help="train no students without the teacher")
    parser.add_argument(
        "--rounds",
        type=int,
        default=7,
        help="rounds of timing; 0 keeps the times in the file of --json (default: 7)",
    )
    parser.add_argument("--json", type=Path, default=PLACE / "sizes.json", help="file of the results")
    parser.add_argument("--svg", type=Path, default=PLACE / "sizes.svg", help="file of the curve")
    parser.add_argument("--quick", action="store_true", help="two tiny sizes, one seed, epoch and round")
    own = Layer({"seed": "0: the first of --seeds, and the teacher's", "name": "by kind, size and seed"}, "")
    sides = {"teacher": _layers(TEACHER), "students": _layers({**STUDENT, "hidden": "by --sizes"})}
    add_options(parser, TrainingSettings, [side_by_side(sides), own])
    return parser


def _measure(options: argparse.Namespace, progress: Progress) -> None:
    if options.quick:
        options.sizes, options.seeds, options.rounds = QUICK_SIZES, 1, min(options.rounds, 1)
    if options.seeds < 1 or options.rounds < 0:
        raise ConfigurationError("--seeds is at least 1, and --rounds at least 0")
    master, pupil = _sides(options)
    data = load_chosen(pupil, progress)
    master, pupil = (apply_policy(side, data.is_handwriting) for side in (master, pupil))
    sizes = [_size(pupil, text, options.seeds) for text in options.sizes.split(",")]
    path = options.teacher
    if path is None:
        master = named(master, "teacher")
        path = master.models / "teacher" / trained(master, data, progress).path.name
    teacher = _opened(path)
    rows, models = [], {}
    for settings, seeds in sizes:
        distilled = _students("distilled", settings, (path,), seeds, data, progress)
        plain = () if options.no_plain else _students("plain", settings, (), seeds, data, progress)
        rows.append(Size.of(settings, data, distilled, plain))
        models[rows[-1].layers] = distilled[0].path
        print(json.dumps(dataclasses.asdict(rows[-1])), flush=True)
    times = (
        request_times(models, options.rounds, progress) if options.rounds else _earlier_times(options.json)
    )
    rows = [dataclasses.replace(row, microseconds=times.get(row.layers, {})) for row in rows]
    print(table(rows), flush=True)
    found = {"machine": machine(), "teacher": Network.of(teacher), "sizes": rows}
    _write(options.json, json.dumps(found, indent=1, default=dataclasses.asdict) + "\n")
    if all(row.microseconds for row in rows):
        _write(options.svg, curve(rows))


def _size(student: TrainingSettings, text: str, seeds: int) -> tuple[TrainingSettings, int]:
    """Return the settings of a size, and the number of its seeds: `256-128` or `256-128:5`."""
    hidden, _, own = text.partition(":")
    if own and not (own.isdecimal() and int(own)):
        raise ConfigurationError(
            f"--sizes: {text}: behind the colon stands the number of seeds, as in 256-128:5"
        )
    return named(student, "student", hidden=hidden.replace("-", ",")), int(own or seeds)


def _opened(teacher: Path) -> Bundle:
    """Return the teacher's bundle.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        return Bundle.open(teacher)
    except BundleError as error:
        raise ConfigurationError(f"--teacher: {error}") from None


def _sides(options: argparse.Namespace) -> tuple[TrainingSettings, TrainingSettings]:
    """Return the settings of the teacher and of the students."""
    teacher, student = ({**side, **(QUICK if options.quick else {})} for side in (TEACHER, STUDENT))
    return (
        settings_of(options, _layers(teacher), options.teacher_set),
        settings_of(options, _layers(student), options.student_set),
    )


def _layers(own: Mapping[str, object]) -> list[Layer]:
    """Return the layers of one side's defaults."""
    first, own_layer = (Layer(values, "the setting '{name}'") for values in (FIRST, own))
    return [first, preset_layer("default"), own_layer]


def _students(
    kind: str,
    settings: TrainingSettings,
    teachers: Sequence[Path],
    seeds: int,
    data: DataSet,
    progress: Progress,
) -> list[Bundle]:
    """Return the published students of one size, one for each seed."""
    name = "-".join(map(str, (kind, *settings.hidden)))
    return [
        trained(named(settings, f"{name}-{seed}", seed=seed, teachers=teachers), data, progress)
        for seed in range(settings.seed, settings.seed + seeds)
    ]


def request_times(
    models: Mapping[str, Path], rounds: int, progress: Progress
) -> dict[str, dict[int, list[float]]]:
    """Return the CPU time of a request in microseconds, by model and connections: one of each round.

    Args:
        models: published versions, by any name.
        rounds: number of rounds; each measures every model with every number of connections.
        progress: shows the rounds.
    """
    paths = {}
    for name, model in models.items():
        settings = load_settings({"GLYPH_MODEL": str(model), "GLYPH_PROVIDER": "cpu"})
        pipeline = Pipeline(settings, ModelStore.start(settings, Metrics.create()))
        for connections in CONNECTIONS:
            paths[name, connections] = RequestPath(pipeline, connections, requests_of(pipeline))
    times: dict[str, dict[int, list[float]]] = {
        name: {connections: [] for connections in CONNECTIONS} for name in models
    }
    with progress.task("timing", rounds * len(paths), "measurements") as task:
        for _ in range(rounds):
            for (name, connections), path in paths.items():
                times[name][connections].append(round(path.seconds(LOOPS) * 1e6, 2))
                task.advance(1)
    return times


def _earlier_times(results: Path) -> dict[str, dict[int, list[float]]]:
    """Return the times in an earlier run's file, by the network's layers; none without a file."""
    sizes = json.loads(results.read_text())["sizes"] if results.exists() else []
    return {
        size["layers"]: {int(connections): found for connections, found in size["microseconds"].items()}
        for size in sizes
    }


def table(rows: Sequence[Size]) -> str:
    """Return a table in Markdown: mean and standard deviation of errors over seeds, times with their range."""
    changes = list(rows[0].distilled[0].changed)
    heads = ["network", "weights", "error", "without teacher", *changes]
    heads += [f"us at {connections}" for connections in CONNECTIONS]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        cells = [row.layers, f"{row.weights:,}", _error(row.distilled), _error(row.plain)]
        cells += [spread([network.changed[change] for network in row.distilled]) for change in changes]
        cells += [_time(row.microseconds.get(connections, ())) for connections in CONNECTIONS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def curve(rows: Sequence[Size]) -> str:
    """Return the figure: test error against CPU time a request, with a panel for each number of connections."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        panels = figure.subplots(1, len(CONNECTIONS), sharey=True)
        for axes, connections in zip(panels, CONNECTIONS, strict=True):
            _panel(axes, rows, connections)
        panels[0].set_ylabel("test error (%)")
        panels[0].legend(fontsize=10)
        said = "Test error by CPU time of a request, for networks of several sizes"
        drawn = svg(figure, said)
    opening = drawn.index(">") + 1
    return f"{drawn[:opening].replace('<svg ', SVG)}\n{THEME}{drawn[opening:]}\n"


def _panel(axes: Axes, rows: Sequence[Size], connections: int) -> None:
    """Draw the panel of a number of connections."""
    times = [statistics.median(row.microseconds[connections]) for row in rows]
    series = {
        "without teacher": ([row.plain for row in rows], VALIDATION, "s"),
        "distilled": ([row.distilled for row in rows], TRAINING, "o"),
    }
    for label, (networks, colour, marker) in series.items():
        some = [
            (time, [network.test for network in of]) for time, of in zip(times, networks, strict=True) if of
        ]
        if not some:
            continue
        style: dict[str, Any] = {"color": colour, "marker": marker, "capsize": 3, "label": label}
        axes.errorbar(
            [time for time, _ in some],
            [statistics.mean(errors) for _, errors in some],
            [_deviation(errors) for _, errors in some],
            **style,
        )
    for row, time in zip(rows, times, strict=True):
        best = statistics.mean(network.test for network in row.distilled)
        hidden = "-".join(row.layers.split("-")[1:-1])
        axes.annotate(hidden, (time, best), xytext=(5, 5), textcoords="offset points", ha="left", fontsize=9)
    axes.margins(0.15)
    axes.grid()
    axes.set(xlabel=f"us a request, {connections} connection{'s' * (connections > 1)}")


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation of percentages as text; a single one has no deviation."""
    deviation = f" ± {_deviation(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}%{deviation}"


def _time(found: Sequence[float]) -> str:
    return f"{statistics.median(found):.1f} ({min(found):.1f} to {max(found):.1f})" if found else ""


def _error(networks: Sequence[Network]) -> str:
    return spread([network.test for network in networks]) if networks else ""


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _percent(accuracy: float) -> float:
    """Return the error of an accuracy, in percent."""
    return round(100 * (1 - accuracy), 4)


def _write(path: Path, text: str) -> None:
    """Write a file of results, and its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
    print(f"wrote {path}", flush=True)
