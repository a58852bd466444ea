"""Kill a training run with SIGKILL repeatedly, and check that it ends with the weights of an uninterrupted run.

    python -m bench kills --kills 250

The run is small (noisy blobs, a network of two layers, every kind of state), because the bench tests resuming, not
training. Each attempt is a forked process that is killed at a random call: an fsync, rename or open while a
checkpoint is written, or a training step.
"""

import os
import random
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.support.options import bench_parser

IN_CHECKPOINT = ("fsync", "fdopen", "open")
SHARE_IN_CHECKPOINT = 0.7
MOST_CALLS = 3
"""An attempt is killed at the first to third call of the chosen function, so that the run has many attempts."""

Work = Callable[[], None]
"""Resumes the run, finishes it and writes the result, in a process of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deaths:
    """How often a run was killed."""

    all: int
    in_checkpoint: int
    """Of these, while a checkpoint was being written."""


def kill_until_done(work: Work, kills: int, mark: Path, seed: int) -> Deaths:
    """Run `work` in forked processes, kill the first `kills` of them, and let the last one finish.

    Args:
        work: the function that is killed.
        kills: number of kills.
        mark: a file that a process creates when it is killed within a checkpoint.
        seed: of the random calls.
    """
    chance = random.Random(seed)  # noqa: S311 - where to die, not a secret
    deaths = in_checkpoint = 0
    while True:
        mark.unlink(missing_ok=True)
        where = chance.choice(IN_CHECKPOINT) if chance.random() < SHARE_IN_CHECKPOINT else None
        calls = chance.randint(1, MOST_CALLS)
        with warnings.catch_warnings():
            # The parent has threads of torch's pool, which are idle during forks.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            _live(work, where, calls, mark, mortal=deaths < kills)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError("a resumed run failed; its message is above")
            return Deaths(all=deaths, in_checkpoint=in_checkpoint)
        deaths += 1
        in_checkpoint += mark.exists()


def _live(work: Work, where: str | None, calls: int, mark: Path, *, mortal: bool) -> None:
    """Run `work` in this forked process, and exit."""
    code = 1
    try:
        if mortal and where:
            _die_in(os, where, calls, mark)
        elif mortal:
            _die_in(torch.nn.functional, "cross_entropy", calls, None)
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001 - whatever it was, a forked process must not go on as its parent
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _die_in(module: object, name: str, calls: int, mark: Path | None) -> None:
    """Make the `calls`-th call of a function kill this process with SIGKILL."""
    original = getattr(module, name)
    left = [calls]

    def wrapped(*arguments: object, **options: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            if mark:
                mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(module, name, wrapped)


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from bench.support.runs import rich_run, weights
    from training.loop.fit import fit

    parser = bench_parser("kills", __doc__)
    parser.add_argument("--kills", type=int, default=250, help="how often the run is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the random calls")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name, "whole"), Path(name, "killed")
        epochs = 2 + options.kills // 8
        expected = weights(fit(rich_run(whole, epochs=epochs)))

        def work() -> None:
            fitted = fit(rich_run(killed, epochs=epochs, resume=True))
            Path(name, "weights").write_bytes(weights(fitted))

        deaths = kill_until_done(work, options.kills, Path(name, "mark"), options.seed)
        same = Path(name, "weights").read_bytes() == expected
    print(
        f"{deaths.all} kills, {deaths.in_checkpoint} of them while a checkpoint was being written: "
        f"the weights are {'bit-identical' if same else 'NOT the same'}"
    )
    return 0 if same else 1
