"""The options of `tune` and `study`: those of `fit`, which are held fixed, and their own."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from common.configuration import OrNone
from training.settings import Above0, ModelName, NotNegative, Positive, TrainingSettings

STUDIES = ("size", "shape", "activations", "dropout", "l2", "restarts", "baseline")
"""The studies, in the order of the report; `study/designs.py` defines each."""


class TuneSettings(TrainingSettings):
    """The settings of a search."""

    trials: Annotated[
        Positive,
        Field(description="number of finished trials of the search, over all its processes and restarts"),
    ] = 20
    study: Annotated[ModelName, Field(description="name of the search; its files go to RUNS/STUDY")] = "tune"
    storage: Annotated[
        str,
        Field(
            description="storage that the processes of a search share: a journal file (on a shared file system) "
            "or the URL of a database, such as postgresql://...; empty is RUNS/STUDY/journal.log"
        ),
    ] = ""
    space: Annotated[
        Path | None,
        OrNone,
        Field(
            description="YAML file of the search space; the default space leaves out the settings that a file, "
            "the environment or an option gives"
        ),
    ] = None
    show_space: Annotated[bool, Field(description="print the default search space as YAML, and exit")] = False
    best: Annotated[
        Path | None,
        OrNone,
        Field(description="file for the best settings, for fit --config; none is RUNS/STUDY/best.yaml"),
    ] = None
    timeout_minutes: Annotated[
        NotNegative, Field(description="time limit of the search, checked after each step; 0 is no limit")
    ] = 0.0
    prune: Annotated[
        bool,
        Field(description="stop a trial whose validation accuracy is below the median of earlier trials"),
    ] = True
    heartbeat_seconds: Annotated[
        Above0,
        Field(description="interval of a trial's heartbeats; a trial that misses 6 of them is retried"),
    ] = 10.0


class StudySettings(TrainingSettings):
    """The settings of a set of studies."""

    output: Annotated[Path, Field(description="directory for the results and the report")] = Path("studies")
    scale: Annotated[
        Literal["quick", "full"],
        Field(description="quick: minutes on two CPU cores; full: more points and repeats, all epochs"),
    ] = "quick"
    repeats: Annotated[
        int, Field(ge=0, description="seeds of each point of a study; 0 takes the scale's number")
    ] = 0
