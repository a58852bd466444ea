"""Steps that a local run and a Ray actor share: the job's manifest, encoding and writing a part, `--strict`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serving.scoring.errors import BadImageError, WriteError
from serving.scoring.observer import Observer
from serving.scoring.output.folder import OutputFolder, versions
from serving.scoring.output.formats import Layout
from serving.scoring.output.manifest import JobManifest
from serving.scoring.pipeline import Part
from serving.scoring.plan import Plan
from serving.scoring.records import Backend, Receipt
from serving.scoring.settings import ScoreSettings


def job_manifest(plan: Plan, backend: Backend, layout: Layout, settings: ScoreSettings) -> JobManifest:
    """Return the job's manifest; its fingerprint has everything that affects a byte of the parts."""
    fingerprint = {
        "model": backend.digest,
        **backend.identity,
        **versions(),
        "batch": str(backend.batch),
        "part rows": str(plan.part_rows),
        "format": layout.format,
        **({"spreadsheet-safe": str(layout.csv_safe).lower()} if layout.format == "csv" else {}),
        "probabilities": "all" if layout.top is None else f"top {layout.top}",
        **({"resize": settings.resize} if settings.resize else {}),
        **({"pixels": settings.pixels} if settings.pixels != "auto" else {}),
        **({"part of the sets": settings.part} if settings.part else {}),
        **plan.listing(),
    }
    return JobManifest(
        rows=plan.rows,
        parts=plan.parts,
        part_rows=plan.part_rows,
        format=layout.format,
        model=backend.digest,
        classes=list(backend.classes),
        fingerprint=fingerprint,
    )


def encode_and_write(part: Part, folder: OutputFolder, layout: Layout, observer: Observer) -> Receipt:
    """Encode and write a part with its statistics, and return its receipt."""
    tally: dict[str, Any] = observer.tally(part.chunk, part.predictions)
    content = layout.encode(part.chunk, part.predictions)
    return folder.write(
        part.number, content, rows=len(part.chunk), errors=len(part.chunk.errors), tally=tally
    )


def fail_on_errors(part: Part) -> None:
    """Implement `--strict`.

    Raises:
        BadImageError: a row of the part has an error; the message quotes the first.
    """
    if part.chunk.errors:
        at, reason = min(part.chunk.errors.items())
        raise BadImageError(
            f"{part.chunk.sources[at]}, {part.chunk.rows[at]}: {reason}; correct or remove it, or omit "
            "--strict to write a row with the error"
        )


@contextmanager
def output_errors() -> Iterator[None]:
    """Convert an OSError into a WriteError with a remedy."""
    try:
        yield
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise WriteError(
            f"the output{where} cannot be written: {error.strerror}; free space or fix its permissions, and run again"
        ) from error
