"""The command line of a bench: its parser, the option `--model`, and the error where there is no model."""

import argparse
import sys
from pathlib import Path


def bench_parser(name: str, description: str | None, *, model: bool = False) -> argparse.ArgumentParser:
    """Return the parser of `python -m bench NAME`, with the option `--model` if `model` is true."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if model:
        parser.add_argument(
            "--model", type=Path, default=Path("models/mnist"), help="directory of a published model"
        )
    return parser


def model_missing(error: Exception) -> int:
    """Print why the model cannot be opened, and return the exit code."""
    print(f"error: {error}; 'make train' publishes a model, --model selects another", file=sys.stderr)
    return 2
