"""`--engine ray`: Ray Data computes the parts of a run on a cluster, with the same bytes as a local run.

    missing parts -> ray.data.from_items -> map_batches(PartScorer, an actor for each CPU or GPU) -> receipts

Each actor lists the input, checks that the fingerprint is the driver's, then reads, scores and writes one part
after another. Every node therefore needs the input, the model and the output at the same paths, and the same
version of Glyph. If Ray computes a part twice because a node was lost, the second write has the same name and bytes.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import serving
from imagesets.errors import DataError
from imagesets.source import Source
from serving.scoring import errors
from serving.scoring.backends.local import LocalBackend, open_local
from serving.scoring.errors import BackendError, ScoringError
from serving.scoring.inputs.sources import open_inputs
from serving.scoring.observer import Observer
from serving.scoring.output.folder import OutputFolder
from serving.scoring.output.formats import Layout
from serving.scoring.output.manifest import JobManifest, differences
from serving.scoring.parts import encode_and_write, fail_on_errors, job_manifest, output_errors
from serving.scoring.pipeline import score_parts
from serving.scoring.plan import Plan
from serving.scoring.records import Backend, Chunk, Predictions, Receipt
from serving.scoring.reporting.part_statistics import open_statistics
from serving.scoring.settings import ScoreSettings

ROOT = Path(serving.__file__).resolve().parent.parent


def score_on_ray(
    settings: ScoreSettings, parts: Sequence[int], manifest: JobManifest, backend: Backend, observer: Observer
) -> list[Receipt]:
    """Score and write parts on the cluster at RAY_ADDRESS, or on this machine if it is not set.

    Args:
        settings: the job.
        parts: numbers of the parts to score.
        manifest: the job's, from the output folder.
        backend: of the driver, for the model and the provider; the actors open their own.
        observer: `on_part` is called for each part.

    Raises:
        BackendError: Ray is not installed or cannot be reached, or could not recover from a lost node.
        ScoringError: an actor failed.
    """
    if "-" in settings.input:
        raise DataError(
            "--engine ray cannot read the standard input on every node: give a file with the paths"
        )
    if not parts:
        return []
    receipts: list[Receipt] = []
    last = time.perf_counter()
    for result in _results(_pinned(settings, backend), parts, manifest):
        document = json.loads(result)
        if "error" in document:
            known = {"DataError": DataError} | vars(errors)
            raise known[document["error"]](document["message"])
        receipts.append(Receipt(**document))
        now = time.perf_counter()
        observer.on_part(receipts[-1], now - last)
        last = now
    return receipts


def _pinned(settings: ScoreSettings, backend: Backend) -> ScoreSettings:
    """Return settings that have the same meaning on every node: version, provider and precision are explicit."""
    assert isinstance(backend, LocalBackend)  # noqa: S101  the settings allow no other backend with Ray
    pinned = {
        "version": backend.session.bundle.version,
        "provider": backend.session.provider,
        "arithmetic": backend.session.precision,
        "batch": backend.batch,
        "shard": "0/1",
    }
    if backend.session.provider == "cuda":
        pinned["device_id"] = 0  # Ray makes one device visible to each actor
    return settings.model_copy(update=pinned)


def _results(settings: ScoreSettings, parts: Sequence[int], manifest: JobManifest) -> Iterator[str]:
    """Yield each part's receipt or error from the actors, as JSON."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendError(f"--engine ray requires Ray Data ({error}): pip install 'glyph[ray]'") from error
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
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            PartScorer,
            fn_constructor_args=[settings.model_dump_json(), dict(manifest.fingerprint), str(Path.cwd())],
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=None if device == "GPU" else 1,
            num_gpus=1 if device == "GPU" else None,
        )
        for row in dataset.iter_rows():
            yield row["result"]
    except (ray.exceptions.RayError, ConnectionError) as error:
        reason = " ".join(str(error).split())[-300:]
        raise BackendError(
            f"Ray failed: {reason}. Written parts are kept: the same command resumes the run"
        ) from error
    finally:
        if started:
            ray.shutdown()


class PartScorer:
    """A Ray actor that scores and writes parts."""

    def __init__(self, settings: str, fingerprint: Mapping[str, str], directory: str) -> None:
        self._failure: ScoringError | DataError | None = None
        self._sources: Sequence[Source] = ()
        try:
            self._open(ScoreSettings.model_validate(json.loads(settings)), fingerprint, directory)
        except (ScoringError, DataError) as error:  # if __init__ raised, Ray would restart the actor forever
            self._failure = error

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Score parts, and return each part's receipt or error as JSON."""
        return {"result": [self._score_part(int(number)) for number in batch["part"]]}

    def close(self) -> None:
        """Close the input; for tests, as Ray ends the actor's process."""
        for source in self._sources:
            source.close()

    def _open(self, settings: ScoreSettings, fingerprint: Mapping[str, str], directory: str) -> None:
        try:
            os.chdir(directory)  # rows have relative paths as they were given
        except OSError as error:
            raise DataError(
                f"a node of the cluster does not have the folder {directory}: mount it on every node"
            ) from error
        self._sources = open_inputs(settings.input, settings.options(), part=settings.part)
        self._settings = settings
        self._plan = Plan(self._sources, settings.part_rows)
        columns = self._plan.columns()
        self._backend = open_local(settings)
        self._layout = Layout(
            format=settings.written_format,
            classes=tuple(self._backend.classes),
            digest=self._backend.digest,
            top=settings.top,
            columns=columns,
            csv_safe=settings.csv_safe,
        )
        manifest = job_manifest(self._plan, self._backend, self._layout, settings)
        if different := differences(fingerprint, manifest.fingerprint):
            raise DataError(
                f"a node of the cluster has another job: {'; '.join(different[:5])}. Give every node the same "
                "input, model and versions"
            )
        self._folder = OutputFolder(settings.output, manifest)
        self._observer = _StatisticsObserver(settings, self._backend, self._sources)

    def _score_part(self, number: int) -> str:
        try:
            if self._failure is not None:
                raise self._failure
            for part in score_parts(self._plan, [number], self._backend, None, self._settings.resize):
                if self._settings.strict:
                    fail_on_errors(part)
                with output_errors():
                    receipt = encode_and_write(part, self._folder, self._layout, self._observer)
        except (ScoringError, DataError) as error:
            return json.dumps({"error": type(error).__name__, "message": str(error)})
        return json.dumps(asdict(receipt))


class _StatisticsObserver(Observer):
    """Computes the statistics that the driver's observer would compute."""

    def __init__(self, settings: ScoreSettings, backend: Backend, sources: Sequence[Source]) -> None:
        self._statistics = open_statistics(settings, backend, sources)

    def tally(self, chunk: Chunk, predictions: Predictions) -> dict[str, Any]:
        """Return a part's statistics."""
        return self._statistics.compute(chunk, predictions)
