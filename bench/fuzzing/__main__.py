"""Fuzz one target with Atheris, or replay inputs.

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
"""Memory limit of a fuzzer, which keeps its corpus in memory."""
HANGS_SECONDS = 120
"""Time after which an input counts as hanging, also on a slow machine."""


def main(arguments: list[str]) -> int:
    """Run a target and return the exit code; while fuzzing, libFuzzer exits the process."""
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
    ]  # later arguments override
    atheris.Setup([name, *limits, *rest], target.feed, custom_mutator=target.mutate)
    atheris.Fuzz()
    return 0


def take(target: Any, files: list[str]) -> int:
    """Run the target on the seeds and files once each; the first failure raises."""
    for seed in target.SEEDS:
        target.feed(seed)
    for file in files:
        target.feed(Path(file).read_bytes())
    print(f"{len(target.SEEDS)} seeds and {len(files)} files: no failure")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
