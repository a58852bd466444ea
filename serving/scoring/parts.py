"""What is done with a part that is scored, wherever that was: what its job is, what is written, what is refused."""

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


def job_manifest(plan: Plan, backend: Backend, layout: Layout) -> JobManifest:
    """Return what the job is; the fingerprint has everything that decides a byte of the parts."""
    fingerprint = {
        "model": backend.digest,
        **backend.identity,
        **versions(),
        "batch": str(backend.batch),
        "part rows": str(plan.part_rows),
        "format": layout.format,
        "probabilities": "all" if layout.top is None else f"top {layout.top}",
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
    """Write one part, and what the observer wants to remember of it."""
    tally: dict[str, Any] = observer.tally(part.chunk, part.predictions)
    content = layout.encode(part.chunk, part.predictions)
    return folder.write(
        part.number, content, rows=len(part.chunk), errors=len(part.chunk.errors), tally=tally
    )


def fail_on_errors(part: Part) -> None:
    """Do what `--strict` asks for.

    Raises:
        BadImageError: a row of the part has an error; the message has the first.
    """
    if part.chunk.errors:
        at, reason = min(part.chunk.errors.items())
        raise BadImageError(
            f"{part.chunk.sources[at]}, {part.chunk.rows[at]}: {reason}; correct or remove it, or leave out "
            "--strict to have a row with the error"
        )


@contextmanager
def output_errors() -> Iterator[None]:
    """Turn what the system says of a disk or a folder into a sentence."""
    try:
        yield
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise WriteError(
            f"the output{where} cannot be written: {error.strerror}; make room or change it, and run again"
        ) from error
