"""`study`: train many models that differ in one setting, then test all of them, and write a report.

All models of the requested studies are trained before the test set is read, so that it cannot influence any choice. A
finished run is a file, OUTPUT/runs/FINGERPRINT.json, written atomically: a study that is restarted runs only what is
missing, and an interrupted run resumes from its checkpoint in OUTPUT/unfinished. Shared runs are trained once.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.atomic_files import write_whole
from common.configuration import nearest
from common.errors import ConfigurationError
from common.progress import Progress
from training.augmentation.policy import apply_policy
from training.errors import InterruptedRunError, UnwritableError, writing
from training.interrupts import catch_signals
from training.loop.run_directory import LOCK_FILE, locked
from training.loop.shared_data import load_shared_data, weight_settings
from training.search_settings import STUDIES, StudySettings
from training.study.designs import DESIGNS, Study, study_base
from training.study.page import render
from training.study.runs import PlannedRun, Record, StudyRuns

PAGE_FILE = "study.html"


def study(names: Sequence[str], settings: StudySettings, given: Collection[str], progress: Progress) -> Path:
    """Run the studies, or what is missing of them, and return the path of the report.

    Args:
        names: of studies, or `all`.
        settings: the base settings and the scale.
        given: the settings that the user has given, which the quick scale does not change.
        progress: for a log line for each run.

    Raises:
        ConfigurationError: a study is unknown, or the settings do not suit it.
        UnwritableError: the directory is not writable, is in use, or has foreign files with the names of results.
        InterruptedRunError: a signal arrived; the same command continues.
        TrainingError: as `fit`.
    """
    chosen = _chosen(names)
    with catch_signals() as stop, _alone(settings.output, progress):
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
                f"stopped by {name}: {finished} finished runs are kept in {settings.output}; the same command continues"
            ) from None
        return _report(settings.output, studies, planned, weight_settings(start.base), runs)


def _chosen(names: Sequence[str]) -> list[str]:
    """Return the names of the studies, each once, in the order of the report."""
    for name in names:
        if name not in (*STUDIES, "all"):
            raise ConfigurationError(f"unknown study {name}{nearest(name, (*STUDIES, 'all'))}")
    return [name for name in STUDIES if name in names or "all" in names]


@contextmanager
def _alone(output: Path, progress: Progress) -> Iterator[None]:
    """Lock the directory for this process; the lock file marks the results in the directory as those of a study."""
    results = (PAGE_FILE, *map(_lines_file, STUDIES))
    taken = [output / name for name in results if (output / name).exists()]
    if taken and not (output / LOCK_FILE).exists():
        raise UnwritableError(f"{taken[0]} exists and was not written by a study: give another --output")
    with locked(output, "another --output", progress):
        yield


def _report(
    output: Path,
    studies: Sequence[Study],
    planned: Sequence[PlannedRun],
    base: Mapping[str, object],
    runs: StudyRuns,
) -> Path:
    """Write the results of each study as JSON lines, and the page; return the page's path."""
    results: dict[str, list[Record]] = {each.name: [] for each in studies}
    for run in planned:
        place = {"study": run.study, "series": run.point.series, "x": run.point.x, "label": run.point.label}
        results[run.study].append(place | {"seed": run.settings.seed} | (runs.record(run) or {}))
    page = output / PAGE_FILE
    with writing(output):
        for name, lines in results.items():
            write_whole(output / _lines_file(name), "".join(json.dumps(r) + "\n" for r in lines).encode())
        write_whole(page, render(studies, results, base, runs.environment).encode())
    return page


def _lines_file(study: str) -> str:
    return f"{study}.jsonl"
