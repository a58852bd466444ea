"""`python -m serving.token NAME`: make a bearer token and print it once, with its line for the token file.

Exit codes: 0 success; 2 the name is invalid.
"""

import argparse
import re
import secrets
import sys
from collections.abc import Sequence

from common.programs import named
from serving.security.tokens import digest_of

PREFIX = "glyph_"
"""The prefix of every token, by which a scanner for leaked secrets recognises one."""
RANDOM_BYTES = 32

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)


def new_token() -> str:
    """Return a token of 256 random bits, in the characters of RFC 6750, section 2.1."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def line_of(name: str, token: str) -> str:
    """Return the line of the token file that admits `token`."""
    return f"{name} sha256:{digest_of(token).hex()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the line to standard output and the token to standard error; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=named("python -m serving.token"),
        description="Make a bearer token. The line for the token file goes to standard output, and the token, "
        "which is stored nowhere, to standard error.",
        epilog=named(
            "example:\n  python -m serving.token till-7 >> tokens && GLYPH_TOKENS_FILE=tokens python -m serving"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="the holder's name, for the access log")
    name = parser.parse_args(arguments).name
    if not _NAME.fullmatch(name):
        print(
            f"error: {name!r} is not a valid name: use up to 64 letters, digits, '.', '_', '@' and '-', "
            "with a letter or a digit first",
            file=sys.stderr,
        )
        return 2
    token = new_token()
    print(line_of(name, token))
    print(f"The token of {name}, which is not shown again:\n\n    {token}\n", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
