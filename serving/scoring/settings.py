"""Every option of the batch scorer, with its default, its limits and its help.

`--part-rows` on the command line is `GLYPH_SCORE_PART_ROWS` in the environment.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.configuration import CommaSeparated, Layer, OrNone, Settings, from_environment

ENVIRONMENT_PREFIX = "GLYPH_SCORE_"

Positive = Annotated[int, Field(ge=1)]
Format = Literal["parquet", "csv", "jsonl"]

ENDINGS: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""Ending of an output that is one file: its format. Any other output is a folder of parts."""

MAX_REMOTE_BATCH = 256
"""Images that a service computes at once: it cuts larger requests."""

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


class ScoreSettings(Settings):
    """What is scored, with which model, and where the answers go."""

    input: Annotated[
        tuple[str, ...],
        CommaSeparated,
        Field(
            min_length=1,
            description="folders, files or patterns: image files, IDX, .npy, .npz, .parquet, .tar, .zip, a .txt list "
            "of paths; - is the standard input",
        ),
    ]
    output: Annotated[
        Path,
        Field(description="a folder of parts, or one file that ends in .parquet, .csv or .jsonl"),
    ]
    format: Annotated[
        Format | None,
        OrNone,
        Field(description="what is written; none is by the output's ending, Parquet for a folder"),
    ] = None
    model: Annotated[Path, Field(description="directory of the model, models/NAME")] = Path("models/mnist")
    version: Annotated[Positive | None, OrNone, Field(description="its version; none is the newest")] = None
    provider: Annotated[
        Literal["auto", "cuda", "cpu"],
        Field(description="execution provider: 'auto' takes CUDA if it works and the CPU else"),
    ] = "auto"
    device_id: Annotated[int, Field(ge=0, description="which GPU, where CUDA is used")] = 0
    arithmetic: Annotated[
        Literal["auto", "float32", "integer"],
        Field(
            description="how the CPU computes the first layer: 'auto' takes integers where the processor has AMX and "
            "the version a graph for it, and float32 else. A job has one of the two: name it where its machines differ"
        ),
    ] = "auto"
    batch: Annotated[
        Annotated[int, Field(ge=32, le=4096)] | None,
        OrNone,
        Field(
            description="images that are computed at once, a power of two from 32 to 4096, by --url to 256; none is "
            "256, and 4096 on CUDA",
        ),
    ] = None
    engine: Annotated[
        Literal["local", "ray"],
        Field(description="where it is computed: in this process, or by Ray Data (needs glyph[ray])"),
    ] = "local"
    url: Annotated[
        str | None,
        OrNone,
        Field(description="score by a running service at this address instead, as http://host:8080"),
    ] = None
    token_file: Annotated[
        Path | None,
        OrNone,
        Field(description="file with the bearer token that the service at --url asks for"),
    ] = None
    ca_file: Annotated[
        Path | None,
        OrNone,
        Field(description="PEM file of who signs the certificate of an https --url; none is this system's"),
    ] = None
    connections: Annotated[
        int, Field(ge=1, le=256, description="requests that wait for the service at --url at once")
    ] = 4
    timeout_seconds: Annotated[
        float, Field(gt=0, le=3600, description="time for each request to the service at --url")
    ] = 30.0
    patience_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=86400,
            description="how long a request that fails is tried again before the run ends; what is written "
            "stays, and the same command goes on",
        ),
    ] = 300.0
    column: Annotated[
        str | None,
        OrNone,
        Field(description="Parquet column of the images; none is the only one that can be"),
    ] = None
    top: Annotated[
        Positive | None,
        OrNone,
        Field(description="write only the k most probable classes; none writes all probabilities"),
    ] = None
    part_rows: Annotated[
        int,
        Field(
            ge=1, le=1 << 20, description="images in a part, which is what a killed run may have to repeat"
        ),
    ] = 16384
    shard: Annotated[
        str | None,
        OrNone,
        Field(
            description="i/n: score only the parts i, i+n, i+2n, ... (from 0); none is JOB_COMPLETION_INDEX of "
            "JOB_COMPLETIONS where these are set, else 0/1"
        ),
    ] = None
    workers: Annotated[
        Positive | None,
        OrNone,
        Field(description="processes that read and decode image files; none is one for each usable CPU"),
    ] = None
    strict: Annotated[bool, Field(description="stop at the first image that cannot be read")] = False
    labels: Annotated[
        str | None,
        OrNone,
        Field(
            description="known labels to compare with: an IDX, .npy or .csv file, or column:NAME of Parquet"
        ),
    ] = None
    report: Annotated[
        Path | None, OrNone, Field(description="write a page with the summary and the least confident images")
    ] = None
    quiet: Annotated[bool, Field(description="show no progress and no summary, only errors")] = False

    @model_validator(mode="after")
    def _agree(self) -> Self:
        ending = ENDINGS.get(self.output.suffix.lower())
        if ending and self.format and ending != self.format:
            raise ValueError(f"format: {self.output.name} ends as {ending}, and --format says {self.format}")
        if self.url and self.engine == "ray":
            raise ValueError("url: a service computes, or Ray does: leave out --url or --engine ray")
        if self.batch and self.batch.bit_count() != 1:
            raise ValueError(f"batch: {self.batch} is no power of two: name 256, for example")
        if self.url and self.batch and self.batch > MAX_REMOTE_BATCH:
            raise ValueError(
                f"batch: {self.batch} is more than the {MAX_REMOTE_BATCH} that a service computes at once: name fewer"
            )
        if self.report is not None and self._is_output(self.report):
            raise ValueError(f"report: {self.report} is where the output is written: name another file")
        if self.shard is not None:
            shard_of(self, {})
        return self

    def _is_output(self, path: Path) -> bool:
        """Tell whether the output has, or may have, a file of its own at a path."""
        place, output = path.resolve(), self.output.resolve()
        if self.is_single_file or place == output:
            return place == output
        return place.parent == output and place.name.startswith(("part-", "_"))

    @property
    def written_format(self) -> Format:
        """Return what is written, the output's ending considered."""
        return self.format or ENDINGS.get(self.output.suffix.lower(), "parquet")

    @property
    def is_single_file(self) -> bool:
        """Tell whether the output is one file, not a folder of parts."""
        return self.output.suffix.lower() in ENDINGS


def shard_of(settings: ScoreSettings, environment: Mapping[str, str]) -> tuple[int, int]:
    """Return (index, count) of this process's share of the parts.

    Kubernetes gives each pod of an Indexed Job its JOB_COMPLETION_INDEX
    (kubernetes.io/docs/concepts/workloads/controllers/job, Completion mode); how many there are, the
    manifest has to repeat as JOB_COMPLETIONS.

    Raises:
        ValueError: it is not i/n with i below n, or one of the two variables is missing.
    """
    text = settings.shard
    if text is None:
        index, count = environment.get("JOB_COMPLETION_INDEX"), environment.get("JOB_COMPLETIONS")
        if index is None and count is None:
            return 0, 1
        if index is None or count is None:
            lacking = "JOB_COMPLETIONS" if count is None else "JOB_COMPLETION_INDEX"
            raise ValueError(f"shard: {lacking} is not set and the other is: set both, or give --shard i/n")
        text = f"{index}/{count}"
    match = _SHARD.fullmatch(text)
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(f"shard: '{text}' is no i/n with i from 0 to n - 1, as 0/4")
    return int(match[1]), int(match[2])


def environment_layer(environment: Mapping[str, str] | None = None) -> Layer:
    """Return the settings in `environment`, by default the process's own.

    Raises:
        ConfigurationError: a `GLYPH_SCORE_` variable names no setting; it says which is nearest.
    """
    return from_environment(
        ScoreSettings, os.environ if environment is None else environment, ENVIRONMENT_PREFIX
    )
