"""Coverage-guided fuzzing of the parsers of client input: a module per target, run by Atheris (libFuzzer).

    python -m bench fuzz --seconds 3600                 fuzz all of them, for an hour together
    python -m bench.fuzzing heads FOLDER                fuzz one of them
    python -m bench.fuzzing heads FILE                  take one input again, as of a crash

A target has `SEEDS`, whole inputs to begin with; `feed(data)`, which raises where an input is taken badly; and
`mutate`, which makes another of one. An input is what a client would send, byte for byte, and where it is cut into
packets is made of its checksum: a crash is one file, and one that was mended stays in `tests/bench/found/`. A target
makes limits small, so that they are reached, for the whole process: each runs in its own.
"""

import sys
from pathlib import Path

TARGETS: dict[str, tuple[str, ...]] = {
    "heads": (
        "serving.worker.http11.request_head",
        "serving.worker.http11.input_buffer",
        "serving.worker.http11.chunked",
    ),
    "chunks": ("serving.worker.http11.chunked",),
    "images": (
        "bundle.images.plain_png",
        "bundle.images.hardening",
        "bundle.images.bmp_palettes",
        "bundle.images.orientation",
        "bundle.images.tiff_kinds",
        "bundle.images.tiff_directories",
        "bundle.images.decoding",
    ),
    "forms": ("serving.predict.bodies.multipart",),
    "documents": ("serving.predict.bodies.json_documents", "serving.predict.bodies.json_pieces"),
}
"""Target to the modules whose coverage guides it; the libraries below them would dominate the search."""


def command(target: str, *arguments: str | Path) -> list[str]:
    """Return the command that runs a target in a process."""
    return [sys.executable, "-m", "bench.fuzzing", target, *map(str, arguments)]
