"""`python -m serving.score`: the batch scorer's command line.

The help and `serving.scoring.errors` have the exit codes.
"""

import argparse
import gc
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from types import FrameType
from typing import Any

from common.configuration import Layer, add_options, build, for_help, from_arguments, parse
from common.errors import ConfigurationError
from common.programs import named
from imagesets.errors import DataError
from serving.scoring.errors import (
    EXIT_BAD_IMAGES,
    EXIT_DONE,
    EXIT_SETTING,
    BackendLostError,
    ScoringError,
    Stopped,
)
from serving.scoring.fork_server import ForkServer
from serving.scoring.settings import LABEL_COLUMN, ScoreSettings, environment_layer

GRACE_SECONDS = 10
"""How long a stopped run may take to end its threads; Kubernetes kills it after 30 s by default."""
WAKE_SECONDS = 1
"""How often the main thread's waits are interrupted."""

_EPILOGUE = """\
Every option is an environment variable too: --part-rows is GLYPH_SCORE_PART_ROWS. Options take precedence.

The same command resumes a run that was stopped or killed; the output has the same bytes as an uninterrupted run's.
Several machines share a job by --shard i/n, or as an Indexed Job of Kubernetes; then
'python -m serving.score merge --output OUTPUT' finishes it if no part is missing. See docs/scoring.md.

exit codes:
  0   complete: every image has a prediction
  2   a setting is unknown or invalid
  3   complete, but some images could not be read: the column error has the reason
  65  an input is missing or damaged; or an image is, with --strict; or every row has an error
  66  the output belongs to another job, or was changed
  69  the execution provider, the service or the cluster is not available
  70  the model cannot be loaded or proven
  71  a decoding process was killed, memory ran out, the GPU failed, or an object store: run again
  73  the output cannot be written, or the disk is full
  75  stopped by a signal, parts are missing, or another run is writing them: run again

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
        with _waking():
            return _merge(arguments[1:]) if arguments[:1] == ["merge"] else _score(arguments)
    except (ConfigurationError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_SETTING
    except (ScoringError, DataError) as error:
        print(named(f"error: {scorers_words(error)}"), file=sys.stderr)
        return error.exit_code
    except MemoryError as error:
        print(
            f"error: out of memory ({error}); the same command resumes the run: give it more memory, or "
            "fewer --workers",
            file=sys.stderr,
        )
        return BackendLostError.exit_code


def _score(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=named("python -m serving.score"),
        description="Score millions of images with a published model, exactly once.",
        epilog=named(_EPILOGUE),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",
    )
    add_options(parser, ScoreSettings, [for_help(environment_layer)])
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
    for name, more in (
        ("output", {}),
        ("input", several),
    ):  # replace those of add_options, which show no default
        description = ScoreSettings.model_fields[name].description
        parser.add_argument(
            f"--{name}", dest=name, default=argparse.SUPPRESS, metavar="PATH", help=description, **more
        )
    options = parse(parser, arguments, ScoreSettings)
    layer = from_arguments(ScoreSettings, options)
    environment = environment_layer()
    for needed in ("input", "output"):
        if needed not in layer.values and needed not in environment.values:
            raise ConfigurationError(
                f"--{needed} is required: {ScoreSettings.model_fields[needed].description}"
            )
    from serving.scoring.stored_job import StoredJob

    with closing(StoredJob.of([environment, layer])) as job, closing(ForkServer()) as server:
        settings = build(ScoreSettings, job.layers)
        if settings.url is None:
            with suppress(OSError):  # the run says so
                server.preload("numpy")  # while this process imports its own modules
        from serving.scoring.reporting.console import ConsoleObserver
        from serving.scoring.run import run

        job.fetch(settings)
        gc.freeze()  # imported modules live as long as the process
        with closing(ConsoleObserver(settings)) as console:
            outcome = run(settings, job.observer(console, settings), server=server)
            job.finish(settings, complete=outcome.complete)
            console.on_end(outcome)
    outcome.check(settings.output)
    return EXIT_BAD_IMAGES if outcome.errors else EXIT_DONE


def _merge(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=named("python -m serving.score merge"),
        description="Finish a job of several shards: verify every part, write the single file if the output is "
        "one, and _SUCCESS.",
    )
    parser.add_argument("--output", required=True, help="the --output of the shards")
    for name in ("model", "version", "report", "scratch"):
        field = ScoreSettings.model_fields[name]
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=field.description)
    parser.add_argument("--quiet", action="store_true", help="print only errors, no summary")
    options = parser.parse_args(arguments)
    from serving.scoring.stored_job import StoredJob

    environment = environment_layer()
    own = {name: value for name, value in environment.values.items() if name.startswith("scratch")}
    given = Layer({"input": "none", **vars(options)}, "--{option}")
    job = StoredJob.of([Layer(own, environment.origin), given])
    settings = build(ScoreSettings, job.layers)
    job.fetch(settings, all_parts=True)
    from serving.scoring.output.folder import OutputFolder
    from serving.scoring.reporting.console import ConsoleObserver
    from serving.scoring.run import merge

    console = ConsoleObserver(settings)
    outcome = merge(OutputFolder.open_existing(settings.output), console.say)
    job.finish(settings, complete=outcome.complete)
    console.on_end(outcome)
    outcome.check(settings.output)
    return EXIT_BAD_IMAGES if outcome.errors else EXIT_DONE


def scorers_words(error: ScoringError | DataError) -> str:
    """Return an error's message, with the scorer's option where the shared readers name training's."""
    named = re.sub(r"--label-column (first|last)\b", rf"--labels {LABEL_COLUMN}\1", str(error))
    return named.replace("--label-column", f"--labels {LABEL_COLUMN}NAME")


@contextmanager
def _waking() -> Iterator[None]:
    """Interrupt the main thread's waits regularly, so that no signal is lost.

    Python runs a signal's handler between two instructions of the main thread. A signal that comes after the last
    look, and before the thread waits, does not interrupt the wait; the next one does, and both handlers run.
    """

    def wake(number: int, frame: FrameType | None) -> None:
        del number, frame

    previous = signal.signal(signal.SIGALRM, wake)
    timer = signal.setitimer(signal.ITIMER_REAL, WAKE_SECONDS, WAKE_SECONDS)
    try:
        yield
    finally:
        if (
            signal.getsignal(signal.SIGALRM) is wake
        ):  # otherwise the run was stopped, and the grace period goes on
            signal.setitimer(signal.ITIMER_REAL, *timer)
            signal.signal(signal.SIGALRM, previous)


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop the run gracefully, or after `GRACE_SECONDS` at once: parts are written atomically."""
    del frame
    stopped = Stopped(f"stopped by {signal.Signals(number).name}: the same command resumes the run")

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        os.write(sys.stderr.fileno(), f"error: {stopped}\n".encode())
        os._exit(stopped.exit_code)

    # The exception may strike between acquiring a lock and its `with`, which then deadlocks a thread.
    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS, WAKE_SECONDS)
    raise stopped


if __name__ == "__main__":
    sys.exit(main())
