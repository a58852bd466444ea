"""`python -m training`: fetch the data, train a model, publish it.

Exit codes: 0 done; 2 a setting is unknown or out of range; 65 the data; 69 the device; 70 the export
could not be proven; 73 nothing can be written; 1 any other failure. Nothing is ever half published.
"""

import argparse
import os
import sys

from bundle.configuration import Layer, add_options, build, from_arguments, from_environment, nearest
from bundle.errors import ConfigurationError, PublishError
from training.errors import EXIT_MISUSE, TrainingError, UnwritableError
from training.presets import PRESETS
from training.progress import Progress
from training.settings import ENVIRONMENT_PREFIX, TrainingSettings


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    progress = Progress()
    try:
        settings = _settings(options)
        if options.command == "data":
            from training.fetch import fetch_mnist

            paths = fetch_mnist(settings.data_dir, progress)
            print("\n".join(str(path) for path in paths.values()))
        else:
            from training.job import run

            print(run(settings, progress).path)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_MISUSE
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except PublishError as error:
        print(f"error: {error}", file=sys.stderr)
        return UnwritableError.exit_code
    except KeyboardInterrupt:
        print("interrupted: nothing was published", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m training fit --epochs 5 --hidden 256,128 --dropout 0.3",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("fit", "train a model, prove its export, publish it as the next version"),
        ("data", "fetch MNIST and check it, and do nothing else"),
    ):
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. Each option can also be given in the environment: "
            f"--batch-size as {ENVIRONMENT_PREFIX}BATCH_SIZE; the command line wins over the environment.",
            allow_abbrev=False,
        )
        command.add_argument("--preset", default="default", metavar="NAME", help=", ".join(PRESETS))
        add_options(command, TrainingSettings)
    return parser


def _settings(options: argparse.Namespace) -> TrainingSettings:
    if options.preset not in PRESETS:
        raise ConfigurationError(f"unknown preset {options.preset}{nearest(options.preset, PRESETS)}")
    return build(
        TrainingSettings,
        [
            Layer(PRESETS[options.preset](), f"the preset '{options.preset}'"),
            from_environment(TrainingSettings, os.environ, ENVIRONMENT_PREFIX),
            from_arguments(TrainingSettings, options),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
