"""Test error of a committee of networks, and of one network distilled from it.

    python -m bench committee --members 7 --preset record --student default --student-set hidden=800,800
    python -m bench committee --members 2 --preset default --student default --epochs 2 --threads 1

The members differ in their seed: initial weights, order, augmentation and validation split. Each is published as
MODELS/NAME-member-SEED, the student as MODELS/NAME. Options of `fit` hold for all; `--member-set epochs=500` and
`--student-set hidden=800,800` hold for members or student. The student uses the members' augmentation unless its preset
or an option sets it.

The same command resumes: a model that is published with the same settings, data and teachers is not trained again, and
an unfinished one resumes from its checkpoint. The test set influences nothing: it is evaluated after training.
"""

import argparse
import json
import os
import statistics
from collections.abc import Mapping

import torch

from bench.support.options import bench_parser
from bench.training.presets import side_by_side
from bench.training.published import (
    RESUMED,
    add_settings_of,
    error_percent,
    named,
    settings_of,
    shape,
    trained,
)
from common.configuration import Layer, add_options, default_of, early_options, parse
from common.errors import ConfigurationError
from common.progress import Progress
from training.augmentation.policy import apply_policy
from training.data.dataset import Images, polarity
from training.data.loading import load_chosen
from training.defaults import preset_layer
from training.errors import exit_code
from training.loop.device import choose_device
from training.model.distillation import Ensemble, load_teachers
from training.settings import AugmentationSettings, TrainingSettings, model_name

BATCH = 1000
MEMBER, STUDENT = "record", "default"


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    return exit_code(lambda: _measure(parse(_parser(arguments), arguments, TrainingSettings), Progress()))


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    """Return the parser; its help states the defaults that hold for this command line's presets."""
    parser = bench_parser("committee", __doc__)
    parser.add_argument("--members", type=int, default=7, help="number of members (default: 7)")
    parser.add_argument("--preset", default=MEMBER, help=f"preset of the members (default: {MEMBER})")
    parser.add_argument("--student", default=STUDENT, help=f"preset of the student (default: {STUDENT})")
    add_settings_of(parser, "member", "student")
    parser.add_argument("--plain", action="store_true", help="also train the student without teachers")
    early = early_options(arguments, "--preset", "--student")
    member, student = [MEMBER, *early["--preset"]][-1], [STUDENT, *early["--student"]][-1]
    members = [Layer(RESUMED, ""), preset_layer(member)]
    seen = {
        name: default_of(TrainingSettings, name, members)[0] for name in AugmentationSettings.model_fields
    }
    sides = {"members": members, "student": [Layer({**RESUMED, **seen}, ""), preset_layer(student)]}
    add_options(parser, TrainingSettings, [side_by_side(sides)])
    return parser


def _measure(options: argparse.Namespace, progress: Progress) -> None:
    if options.members < 1:
        raise ConfigurationError(f"--members: a committee has at least one; it was {options.members}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigurationError("torchrun is for fit: start the bench as a plain process")
    base, pupil = _sides(options)
    data = load_chosen(base, progress)
    base, pupil = apply_policy(base, data.is_handwriting), apply_policy(pupil, data.is_handwriting)
    name = base.name or model_name(data.name)
    members = [
        trained(named(base, f"{name}-member-{seed}", seed=seed), data, progress)
        for seed in range(base.seed, base.seed + options.members)
    ]
    teachers = tuple(base.models / member.path.parent.name / member.path.name for member in members)
    student = named(pupil, name, teachers=teachers)
    distilled = trained(student, data, progress)
    plain = named(pupil, f"{name}-plain", teachers=())
    without = [trained(plain, data, progress)] if options.plain else []

    device = choose_device(student)
    committee = load_teachers(student, data, polarity(data.training.images), device)
    if committee is None:
        raise RuntimeError("a student without teachers")
    together = _error(committee, data.test(), device)
    errors = [error_percent(member) for member in members]
    for bundle, error in zip(members, errors, strict=True):
        print(json.dumps({"member": str(bundle.path), "test_error_percent": round(error, 4)}))
    spread = f" ± {statistics.stdev(errors):.3f}" if len(errors) > 1 else ""
    alone = "".join(f", and {error_percent(bundle):.3f}% without teachers" for bundle in without)
    print(
        f"{len(members)} members {shape(base, data)}: test error {statistics.mean(errors):.3f}%{spread}; "
        f"committee {together:.3f}%; student {shape(student, data)}: {error_percent(distilled):.3f}%{alone}; "
        f"on {distilled.manifest.environment.device}",
        flush=True,
    )


def _sides(options: argparse.Namespace) -> tuple[TrainingSettings, TrainingSettings]:
    """Return the members' settings and the student's, which sees what they see unless told otherwise."""
    base = settings_of(options, _layers(options.preset, {}), options.member_set)
    names = set(AugmentationSettings.model_fields)
    if base.augmentation != "custom":
        names &= base.model_fields_set  # the policy fills in the rest, for both alike
    augmentation = {name: getattr(base, name) for name in names}
    return base, settings_of(options, _layers(options.student, augmentation), options.student_set)


def _layers(preset: str, first: Mapping[str, object]) -> list[Layer]:
    """Return the layers of one side's defaults; `first` gives way to the preset."""
    return [Layer({**RESUMED, **first}, "the setting '{name}'"), preset_layer(preset)]


def _error(committee: Ensemble, test: Images, device: torch.device) -> float:
    """Return the test error of the members together, in percent."""
    answers = [
        committee(part.to(device), 1.0).cpu() for part in torch.split(torch.from_numpy(test.images), BATCH)
    ]
    wrong = torch.cat(answers).argmax(dim=1).numpy() != test.labels
    return 100 * float(wrong.mean())
