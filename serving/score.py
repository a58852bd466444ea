"""`python -m serving.score`: the command line of the batch scorer; `serving/scoring/` does the work.

Its exit codes are in the help, and in `serving.scoring.errors`.
"""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from common.configuration import Layer, add_options, build, for_help, from_arguments, parse
from common.errors import ConfigurationError
from serving.scoring.errors import (
    EXIT_BAD_IMAGES,
    EXIT_DONE,
    EXIT_SETTING,
    BackendLostError,
    ScoringError,
    Stopped,
)
from serving.scoring.settings import ScoreSettings, environment_layer

GRACE_SECONDS = 10
"""How long a run that is stopped may take to end its threads; Kubernetes gives it 30."""

_EPILOGUE = """\
Every option is an environment variable too: --part-rows is GLYPH_SCORE_PART_ROWS. An option wins.

A run that was stopped or killed goes on when the same command is given again, and ends with the same bytes.
Several machines share a job by --shard i/n, or as an Indexed Job of Kubernetes; then
'python -m serving.score merge --output OUTPUT' finishes it, if no part is missing. docs/scoring.md has more.

exit codes:
  0   every image is answered
  2   a setting is unknown or wrong
  3   done, and some images could not be read: their rows say why
  65  an input is missing or damaged; or an image is, with --strict
  66  the output belongs to another job, or was changed
  69  the execution provider, the service or the cluster is not there
  70  the model cannot be loaded or proven
  71  a process that decodes was killed, memory has run out, or the GPU has failed: run again
  73  the output cannot be written, or the disk is full
  75  stopped by a signal, parts are missing, or another run is at work on them: run again

examples:
  python -m serving.score --input photos/ --output scores/
  python -m serving.score --input 'data/*.parquet' --output scores.csv --model models/mnist --top 3
  find . -name '*.png' | python -m serving.score --input - --output scores.parquet
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        return _merge(arguments[1:]) if arguments[:1] == ["merge"] else _score(arguments)
    except (ConfigurationError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_SETTING
    except ScoringError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except MemoryError as error:
        print(
            f"error: memory has run out ({error}); the same command goes on where it stopped: give it more, or "
            "fewer --workers",
            file=sys.stderr,
        )
        return BackendLostError.exit_code


def _score(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.score",
        description="Score millions of images with a published model, exactly once.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",
    )
    add_options(parser, ScoreSettings, [for_help(environment_layer)])
    parser.add_argument(  # like the next one in the place of one that add_options made, which has no default
        "--output",
        dest="output",
        default=argparse.SUPPRESS,
        metavar="PLACE",
        help=str(ScoreSettings.model_fields["output"].description),
    )
    parser.add_argument(
        "--input",
        dest="input",
        nargs="+",
        action="extend",
        default=argparse.SUPPRESS,
        metavar="PLACE",
        help=str(ScoreSettings.model_fields["input"].description),
    )
    options = parse(parser, arguments, ScoreSettings)
    layer = from_arguments(ScoreSettings, options)
    environment = environment_layer()
    for needed in ("input", "output"):
        if needed not in layer.values and needed not in environment.values:
            raise ConfigurationError(
                f"--{needed} is needed: {ScoreSettings.model_fields[needed].description}"
            )
    settings = build(ScoreSettings, [environment, layer])
    from serving.scoring.reporting.console import ConsoleObserver
    from serving.scoring.run import run

    gc.freeze()  # what was imported stays: no collection need look at it
    console = ConsoleObserver(settings)
    try:
        outcome = run(settings, console)
        console.on_end(outcome)
    finally:
        console.close()
    return EXIT_BAD_IMAGES if outcome.errors else EXIT_DONE


def _merge(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.score merge",
        description="Finish a job that several shards worked on: see that every part is there and unchanged, "
        "write the one file if the output is one, and _SUCCESS.",
    )
    parser.add_argument("--output", type=Path, required=True, help="as it was given to the shards")
    for name in ("model", "version", "report"):
        field = ScoreSettings.model_fields[name]
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=field.description)
    parser.add_argument("--quiet", action="store_true", help="print no summary, only errors")
    options = parser.parse_args(arguments)
    settings = build(ScoreSettings, [Layer({"input": "none", **vars(options)}, "--{option}")])
    from serving.scoring.output.folder import OutputFolder
    from serving.scoring.reporting.console import ConsoleObserver
    from serving.scoring.run import merge

    console = ConsoleObserver(settings)
    outcome = merge(OutputFolder.open_existing(options.output), console.say)
    console.on_end(outcome)
    return EXIT_BAD_IMAGES if outcome.errors else EXIT_DONE


def _stop(number: int, frame: FrameType | None) -> None:
    """End the run: in good order, or at once if that takes long, as parts are whole at any moment."""
    del frame
    stopped = Stopped(f"stopped by {signal.Signals(number).name}: the same command goes on where it stopped")

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        os.write(sys.stderr.fileno(), f"error: {stopped}\n".encode())
        os._exit(stopped.exit_code)

    # An exception between a lock's taking and its `with` leaves it taken: then a thread waits for ever.
    signal.signal(signal.SIGALRM, end)
    signal.alarm(GRACE_SECONDS)
    raise stopped


if __name__ == "__main__":
    sys.exit(main())
