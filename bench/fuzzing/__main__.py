"""Fuzz one target by Atheris, or take inputs again.

    python -m bench.fuzzing TARGET FOLDER [options]    fuzz, from what is in the folder and into it
    python -m bench.fuzzing TARGET FILE...             take the seeds and these inputs, as of a crash, once

The options are libFuzzer's; -help=1 lists them.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.fuzzing import TARGETS

MEMORY_MIB = 2048
"""The most that a fuzzer may take, in whose memory its corpus lies."""
HANGS_SECONDS = 120
"""After which an input hangs, on a slow machine too."""


def main(arguments: list[str]) -> int:
    """Run a target and return the exit code; while fuzzing libFuzzer ends the process."""
    if len(arguments) < 2 or arguments[0] not in TARGETS:
        print(f"{__doc__}\ntargets: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    name, *rest = arguments
    if not Path(rest[0]).is_dir():
        return take(import_module(f"bench.fuzzing.{name}"), rest)
    try:
        import atheris
    except ImportError:
        print("error: Atheris is not installed: it has wheels for Linux on x86-64 alone", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=list(TARGETS[name])):
        target = import_module(f"bench.fuzzing.{name}")
    for number, seed in enumerate(target.SEEDS):
        Path(rest[0], f"seed-{number}").write_bytes(seed)
    limits = [
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-timeout={HANGS_SECONDS}",
    ]  # what is given comes later, and counts
    atheris.Setup([name, *limits, *rest], target.feed, custom_mutator=target.mutate)
    atheris.Fuzz()
    return 0


def take(target: Any, files: list[str]) -> int:
    """Take the seeds and files once each; the exception of the first that is taken badly ends the process."""
    for seed in target.SEEDS:
        target.feed(seed)
    for file in files:
        target.feed(Path(file).read_bytes())
    print(f"{len(target.SEEDS)} seeds and {len(files)} files were taken well")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
