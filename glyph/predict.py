"""`glyph predict FILE... [--url URL]`: classifies image files, by a model in this process or by a running service.

Both ways give the same answer to the last digit: without `--url`, the service's own pipeline runs here.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import closing

from common.configuration import add_options, build, from_arguments, parse
from common.errors import ConfigurationError
from common.programs import named
from glyph.answers import Failure, Model, PredictError, Printer, outcome
from glyph.endings import ended_by_interrupt, needing, standard_output
from glyph.files import read
from glyph.json_lines import JsonLines
from glyph.settings import PredictSettings

EXIT_DONE = 0
EXIT_SETTING = 2
EXIT_SOME_FAILED = 3
EXIT_ALL_FAILED = 65
_EPILOGUE = """\
In a terminal the answer is a table; in a pipe, and with --json, one JSON object a file: the service's answer, with the
member "file" in front. A file that has no answer has a problem in its place, and the others are answered.

exit codes:
  0    every file has a prediction
  2    an option is unknown or invalid, or the model does not offer this --resize
  3    some files have an error in place of a prediction
  65   every file has
  69   the service cannot be reached or does not answer, a token is needed, the execution provider does not work, or a
       package is not installed
  70   the model cannot be loaded or proven
  130  ended by Ctrl-C (SIGINT)
  141  the reader of the output has gone, as in 'glyph predict ... | head -1'

examples:
  glyph predict digit.png
  glyph predict *.png --url https://digits.example.org --token-file token
  curl -s https://example.org/7.png | glyph predict - --json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    with ended_by_interrupt(), standard_output():
        try:
            return _predict(arguments)
        except (ConfigurationError, PredictError) as error:
            print(named(f"error: {error}"), file=sys.stderr)
            return getattr(error, "exit_code", EXIT_SETTING)


def _predict(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="glyph predict",
        description="Classify image files by the newest version of a model.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="an image file; - is standard input")
    parser.add_argument("--json", action="store_true", help="print JSON lines in a terminal, too")
    add_options(parser, PredictSettings)
    options = parse(parser, arguments, PredictSettings)
    settings = build(PredictSettings, [from_arguments(PredictSettings, options)])
    with (
        closing(_open(settings)) as model,
        closing(_printer(as_json=options.json)) as printer,
    ):
        failed = 0
        for name in options.files:
            content = read(name)
            found = content if isinstance(content, Failure) else outcome(name, model.ask(content))
            failed += isinstance(found, Failure)
            printer.add(found)
    if not failed:
        return EXIT_DONE
    return EXIT_ALL_FAILED if failed == len(options.files) else EXIT_SOME_FAILED


def _printer(*, as_json: bool) -> Printer:
    if as_json or not sys.stdout.isatty():
        return JsonLines()
    with needing("client", "predict"):
        from glyph.table import Table
    return Table()


def _open(settings: PredictSettings) -> Model:
    """Return what answers; only its own packages are imported.

    Raises:
        ConfigurationError: a setting, the URL or the token cannot be used.
        PredictError: the model cannot be loaded, or the execution provider does not work.
    """
    if settings.url is None:
        if settings.token_file is not None:
            raise ConfigurationError("--token-file is for a service: give its --url, too")
        from glyph.local import LocalModel

        model = LocalModel(settings)
        for note in model.notes:
            print(f"warning: {note}", file=sys.stderr)
        return model
    if settings.model is not None:
        raise ConfigurationError("--model and --url exclude each other: the service has its own model")
    with needing("client", "predict --url"):
        from glyph.remote import RemoteModel
        from serving.client import ClientError
    try:
        return RemoteModel(settings, settings.url, os.environ)
    except ClientError as error:
        raise ConfigurationError(str(error)) from error
