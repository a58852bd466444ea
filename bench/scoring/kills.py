"""Kill a scoring run with SIGKILL repeatedly, and check that it ends with the bytes of an uninterrupted run.

    python -m bench scoring-kills --kills 100

The run is `python -m serving.score` with decoding processes, over a folder of PNG files and an array. Each attempt is
killed at a random time: during startup, or after a random number of further parts and a random delay, while the next
ones are read, scored or written. After each kill every written part must be identical to the uninterrupted run's, and
no process may be left.
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
"""An attempt is killed after 0 to this many further parts."""
PARTS_A_LIFE = 16
"""Parts for each attempt: more than it can write before it is killed."""
MOST_SECONDS = 0.02
"""Maximum random delay before the kill."""
LIFE_SECONDS = 60


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from bench.support.jobs import digits, folder, parts
    from bench.support.models import publish_synthetic
    from bench.support.processes import group_lives

    parser = bench_parser("scoring-kills", __doc__)
    parser.add_argument("--kills", type=int, default=100, help="how often the run is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)  # noqa: S311  not for security

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
        f"{deaths} kills, {starting} of them before the attempt had written a part; {len(expected)} parts; after "
        f"{wrong} of them a wrong part or a process was left; the output is "
        f"{'byte-identical' if same else 'NOT the same'}"
    )
    return 0 if same and not wrong and deaths == options.kills else 1


def _count(output: Path) -> int:
    return sum(1 for _ in output.glob("part-*"))
