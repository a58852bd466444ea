"""The command `glyph` in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterable

from tests.conftest import ROOT

SECONDS = 240.0


def command(*words: object) -> list[str]:
    """Return the command line."""
    return [sys.executable, "-m", "glyph", *map(str, words)]


def environment(**variables: object) -> dict[str, str]:
    """Return this process's environment without Glyph's variables and proxies, and with these."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GLYPH_") and not name.lower().endswith("_proxy")
    }
    return kept | {name: str(value) for name, value in variables.items()}


def glyph(
    *words: object, given: bytes | None = None, **variables: object
) -> subprocess.CompletedProcess[bytes]:
    """Run the command with these variables; no run of it may end in a traceback."""
    done = subprocess.run(
        command(*words),
        cwd=ROOT,
        env=environment(**variables),
        input=b"" if given is None else given,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def error_of(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    """Return the one sentence of an error, given the exit code that it must have."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def loaded(words: Iterable[object], hidden: str = "", **variables: object) -> tuple[int, set[str], str]:
    """Return the exit code, the top-level modules that were loaded in the end, and what was printed as an error.

    Args:
        words: of the command line.
        hidden: a package that cannot be imported.
        variables: of the environment.
    """
    program = (
        "import sys\n"
        f"if {hidden!r}: sys.modules[{hidden!r}] = None\n"
        "from glyph.__main__ import main\n"
        f"try: code = main({list(map(str, words))!r})\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *errors, last = done.stderr.splitlines()
    code, *modules = last.split()
    return int(code), {name.split(".")[0] for name in modules}, "\n".join(errors)
