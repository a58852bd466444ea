"""Test error of a preset over several seeds, with mean and standard deviation, and its training time.

    python -m bench presets                         every preset, 5 seeds
    python -m bench presets --preset default --seeds 10
    python -m bench presets --preset strong --epochs 20        any training setting can be changed

The figures in `training/presets.py` come from this bench. A seed determines the split, the initial weights, the order
and dropout; the test set is evaluated once per run, after training: unchanged, and with every image shifted or
rotated (`training/model/robustness.py`). Each run's line has the 95% interval of its test error and, of MNIST, how
many of the errors are among the labels that people have found wrong (`training/report/wrong_labels.py`).
"""

import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from scipy.stats import binomtest

from bench.support.options import bench_parser
from bundle.images.contract import PAPER
from common.configuration import (
    Layer,
    add_options,
    build,
    default_of,
    early_options,
    from_arguments,
    text_of,
)
from common.progress import Progress
from training.augmentation.policy import apply_policy
from training.data.dataset import polarity
from training.data.loading import load
from training.data.splits import split_data
from training.defaults import preset_layer
from training.errors import exit_code
from training.interrupts import catch_signals
from training.loop.device import choose_device
from training.loop.fit import Run, fit
from training.model.evaluation import logits_of
from training.model.robustness import CHANGES, accuracies, predictions
from training.presets import PRESETS
from training.report import wrong_labels
from training.settings import TrainingSettings

REPORTED_CHANGES = ("moved by 2 and 2 pixels", "turned by 15 degrees")


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    parser = bench_parser("presets", __doc__)
    parser.add_argument(
        "--preset", action="append", choices=list(PRESETS), help="preset, may be repeated; default: all"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs per preset")
    parser.add_argument(
        "--first-seed", type=int, default=0, help="first seed, to distribute runs over machines"
    )
    chosen = [name for name in early_options(arguments, "--preset")["--preset"] if name in PRESETS] or [
        *PRESETS
    ]
    presets = side_by_side({name: [preset_layer(name)] for name in chosen})
    seeds = Layer({"seed": "one after the other, from --first-seed on"}, "")
    add_options(parser, TrainingSettings, [presets, seeds])
    options = parser.parse_args(arguments)
    progress = Progress()

    def measure() -> None:
        for name in options.preset or PRESETS:
            layers = [preset_layer(name), from_arguments(TrainingSettings, options)]
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            _measure(name, build(TrainingSettings, layers), seeds, progress)

    return exit_code(measure)


def side_by_side(sides: Mapping[str, Sequence[Layer]]) -> Layer:
    """Return the defaults of several presets for the help: `30`, or `first 30; second 150` if they differ."""
    texts = {}
    for name in TrainingSettings.model_fields:
        found = {
            side: text_of(default_of(TrainingSettings, name, layers)[0]) for side, layers in sides.items()
        }
        alike = len(set(found.values())) == 1
        texts[name] = next(iter(found.values())) if alike else "; ".join(map(" ".join, found.items()))
    return Layer(texts, "")


def _measure(name: str, settings: TrainingSettings, seeds: range, progress: Progress) -> None:
    device = choose_device(settings)
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    runs, times = [], []
    for seed in seeds:
        errors, remarks, seconds = _one_run(settings, seed, progress)
        runs.append(errors)
        times.append(seconds)
        line = {"preset": name, "seed": seed, "test_error_percent": errors, "seconds": round(seconds, 1)}
        print(json.dumps(line | remarks), flush=True)
    shown = ", ".join(f"{change} {_spread([errors[change] for errors in runs])}" for change in runs[0])
    print(
        f"{name}: test error {shown} (n={len(seeds)}), "
        f"median {statistics.median(times):.1f} s on {named}, {torch.get_num_threads()} threads",
        flush=True,
    )


def _spread(values: list[float]) -> str:
    """Return mean and standard deviation as text."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f}% ± {deviation:.3f}"


def interval(wrong: int, images: int) -> tuple[float, float]:
    """Return the 95% interval of an error rate, in percent, by Wilson's score.

    It is of one network and other test images of the same kind; the deviation over seeds is of other networks.
    """
    low, high = binomtest(wrong, images).proportion_ci(0.95, method="wilson")
    return round(100 * low, 3), round(100 * high, 3)


def _one_run(
    settings: TrainingSettings, seed: int, progress: Progress
) -> tuple[dict[str, float], dict[str, object], float]:
    """Return the test error in percent, of unchanged and changed images; remarks on it; the seconds of training."""
    device = choose_device(settings)
    data = load(settings.data, mnist_directory=settings.data_dir, progress=progress)
    settings = apply_policy(settings, data.is_handwriting).model_copy(update={"seed": seed})
    train, validation = split_data(data, settings.validation, settings.seed)
    ink = polarity(train.images)
    with tempfile.TemporaryDirectory() as directory, catch_signals() as stop:
        run = Run(
            settings=settings,
            train=train.to(device),
            validation=validation.to(device),
            classes=len(data.classes),
            polarity=ink,
            data_sha256=data.sha256,
            directory=Path(directory),
            progress=progress,
            stop=stop,
        )
        started = time.perf_counter()
        fitted = fit(run)
        seconds = time.perf_counter() - started
    test = data.test()
    model = fitted.model.cpu()
    logits = logits_of(model, fitted.standardise, torch.from_numpy(test.images))
    predicted = logits.argmax(axis=1)
    right = {"as it is": float((predicted == test.labels).mean())}
    changes = {name: CHANGES[name] for name in REPORTED_CHANGES}
    changed = predictions(model, fitted.standardise, test.images, PAPER[ink], changes)
    right |= accuracies(changed, test.labels)
    remarks: dict[str, object] = {
        "interval_percent": interval(int((predicted != test.labels).sum()), len(test)),
        "wrong_labels": wrong_labels.sentence(test.labels, predicted),
    }
    return {change: round(100 * (1 - share), 4) for change, share in right.items()}, remarks, seconds
