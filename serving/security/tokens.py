"""Bearer tokens (RFC 6750), checked against a file of their hashes that can change while the service runs.

    # GLYPH_TOKENS_FILE: a line for each token, its name and its SHA-256. `python -m serving.token` makes one.
    till-7   sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    backup   sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752

A token has 256 random bits, so a plain hash is enough: it cannot be guessed, and salt and a slow hash protect only
secrets that a person has chosen. To rotate a token, add the new line, move the clients, and remove the old line.
Replace the file by renaming another over it, as Kubernetes replaces a mounted Secret.
"""

import hashlib
import hmac
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigurationError
from serving.errors import (
    BEARER_CHALLENGE,
    AuthorizationUnavailableError,
    BearerMalformedError,
    UnauthorizedError,
)
from serving.settings import ServiceSettings

log = logging.getLogger("glyph.serving")

CHECK_SECONDS = 1.0
"""The file is checked for a change at most this often, so that a revocation takes effect within it."""
MAX_FILE_BYTES = 1 << 20
PUBLIC_PATHS = frozenset(
    {"/", "/favicon.ico", "/livez", "/readyz", "/healthz", "/ping", "/v2/health/live", "/v2/health/ready"}
)
"""Paths that need no token: the page, which has no data in it, and the probes."""
PUBLIC_PREFIX = "/assets/"
"""The page's scripts and styles."""
DOCUMENTATION_PATHS = frozenset({"/docs", "/openapi.json"})
METRICS_PATH = "/metrics"

_CREDENTIALS = re.compile(r"(?i:bearer) +([A-Za-z0-9\-._~+/]+=*)", re.ASCII)  # RFC 6750, section 2.1
_LINE = re.compile(r"(\S+)[ \t]+sha256:([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """One line of the token file."""

    name: str
    """The holder's, for the access log."""
    digest: bytes
    """SHA-256 of the token."""


def digest_of(token: str) -> bytes:
    """Return a token's SHA-256."""
    return hashlib.sha256(token.encode()).digest()


def parse_tokens(text: str) -> tuple[TokenEntry, ...]:
    """Return the entries of a token file; a file of comments alone has none, and admits nobody.

    Raises:
        ConfigurationError: the text is empty, as while a file is being written; a line is not a name and a hash; or
            a name occurs twice.
    """
    if not text.strip():
        raise ConfigurationError("the token file is empty; to admit nobody, leave a comment in it")
    entries: dict[str, TokenEntry] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:  # the message does not quote the line, which may be a token
            raise ConfigurationError(
                f"line {number} of the token file is not 'NAME sha256:<64 lower-case hexadecimal digits>'; "
                "'python -m serving.token NAME' makes such a line"
            )
        name, digest = found.groups()
        if name in entries:
            raise ConfigurationError(f"line {number} of the token file repeats the name {name!r}")
        entries[name] = TokenEntry(name, bytes.fromhex(digest))
    return tuple(entries.values())


def read_tokens(path: Path) -> tuple[TokenEntry, ...]:
    """Return the entries of the token file.

    Raises:
        ConfigurationError: it cannot be read or parsed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigurationError(f"the token file {path} has more than {MAX_FILE_BYTES} bytes")
        return parse_tokens(data.decode())
    except OSError as error:
        raise ConfigurationError(f"the token file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the token file {path} is not UTF-8") from error


def check_file(settings: ServiceSettings) -> None:
    """Check the token file when the service starts, rather than at the first request.

    Raises:
        ConfigurationError: tokens are required, and the file cannot be read or parsed.
    """
    if settings.tokens_file is not None:
        read_tokens(settings.tokens_file)


class TokenFile:
    """The tokens that are valid now. Thread-safe: a refresh replaces one attribute."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: tuple[TokenEntry, ...] | None = None
        self._seen: object = None
        self._error = ""
        self._next_check = 0.0
        self.refresh()

    @property
    def readable(self) -> bool:
        """Whether the last check could read the file; if not, the entries may be out of date."""
        return not self._error

    def entries(self) -> tuple[TokenEntry, ...]:
        """Return the valid entries, at most `CHECK_SECONDS` old.

        Raises:
            AuthorizationUnavailableError: the file has not been readable since the start.
        """
        self.refresh()
        if self._entries is None:
            raise AuthorizationUnavailableError
        return self._entries

    def refresh(self) -> None:
        """Read the file if it has changed since the last check; keep the entries if it cannot be read."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        try:
            status = self.path.stat()
            seen = (status.st_ctime_ns, status.st_mtime_ns, status.st_ino, status.st_dev, status.st_size)
            if seen == self._seen:
                return
            self._entries = read_tokens(self.path)
        except (OSError, ConfigurationError) as error:
            effect = (
                "every request that needs a token is rejected: %s"
                if self._entries is None
                else "the previous tokens stay valid, and revocations have no effect, until the file can be read: %s"
            )
            if str(error) != self._error:  # once, not every second
                log.error(effect, error)  # noqa: TRY400  the sentence says all
            self._seen, self._error = None, str(error)
        else:
            log.info("tokens: %d are valid", len(self._entries))
            self._seen, self._error = seen, ""

    def authenticate(self, authorization: str | None) -> str:
        """Return the name of the token's holder.

        Args:
            authorization: the value of the `Authorization` field, None if the request has none.

        Raises:
            UnauthorizedError: there is no bearer token, or an invalid one.
            BearerMalformedError: the scheme is Bearer, and no token follows.
            AuthorizationUnavailableError: the valid tokens are unknown.
        """
        if authorization is None or authorization.split(" ", 1)[0].lower() != "bearer":
            raise UnauthorizedError
        found = _CREDENTIALS.fullmatch(authorization)
        if found is None:
            raise BearerMalformedError
        digest = digest_of(found[1])
        name = None
        for entry in self.entries():  # always all of them, so that the time does not reveal which one matched
            if hmac.compare_digest(entry.digest, digest):
                name = entry.name
        if name is None:
            error = UnauthorizedError(
                "the bearer token is not valid",
                remedy="Ask the operator for a valid one; this one may have been revoked.",
            )
            error.headers = {"WWW-Authenticate": f'{BEARER_CHALLENGE}, error="invalid_token"'}
            raise error
        return name


def public_paths(settings: ServiceSettings) -> frozenset[str]:
    """Return the paths that need no token, beside those below `PUBLIC_PREFIX`."""
    public = PUBLIC_PATHS if settings.health_route is None else PUBLIC_PATHS | {settings.health_route}
    if not settings.docs_token:
        public |= DOCUMENTATION_PATHS
    if not settings.metrics_token:
        public |= {METRICS_PATH}
    return public


class Authenticator:
    """Authenticates requests by bearer token, if the settings name a token file."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.tokens = None if settings.tokens_file is None else TokenFile(settings.tokens_file)
        self._public = public_paths(settings)

    def authenticate(self, authorization: str | None) -> str | None:
        """Return the name of the token's holder; None if no tokens are required.

        Raises:
            UnauthorizedError, BearerMalformedError, AuthorizationUnavailableError: as `TokenFile.authenticate`.
        """
        return None if self.tokens is None else self.tokens.authenticate(authorization)

    def check_path(self, method: str, path: str, authorization: str | None) -> str | None:
        """Authenticate a request, unless its path is public.

        A path is public only if it is listed, so that a new route needs a token until somebody lists it.
        CORS preflights (OPTIONS) are public, because browsers send them without credentials.
        """
        if method == "OPTIONS" or path in self._public or path.startswith(PUBLIC_PREFIX):
            return None
        return self.authenticate(authorization)
