"""A process that publishes bundles; `python -m tests.bundle.publisher MODELS COUNT` prints their versions."""

import sys
from pathlib import Path

from tests.bundle.making import publish_one


def main() -> None:
    """Wait for a line, so that many can start at once, then publish `COUNT` times."""
    models, count = Path(sys.argv[1]), int(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(count):
        print(publish_one(models).version, flush=True)


if __name__ == "__main__":
    main()
