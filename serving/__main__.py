"""`python -m serving`: check the settings and the port, then become Gunicorn's arbiter.

Exit codes: 0 ended by a signal, after the requests in flight were answered; 1 the address cannot be
listened on; 2 a setting is unknown or wrong; 3 a worker could not start; 4 the execution provider
that was asked for does not work on this machine.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from common.configuration import add_options, build, for_help, from_arguments, parse
from common.errors import ConfigurationError
from serving.check import check, check_tls
from serving.security.tokens import check_file
from serving.settings import ENVIRONMENT_PREFIX, ServiceSettings, environment_layer
from serving.system import descriptors
from serving.system.addresses import listen_problem
from serving.telemetry.tracing import check_installed

EXIT_ADDRESS = 1
EXIT_SETTING = 2

_EPILOGUE = """\
Every option is an environment variable too: --max-body-bytes is GLYPH_MAX_BODY_BYTES. An option wins.

The service answers POST /predict (an image file of 28x28 as the body, or a form of them) and
GET /livez, /readyz and /healthz; those and /metrics on the management port too. When it is ready it prints
a curl line that works as printed. docs/operations.md has every setting, metric, alert and fault.

exit codes:
  0  ended by SIGTERM or SIGINT, after the requests in flight were answered
  1  the address cannot be listened on
  2  a setting is unknown or wrong
  3  a worker could not start
  4  the execution provider that was asked for does not work on this machine

examples:
  python -m serving --model models/mnist --port 9000
  GLYPH_PROVIDER=cuda python -m serving
  python -m serving --check      before a reload, as nginx -t
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Return an exit code if the service cannot be started; if it can, do not return."""
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description="Serve the newest published version of a model over HTTP.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--check-address", action="store_true", help="only tell whether the address can be listened on"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only tell whether workers could start: settings, tokens, TLS files, open files, shared memory, the model",
    )
    add_options(parser, ServiceSettings, [for_help(lambda: environment_layer(os.environ))])
    try:
        options = parse(parser, arguments, ServiceSettings)
        layer = from_arguments(ServiceSettings, options)
        settings = build(ServiceSettings, [environment_layer(os.environ), layer])
        check_file(settings)
        check_tls(settings)
        check_installed(settings)
        settings = descriptors.raise_limit(settings)
        problem = None if options.check else listen_problem(settings)
    except ConfigurationError as error:
        return _refused(error, EXIT_SETTING)
    if options.check:
        return check(settings)
    if problem:
        return _refused(problem, EXIT_ADDRESS)
    if options.check_address:
        return 0
    return _become_arbiter({name: str(value) for name, value in layer.values.items()})


def _refused(problem: object, code: int) -> int:
    """Say what is wrong, if it can be said, and return the code that says it in any case."""
    with contextlib.suppress(OSError):
        print(f"error: {problem}", file=sys.stderr, flush=True)
    return code


def _become_arbiter(options: dict[str, str]) -> NoReturn:
    """Go on as Gunicorn's arbiter, in this process: signals reach it without anyone between."""
    from gunicorn.app.wsgiapp import run  # type: ignore[import-untyped]  # it ships no types

    os.environ.update({ENVIRONMENT_PREFIX + name.upper(): value for name, value in options.items()})
    sys.argv[1:] = ["--config", "python:serving.process.gunicorn_conf"]
    run()
    raise AssertionError


if __name__ == "__main__":
    sys.exit(main())
