"""Kill a batch scoring run with SIGKILL again and again and see it end at the bytes of the undisturbed run.

    python -m bench scoring-kills --kills 100

The run is `python -m serving.score` as a user starts it, with decoding processes, over a folder of
PNG files and an array. Each life is killed at random: while it starts, or when so many parts more are
there and a random moment later, which is in the middle of reading, scoring or writing the next ones.
After each death every part that is there must be one of the undisturbed run's, and no process may be left.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.support.options import bench_parser

PART_ROWS = 64
FOLDER_ROWS = 2000
MOST_PARTS = 3
"""A life ends when 0 to so many parts more are there."""
PARTS_A_LIFE = 16
"""Parts that there are for each life: more than it can write until it is killed."""
MOST_SECONDS = 0.02
"""And a random part of this time later."""
LIFE_SECONDS = 60


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from bench.support.jobs import digits, folder, parts
    from bench.support.models import publish_synthetic
    from bench.support.processes import group_lives

    parser = bench_parser("scoring-kills", __doc__)
    parser.add_argument("--kills", type=int, default=100, help="how often the run is killed")
    parser.add_argument("--seed", type=int, default=0, help="decides when it dies each time")
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)  # noqa: S311  when to die, not a secret

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model = publish_synthetic(place / "models").path.parent
        folder(place / "in", digits(FOLDER_ROWS))
        np.save(place / "in.npy", digits(PART_ROWS * PARTS_A_LIFE * options.kills, seed=6))

        def command(output: Path) -> list[str]:
            return [
                *(sys.executable, "-m", "serving.score", "--quiet", "--provider", "cpu", "--workers", "2"),
                *("--input", str(place / "in"), str(place / "in.npy"), "--model", str(model)),
                *("--part-rows", str(PART_ROWS), "--output", str(output)),
            ]

        subprocess.run(command(place / "whole"), check=True)
        expected = parts(place / "whole")
        killed = place / "killed"
        deaths, starting, wrong = 0, 0, 0
        for _ in range(options.kills):
            before = _count(killed)
            wanted = before + chance.randint(0, MOST_PARTS)
            child = subprocess.Popen(command(killed), start_new_session=True)
            end = time.monotonic() + LIFE_SECONDS
            while _count(killed) < wanted and child.poll() is None and time.monotonic() < end:
                time.sleep(0.001)
            time.sleep(chance.random() * (MOST_SECONDS if wanted > before else 50 * MOST_SECONDS))
            child.kill()
            deaths += child.wait() < 0
            starting += _count(killed) == before
            while group_lives(child.pid) and time.monotonic() < end:
                os.sched_yield()
            wrong += group_lives(child.pid) or not parts(killed).items() <= expected.items()
        subprocess.run(command(killed), check=True)
        same = parts(killed) == expected and not [*killed.rglob(".*")]
    print(
        f"{deaths} kills, {starting} of them before the life had written a part; {len(expected)} parts; after "
        f"{wrong} of them a wrong part or a process was left; the output is "
        f"{'byte-identical' if same else 'NOT the same'}"
    )
    return 0 if same and not wrong and deaths == options.kills else 1


def _count(output: Path) -> int:
    return sum(1 for _ in output.glob("part-*"))
