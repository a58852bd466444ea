"""`python -m serving.token NAME`: make a bearer token, show it once, and the line that lets it in.

Exit codes: 0 made; 2 the name cannot stand in the file.
"""

import argparse
import re
import secrets
import sys
from collections.abc import Sequence

from serving.security.tokens import digest_of

PREFIX = "glyph_"
"""What tokens begin with, so that a scanner for leaked secrets can know one when it sees it."""
RANDOM_BYTES = 32

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)


def new_token() -> str:
    """Return a token of 256 random bits, in the characters of RFC 6750, section 2.1."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def line_of(name: str, token: str) -> str:
    """Return the line of the file of tokens that lets `token` in."""
    return f"{name} sha256:{digest_of(token).hex()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the line to standard output and the token to standard error; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.token",
        description="Make a bearer token. The line for the file goes to standard output, the token, which "
        "is kept nowhere, to standard error.",
        epilog="example:\n  python -m serving.token till-7 >> tokens && "
        "GLYPH_TOKENS_FILE=tokens python -m serving",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="who will hold it; the access log says this name")
    name = parser.parse_args(arguments).name
    if not _NAME.fullmatch(name):
        print(
            f"error: {name!r} is no name: use up to 64 letters, digits, '.', '_', '@' and '-'",
            file=sys.stderr,
        )
        return 2
    token = new_token()
    print(line_of(name, token))
    print(f"The token of {name}, shown only now:\n\n    {token}\n", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
