"""Experiment tracking with TensorBoard (`--tensorboard DIR`) and MLflow (`--mlflow URI`), off by default.

Each tracker runs in a thread of its own, so that a slow server does not delay a step. If it fails, one line is logged
and training continues without it. A missing package is reported before training starts.
"""

import importlib
import importlib.util
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from bundle.manifest import MANIFEST_FILE, REPORT_FILE, ModelMetadata
from bundle.repository import Bundle
from common.errors import ConfigurationError, one_line
from common.progress import Progress
from training.loop.state import Epoch
from training.settings import TrainingSettings

EXTRA = "tracking"
CLOSE_SECONDS = 10.0
"""Timeout at the end of a run for a tracker that still has data to send."""
HTTP_SECONDS = 5
HTTP_RETRIES = 1
"""MLflow's defaults, 120 seconds and 7 retries, would block the thread for minutes."""
MAX_PARAMETER = 500
"""Most characters of a parameter that every MLflow server accepts."""
REASON_LENGTH = 300
MLFLOW_EXPERIMENT = "glyph"
RUN_TAG = "glyph.run_id"


class Logger(Protocol):
    """A tracker of a run."""

    def begun(self, run_id: str) -> None:
        """Start the run; a resumed run keeps its identity."""

    def epoch(self, epoch: Epoch) -> None:
        """Log the metrics of an epoch."""

    def published(self, bundle: Bundle) -> None:
        """Log the published bundle."""

    def close(self) -> None:
        """Flush and close."""


class Loggers:
    """Several loggers as one."""

    def __init__(self, *loggers: Logger) -> None:
        self._loggers = loggers

    def __bool__(self) -> bool:
        """Return whether there are any loggers."""
        return bool(self._loggers)

    def begun(self, run_id: str) -> None:
        """Call each logger."""
        for logger in self._loggers:
            logger.begun(run_id)

    def epoch(self, epoch: Epoch) -> None:
        """Call each logger."""
        for logger in self._loggers:
            logger.epoch(epoch)

    def published(self, bundle: Bundle) -> None:
        """Call each logger."""
        for logger in self._loggers:
            logger.published(bundle)

    def close(self) -> None:
        """Close each logger."""
        for logger in self._loggers:
            logger.close()


def check_packages(settings: TrainingSettings) -> None:
    """Check that the packages of the requested trackers are installed.

    Raises:
        ConfigurationError: one is not installed.
    """
    for package, wanted in (("tensorboard", settings.tensorboard), ("mlflow", settings.mlflow)):
        if wanted is not None and importlib.util.find_spec(package) is None:
            raise ConfigurationError(
                f"--{package} needs the package {package}, which is not installed: "
                f"pip install 'glyph[{EXTRA}]', or train without --{package}"
            )


def open_loggers(settings: TrainingSettings, progress: Progress) -> Loggers:
    """Return the requested loggers; nothing is written or sent yet.

    Args:
        settings: of the run. TensorBoard's event files go to the subdirectory with the model's name.
        progress: for messages about failures.

    Raises:
        ConfigurationError: a package is not installed.
    """
    check_packages(settings)
    tensorboard, mlflow, name = settings.tensorboard, settings.mlflow, str(settings.name)
    hyperparameters = settings.model_dump(mode="json")
    found: list[Logger] = []
    if tensorboard is not None:
        found.append(
            BackgroundLogger(
                "TensorBoard", lambda: TensorBoard(tensorboard / name, hyperparameters), progress
            )
        )
    if mlflow is not None:
        found.append(BackgroundLogger("MLflow", lambda: MLflow(mlflow, name, hyperparameters), progress))
    return Loggers(*found)


class BackgroundLogger:
    """A logger in a background thread; if it fails, one line is logged and it is not used any more."""

    def __init__(self, name: str, begin: Callable[[], Logger], progress: Progress) -> None:
        """Prepare the thread; `begin` creates the logger in it at the first call."""
        self._name, self._begin, self._progress = name, begin, progress
        self._waiting: queue.SimpleQueue[Callable[[Logger], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"log to {name}", daemon=True)
        self._has_begun = False

    def begun(self, run_id: str) -> None:
        """Enqueue the call."""
        self._put(lambda logger: logger.begun(run_id))

    def epoch(self, epoch: Epoch) -> None:
        """Enqueue the call."""
        self._put(lambda logger: logger.epoch(epoch))

    def published(self, bundle: Bundle) -> None:
        """Enqueue the call."""
        self._put(lambda logger: logger.published(bundle))

    def close(self) -> None:
        """Wait up to 10 seconds for enqueued calls; a second call does nothing."""
        if not self._has_begun:
            return
        self._has_begun = False
        self._waiting.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._progress.say(f"{self._name} does not respond: the end of this run is not logged there")

    def _put(self, call: Callable[[Logger], None]) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._thread.start()
        self._waiting.put(call)

    def _work(self) -> None:
        try:
            logger = self._begin()
            while call := self._waiting.get():
                call(logger)
            logger.close()
        except Exception as error:  # noqa: BLE001  # whatever a tracker raises, training continues
            reason = one_line(error, REASON_LENGTH) or type(error).__name__
            self._progress.say(f"{self._name} failed, training continues without it: {reason}")


class TensorBoard:
    """TensorBoard event files. A resumed run that logs an epoch again purges that step and the later ones."""

    def __init__(self, directory: Path, hyperparameters: Mapping[str, Any]) -> None:
        self._directory, self._hyperparameters = directory, hyperparameters
        self._writer: Any = None
        threading.excepthook = partial(_report_unless_tensorboards, threading.excepthook)

    def begun(self, run_id: str) -> None:
        """Do nothing: event files have no run identities."""

    def epoch(self, epoch: Epoch) -> None:
        """Write the epoch's scalars, with its number as the step."""
        if self._writer is None:
            writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
            self._writer = writer(str(self._directory), purge_step=epoch.epoch)
            rows = [f"| {key} | {_cell(value)} |" for key, value in self._hyperparameters.items()]
            self._writer.add_text("configuration", "\n".join(["| setting | value |", "|---|---|", *rows]))
        for tag, value in _epoch_metrics(epoch).items():
            self._writer.add_scalar(tag.replace("_", "/", 1), value, epoch.epoch)
        self._writer.flush()

    def published(self, bundle: Bundle) -> None:
        """Write the bundle's metrics, at step 0."""
        if self._writer is not None:
            for tag, value in _final_metrics(bundle.manifest).items():
                self._writer.add_scalar(f"published/{tag}", value, 0)
            self._writer.add_text("bundle", f"`{bundle.path}`, digest `{bundle.manifest.digest}`")

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """An MLflow run: parameters at the start, metrics for each epoch, report and manifest as artifacts at the end."""

    def __init__(self, uri: str, name: str, hyperparameters: Mapping[str, Any]) -> None:
        """Find or create the experiment.

        Raises:
            Exception: any error of the MLflow client.
        """
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(HTTP_SECONDS))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(HTTP_RETRIES))
        self._client = importlib.import_module("mlflow").MlflowClient(tracking_uri=uri)
        entities = importlib.import_module("mlflow.entities")
        self._metric, parameter = entities.Metric, entities.Param
        experiment = self._client.get_experiment_by_name(MLFLOW_EXPERIMENT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(MLFLOW_EXPERIMENT)
        self._experiment, self._name = number, name
        self._parameters = [
            parameter(key, str(value)[:MAX_PARAMETER]) for key, value in hyperparameters.items()
        ]
        self._run, self._epochs, self._is_published = "", 0, False

    def begun(self, run_id: str) -> None:
        """Reopen the MLflow run of this identity, or create one."""
        found = self._client.search_runs([self._experiment], f"tags.`{RUN_TAG}` = '{run_id}'")
        if found:
            self._run = found[0].info.run_id
            logged = self._client.get_metric_history(self._run, "validation_loss")
            self._epochs = max((metric.step for metric in logged), default=0)
            self._client.update_run(self._run, status="RUNNING")
            return
        created = self._client.create_run(self._experiment, run_name=self._name, tags={RUN_TAG: run_id})
        self._run = created.info.run_id
        self._client.log_batch(self._run, params=self._parameters)

    def epoch(self, epoch: Epoch) -> None:
        """Log the epoch's metrics, with its number as the step, unless they have been logged already."""
        if epoch.epoch > self._epochs:
            self._log(_epoch_metrics(epoch), epoch.epoch)

    def published(self, bundle: Bundle) -> None:
        """Log the bundle's metrics, digest, path, report and manifest."""
        self._log({f"published_{key}": value for key, value in _final_metrics(bundle.manifest).items()}, 0)
        self._client.set_tag(self._run, "glyph.digest", bundle.manifest.digest)
        self._client.set_tag(self._run, "glyph.bundle", str(bundle.path))
        contents = {REPORT_FILE: bundle.read(REPORT_FILE), MANIFEST_FILE: bundle.manifest.to_bytes()}
        with tempfile.TemporaryDirectory(prefix="glyph-mlflow-") as directory:
            for name, content in contents.items():  # copies, so that the verified bytes are sent
                path = Path(directory) / name
                path.write_bytes(content)
                self._client.log_artifact(self._run, str(path))
        self._is_published = True

    def close(self) -> None:
        """End the run: FINISHED if a bundle was published, else KILLED."""
        self._client.set_terminated(self._run, "FINISHED" if self._is_published else "KILLED")

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        time = importlib.import_module("mlflow.utils.time").get_current_time_millis()
        self._client.log_batch(
            self._run, metrics=[self._metric(key, value, time, step) for key, value in metrics.items()]
        )


def _report_unless_tensorboards(
    report: Callable[[threading.ExceptHookArgs], object], arguments: threading.ExceptHookArgs
) -> None:
    """Call the hook for exceptions that end a thread, unless it is TensorBoard's, which raises it to its caller too."""
    if not type(arguments.thread).__module__.startswith("tensorboard."):
        report(arguments)


def _cell(value: object) -> str:
    """Return a value as code in a cell of a Markdown table, which a pipe, a backtick or a line break would end."""
    return "`" + one_line(value).replace("`", "'").replace("|", "\\|") + "`"


def _epoch_metrics(epoch: Epoch) -> dict[str, float]:
    values = asdict(epoch)
    del values["epoch"]
    return {key: float(value) for key, value in values.items()}


def _final_metrics(metadata: ModelMetadata) -> dict[str, float]:
    return {
        "temperature": metadata.temperature,
        **{
            f"{part}_{key}": float(value)
            for part, metrics in (("validation", metadata.validation), ("test", metadata.test))
            for key, value in metrics.model_dump().items()
            if key != "images"
        },
    }
