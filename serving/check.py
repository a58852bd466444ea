"""`python -m serving --check`: checks whether workers could start with these settings, as `nginx -t` does for nginx.

It changes nothing, but that it fetches a model from an object store into GLYPH_SCRATCH, and does not check the address,
which a running service has. The process that becomes the arbiter imports this module, so only `_model` imports ONNX
Runtime.
"""

import logging
import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from common.errors import ConfigurationError
from common.programs import named
from serving.errors import NotReadyError, ProviderError
from serving.settings import ServiceSettings
from serving.system.cpus import usable_cpus

EXIT_SETTING, EXIT_WORKER, EXIT_PROVIDER = 2, 3, 4
"""The exit codes of `python -m serving` for the same reasons."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  the arbiter puts the workers' metrics there


class _FailedError(Exception):
    """A check failed; the message says why, and the code is the exit code of a start."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def check(settings: ServiceSettings) -> int:
    """Print the result of each check; return the exit code of the first failure, or 0."""
    print("ok: the settings, the files of tokens, keys and TLS, and the limit of open files can be used")
    found = 0
    checks: tuple[Callable[[ServiceSettings], str], ...] = (_shared_memory, _model)
    for one in checks:
        try:
            print(one(settings), flush=True)
        except _FailedError as failed:
            print(named(f"error: {failed}"), file=sys.stderr, flush=True)
            found = found or failed.code
    return found


def check_trusted_keys(settings: ServiceSettings) -> None:
    """Check that there are trusted keys, if any are set; the workers parse them.

    Raises:
        ConfigurationError: they cannot be read.
    """
    if settings.trusted_keys is not None:
        from bundle.signing import TrustedKeysError, read_key_files

        try:
            read_key_files(settings.trusted_keys)
        except TrustedKeysError as error:
            raise ConfigurationError(f"GLYPH_TRUSTED_KEYS: {error}") from error


def check_tls(settings: ServiceSettings) -> None:
    """Check the TLS files before anything is started.

    Raises:
        ConfigurationError: the certificate or the key is missing, unreadable or encrypted, or they do not match.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None:
        if key is not None:
            raise ConfigurationError(
                "GLYPH_TLS_KEY is set and GLYPH_TLS_CERTIFICATE is not: set both for TLS, or neither for plain HTTP"
            )
        return
    for path in (certificate, key):
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            raise ConfigurationError(f"the TLS file {path} cannot be read: {error.strerror}") from error
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=_encrypted)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigurationError(
            f"the certificate {certificate} and the key {key or certificate} cannot be used for TLS "
            f"({reason}): give PEM files of a certificate chain and of its key"
        ) from error


def _encrypted() -> NoReturn:
    raise ConfigurationError(
        "the TLS key is encrypted, and the service asks for no passphrase: store the key without one (openssl pkey)"
    )


def _shared_memory(settings: ServiceSettings) -> str:
    from serving.telemetry.shared_memory import SIZE

    if not SHARED_MEMORY.is_dir():
        return f"ok: there is no {SHARED_MEMORY}; metrics are shared in a temporary directory"
    wanted = SIZE * (settings.workers or usable_cpus())
    status = os.statvfs(SHARED_MEMORY)
    if (free := status.f_bavail * status.f_frsize) < wanted:
        return (
            f"warning: {SHARED_MEMORY} has {free} bytes left, and the workers' metrics need {wanted}: what a worker "
            "without room there counts is lost when it ends. Make it larger (--shm-size, or a memory volume there), "
            "or remove what others have left in it"
        )
    return f"ok: {SHARED_MEMORY} has room for the workers' metrics"


def _model(settings: ServiceSettings) -> str:
    from serving.model.store import ModelStore

    logging.getLogger("glyph.serving").addHandler(logging.NullHandler())  # the messages below say the same
    try:
        state = ModelStore.start(settings, prove_first=True)
        if state.mirror is not None and state.is_waiting:
            state.mirror.poll()
            state.mirror.close()
            state.load()
        report = state.report()
    except ProviderError as error:
        raise _FailedError(str(error), EXIT_PROVIDER) from error
    except NotReadyError as error:
        raise _FailedError(f"{error.detail}. {error.remedy}", EXIT_WORKER) from error
    refused = "".join(f"; version {one['version']} is refused: {one['reason']}" for one in report["refused"])
    model = report["model"]
    return f"ok: {model['name']} version {model['version']} is proven on {report['provider']}{refused}"
