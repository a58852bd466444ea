"""The options of `tune` and of `study`: all those of `fit`, which set what is held fixed, and a few more."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from common.configuration import OrNone
from training.settings import Above0, ModelName, NotNegative, Positive, TrainingSettings

STUDIES = ("size", "shape", "activations", "dropout", "l2", "restarts", "baseline")
"""What `study` can do, in the report's order; `study/designs.py` says what each is."""


class TuneSettings(TrainingSettings):
    """What one search is."""

    trials: Annotated[
        Positive,
        Field(description="finished trials the search is to have in all, by all processes and all starts"),
    ] = 20
    study: Annotated[ModelName, Field(description="the search's name; its files go to RUNS/STUDY")] = "tune"
    storage: Annotated[
        str,
        Field(
            description="where processes share the search: a journal file (on a file system they all see) "
            "or a database's URL, such as postgresql://...; empty takes RUNS/STUDY/journal.log"
        ),
    ] = ""
    space: Annotated[
        Path | None,
        OrNone,
        Field(
            description="YAML file of what to search; the default space leaves out what a file, the "
            "environment or an option sets"
        ),
    ] = None
    show_space: Annotated[
        bool, Field(description="print the default space, as a YAML file to start from, and end")
    ] = False
    best: Annotated[
        Path | None,
        OrNone,
        Field(description="where the best settings go, for fit --config; none takes RUNS/STUDY/best.yaml"),
    ] = None
    timeout_minutes: Annotated[
        NotNegative, Field(description="end after the step in which this time is over; 0 has no limit")
    ] = 0.0
    prune: Annotated[
        bool,
        Field(description="end a trial whose validation accuracy falls below the median of earlier ones"),
    ] = True
    heartbeat_seconds: Annotated[
        Above0,
        Field(description="time between two signs of life; a trial without any for 6 of them is retried"),
    ] = 10.0


class StudySettings(TrainingSettings):
    """What a set of studies is."""

    output: Annotated[Path, Field(description="directory of the results and of the report")] = Path("studies")
    scale: Annotated[
        Literal["quick", "full"],
        Field(description="quick: minutes on two CPU cores; full: every repeat and the epochs that are set"),
    ] = "quick"
    repeats: Annotated[
        int, Field(ge=0, description="seeds for each point of a study; 0 takes what the scale says")
    ] = 0
