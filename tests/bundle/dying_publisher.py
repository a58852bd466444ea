"""Publish while being killed at every step: `python -m tests.bundle.dying_publisher MODELS`."""

import json
import sys
from pathlib import Path

from bundle.repository import versions
from bundle.verify import problems
from tests.bundle.making import publish_one
from tests.dying import die_everywhere


def main() -> None:
    """Print JSON: how many deaths, the versions there in the end, and what was ever wrong with one."""
    models = Path(sys.argv[1])
    model = models / "shapes"
    wrong: list[str] = []
    seen: list[list[int]] = []

    def look(_: int) -> None:
        there = versions(model)
        fresh = set(there) - set(seen[-1] if seen else [])
        seen.append(there)
        for version in fresh:
            wrong.extend(problems(model / str(version)))

    deaths = die_everywhere(lambda: publish_one(models), models, look)
    print(json.dumps({"deaths": deaths, "versions": seen[-1], "wrong": wrong}))


if __name__ == "__main__":
    main()
