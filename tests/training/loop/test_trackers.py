"""TensorBoard and MLflow: what was logged is read back with their own readers, and neither can stop a run."""

import errno
import importlib
import importlib.util
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench.support.runs import small_run
from bundle.manifest import GOLDEN_FILE, REPORT_FILE
from bundle.repository import Bundle, publish, staging
from common.errors import ConfigurationError
from common.progress import Progress
from tests.bundle.making import fill, some_golden
from tests.conftest import ROOT
from tests.training.subjects import an_epoch, report_data
from training.loop import trackers
from training.loop.fit import fit
from training.loop.state import Epoch
from training.loop.trackers import BackgroundLogger, Logger, Loggers, check_packages, open_loggers
from training.settings import TrainingSettings

HISTORY = [an_epoch(n, validation_loss=0.5 / n, learning_rate=1e-3 * n) for n in (1, 2, 3)]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the end of a run wait for its loggers as long as they take on a busy machine."""
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 240.0)


class Recorder:
    """A logger that keeps what it is told, and fails if it is to."""

    def __init__(self, fails_at: int = 0) -> None:
        self.epochs: list[int] = []
        self.bundles: list[Bundle] = []
        self.is_closed = False
        self.fails_at = fails_at

    def begun(self, run_id: str) -> None:
        """Keep nothing of it."""

    def epoch(self, epoch: Epoch) -> None:
        """Keep its number, or fail."""
        if epoch.epoch == self.fails_at:
            raise ConnectionError("connection\nrefused " + "x" * 1000)
        self.epochs.append(epoch.epoch)

    def published(self, bundle: Bundle) -> None:
        """Keep the bundle."""
        self.bundles.append(bundle)

    def close(self) -> None:
        """Note that it was closed."""
        self.is_closed = True


@pytest.fixture
def board() -> Any:
    """Return the module of TensorBoard's own reader."""
    name = "tensorboard.backend.event_processing.event_accumulator"
    return pytest.importorskip(name, reason="the package tensorboard is not installed")


@pytest.fixture
def mlflow() -> Any:
    """Return MLflow."""
    return pytest.importorskip("mlflow", reason="the package mlflow-skinny is not installed")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Return a published bundle whose files are stand-ins."""
    metadata = report_data().metadata
    classes = len(metadata.classes)
    with staging(tmp_path / "models", metadata.name) as directory:
        fill(directory, classes)
        (directory / GOLDEN_FILE).write_bytes(some_golden(metadata.golden.images, classes).to_bytes())
        return publish(directory, metadata)


def settings(**values: Any) -> TrainingSettings:
    """Return settings of a model called digits."""
    return TrainingSettings.model_validate({"name": "digits", **values})


def log(chosen: TrainingSettings, bundle: Bundle | None, *, quiet: bool = True) -> None:
    """Log a whole run."""
    tracked = open_loggers(chosen, Progress(quiet=quiet))
    tracked.begun("5" * 32)
    for epoch in HISTORY:
        tracked.epoch(epoch)
    if bundle:
        tracked.published(bundle)
    tracked.close()


def test_nothing_is_logged_unless_asked_for() -> None:
    """By default there is no logger, and neither package is even imported by a training process."""
    assert not open_loggers(settings(), Progress(quiet=True))
    program = "import sys, training.job; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"mlflow", "tensorboard"} & set(done.stdout.split())


def test_tensorboard_reads_the_epochs_back(board: Any, tmp_path: Path, bundle: Bundle) -> None:
    """Its own reader finds every epoch's numbers under its step, the settings, and what was published."""
    log(settings(tensorboard=tmp_path / "board", epochs=3), bundle)
    events = board.EventAccumulator(str(tmp_path / "board" / "digits"))
    events.Reload()
    for epoch in HISTORY:
        for field, value in asdict(epoch).items():
            if field != "epoch":
                found = events.Scalars(field.replace("_", "/", 1))[epoch.epoch - 1]
                assert (found.step, found.value) == (epoch.epoch, pytest.approx(value, rel=1e-6))
    accuracy = events.Scalars("published/test_accuracy")[0].value
    assert accuracy == pytest.approx(bundle.manifest.test.accuracy, rel=1e-6)
    assert "epochs" in events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()


@pytest.mark.usefixtures("board")
def test_tensorboard_on_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its own thread, which fails as well, prints no traceback; training goes on."""
    record_writer = importlib.import_module("tensorboard.summary.writer.record_writer")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(record_writer.RecordWriter, "write", full)
    log(settings(tensorboard=tmp_path / "board", epochs=3), bundle, quiet=False)
    said = capfd.readouterr().err
    assert "TensorBoard failed, training continues without it: [Errno 28] No space left on device" in said
    assert "Traceback" not in said


def test_tensorboard_shows_a_repeated_run_once(board: Any, tmp_path: Path) -> None:
    """Epochs logged again by a second process replace those of the first."""
    for _ in range(2):
        log(settings(tensorboard=tmp_path), None)
    events = board.EventAccumulator(str(tmp_path / "digits"))
    events.Reload()
    assert [event.step for event in events.Scalars("validation/loss")] == [1, 2, 3]


@pytest.mark.parametrize("is_published", [True, False])
def test_mlflow_reads_the_run_back(
    mlflow: Any, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, is_published: bool
) -> None:
    """Its own client finds parameters, metrics by step, the report and the manifest, and how the run ended."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "tracking").as_uri()
    log(settings(mlflow=uri, epochs=3, hidden=(64, 32)), bundle if is_published else None)
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("glyph")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "digits"
    assert (run.data.params["hidden"], run.data.params["epochs"]) == ("[64, 32]", "3")
    losses = client.get_metric_history(run.info.run_id, "validation_loss")
    assert [(m.step, m.value) for m in losses] == [(e.epoch, e.validation_loss) for e in HISTORY]
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    if is_published:
        assert run.info.status == "FINISHED"
        assert run.data.metrics["published_test_accuracy"] == bundle.manifest.test.accuracy
        assert run.data.tags["glyph.digest"] == bundle.manifest.digest
        assert artifacts == {"report.html", "manifest.json"}
        local = client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))
        assert Path(local).read_bytes() == (bundle.path / "report.html").read_bytes()
    else:
        assert (run.info.status, artifacts) == ("KILLED", set())


def test_no_file_but_the_bundles_own_is_sent_to_mlflow(
    mlflow: Any, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link in the report's place is not followed, and training goes on."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "secret").write_text("somebody else's")
    (bundle.path / REPORT_FILE).unlink()
    (bundle.path / REPORT_FILE).symlink_to(tmp_path / "secret")
    log(settings(mlflow=(tmp_path / "tracking").as_uri()), bundle)
    sent = [path.read_bytes() for path in (tmp_path / "tracking").rglob("*") if path.is_file()]
    assert len(sent) > 5
    assert not any(b"somebody else's" in content for content in sent)


def test_a_resumed_run_goes_on_in_its_mlflow_run(
    mlflow: Any, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was interrupted and one that resumed it are one, each epoch is there once; another is another."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "tracking").as_uri()
    for run_id, epochs, published in (("a", HISTORY[:2], None), ("a", HISTORY, bundle), ("b", HISTORY, None)):
        tracked = open_loggers(settings(mlflow=uri), Progress(quiet=True))
        tracked.begun(run_id)
        for epoch in epochs:
            tracked.epoch(epoch)
        if published:
            tracked.published(published)
        tracked.close()
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("glyph").experiment_id])
    assert {run.data.tags["glyph.run_id"]: run.info.status for run in runs} == {
        "a": "FINISHED",
        "b": "KILLED",
    }
    for run in runs:
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "validation_loss")]
        assert steps == [1, 2, 3]


def test_an_mlflow_server_that_is_down_is_one_line(
    capsys: pytest.CaptureFixture[str], bundle: Bundle
) -> None:
    """Nobody listens there: the failure is said once, and nothing is raised."""
    tracked = open_loggers(settings(mlflow="http://127.0.0.1:9"), Progress())
    for epoch in HISTORY:
        tracked.epoch(epoch)
    tracked.published(bundle)
    tracked.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("MLflow failed, training continues without it: ")


@pytest.mark.parametrize("option", ["tensorboard", "mlflow"])
def test_a_missing_package_is_said_before_training(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    """The sentence names the option, the package and the extra to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        ConfigurationError, match=rf"--{option} needs the package {option}.*glyph\[tracking\]"
    ):
        check_packages(settings(**{option: "somewhere"}))
    check_packages(settings())


def test_a_setting_with_a_pipe_is_one_cell_of_the_table() -> None:
    """In Markdown a pipe ends a cell, a backtick ends code, and a line break ends the row."""
    assert trackers._cell("folder:/a|b`c\nd") == "`folder:/a\\|b'c d`"
    assert trackers._cell(0.5) == "`0.5`"


def test_a_password_is_kept_out_of_the_manifest() -> None:
    """A tracking URI with a password is rejected, as every setting is published; one without is taken."""
    with pytest.raises(ValidationError, match="MLFLOW_TRACKING_PASSWORD"):
        settings(mlflow="https://me:secret@tracking.example/api")
    with pytest.raises(ValidationError, match="MLFLOW_TRACKING_PASSWORD"):
        settings(mlflow="postgresql://db.example/runs?sslmode=require&password=secret")
    for uri in ("https://tracking.example/@me", "postgresql://db.example/runs?sslmode=require"):
        assert settings(mlflow=uri).mlflow == uri


def test_the_command_ends_with_2_where_a_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`fit --mlflow` without the package is misuse, found before data are looked for."""
    from training.__main__ import main

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    arguments = ["fit", "--mlflow", "http://127.0.0.1:9", "--data", f"npz:{tmp_path}/missing.npz"]
    assert main([*arguments, "--models", str(tmp_path / "m"), "--runs", str(tmp_path / "r")]) == 2
    assert "glyph[tracking]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_failing_logger_is_one_line_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], bundle: Bundle
) -> None:
    """One logger's exception, of any kind, ends that logger only; its reason is one line, cut."""
    good, bad = Recorder(), Recorder(fails_at=2)
    tracked = Loggers(
        BackgroundLogger("Bad", lambda: bad, Progress()), BackgroundLogger("Good", lambda: good, Progress())
    )
    for epoch in HISTORY:
        tracked.epoch(epoch)
    tracked.published(bundle)
    tracked.close()
    assert (good.epochs, good.bundles, good.is_closed) == ([1, 2, 3], [bundle], True)
    assert (bad.epochs, bad.bundles) == ([1], [])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Bad failed, training continues without it: connection refused xxx")
    assert len(line) < 400


def test_a_logger_that_hangs_is_left_behind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it while training, and the end of the run waits for a limited time."""
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.05)
    answer = threading.Event()

    def begin() -> Logger:
        answer.wait()
        return Recorder()

    guarded = BackgroundLogger("Slow", begin, Progress())
    guarded.epoch(HISTORY[0])
    guarded.close()
    assert capsys.readouterr().err == "Slow does not respond: the end of this run is not logged there\n"
    answer.set()
    guarded._thread.join()
    guarded.close()  # a second time is nothing


def test_epochs_are_logged_while_the_run_goes_on(tmp_path: Path) -> None:
    """A logger has seen every epoch, in order, when the fit ends, and after a resumption sees them again."""
    recorder = Recorder()
    fit(replace(small_run(tmp_path), on_epoch=Loggers(recorder).epoch))
    assert recorder.epochs == [1, 2, 3]
    fit(replace(small_run(tmp_path, resume=True), on_epoch=Loggers(recorder).epoch))
    assert recorder.epochs == [1, 2, 3, 1, 2, 3]
