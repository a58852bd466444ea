"""`python -m training`: train and publish a model, download MNIST, search for settings, or study them.

Exit codes: 0 success; 2 a setting is unknown or invalid; 65 invalid data; 66 an unusable or unfinished run; 69 an
unusable device; 70 the export could not be proven equal to the trained model; 71 out of memory, or the device
failed; 73 a file cannot be written; 75 stopped by a signal: continue with --resume (tune and study continue by
themselves); 76 the loss diverged; 1 any other failure. Publishing is atomic: a version is complete or absent.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.configuration import Layer, add_options, build, from_arguments, parse
from common.programs import named
from common.progress import Progress
from training.defaults import DEFAULT_PRESET, environment_layer, file_layer, preset_layer, shown_layers
from training.errors import exit_code, print_result
from training.interrupts import exit_on_sigterm
from training.presets import PRESETS
from training.search_settings import STUDIES, StudySettings, TuneSettings
from training.settings import ENVIRONMENT_PREFIX, TrainingSettings

COMMANDS: Mapping[str, tuple[str, type[TrainingSettings]]] = {
    "fit": ("train a model, prove its export, and publish it as the next version", TrainingSettings),
    "data": ("download MNIST and verify its hashes", TrainingSettings),
    "tune": ("search for the settings with the best validation accuracy", TuneSettings),
    "study": ("train many models that differ in one setting, and write a report", StudySettings),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return exit_code(lambda: _run(arguments))


@exit_on_sigterm()
def _run(arguments: list[str] | None) -> None:
    progress = Progress()
    words = sys.argv[1:] if arguments is None else arguments
    options = parse(_parser(words), words, StudySettings)
    layers = _layers(options)
    settings = build(COMMANDS[options.command][1], layers)
    given = frozenset(name for layer in layers[1:] for name in layer.values)
    if options.command == "data":
        from training.data.mnist_download import fetch_mnist

        paths = fetch_mnist(settings.data_dir, progress)
        print_result("\n".join(str(path) for path in paths.values()))
    elif isinstance(settings, TuneSettings):
        from training.search.tune import search

        print_result(search(settings, given, progress))
    elif isinstance(settings, StudySettings):
        from training.study.run import study

        print_result(study(options.studies, settings, given, progress))
    else:
        from training.job import run

        published = run(settings, progress)
        if published:
            print_result(published.path)


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser; its help shows the defaults of this command line's preset and configuration file."""
    is_help = not {"-h", "--help"}.isdisjoint(words)
    parser = argparse.ArgumentParser(
        prog=named("python -m training"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=named("example: python -m training fit --epochs 5 --hidden 256,128 --dropout 0.3"),
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (text, kind) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. Each option can also be given in the environment: "
            f"--batch-size as {ENVIRONMENT_PREFIX}BATCH_SIZE. The command line overrides the environment, "
            "which overrides the file, which overrides the preset. The defaults "
            "below take file, preset and environment into account.",
            allow_abbrev=False,
        )
        command.add_argument(
            "--preset",
            default=DEFAULT_PRESET,
            metavar="NAME",
            help=f"{', '.join(PRESETS)} (default: {DEFAULT_PRESET})",
        )
        command.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings, by name")
        add_options(command, kind, shown_layers(kind, words) if is_help and name in words else ())
        if kind is StudySettings:
            command.add_argument("studies", nargs="+", metavar="NAME", help=f"all, or {', '.join(STUDIES)}")
    return parser


def _layers(options: argparse.Namespace) -> list[Layer]:
    """Return the layers of settings; the first is the preset, the others are the user's."""
    kind = COMMANDS[options.command][1]
    return [
        preset_layer(options.preset),
        file_layer(options.config),
        environment_layer(kind),
        from_arguments(kind, options),
    ]


if __name__ == "__main__":
    sys.exit(main())
