"""Bearer tokens (RFC 6750): who may ask, decided by a file of hashes that can change while the service runs.

    # GLYPH_TOKENS_FILE: one token a line, its name and the SHA-256 of it. Made by `python -m serving.token`.
    till-7   sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    backup   sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752

A token has 256 random bits, so a plain hash is enough: there is nothing to guess, and salt and slowness
protect only what a person could have chosen. To rotate, add the new line, move the clients, take the old
line away. Replace the file by renaming another over it (a Kubernetes Secret is replaced like that).
"""

import hashlib
import hmac
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigurationError
from serving.errors import AuthorizationUnavailableError, BearerMalformedError, UnauthorizedError
from serving.settings import ServiceSettings

log = logging.getLogger("glyph.serving")

CHECK_SECONDS = 1.0
"""How old the knowledge of the file may be: it is looked at once a second at most."""
MAX_FILE_BYTES = 1 << 20
PUBLIC_PATHS = frozenset(
    {"/", "/favicon.ico", "/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"}
)
"""Paths that answer without a token: the page, which has no data in it, and the probes."""
PUBLIC_PREFIX = "/assets/"
"""The page's own scripts and styles."""
DOCUMENTATION_PATHS = frozenset({"/docs", "/openapi.json"})
METRICS_PATH = "/metrics"

_CREDENTIALS = re.compile(r"(?i:bearer) +([A-Za-z0-9\-._~+/]+=*)", re.ASCII)  # RFC 6750, section 2.1
_LINE = re.compile(r"(\S+)[ \t]+sha256:([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """One line of the file."""

    name: str
    digest: bytes
    """SHA-256 of the token."""


def digest_of(token: str) -> bytes:
    """Return what the file keeps of a token, as bytes."""
    return hashlib.sha256(token.encode()).digest()


def parse_tokens(text: str) -> tuple[TokenEntry, ...]:
    """Return the holders that a file names; one of only comments names nobody.

    Raises:
        ConfigurationError: the text is empty, as of a file that is just being written, a line is no
            name and hash, or a name stands twice.
    """
    if not text.strip():
        raise ConfigurationError("the file of tokens is empty; to let nobody in, leave a comment in it")
    entries: dict[str, TokenEntry] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:  # the line itself is not repeated: it may be a token
            raise ConfigurationError(
                f"line {number} of the file of tokens is not 'NAME sha256:<64 lower-case hexadecimal digits>'; "
                "'python -m serving.token NAME' makes such a line"
            )
        name, digest = found.groups()
        if name in entries:
            raise ConfigurationError(f"line {number} of the file of tokens names {name!r} again")
        entries[name] = TokenEntry(name, bytes.fromhex(digest))
    return tuple(entries.values())


def read_tokens(path: Path) -> tuple[TokenEntry, ...]:
    """Return the holders that the file names.

    Raises:
        ConfigurationError: it cannot be read, or `parse_tokens` refuses it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigurationError(f"the file of tokens {path} has more than {MAX_FILE_BYTES} bytes")
        return parse_tokens(data.decode())
    except OSError as error:
        raise ConfigurationError(f"the file of tokens {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the file of tokens {path} is not UTF-8") from error


def check_file(settings: ServiceSettings) -> None:
    """Tell at the start, not at the first request, that nobody could be let in.

    Raises:
        ConfigurationError: tokens are asked for, and their file cannot be read.
    """
    if settings.tokens_file is not None:
        read_tokens(settings.tokens_file)


class TokenFile:
    """The tokens that are valid now. Safe to ask from several threads: what changes is one attribute."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: tuple[TokenEntry, ...] | None = None
        self._seen: object = None
        self._trouble = ""
        self._next_check = 0.0
        self.refresh()

    @property
    def readable(self) -> bool:
        """Whether the file could be read at the last look; what it says now is not known otherwise."""
        return not self._trouble

    def entries(self) -> tuple[TokenEntry, ...]:
        """Return who may ask, from the file as it was at most `CHECK_SECONDS` ago.

        Raises:
            AuthorizationUnavailableError: the file has been unreadable from the start, so that nobody can be let in.
        """
        self.refresh()
        if self._entries is None:
            raise AuthorizationUnavailableError(
                "who may ask cannot be told", remedy="The operator finds the reason in the service's log."
            )
        return self._entries

    def refresh(self) -> None:
        """Read the file if it is another than the last time; one that is broken changes nothing."""
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
            kept = (
                "nobody is let in: %s"
                if self._entries is None
                else "the tokens before stay valid, and a revocation has no effect, until the file can be read: %s"
            )
            if str(error) != self._trouble:  # once, not every second
                log.error(kept, error)  # noqa: TRY400  the sentence says all
            self._seen, self._trouble = None, str(error)
        else:
            log.info("tokens: %d are valid", len(self._entries))
            self._seen, self._trouble = seen, ""

    def authenticate(self, authorization: str | None) -> str:
        """Return the name of the token's holder.

        Args:
            authorization: the `Authorization` field's value, None if the request had none.

        Raises:
            UnauthorizedError: there is no bearer token, or none that is valid.
            BearerMalformedError: the scheme is Bearer, and what follows is no token.
            AuthorizationUnavailableError: the tokens are not known.
        """
        if authorization is None or authorization.split(" ", 1)[0].lower() != "bearer":
            raise UnauthorizedError(
                "the request has no bearer token",
                remedy="Send the token that the operator gave you: -H 'Authorization: Bearer TOKEN'.",
            )
        found = _CREDENTIALS.fullmatch(authorization)
        if found is None:
            raise BearerMalformedError(
                "the Authorization field is not 'Bearer' and one token",
                remedy="Send the field once, as in RFC 6750, section 2.1: Authorization: Bearer TOKEN.",
            )
        digest = digest_of(found[1])
        name = None
        for entry in self.entries():  # all of them, so that the time does not tell which one it was
            if hmac.compare_digest(entry.digest, digest):
                name = entry.name
        if name is None:
            raise UnauthorizedError(
                "the bearer token is not valid",
                remedy="Ask the operator for one that is; this one may have been taken back.",
                code="invalid_token",
            )
        return name


def public_paths(settings: ServiceSettings) -> frozenset[str]:
    """Return the paths that answer without a token, beside the files of pages."""
    public = PUBLIC_PATHS
    if not settings.docs_token:
        public |= DOCUMENTATION_PATHS
    if not settings.metrics_token:
        public |= {METRICS_PATH}
    return public


class Authenticator:
    """Which request needs a token, and whether it has one."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.tokens = None if settings.tokens_file is None else TokenFile(settings.tokens_file)
        self._public = public_paths(settings)

    def authenticate(self, authorization: str | None) -> str | None:
        """Return the name of who asks; None where no tokens are asked for.

        Raises:
            UnauthorizedError, BearerMalformedError, AuthorizationUnavailableError: as `TokenFile.authenticate`.
        """
        return None if self.tokens is None else self.tokens.authenticate(authorization)

    def check_path(self, method: str, path: str, authorization: str | None) -> str | None:
        """Do as `authenticate` does, but let whoever asks for an open path pass.

        A path that nobody knows is not open, so that a new route is closed until it is named here.
        A preflight (OPTIONS) is open, because browsers send it without credentials.
        """
        if method == "OPTIONS" or path in self._public or path.startswith(PUBLIC_PREFIX):
            return None
        return self.authenticate(authorization)
