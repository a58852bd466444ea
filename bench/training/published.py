"""Models that a bench trains and publishes once: the same command takes those that are there, and resumes the rest."""

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence

from bundle.errors import BundleError
from bundle.repository import Bundle, versions
from common.configuration import Layer, build, from_arguments
from common.progress import Progress
from training.data.dataset import DataSet
from training.job import run
from training.loop.shared_data import weight_settings
from training.settings import TrainingSettings

RESUMED: Mapping[str, object] = {"resume": True}
"""Settings that everything overrides."""


def add_settings_of(parser: argparse.ArgumentParser, *kinds: str) -> None:
    """Add `--KIND-set NAME=VALUE` for each kind of model; what they give is `own` of `settings_of`."""
    for kind in kinds:
        parser.add_argument(
            f"--{kind}-set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"a setting of the {kind} only",
        )


def settings_of(options: argparse.Namespace, layers: Sequence[Layer], own: Iterable[str]) -> TrainingSettings:
    """Build the settings of some of a bench's models.

    Args:
        options: of the command line, for all models.
        layers: defaults, which options override.
        own: `NAME=VALUE`, for these models; they override the options.
    """
    pairs = (text.partition("=") for text in own)
    given = Layer({name: value for name, _, value in pairs}, "{name}=VALUE")
    return build(TrainingSettings, [*layers, from_arguments(TrainingSettings, options), given])


def named(settings: TrainingSettings, name: str, **changes: object) -> TrainingSettings:
    """Return the settings under another name, with `changes`, checked."""
    layer = Layer({**settings.model_dump(), "name": name, **changes}, "the setting '{name}'")
    return build(TrainingSettings, [layer])


def trained(settings: TrainingSettings, data: DataSet, progress: Progress) -> Bundle:
    """Return the published model of these settings; train it if there is none."""
    published = _find(settings, data)
    if published:
        progress.say(f"{published.path} is published: not trained again")
        return published
    progress.say(f"training {settings.name}")
    started = time.perf_counter()
    published = run(settings, progress)
    if published is None:
        raise RuntimeError("the only process is the writer")
    line = {"trained": str(published.path), "seconds": round(time.perf_counter() - started, 1)}
    print(json.dumps(line), flush=True)
    return published


def _find(settings: TrainingSettings, data: DataSet) -> Bundle | None:
    """Return the newest version that was trained with these settings, data and teachers, if any.

    A setting that came later is missing in an old manifest, and then it is another model.
    """
    wanted = weight_settings(settings)
    teachers = {str(path): Bundle.open(path).manifest.digest for path in settings.teachers}
    model = settings.models / str(settings.name)
    for version in reversed(versions(model)):
        try:
            bundle = Bundle.open(model / str(version))
        except BundleError:
            continue
        manifest = bundle.manifest
        same = {name: manifest.hyperparameters.get(name) for name in wanted} == wanted
        if same and manifest.dataset.sha256 == data.sha256 and manifest.teachers == teachers:
            return bundle
    return None


def error_percent(bundle: Bundle) -> float:
    """Return the test error of a published model, in percent."""
    return 100 * (1 - bundle.manifest.test.accuracy)


def shape(settings: TrainingSettings, data: DataSet) -> str:
    """Return the widths of a network's layers, from the pixels to the classes."""
    return "-".join(map(str, (784, *settings.hidden, len(data.classes))))
