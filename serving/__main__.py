"""`python -m serving`: checks the settings and the address, then becomes Gunicorn's arbiter.

`_EPILOGUE`, which `--help` prints, has the exit codes.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from common.configuration import add_options, build, for_help, from_arguments, parse
from common.errors import ConfigurationError
from common.programs import named
from serving.check import check, check_tls, check_trusted_keys
from serving.security.tokens import check_file
from serving.settings import ENVIRONMENT_PREFIX, ServiceSettings, environment_layer, platform_layers
from serving.system import descriptors
from serving.system.addresses import listen_problem
from serving.telemetry import tracing
from serving.worker.rpc import installed

EXIT_ADDRESS = 1
EXIT_SETTING = 2

_EPILOGUE = """\
Every option is also an environment variable: --max-body-bytes is GLYPH_MAX_BODY_BYTES. The option takes precedence.

The service answers POST /predict (the body is an image file of 28x28 pixels, or a form of such files) and
GET /livez, /readyz and /healthz. The management port answers those three and GET /metrics. When the service is
ready, it prints a curl command that works as printed. docs/operations.md has all settings, metrics, alerts and faults.

exit codes:
  0  ended by SIGTERM or SIGINT, after the requests in flight were answered
  1  the service cannot listen on its address
  2  a setting is unknown or invalid
  3  a worker could not start
  4  the execution provider in the settings does not work on this machine

examples:
  python -m serving --model models/mnist --port 9000
  GLYPH_PROVIDER=cuda python -m serving
  python -m serving --check      before a reload, like nginx -t
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the service, and return only if that fails or only a check was asked for.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog=named("python -m serving"),
        description="Serve the newest published version of a model over HTTP.",
        epilog=named(_EPILOGUE),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--check-address",
        action="store_true",
        help="only check whether the service can listen on its address",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only check whether workers could start: settings, tokens, TLS, open files, shared memory, the model",
    )
    parser.add_argument(
        "serve", nargs="?", choices=["serve"], help="may be given, as SageMaker does, and changes nothing"
    )
    platform = platform_layers(os.environ)
    add_options(parser, ServiceSettings, [*platform, for_help(lambda: environment_layer(os.environ))])
    try:
        options = parse(parser, arguments, ServiceSettings)
        layer = from_arguments(ServiceSettings, options)
        settings = build(ServiceSettings, [*platform, environment_layer(os.environ), layer])
        check_file(settings)
        check_tls(settings)
        check_trusted_keys(settings)
        tracing.check_installed(settings)
        installed.check_installed(settings)
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
    """Print an error and return its exit code."""
    with contextlib.suppress(OSError):  # standard error may be closed
        print(named(f"error: {problem}"), file=sys.stderr, flush=True)
    return code


def _become_arbiter(options: dict[str, str]) -> NoReturn:
    """Go on as Gunicorn's arbiter in this process, so that no process is between it and a signal."""
    from gunicorn.app.wsgiapp import run

    os.environ.update({ENVIRONMENT_PREFIX + name.upper(): value for name, value in options.items()})
    sys.argv[1:] = ["--config", "python:serving.process.gunicorn_conf"]
    run()
    raise AssertionError


if __name__ == "__main__":
    sys.exit(main())
