"""What the clients of a running service share: its URL and the bearer token.

The batch scorer's `--url` and `glyph predict --url` are such clients.
"""

from pathlib import Path

from urllib3.util import Url, parse_url

from serving.errors import ServingError

MAX_TOKEN_BYTES = 1 << 14


class ClientError(ServingError):
    """The URL or the token cannot be used; the message names the option and has no token."""


def service_url(url: str) -> Url:
    """Return the parts of a service's URL.

    Raises:
        ClientError: it is no URL of a service.
    """
    try:
        parts = parse_url(url)
    except ValueError as error:
        raise ClientError(f"--url {url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.host or parts.query is not None or parts.auth:
        raise ClientError(
            f"--url {url!r} is not the URL of a service: give one such as http://host:8080 or https://host; "
            "a token belongs into --token-file"
        )
    return parts


def read_token(path: Path) -> str:
    """Return the token from a file of one line.

    Raises:
        ClientError: the file cannot be read, or has no token.
    """
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES)
    except OSError as error:
        raise ClientError(f"--token-file {path} cannot be read: {error.strerror}") from error
    return token_of(token, f"--token-file {path}")


def token_of(content: bytes, place: str) -> str:
    """Return the token that a file or a variable has.

    Raises:
        ClientError: it has none.
    """
    token = content.strip()
    if not token or not all(33 <= byte < 127 for byte in token):
        raise ClientError(f"{place} has no token: it must be one line, as serving.token prints it")
    return token.decode("ascii")
