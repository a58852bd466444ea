"""The runs of the studies: planned, trained and tested, each with a record in a file that is written atomically."""

import io
import json
import pickle
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from common.atomic_files import sha256_bytes, write_whole
from common.progress import Progress, Task
from training import provenance
from training.data.dataset import DeviceImages
from training.data.splits import nested_subset
from training.errors import CheckpointError, DivergedError, writing
from training.interrupts import StopFlag
from training.loop.fit import Fitted, fit
from training.loop.shared_data import SharedData, weight_settings
from training.loop.state import Epoch
from training.model.evaluation import accuracy, logits_of, negative_log_likelihood
from training.model.mlp import MLP, Standardisation
from training.model.parameters import parameter_count
from training.settings import TrainingSettings
from training.study.designs import Point, Study

FORMAT = 1
Record = dict[str, Any]
"""The record of a finished run; a JSON object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """A run of a point of a study."""

    study: str
    point: Point
    settings: TrainingSettings
    fingerprint: str


class StudyRuns:
    """Plans, trains and tests runs, and keeps their records."""

    def __init__(
        self, output: Path, seed: int, revision: str, shared: SharedData, stop: StopFlag, progress: Progress
    ) -> None:
        self._output, self._seed = output, seed
        self._shared, self._stop, self._progress = shared, stop, progress
        self.environment = provenance.environment(shared.device, revision)

    def plan(self, study: Study) -> Iterator[PlannedRun]:
        """Yield the runs of a study: each point with each seed."""
        for point in study.points:
            for repeat in range(study.repeats):
                settings = point.settings.model_copy(update={"seed": self._seed + repeat})
                identity = {
                    "format": FORMAT,
                    "settings": weight_settings(settings),
                    "images": point.images,
                    "split_seed": self._seed,
                    "validation": len(self._shared.validation),
                    "sha256": self._shared.data.sha256,
                }
                text = json.dumps(identity, sort_keys=True)
                yield PlannedRun(
                    study=study.name,
                    point=point,
                    settings=settings,
                    fingerprint=sha256_bytes(text.encode())[:32],
                )

    def record(self, run: PlannedRun) -> Record | None:
        """Return the record of a run, or None if it is not finished."""
        try:
            record: Record = json.loads(self._record_path(run).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise CheckpointError(f"{self._record_path(run)} is corrupt ({error}): remove it") from None
        return record

    def train(self, planned: Sequence[PlannedRun]) -> None:
        """Train the runs that have no record."""
        missing = {run.fingerprint: run for run in planned if self.record(run) is None}
        count = len({run.fingerprint for run in planned})
        self._progress.say(f"{len(missing)} of {count} runs to train, on {self.environment.device}")
        epochs = sum(run.settings.epochs for run in missing.values())
        with self._progress.task("training", epochs, "epochs") as task:
            for number, run in enumerate(missing.values(), 1):
                record = self._train(run, task)
                self._write(run, record)
                shutil.rmtree(self._directory(run), ignore_errors=True)
                self._progress.say(
                    f"run {count - len(missing) + number} of {count}: {run.study}, {run.point.series}, "
                    f"{run.point.label}, seed {run.settings.seed}: {_outcome(record)}"
                )

        for run in planned:  # a process may have been killed after writing a record
            shutil.rmtree(self._directory(run), ignore_errors=True)
        with suppress(OSError):  # it is missing, or other studies have unfinished runs
            (self._output / "unfinished").rmdir()

    def test(self, planned: Sequence[PlannedRun]) -> None:
        """Read the test set, once, and evaluate every model that has not been tested."""
        untested = {run.fingerprint: run for run in planned if _is_untested(self.record(run))}
        if not untested:
            return
        test = self._shared.data.test().to(self._shared.device)
        self._progress.say(f"all runs are trained: testing {len(untested)} models on {len(test)} images")
        for run in untested.values():
            self._stop.check()
            record = self.record(run) or {}
            model, standardise = self._load(run)
            right, loss = _evaluate(model, standardise, test)
            self._write(run, record | {"test_accuracy": right, "test_loss": loss, "test_images": len(test)})
        for run in planned:
            self._weights_path(run).unlink(missing_ok=True)

    def _train(self, run: PlannedRun, task: Task) -> Record:
        """Train a model, keep its weights, and return its record."""
        directory = self._directory(run)
        train = self._part(run.point.images)
        try:
            inputs = self._shared.run(
                run.settings, directory, self._stop, on_epoch=lambda _: task.advance(1), train=train
            )
            fitted = fit(inputs)
        except DivergedError:
            return self._describe(run, (), train) | {"diverged": True}
        self._keep(run, fitted)
        right, loss = _evaluate(fitted.model, fitted.standardise, train)
        return self._describe(run, fitted.history, train) | {"train_accuracy": right, "train_loss": loss}

    def _describe(self, run: PlannedRun, history: Sequence[Epoch], train: DeviceImages) -> Record:
        last = history[-1] if history else None
        return {
            "fingerprint": run.fingerprint,
            "settings": weight_settings(run.settings),
            "train_images": len(train),
            "validation_images": len(self._shared.validation),
            "parameters": parameter_count(run.settings, len(self._shared.data.classes)),
            "diverged": False,
            "epochs": len(history),
            "validation_accuracy": last.validation_accuracy if last else None,
            "validation_loss": last.validation_loss if last else None,
            "seconds": round(sum(epoch.seconds for epoch in history), 3),
            "device": self.environment.device,
            "code_revision": self.environment.code_revision,
        }

    def _part(self, images: int) -> DeviceImages:
        """Return a subset of the training images in the nested order, on the device."""
        if images == len(self._shared.train):
            return self._shared.train_on_device
        chosen = nested_subset(self._shared.train.labels, images, self._seed)
        return self._shared.train.take(chosen).to(self._shared.device)

    def _keep(self, run: PlannedRun, fitted: Fitted) -> None:
        buffer = io.BytesIO()
        torch.save({"model": fitted.model.state_dict(), "standardise": asdict(fitted.standardise)}, buffer)
        with writing(path := self._weights_path(run)):
            write_whole(path, buffer.getvalue())

    def _load(self, run: PlannedRun) -> tuple[MLP, Standardisation]:
        path = self._weights_path(run)
        model = MLP(run.settings, len(self._shared.data.classes))
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(kept["model"])
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{path} is missing or corrupt ({error}): remove {self._record_path(run)} as well, and the same "
                "command trains that model again"
            ) from None
        return model.to(self._shared.device).eval(), Standardisation(**kept["standardise"])

    def _write(self, run: PlannedRun, record: Record) -> None:
        with writing(path := self._record_path(run)):
            write_whole(path, json.dumps(record).encode() + b"\n")

    def _directory(self, run: PlannedRun) -> Path:
        return self._output / "unfinished" / run.fingerprint

    def _record_path(self, run: PlannedRun) -> Path:
        return self._output / "runs" / f"{run.fingerprint}.json"

    def _weights_path(self, run: PlannedRun) -> Path:
        return self._output / "untested" / f"{run.fingerprint}.pt"


def _evaluate(model: MLP, standardise: Standardisation, images: DeviceImages) -> tuple[float, float]:
    """Return accuracy and loss in nats, in evaluation mode."""
    logits = logits_of(model, standardise, images.images)
    labels = images.labels.cpu().numpy()
    return accuracy(logits, labels), negative_log_likelihood(logits, labels)


def _is_untested(record: Record | None) -> bool:
    return record is not None and not record["diverged"] and "test_accuracy" not in record


def _outcome(record: Record) -> str:
    if record["diverged"]:
        return "diverged"
    return f"validation accuracy {record['validation_accuracy']:.2%} in {record['seconds']:.1f} s"
