"""`python -m serving --check`: whether workers could start with these settings, as `nginx -t` tells for nginx.

Nothing is changed, and the address is not looked at, which a running service has. This module is imported by what
becomes the arbiter, so ONNX Runtime is imported only where the model is asked for.
"""

import logging
import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from common.errors import ConfigurationError
from serving.errors import NotReadyError, ProviderError
from serving.settings import ServiceSettings
from serving.system.cpus import usable_cpus

EXIT_SETTING, EXIT_WORKER, EXIT_PROVIDER = 2, 3, 4
"""As `python -m serving` ends with for the same reasons."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where the arbiter puts the workers' metrics


class _FailedError(Exception):
    """A check failed; the sentence says why, and the code is what a start would end with."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


def check(settings: ServiceSettings) -> int:
    """Print a sentence for each check, and return the exit code of the first that failed, or 0."""
    print("ok: the settings, the file of tokens, the TLS files and the limit of open files can be used")
    found = 0
    checks: tuple[Callable[[ServiceSettings], str], ...] = (_shared_memory, _model)
    for one in checks:
        try:
            print(one(settings), flush=True)
        except _FailedError as failed:
            print(f"error: {failed}", file=sys.stderr, flush=True)
            found = found or failed.code
    return found


def check_tls(settings: ServiceSettings) -> None:
    """Tell before anything is started that no TLS handshake could succeed.

    Raises:
        ConfigurationError: a certificate or key is missing, cannot be read, is encrypted, or they do not fit.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None:
        if key is not None:
            raise ConfigurationError(
                "GLYPH_TLS_KEY is set and GLYPH_TLS_CERTIFICATE is not: set both for TLS, or none for plain HTTP"
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
            f"the certificate {certificate} and the key {key or certificate} are no pair that TLS can use "
            f"({reason}): give PEM files of a certificate chain and of its key"
        ) from error


def _encrypted() -> NoReturn:
    raise ConfigurationError(
        "the TLS key is encrypted, and nobody is asked for its passphrase: store it without (openssl pkey)"
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

    logging.getLogger("glyph.serving").addHandler(logging.NullHandler())  # the sentences below say the same
    try:
        state = ModelStore.start(settings, prove_first=True)
        report = state.report()
    except ProviderError as error:
        raise _FailedError(str(error), EXIT_PROVIDER) from error
    except NotReadyError as error:
        raise _FailedError(error.detail, EXIT_WORKER) from error
    refused = "".join(f"; version {one['version']} is refused: {one['reason']}" for one in report["refused"])
    model = report["model"]
    return f"ok: {model['name']} version {model['version']} is proven on {report['provider']}{refused}"
