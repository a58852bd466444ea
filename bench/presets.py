"""Train a preset with several seeds and print its test error, with mean and deviation, and its time.

    python -m bench presets                         every preset, 5 seeds
    python -m bench presets --preset default --seeds 10
    python -m bench presets --preset strong --epochs 20        any training setting can be changed

The figures in `training/presets.py` come from here. A seed changes the split, the weights, the
order and dropout; the test set is the same and is looked at once per run, after training.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from bundle.configuration import Layer, add_options, build, from_arguments
from training.data import polarity, split
from training.datasets import load
from training.evaluate import logits_of
from training.fit import Run, fit
from training.machine import choose_device
from training.outcome import exit_code
from training.presets import PRESETS
from training.progress import Progress
from training.settings import TrainingSettings
from training.stop import listen


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench presets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", action="append", choices=list(PRESETS), help="which; all by default")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each")
    parser.add_argument(
        "--first-seed", type=int, default=0, help="where to begin, to spread runs over machines"
    )
    add_options(parser, TrainingSettings)
    options = parser.parse_args(arguments)
    progress = Progress()

    def measure() -> None:
        for name in options.preset or PRESETS:
            layers = [Layer(PRESETS[name](), name), from_arguments(TrainingSettings, options)]
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            _measure(name, build(TrainingSettings, layers), seeds, progress)

    return exit_code(measure)


def _measure(name: str, settings: TrainingSettings, seeds: range, progress: Progress) -> None:
    device = choose_device(settings)
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    errors, times = [], []
    for seed in seeds:
        error, seconds = _one_run(settings.model_copy(update={"seed": seed}), progress)
        errors.append(error)
        times.append(seconds)
        line = {"preset": name, "seed": seed, "test_error_percent": error, "seconds": round(seconds, 1)}
        print(json.dumps(line), flush=True)
    deviation = statistics.stdev(errors) if len(seeds) > 1 else 0.0
    print(
        f"{name}: test error {statistics.mean(errors):.3f}% ± {deviation:.3f} (n={len(seeds)}), "
        f"median {statistics.median(times):.1f} s on {named}, {torch.get_num_threads()} threads",
        flush=True,
    )


def _one_run(settings: TrainingSettings, progress: Progress) -> tuple[float, float]:
    """Return the test error in percent, and the seconds that training took."""
    device = choose_device(settings)
    data = load(settings.data, mnist_directory=settings.data_dir, progress=progress)
    train, validation = split(data.training, settings.validation, settings.seed)
    with tempfile.TemporaryDirectory() as directory, listen() as stop:
        run = Run(
            settings=settings,
            train=train.to(device),
            validation=validation.to(device),
            classes=len(data.classes),
            polarity=polarity(train.images),
            data_sha256=data.sha256,
            directory=Path(directory),
            progress=progress,
            stop=stop,
        )
        started = time.perf_counter()
        fitted = fit(run)
        seconds = time.perf_counter() - started
    test = data.test()
    logits = logits_of(fitted.model, fitted.standardise, torch.from_numpy(test.images).to(device))
    return 100 * float((logits.argmax(axis=1) != test.labels).mean()), seconds
