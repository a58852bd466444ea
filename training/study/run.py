"""`study`: train many models that differ in one thing, then test them all, and report.

The order is the point: every model of every study that was asked for is trained before the test set
is read, and nothing is chosen by what it says. A finished run is one file, OUTPUT/runs/FINGERPRINT.json,
written whole, so a study that was killed does only what is missing, and a run that was killed goes on
from its checkpoint in OUTPUT/unfinished. Runs that two studies share are trained once.
"""

import fcntl
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.atomic_files import write_whole
from common.configuration import nearest
from common.errors import ConfigurationError
from common.progress import Progress
from training.augmentation.policy import apply_policy
from training.errors import InterruptedRunError, UnwritableError
from training.interrupts import catch_signals
from training.loop.shared_data import load_shared_data, weight_settings
from training.search_settings import STUDIES, StudySettings
from training.study.designs import DESIGNS, Study, study_base
from training.study.page import render
from training.study.runs import PlannedRun, Record, StudyRuns

LOCK_FILE = ".lock"
PAGE_FILE = "study.html"


def study(names: Sequence[str], settings: StudySettings, given: Collection[str], progress: Progress) -> Path:
    """Do the studies, or what is missing of them, and return the report's path.

    Args:
        names: of studies, or `all`.
        settings: what is held fixed, and the scale.
        given: the settings that the user gave a value; the quick scale leaves them alone.
        progress: gets a line for each run.

    Raises:
        ConfigurationError: a study is unknown, or the settings do not suit it.
        UnwritableError: the directory is not writable, is worked in, or holds files of others by the results' names.
        InterruptedRunError: a signal came; the same command goes on.
        TrainingError: as `fit`.
    """
    chosen = _chosen(names)
    with catch_signals() as stop, _alone(settings.output):
        shared = load_shared_data(settings, progress)
        settings = apply_policy(settings, shared.data.is_handwriting)
        start = study_base(settings, given, len(shared.train), len(shared.data.classes))
        studies = [DESIGNS[name](start) for name in chosen]
        runs = StudyRuns(settings.output, settings.seed, settings.code_revision, shared, stop, progress)
        planned = [run for each in studies for run in runs.plan(each)]
        try:
            runs.train(planned)
            runs.test(planned)
        except InterruptedRunError:
            name = stop.signal.name if stop.signal else "a signal"
            finished = len({run.fingerprint for run in planned if runs.record(run)})
            raise InterruptedRunError(
                f"stopped by {name}: {finished} finished runs are kept in {settings.output}; "
                "the same command goes on"
            ) from None
        return _report(settings.output, studies, planned, weight_settings(start.base), runs)


def _chosen(names: Sequence[str]) -> list[str]:
    """Return the studies' names, each once, in the report's order."""
    for name in names:
        if name not in (*STUDIES, "all"):
            raise ConfigurationError(f"unknown study {name}{nearest(name, (*STUDIES, 'all'))}")
    return [name for name in STUDIES if name in names or "all" in names]


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keep other processes out of the directory; the lock goes with the process, however that ends.

    The lock's file stays, and says that what has the results' names is a study's.
    """
    lock = output / LOCK_FILE
    results = (PAGE_FILE, *map(_lines_file, STUDIES))
    taken = [output / name for name in results if (output / name).exists()]
    if taken and not lock.exists():
        raise UnwritableError(f"{taken[0]} is there, and no study wrote it: give another --output")
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        raise UnwritableError(f"{output} cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnwritableError(
                f"another process works in {output}: wait for it, or give --output"
            ) from None
        yield


def _report(
    output: Path,
    studies: Sequence[Study],
    planned: Sequence[PlannedRun],
    base: Mapping[str, object],
    runs: StudyRuns,
) -> Path:
    """Write the results as JSON lines, one file a study, and the page; return the page's path."""
    results: dict[str, list[Record]] = {each.name: [] for each in studies}
    for run in planned:
        place = {"study": run.study, "series": run.point.series, "x": run.point.x, "label": run.point.label}
        results[run.study].append(place | {"seed": run.settings.seed} | (runs.record(run) or {}))
    page = output / PAGE_FILE
    try:
        for name, lines in results.items():
            write_whole(output / _lines_file(name), "".join(json.dumps(r) + "\n" for r in lines).encode())
        write_whole(page, render(studies, results, base, runs.environment).encode())
    except OSError as error:
        raise UnwritableError(f"{page} cannot be written: {error.strerror}") from None
    return page


def _lines_file(study: str) -> str:
    return f"{study}.jsonl"
