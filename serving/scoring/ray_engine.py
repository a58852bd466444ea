"""`--engine ray`: the parts of a run, computed on a Ray cluster by Ray Data; the same bytes as here.

    missing parts -> ray.data.from_items -> map_batches(PartScorer, an actor for each CPU or GPU) -> receipts

An actor does what a shard does: it lists the input for itself, sees that the job is the same, and
then reads, scores and writes one part after the other. So every node needs the input, the model and
the output at the same paths, and the same Glyph. A part that Ray computes twice, because a node was
lost, has the same bytes twice, and one name.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving.scoring import errors
from serving.scoring.engines import LocalEngine, open_local
from serving.scoring.errors import EngineError, InputError, ScoringError
from serving.scoring.formats import Layout
from serving.scoring.inputs import Source, open_inputs
from serving.scoring.manifest import JobFacts, differences
from serving.scoring.observer import Observer, Silent
from serving.scoring.output import OutputFolder
from serving.scoring.parts import encode_and_write, facts_of, refuse_errors, written
from serving.scoring.pipeline import score_parts
from serving.scoring.plan import Plan
from serving.scoring.records import Answers, Chunk, Engine, Receipt
from serving.scoring.settings import ScoreSettings
from serving.scoring.tallies import tallier_for

ROOT = Path(__file__).resolve().parent.parent.parent


def score_on_ray(
    settings: ScoreSettings, parts: Sequence[int], facts: JobFacts, engine: Engine, observer: Observer
) -> list[Receipt]:
    """Score and write parts, on the cluster that RAY_ADDRESS names, or on this machine where it names none.

    Args:
        settings: the job.
        parts: the numbers of those that are wanted.
        facts: what the output folder says of the job.
        engine: opened here, to know the model and the provider; the actors open their own.
        observer: is told of each part.

    Raises:
        EngineError: Ray is not installed or cannot be reached, or lost what it could not compute anew.
        ScoringError: what kept an actor from its work.
    """
    if "-" in settings.input:
        raise InputError("--engine ray cannot read the standard input on every node: give a file of paths")
    if not parts:
        return []
    receipts: list[Receipt] = []
    last = time.perf_counter()
    for told in _told(_pinned(settings, engine), parts, facts):
        document = json.loads(told)
        if "error" in document:
            raise getattr(errors, document["error"])(document["message"])
        receipts.append(Receipt(**document))
        now = time.perf_counter()
        observer.on_part(receipts[-1], now - last)
        last = now
    return receipts


def _pinned(settings: ScoreSettings, engine: Engine) -> ScoreSettings:
    """Return settings that mean on every node what they mean here."""
    assert isinstance(engine, LocalEngine)  # noqa: S101  the settings allow no other beside Ray
    pinned = {
        "version": engine.session.bundle.version,
        "provider": engine.session.provider,
        "arithmetic": engine.session.arithmetic,
        "batch": engine.batch,
        "shard": "0/1",
    }
    if engine.session.provider == "cuda":
        pinned["device_id"] = 0  # Ray shows each actor the one device that is its own
    return settings.model_copy(update=pinned)


def _told(settings: ScoreSettings, parts: Sequence[int], facts: JobFacts) -> Iterator[str]:
    """Yield what the actors say of each part, as JSON."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EngineError(f"--engine ray needs Ray Data ({error}): pip install 'glyph[ray]'") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    started = not ray.is_initialized()
    try:
        if started:
            path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
            ray.init(
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                include_dashboard=False if "RAY_ADDRESS" not in os.environ else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        device = "GPU" if settings.provider == "cuda" else "CPU"
        resources: dict[str, float] = ray.cluster_resources()
        actors = max(1, min(len(parts), int(resources.get(device, 1))))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        items = [{"part": part} for part in parts]
        told = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            PartScorer,
            fn_constructor_args=[settings.model_dump_json(), dict(facts.fingerprint), str(Path.cwd())],
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=None if device == "GPU" else 1,
            num_gpus=1 if device == "GPU" else None,
        )
        for row in told.iter_rows():
            yield row["told"]
    except (ray.exceptions.RayError, ConnectionError) as error:
        reason = " ".join(str(error).split())[-300:]
        raise EngineError(
            f"Ray cannot compute it: {reason}. What is written stays: the same command goes on"
        ) from error
    finally:
        if started:
            ray.shutdown()


class PartScorer:
    """An actor of Ray: scores and writes the parts that it is given."""

    def __init__(self, settings: str, fingerprint: Mapping[str, str], directory: str) -> None:
        self._failure: ScoringError | None = None
        self._sources: Sequence[Source] = ()
        try:
            self._open(ScoreSettings.model_validate_json(settings), fingerprint, directory)
        except ScoringError as error:  # raised here, it would have Ray start the actor again and again
            self._failure = error

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Score parts, and return for each its receipt, or what went wrong, as JSON."""
        return {"told": [self._told(int(number)) for number in batch["part"]]}

    def close(self) -> None:
        """Close the input. Ray has no use for it: it ends the actor's process."""
        for source in self._sources:
            source.close()

    def _open(self, settings: ScoreSettings, fingerprint: Mapping[str, str], directory: str) -> None:
        try:
            os.chdir(directory)  # relative paths stand in the rows as they were given
        except OSError as error:
            raise InputError(f"a node of the cluster has no folder {directory}: share it") from error
        self._sources = open_inputs(settings.input, column=settings.column, say=Silent().say)
        self._settings = settings
        self._plan = Plan(self._sources, settings.part_rows)
        columns = self._plan.columns()
        self._engine = open_local(settings)
        self._layout = Layout(
            format=settings.written_format,
            classes=tuple(self._engine.classes),
            digest=self._engine.digest,
            top=settings.top,
            columns=columns,
        )
        facts = facts_of(self._plan, self._engine, self._layout)
        if different := differences(fingerprint, facts.fingerprint):
            raise InputError(
                f"a node of the cluster sees another job: {'; '.join(different[:5])}. Every node needs the same "
                "input, model and versions"
            )
        self._folder = OutputFolder(settings.output, facts)
        self._observer = _Tallying(settings, self._engine)

    def _told(self, number: int) -> str:
        try:
            if self._failure is not None:
                raise self._failure
            for part in score_parts(self._plan, [number], self._engine, None):
                if self._settings.strict:
                    refuse_errors(part)
                with written():
                    receipt = encode_and_write(part, self._folder, self._layout, self._observer)
        except ScoringError as error:
            return json.dumps({"error": type(error).__name__, "message": str(error)})
        return json.dumps(asdict(receipt))


class _Tallying(Silent):
    """Remembers of each part what the run's own observer would."""

    def __init__(self, settings: ScoreSettings, engine: Engine) -> None:
        self._tallier = tallier_for(settings, engine)

    def tally(self, chunk: Chunk, answers: Answers) -> dict[str, Any]:
        """Return what the summary needs to know of a part."""
        return self._tallier.of(chunk, answers)
