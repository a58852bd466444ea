"""Answers by a running service: `POST /predict` with one file a request, so that each has an answer of its own.

Certificates are the system's or those of SSL_CERT_FILE and SSL_CERT_DIR (OpenSSL's variables), the proxy is that of
HTTPS_PROXY, HTTP_PROXY and NO_PROXY (`urllib.request.getproxies`).
"""

import os
import ssl
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from http import HTTPStatus
from urllib.parse import unquote

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError
from urllib3.util import Url, make_headers, parse_url

from common.errors import one_line
from glyph.answers import Answer, UnavailableError
from glyph.settings import PredictSettings
from serving.client import read_token, service_url, token_of

TOKEN_VARIABLE = "GLYPH_TOKEN"  # noqa: S105  its name
MAX_RESPONSE_BYTES = 1 << 20
RETRIES = urllib3.Retry(
    total=3,
    connect=0,
    read=0,
    other=0,
    allowed_methods=None,  # a prediction has no side effects
    status_forcelist={408, 429, 502, 503, 504},
    backoff_factor=0.2,
    backoff_jitter=0.2,
    retry_after_max=5,
    raise_on_status=False,
)
"""Of what passes: a service that starts, or sheds load. What cannot be reached is reported at once."""


class RemoteModel:
    """A running service."""

    notes: tuple[str, ...] = ()

    def __init__(self, settings: PredictSettings, url: str, environment: Mapping[str, str]) -> None:
        """Prepare; nothing is sent.

        Raises:
            ClientError: the URL or the token cannot be used.
            UnavailableError: the proxy or the certificates cannot be used.
        """
        parts = service_url(url)
        self._address = url.rstrip("/")
        self._target = f"{self._address}/predict" + (f"?resize={settings.resize}" if settings.resize else "")
        self._headers = {
            "Content-Type": "image/*",
            "User-Agent": "glyph-predict",
            "X-Request-Timeout-Ms": str(max(1, int(settings.timeout_seconds * 1000))),
        }
        token = None
        if settings.token_file is not None:
            token = read_token(settings.token_file)
        elif environment.get(TOKEN_VARIABLE):
            token = token_of(os.fsencode(environment[TOKEN_VARIABLE]), TOKEN_VARIABLE)
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._pool = _pool(parts, settings.timeout_seconds)

    def ask(self, image: bytes) -> Answer:
        """Return the service's answer to a file.

        Raises:
            UnavailableError: it cannot be reached, or redirects.
        """
        try:
            response = self._pool.urlopen(
                "POST",
                self._target,
                body=image,
                headers=self._headers,
                retries=RETRIES,
                redirect=False,  # the token must not be sent to another host
                preload_content=False,
            )
            with closing(response):
                body = response.read(MAX_RESPONSE_BYTES)
        except HTTPError as error:
            proxy = getattr(self._pool, "proxy", None)
            way = f" by the proxy {proxy.host}:{proxy.port} of the environment" if proxy else ""
            raise UnavailableError(f"{self._address} cannot be reached{way}: {_reason(error)}") from error
        if HTTPStatus.MULTIPLE_CHOICES <= response.status < HTTPStatus.BAD_REQUEST:
            place = one_line(response.headers.get("Location", "another address"))
            raise UnavailableError(f"{self._address} redirects to {place}: give the service's own address")
        return Answer(response.status, body)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()


def _pool(parts: Url, seconds: float) -> urllib3.PoolManager:
    """Return what connects to the service, by a proxy if the environment names one for its host."""
    timeout = urllib3.Timeout(connect=seconds, read=seconds)
    proxy = urllib.request.getproxies().get(parts.scheme or "")
    if not proxy or urllib.request.proxy_bypass(parts.netloc or ""):
        return urllib3.PoolManager(timeout=timeout)
    try:
        user = parse_url(proxy).auth
        headers = make_headers(proxy_basic_auth=unquote(user)) if user else None
        return urllib3.ProxyManager(proxy, timeout=timeout, proxy_headers=headers)
    except (LocationValueError, HTTPError, ValueError) as error:
        raise UnavailableError(
            f"the proxy of the environment cannot be used ({one_line(error)}): set {parts.scheme}_proxy to one such as "
            "http://proxy:3128, or NO_PROXY to the service's host"
        ) from error


def _reason(error: HTTPError) -> str:
    """Return the innermost reason: urllib3 wraps the errors of sockets and TLS."""
    reason: BaseException = error
    while isinstance(
        inner := getattr(reason, "reason", None) or getattr(reason, "original_error", None), BaseException
    ):
        reason = inner
    wrapped = (one for one in (reason.__cause__, *reason.args) if isinstance(one, BaseException))
    reason = next(wrapped, reason)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"its certificate is untrusted ({reason.verify_message}); name its authority's file in SSL_CERT_FILE, and "
            "the host as the certificate does"
        )
    text = getattr(reason, "strerror", None) or (reason.args[-1] if reason.args else type(reason).__name__)
    return one_line(text)
