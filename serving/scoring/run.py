"""A run from start to end: list the input, open the output, score the missing parts, finish."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import BinaryIO

from bundle.images.contract import Resize
from serving.scoring.backends.local import open_local, start_proof
from serving.scoring.backends.proof import Proof
from serving.scoring.fork_server import ForkServer
from serving.scoring.inputs.decoding import DecoderPool
from serving.scoring.inputs.sources import open_inputs
from serving.scoring.observer import Observer, Totals
from serving.scoring.output.folder import OutputFolder
from serving.scoring.output.formats import Layout
from serving.scoring.output.manifest import Outcome
from serving.scoring.parts import encode_and_write, fail_on_errors, job_manifest, output_errors
from serving.scoring.pipeline import Part, score_parts
from serving.scoring.plan import Plan
from serving.scoring.records import Backend, Receipt
from serving.scoring.settings import ScoreSettings, shard_of
from serving.system.cpus import usable_cpus

WRITING = 2
"""Maximum number of parts that are being written or are queued for it."""


def run(
    settings: ScoreSettings,
    observer: Observer,
    *,
    environment: Mapping[str, str] | None = None,
    stdin: BinaryIO | None = None,
    server: ForkServer | None = None,
) -> Outcome:
    """Score this process's shard; finish the job if it is the only shard.

    Args:
        settings: the job.
        observer: receives the run's callbacks.
        environment: where the shard is read from, by default the process's.
        stdin: read where an input is `-`, by default the process's.
        server: forks the run's processes, and is closed with it; by default one of its own.

    Raises:
        ScoringError: the run cannot go on; the message has the reason and a remedy.
        ValueError: the shard is invalid, or the model was trained on images that were resized in another way.
    """
    index, count = shard_of(settings, os.environ if environment is None else environment)
    with ExitStack() as stack:
        server = stack.enter_context(closing(server or ForkServer()))
        decoders = stack.enter_context(closing(DecoderPool(settings.workers or usable_cpus(), server)))
        proof = None
        if settings.url is None:
            proof = stack.enter_context(closing(start_proof(settings, server)))
        sources = open_inputs(
            settings.input,
            settings.options(
                observer.say,
                decoders.start if settings.engine == "local" else lambda: None,
                decoders.stat_files,
            ),
            part=settings.part,
            stdin=stdin,
        )
        for source in sources:
            stack.callback(source.close)
        plan = Plan(sources, settings.part_rows)
        columns = plan.columns()
        own = range(index, plan.parts, count)
        backend = open_backend(settings, proof)
        stack.callback(backend.close)
        check_resize(settings.resize, backend, observer.say)
        observer.on_backend(backend, sources)
        layout = Layout(
            format=settings.written_format,
            classes=tuple(backend.classes),
            digest=backend.digest,
            top=settings.top,
            columns=columns,
            csv_safe=settings.csv_safe,
        )
        with output_errors():
            folder = OutputFolder.open_for(
                settings.output, job_manifest(plan, backend, layout, settings), observer.say
            )
            if (complete := folder.complete()) is None:
                stack.enter_context(folder.lock(own))
                complete = folder.complete()  # the previous owner of the lock may have completed it
            if complete is not None:
                observer.say(f"{settings.output} is complete: nothing to do")
                return Outcome(receipts=complete, complete=True, manifest=folder.manifest)
            done = folder.resume(own, observer.say)
            totals = Totals(
                rows=plan.rows,
                parts=plan.parts,
                own_rows=sum(plan.rows_of(part) for part in own),
                own_parts=len(own),
            )
            observer.on_start(totals, [*done.values()])
            missing = [part for part in own if part not in done]
            if settings.engine == "ray":
                from serving.scoring.ray_backend import score_on_ray

                new = score_on_ray(settings, missing, folder.manifest, backend, observer)
            else:
                scored = score_parts(
                    plan, missing, backend, decoders if decoders.started else None, settings.resize
                )
                new = _write_all(scored, folder, layout, observer, strict=settings.strict)
            if count > 1:
                receipts = sorted([*done.values(), *new], key=lambda receipt: receipt.part)
                return Outcome(receipts=receipts, complete=False, manifest=folder.manifest)
            return Outcome(receipts=folder.finish(observer.say), complete=True, manifest=folder.manifest)


def merge(output: OutputFolder, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """Finish a job whose parts were written by several shards.

    Args:
        output: the job's folder.
        say: shows the user a line.

    Raises:
        IncompleteError: parts are missing.
        LockedError: a shard is still running.
        OutputError: a part, or the one file, was changed.
        WriteError: the result cannot be written.
    """
    with output_errors():
        receipts = output.complete()
        if receipts is None:
            with output.lock(range(output.manifest.parts)):
                receipts = output.complete() or output.finish(say)
        return Outcome(receipts=receipts, complete=True, manifest=output.manifest)


def open_backend(settings: ScoreSettings, proof: Proof | None) -> Backend:
    """Open the backend that the settings select; a local one needs the proof of its model.

    Raises:
        ModelError: the model cannot be loaded or proven.
        BackendError: the device, the service or the cluster is not available.
    """
    if settings.url is not None:
        from serving.scoring.backends.remote import open_remote

        return open_remote(settings)
    return open_local(settings, proof)


def check_resize(asked: Resize | None, backend: Backend, say: Callable[[str], None]) -> None:
    """Check that a model was trained on images resized as the settings ask; say where they could ask.

    Raises:
        ValueError: it was trained on others.
    """
    offered = backend.resize
    if asked is None and offered is not None:
        say(
            f"image files of 28x28 alone are scored; --resize {offered} resizes others, as the model's training did"
        )
    elif asked is not None and offered is None:
        raise ValueError("resize: the model was trained on 28x28 images as they are: omit --resize")
    elif asked != offered:
        raise ValueError(
            f"resize: the model was trained on images resized by '{offered}', not by '{asked}': give --resize {offered}"
        )


def _write_all(
    scored: Iterator[Part], folder: OutputFolder, layout: Layout, observer: Observer, *, strict: bool
) -> list[Receipt]:
    """Write each part in a thread while the next ones are scored."""
    receipts: list[Receipt] = []
    pending: list[Future[Receipt]] = []
    last = time.perf_counter()

    def settle() -> None:
        nonlocal last
        receipt = pending.pop(0).result()
        now = time.perf_counter()
        observer.on_part(receipt, now - last)
        last = now
        receipts.append(receipt)

    with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        for part in scored:
            if strict:
                fail_on_errors(part)
            pending.append(writer.submit(encode_and_write, part, folder, layout, observer))
            while len(pending) > WRITING or (pending and pending[0].done()):
                settle()
        while pending:
            settle()
    return receipts
