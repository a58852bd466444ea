"""The search: processes share its trials, killed processes lose nothing, and `fit` accepts the best settings."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
import yaml
from optuna.trial import FrozenTrial, TrialState

from common.errors import ConfigurationError
from common.progress import Progress
from tests.conftest import ROOT
from tests.training.sets import archive
from training.__main__ import main
from training.data.dataset import DataSet
from training.errors import DivergedError, InterruptedRunError, UnwritableError
from training.interrupts import StopFlag
from training.loop.fit import fit
from training.loop.shared_data import load_shared_data
from training.presets import PRESETS
from training.search import space as spaces
from training.search import storage, trials
from training.search.storage import FIRST
from training.search.trials import DONE, MAX_DEATHS, Trials
from training.search.tune import tune
from training.search_settings import TuneSettings
from training.settings import TrainingSettings

SPACE = "learning_rate: {low: 1e-4, high: 1e-2, log: true}\ndropout: {low: 0, high: 0.5}\n"
QUIET = Progress(quiet=True)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Leave the other cores to others."""
    torch.set_num_threads(1)


@pytest.fixture
def settings(tmp_path: Path) -> TuneSettings:
    """Return a search of four trials of two epochs."""
    (tmp_path / "space.yaml").write_text(SPACE)
    chosen: dict[str, Any] = {
        "data": archive(tmp_path / "set.npz"),
        "validation": 60,
        "hidden": (8,),
        "batch_size": 32,
        "epochs": 2,
        "trials": 4,
        "threads": 1,
        "device": "cpu",
        "runs": tmp_path / "runs",
        "space": tmp_path / "space.yaml",
        "heartbeat_seconds": 0.1,
    }
    return TuneSettings.model_validate({**PRESETS["default"](), **chosen})  # as the command line begins


def changed(settings: TuneSettings, **changes: Any) -> TuneSettings:
    """Return the settings with others; what was not given stays open for the augmentation policy."""
    return TuneSettings.model_validate(settings.model_dump(exclude_unset=True) | changes)


def arguments(settings: TuneSettings) -> list[str]:
    """Return the command line of what the fixture sets."""
    words = [f"--{name.replace('_', '-')}={getattr(settings, name)}" for name in (
        "data", "validation", "batch_size", "epochs", "trials", "threads", "device", "runs", "space",
        "heartbeat_seconds",
    )]  # fmt: skip
    return ["tune", "--hidden=8", *words]


def opened(settings: TuneSettings) -> optuna.Study:
    """Return the search as Optuna has it."""
    path = storage.open_storage(settings.storage, settings.runs / settings.study / "journal.log")
    return optuna.load_study(study_name=settings.study, storage=path)


def done(settings: TuneSettings) -> list[FrozenTrial]:
    """Return the finished trials."""
    return [trial for trial in opened(settings).trials if trial.state in DONE]


def outcomes(settings: TuneSettings) -> set[tuple[tuple[tuple[str, Any], ...], float | None]]:
    """Return what the finished trials tried and what came of it."""
    return {(tuple(sorted(trial.params.items())), trial.value) for trial in done(settings)}


def forked(work: Callable[[], object]) -> int:
    """Do something in a forked process and return its number."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a forked test process must not return into pytest
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child


def awaited(condition: Callable[[], object], seconds: float = 60) -> None:
    """Return when the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def test_two_processes_share_one_search(settings: TuneSettings) -> None:
    """Two processes that start at once do exactly as many trials as asked for, and none twice."""
    wanted = changed(settings, trials=7, heartbeat_seconds=2.0)  # a busy machine makes neither look dead
    children = [forked(lambda: tune(wanted, (), QUIET)) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert len(done(wanted)) == 7
    assert len(outcomes(wanted)) == 7


def test_racing_for_the_last_trials_never_gives_too_many(tmp_path: Path) -> None:
    """Six workers that ask at the same moments get ten trials together, and all ten are finished."""
    storage.quiet_optuna()
    path = tmp_path / "journal.log"
    optuna.create_study(storage=storage.open_storage("", path), study_name="race", direction="maximize")
    gate = threading.Barrier(6)
    finished: list[int] = []

    def worker() -> None:
        study = optuna.load_study(study_name="race", storage=storage.open_storage("", path))
        mine = Trials(study, wanted=10, beat_seconds=5, progress=QUIET, stop=StopFlag())
        gate.wait()
        while trial := mine.next():
            assert mine.finish(trial, 0.5)
            finished.append(trial.number)

    threads = [threading.Thread(target=worker) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finished) == len(set(finished)) == 10


def test_a_second_start_does_nothing_and_more_trials_go_on(settings: TuneSettings) -> None:
    """The number of trials is the search's, not the start's."""
    tune(settings, (), QUIET)
    tune(settings, (), QUIET)
    assert len(done(settings)) == 4
    tune(changed(settings, trials=6), (), QUIET)
    assert len(done(settings)) == 6


def test_a_killed_process_costs_no_trial(settings: TuneSettings) -> None:
    """The trial of a process that SIGKILL ended is failed, tried again with its parameters, and finished."""
    long = changed(settings, epochs=15, trials=1, prune=False, checkpoint_seconds=0.0)

    def half() -> None:
        report = optuna.Trial.report

        def stuck(trial: optuna.Trial, value: float, step: int) -> None:
            if step == 5:
                threading.Event().wait()  # so that it is killed before it is done, however late
            report(trial, value, step)

        optuna.Trial.report = stuck  # type: ignore[method-assign, assignment]
        tune(long, (), QUIET)

    child = forked(half)
    metrics = long.runs / "tune" / "trial-0000" / "metrics.jsonl"
    awaited(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 1)  # so the first epoch is saved
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = metrics.read_bytes().splitlines()[0]
    tune(long, (), QUIET)
    assert metrics.read_bytes().splitlines()[0] == before, "it began anew: the first epoch's time is another"
    first, second = opened(long).trials
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert first.params == second.params
    assert second.user_attrs[FIRST] == first.number
    assert sorted(second.intermediate_values) == list(range(1, 16)), (
        "it went on, and every epoch was reported"
    )
    assert not (long.runs / "tune" / "trial-0001").exists()


def test_an_earlier_search_of_the_same_name_is_not_gone_on_with(settings: TuneSettings) -> None:
    """With its journal removed a search begins anew, whatever checkpoints still lie there."""
    child = forked(lambda: tune(changed(settings, epochs=20, trials=1, checkpoint_seconds=0.0), (), QUIET))
    awaited(lambda: list((settings.runs / "tune" / "trial-0000").glob("checkpoint-*.pt")))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (settings.runs / "tune" / "journal.log").unlink()
    tune(settings, (), QUIET)
    assert len(done(settings)) == 4


def shared(tmp_path: Path, clock: Callable[[], float] = time.monotonic, wanted: int = 3) -> Trials:
    """Return one process's view of a search."""
    storage.quiet_optuna()
    study = optuna.create_study(
        storage=storage.open_storage("", tmp_path / "journal.log"),
        study_name="shared",
        direction="maximize",
        load_if_exists=True,
    )
    return Trials(study, wanted=wanted, beat_seconds=1.0, progress=QUIET, stop=StopFlag(), clock=clock)


def test_only_silence_longer_than_the_grace_is_death(tmp_path: Path) -> None:
    """A trial is taken away after six missed beats by the watcher's own clock, and not before."""
    now = [0.0]
    owner, watcher = shared(tmp_path), shared(tmp_path, lambda: now[0])
    trial = owner.next()
    assert trial is not None
    states = []
    for moment, beat in ((0, 1), (5, 1), (6, 2), (11.9, 2), (12.1, 2)):
        now[0] = moment
        if trial.user_attrs.get(trials.BEAT) != beat:
            trial.set_user_attr(trials.BEAT, beat)
        watcher.requeue_abandoned()
        states.append([t.state.name for t in watcher._all()])
    assert states == [["RUNNING"]] * 4 + [["FAIL", "WAITING"]]


def test_an_owner_that_was_only_asleep_drops_its_trial(tmp_path: Path) -> None:
    """When a trial was taken away, its first owner's result does not count; the second one's does."""
    now = [0.0]
    owner, watcher = shared(tmp_path), shared(tmp_path, lambda: now[0])
    mine = owner.next()
    assert mine is not None
    watcher.requeue_abandoned()
    now[0] = 100.0
    watcher.requeue_abandoned()
    theirs = watcher.next()
    assert theirs is not None
    assert not owner.finish(mine, 0.9)
    assert watcher.finish(theirs, 0.8)
    assert [t.value for t in watcher._all()] == [None, 0.8]


def test_a_trial_that_kills_its_process_is_not_tried_for_ever(tmp_path: Path) -> None:
    """After the third death a trial is left alone, and a new one is drawn."""
    now = [0.0]
    watcher = shared(tmp_path, lambda: now[0], wanted=1)
    for _ in range(MAX_DEATHS):
        assert watcher.next() is not None
        watcher.requeue_abandoned()
        now[0] += 100
        watcher.requeue_abandoned()
    assert [t.state for t in watcher._all()] == [TrialState.FAIL] * MAX_DEATHS
    fresh = watcher.next()
    assert fresh is not None
    assert FIRST not in fresh.user_attrs


def test_half_a_line_of_a_killed_writer_spoils_nothing(tmp_path: Path) -> None:
    """What a writer left unfinished is cut off before the next record, in every process's eyes."""
    path = tmp_path / "journal.log"
    first = optuna.create_study(storage=storage.open_storage("", path), study_name="s")
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x","study_')
    first.ask()
    again = optuna.load_study(study_name="s", storage=storage.open_storage("", path))
    again.ask()
    assert [t.number for t in first.trials] == [0, 1]


def test_a_lock_whose_owner_was_killed_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal's lock that nobody releases stops nobody for longer than the grace."""
    monkeypatch.setattr(storage, "LOCK_GRACE_SECONDS", 3)
    monkeypatch.chdir(tmp_path)
    Path("deep").mkdir()
    Path("deep/journal.log.lock").touch()
    storage.quiet_optuna()
    study = optuna.create_study(storage=storage.open_storage("deep/journal.log", Path("no")))
    study.ask()
    assert not Path("deep/journal.log.lock").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_what_is_done_and_the_search_ends_the_same(
    settings: TuneSettings, tmp_path: Path, number: signal.Signals
) -> None:
    """Ended by a signal with exit code 75 and gone on with, a search tries and finds what it would have."""
    whole = changed(settings, runs=tmp_path / "whole", epochs=8, trials=5)
    tune(whole, (), QUIET)
    broken = changed(whole, runs=tmp_path / "broken")
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *arguments(broken)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    for line in process.stderr:
        if line.startswith("trial 1"):
            process.send_signal(number)
            break
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 75, rest
    assert f"stopped by {number.name}" in rest
    assert "of 5 trials are kept" in rest
    assert "Traceback" not in rest
    assert "[I 20" not in rest, "Optuna talks"
    tune(broken, (), QUIET)
    assert len(outcomes(broken)) == 5
    assert {params for params, _ in outcomes(broken)} == {params for params, _ in outcomes(whole)}
    scores = dict(outcomes(whole))
    for trial in done(broken):
        if trial.state == TrialState.COMPLETE:
            assert scores[tuple(sorted(trial.params.items()))] == trial.value


@pytest.mark.parametrize("interrupted", [0, 1, 2])
def test_a_trial_that_is_put_back_moves_no_other_draw(
    settings: TuneSettings, tmp_path: Path, interrupted: int
) -> None:
    """Interrupted in the middle of any trial, a search draws what the undisturbed one draws."""

    class InTheMiddle(StopFlag):
        looks = 0

        @property
        def requested(self) -> bool:
            self.looks += 1
            return self.looks > 5

        def check(self) -> None:
            if self.requested:
                raise InterruptedRunError("in the middle")

    whole = changed(settings, runs=tmp_path / "whole")
    tune(whole, (), QUIET)
    broken = changed(settings, runs=tmp_path / "broken")
    if interrupted:
        tune(changed(broken, trials=interrupted), (), QUIET)
    study = opened(broken) if interrupted else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.search.tune.ConditionalStopFlag", lambda *_: InTheMiddle())
        with pytest.raises(InterruptedRunError):
            tune(broken, (), QUIET)
    assert [t.state for t in opened(broken).trials].count(TrialState.WAITING) == 1
    assert study is None or len(study.trials) == interrupted + 2
    tune(broken, (), QUIET)
    assert {params for params, _ in outcomes(broken)} == {params for params, _ in outcomes(whole)}


def test_the_time_limit_puts_the_trial_back(settings: TuneSettings) -> None:
    """When the time is over, the running trial waits for the next start, which finishes the search."""
    with pytest.raises(DivergedError, match="no trial has a finite loss"):
        tune(changed(settings, timeout_minutes=1e-9), (), QUIET)
    assert done(settings) == []
    limited = changed(settings, epochs=5000, timeout_minutes=0.02, study="limited")
    with pytest.raises(DivergedError):
        tune(limited, (), QUIET)
    assert [t.state.name for t in opened(limited).trials] == ["FAIL", "WAITING"]


def prepared(settings: TuneSettings, values: Sequence[float], **bad: float) -> None:
    """Put finished trials of some accuracies into the search, and one that is yet to be tried."""
    tune(changed(settings, trials=1), (), QUIET)  # gives the search its identity
    study = opened(settings)
    distributions: dict[str, Any] = {
        "learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "dropout": optuna.distributions.FloatDistribution(0, 0.5),
    }
    template = study.trials[0]
    for value in values:
        study.add_trial(
            optuna.trial.create_trial(
                value=value,
                params=template.params,
                distributions=distributions,
                user_attrs=template.user_attrs,
                intermediate_values=dict.fromkeys(range(1, settings.epochs + 1), value),
            )
        )
    study.enqueue_trial(bad)


def test_pruning_ends_a_trial_below_the_median(settings: TuneSettings) -> None:
    """A trial that is worse than the median after a quarter of the epochs is ended there, and counted."""
    long = changed(settings, epochs=40, trials=7)
    prepared(long, [0.999] * 5, learning_rate=1e-4, dropout=0.5)
    tune(long, (), QUIET)
    last = done(long)[-1]
    assert last.state == TrialState.PRUNED
    assert last.last_step == 10
    lines = (long.runs / "tune" / f"trial-{last.number:04d}" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 10, "training went on"


def test_without_pruning_it_is_trained_to_the_end(settings: TuneSettings) -> None:
    """The same trial is finished with --no-prune."""
    long = changed(settings, epochs=40, trials=7, prune=False)
    prepared(long, [0.999] * 5, learning_rate=1e-4, dropout=0.5)
    tune(long, (), QUIET)
    assert done(long)[-1].state == TrialState.COMPLETE


def test_the_best_file_is_what_fit_takes_and_gives_its_score(
    settings: TuneSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fit --config best.yaml` gets the best trial's settings, and training with them gives its accuracy."""
    path = tune(changed(settings, patience=1, epochs=6), (), QUIET)
    text = path.read_text()
    best = max(done(settings), key=lambda trial: trial.value or 0)
    assert f"trial {best.number} of the search 'tune', validation accuracy {best.value:.4f}" in text
    got: list[TrainingSettings] = []
    monkeypatch.setitem(sys.modules, "training.job", SimpleNamespace(run=lambda s, _: got.append(s)))
    assert main(["fit", "--config", str(path), "--threads", "1", "--device", "cpu"]) == 0
    monkeypatch.undo()
    assert got[0].learning_rate == best.params["learning_rate"]
    assert got[0].dropout == (best.params["dropout"],)
    fitted = fit(load_shared_data(got[0], QUIET).run(got[0], path.parent / "again", StopFlag()))
    assert max(epoch.validation_accuracy for epoch in fitted.history) == best.value


def test_a_best_file_of_others_is_not_overwritten(settings: TuneSettings) -> None:
    """A best.yaml that no search wrote is rejected before the first trial; a file that --best names is replaced."""
    path = settings.runs / "tune" / "best.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xffmine")
    with pytest.raises(UnwritableError, match=f"{path} exists and was not written by a search"):
        tune(settings, (), QUIET)
    assert path.read_bytes() == b"\xffmine"
    assert tune(changed(settings, best=path, trials=1), (), QUIET).read_text().startswith("# Best: trial 0")
    assert tune(changed(settings, trials=2), (), QUIET) == path


def test_the_test_set_is_not_read(settings: TuneSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole search goes by without a look at the test set."""
    monkeypatch.setattr(DataSet, "test", lambda _: pytest.fail("the test set was read"))
    tune(settings, (), QUIET)


def test_a_database_serves_as_well(settings: TuneSettings, tmp_path: Path) -> None:
    """With a database's URL the same search is done, and gone on with; no connection is left open."""
    by_url = changed(settings, storage=f"sqlite:///{tmp_path}/search.db", trials=3)
    tune(by_url, (), QUIET)
    tune(changed(by_url, trials=5), (), QUIET)
    assert len(done(by_url)) == 5
    files = [descriptor.resolve() for descriptor in Path("/proc/self/fd").iterdir()]
    assert tmp_path / "search.db" not in files


def test_a_diverging_trial_counts_and_ends_nothing(settings: TuneSettings, tmp_path: Path) -> None:
    """Trials whose loss is not finite are finished as pruned; if all are, the search says so."""
    (tmp_path / "wild.yaml").write_text("learning_rate: {low: 1e30, high: 1e35}\n")
    wild = changed(settings, space=tmp_path / "wild.yaml", optimizer="sgd", schedule="constant", study="wild")
    with pytest.raises(DivergedError, match="lower learning_rate"):
        tune(wild, (), QUIET)
    assert [trial.state for trial in opened(wild).trials] == [TrialState.PRUNED] * 4


def test_other_settings_or_data_are_another_search(settings: TuneSettings) -> None:
    """A search is not gone on with other settings, which would not compare; the error names them."""
    tune(settings, (), QUIET)
    with pytest.raises(ConfigurationError, match="epochs was 2 and is 3"):
        tune(changed(settings, epochs=3), (), QUIET)


def test_a_stop_while_waiting_for_others(tmp_path: Path) -> None:
    """A process that waits for another's last trial ends at a signal."""
    assert shared(tmp_path, wanted=1).next() is not None
    waiting = shared(tmp_path, wanted=1)
    threading.Timer(0.3, lambda: setattr(waiting._stop, "signal", signal.SIGTERM)).start()
    with pytest.raises(InterruptedRunError):
        waiting.next()


# The search space


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat: {low: 1, high: 2}", "unknown setting learning_rat in .*did you mean 'learning_rate'"),
        ("seed: [1, 2]", "seed in .* cannot be searched"),
        ("threads: [1, 2]", "threads in .* cannot be searched"),
        ("learning_rate: {low: 2, high: 1}", "low must be below high"),
        ("learning_rate: {low: 0, high: 1, log: true}", "low must be above 0"),
        ("learning_rate: {low: 0.1, high: 1, logg: true}", "unknown key logg.*did you mean 'log'"),
        ("learning_rate: {low: x, high: 1}", "low and high must be numbers"),
        ("dropout: {low: 0.5, high: 1.5}", "dropout in .*1.5"),
        ("batch_size: [32, 0]", "batch_size in .*greater than 0"),
        ("activation: [relu, swish]", "activation in .*swish"),
        ("epochs: 5", "give a single value in --config"),
        ("hidden: {layers: {low: 0.5, high: 2}, width: {low: 8, high: 16}}", "whole numbers"),
        ("learning_rate: {by: optimiser, sgd: [0.1]}", "unknown setting optimiser.*did you mean 'optimizer'"),
        ("learning_rate: {by: optimizer, sgd: [0.1]}", "no entry for adamw"),
        ("optimizer: [sgd, adam]\nlearning_rate: {by: optimizer, sgd: [0.1]}", "no entry for adam"),
        ("- learning_rate", "is not a search space"),
        ("{", "cannot be read"),
        ("", "is not a search space"),
    ],
)
def test_a_wrong_space_is_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    """Whatever is wrong in the file is named before anything is trained."""
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said) as error:
        spaces.read_space(path, TrainingSettings())
    assert "\n" not in str(error.value)


def test_kinds_of_range(tmp_path: Path) -> None:
    """Whole settings get whole numbers, others fractions; YAML's text `1e-4` is a number."""
    path = tmp_path / "space.yaml"
    path.write_text("epochs: {low: 1, high: 9}\ndropout: {low: 0, high: 0.9}\nl2: {low: 1e-4, high: 2}\n")
    space = spaces.read_space(path, TrainingSettings())
    assert space == {
        "epochs": spaces.Range(low=1, high=9, log=False, whole=True),
        "dropout": spaces.Range(low=0.0, high=0.9, log=False, whole=False),
        "l2": spaces.Range(low=1e-4, high=2.0, log=False, whole=False),
    }


def test_all_that_the_default_space_draws_is_allowed() -> None:
    """Two hundred random draws are settings, and every dimension moves."""
    storage.quiet_optuna()
    base = TrainingSettings()
    space = spaces.default_space(base, ())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    drawn = [spaces.suggest(space, study.ask(), base) for _ in range(200)]
    for values in drawn:
        TrainingSettings.model_validate(base.model_dump() | values)
    for name in space:
        assert len({str(values[name]) for values in drawn}) > 2
    assert {len(values["hidden"]) for values in drawn} == {1, 2, 3}
    rates = {name: [v["learning_rate"] for v in drawn if v["optimizer"] == name] for name in ("sgd", "adamw")}
    assert min(rates["sgd"]) >= 0.01 >= max(rates["adamw"])


def test_what_the_user_sets_is_not_searched() -> None:
    """A setting given in a file, the environment or an option is left out of the default space."""
    base = TrainingSettings(optimizer="sgd")
    space = spaces.default_space(base, {"optimizer", "hidden"})
    assert not {"optimizer", "hidden"} & set(space)
    rate = spaces.suggest(space, optuna.create_study().ask(), base)["learning_rate"]
    assert 0.01 <= rate <= 0.3


def test_the_default_space_is_printed_as_a_file_to_start_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What --show-space prints is read back as the default space."""
    assert main(["tune", "--show-space"]) == 0
    path = tmp_path / "space.yaml"
    path.write_text(capsys.readouterr().out)
    base = TrainingSettings()
    assert spaces.read_space(path, base) == spaces.default_space(base, ())
    assert yaml.safe_load(path.read_text())["batch_size"] == [64, 128, 256, 512]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trails", "3"], "--trails"),
        (["--trials", "0"], "--trials: "),
        (["--study", "../x"], "--study: "),
        (["--space", "/nowhere.yaml"], "/nowhere.yaml cannot be read"),
    ],
)
def test_misuse_ends_with_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong options are sentences, before anything is loaded."""
    try:
        code: object = main(["tune", *words])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert said in capsys.readouterr().err


def test_the_environment_has_the_same_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search's own settings can be variables, and misspelt ones are rejected by name."""
    monkeypatch.setenv("GLYPH_TRAIN_HEARTBEAT_SECONDS", "-1")
    assert main(["tune"]) == 2
    assert "GLYPH_TRAIN_HEARTBEAT_SECONDS" in capsys.readouterr().err
    monkeypatch.delenv("GLYPH_TRAIN_HEARTBEAT_SECONDS")
    monkeypatch.setenv("GLYPH_TRAIN_TRIAL", "3")
    assert main(["tune"]) == 2
    assert "did you mean 'GLYPH_TRAIN_TRIALS'?" in capsys.readouterr().err


def test_torchrun_is_rejected(settings: TuneSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun the search says how it is shared instead."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match="torchrun is for fit"):
        tune(settings, (), QUIET)


def test_a_database_that_is_not_there_is_a_sentence_without_the_password() -> None:
    """A URL that cannot be used ends with a sentence that does not give its password away."""
    with pytest.raises(ConfigurationError, match="cannot be used") as error:
        storage.open_storage("nosuchdb://user:hunter2@host/x", Path("unused"))
    assert "hunter2" not in str(error.value)


def test_a_file_that_is_no_journal_is_a_sentence(tmp_path: Path) -> None:
    """A storage that names some other file does not end in a traceback."""
    (tmp_path / "notes.txt").write_text("hello\nworld\n")
    with pytest.raises(ConfigurationError, match="not an Optuna journal"):
        storage.open_storage(str(tmp_path / "notes.txt"), Path("unused"))


@pytest.mark.parametrize("text", ['{"one": "line"}', "x = 1", "a text", "\n", "a line\n", '{"one": 1}\n'])
def test_a_file_that_is_no_journal_stays_as_it_is(tmp_path: Path, text: str) -> None:
    """A storage that names some other file, of one line without an end too, leaves every byte of it."""
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="not an Optuna journal"):
        storage.open_study(
            storage.open_storage(str(path), Path("unused")),
            "tune",
            seed=0,
            warm_up_epochs=1,
            prune=True,
            identity={},
        )
    assert path.read_text() == text
