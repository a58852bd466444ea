"""The batch scorer's options, with their defaults, limits and help.

`--part-rows` on the command line is `GLYPH_SCORE_PART_ROWS` in the environment.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from bundle.images.contract import Resize
from bundle.version_paths import with_version
from common.configuration import CommaSeparated, Layer, OrNone, Settings, from_environment
from imagesets.source import Options, Part, StatFiles

ENVIRONMENT_PREFIX = "GLYPH_SCORE_"

Positive = Annotated[int, Field(ge=1)]
Format = Literal["parquet", "csv", "jsonl"]

ENDINGS: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""File extension to format, for an output that is a single file. Any other output is a folder of parts."""

LABEL_COLUMN = "column:"
"""Before the name of a column of labels."""
MAX_REMOTE_BATCH = 256
"""The service's largest batch: it divides larger requests."""

_ENDING = re.compile(r"\.\w*[a-z]\w*")
"""What a file's ending looks like; the folders `run.2` and `2026.11.28` have none."""
_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


def _check_ending(output: Any) -> Any:
    """Refuse an output that looks like a file of another format, and a folder that looks like a file of ours."""
    if not isinstance(output, str | os.PathLike):
        return output
    text = os.fspath(output)
    path, is_folder = Path(text), text.endswith(os.sep)
    ending = path.suffix.lower()
    if is_folder and ending in ENDINGS:
        raise ValueError(f"a folder cannot end in {ending}: omit the slash for a single file, or the ending")
    if is_folder or ending in ENDINGS or not _ENDING.fullmatch(ending) or path.is_dir():
        return output
    raise ValueError(
        f"{ending} is no format of the output: end it in {', '.join(ENDINGS)}, or give a folder ({text}{os.sep})"
    )


class ScoreSettings(Settings):
    """What is scored, with which model, and where the predictions are written."""

    input: Annotated[
        tuple[str, ...],
        CommaSeparated,
        Field(
            min_length=1,
            description="folders, files or glob patterns: image files, IDX, .npy, .npz, .mat, .csv, .parquet, "
            ".tar, .zip, a .txt list of paths; FORM:PATH or PATH#SET a data set as training takes it (docs/data.md); "
            "- is the standard input; s3://BUCKET/PATH, gs:// or az:// an object or all objects below a prefix, which "
            "are fetched first",
        ),
    ]
    output: Annotated[
        Path,
        BeforeValidator(_check_ending),
        Field(
            description="folder for the parts, or a single file that ends in .parquet, .csv or .jsonl; or the URL of "
            "one in an object store, where each part is uploaded when it is written"
        ),
    ]
    format: Annotated[
        Format | None,
        OrNone,
        Field(description="output format; none is by the output's extension, Parquet for a folder"),
    ] = None
    model: Annotated[
        Path,
        Field(
            description="directory of the model, models/NAME, or of a version, models/NAME/VERSION, or its URL in an "
            "object store"
        ),
    ] = Path("models/mnist")
    version: Annotated[
        Positive | None, OrNone, Field(description="version of the model; none is the newest")
    ] = None
    trusted_keys: Annotated[
        Path | None,
        OrNone,
        Field(
            description="PEM file of public keys, or directory of such files: a version that none of them signed is "
            "refused before anything of it is parsed; none takes any version"
        ),
    ] = None
    provider: Annotated[
        Literal["auto", "cuda", "cpu"],
        Field(description="execution provider: 'auto' is CUDA if it works, else the CPU"),
    ] = "auto"
    device_id: Annotated[int, Field(ge=0, description="index of the GPU, with CUDA")] = 0
    arithmetic: Annotated[
        Literal["auto", "float32", "integer"],
        Field(
            description="precision of the first layer on the CPU: 'auto' is exact integers if the CPU has VNNI, AMX or "
            "Arm's dot products and the bundle an integer graph, else float32; a job has one precision, so set it if "
            "machines differ"
        ),
    ] = "auto"
    batch: Annotated[
        Annotated[int, Field(ge=32, le=4096)] | None,
        OrNone,
        Field(
            description="images in a batch, a power of two from 32 to 4096, with --url at most 256; none is 256, and "
            "4096 on CUDA",
        ),
    ] = None
    engine: Annotated[
        Literal["local", "ray"],
        Field(description="backend: this process, or Ray Data (requires glyph[ray])"),
    ] = "local"
    url: Annotated[
        str | None,
        OrNone,
        Field(
            description="address of a running service that computes the probabilities, such as http://host:8080"
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        OrNone,
        Field(description="file with the bearer token for the service at --url"),
    ] = None
    ca_file: Annotated[
        Path | None,
        OrNone,
        Field(description="PEM file of certificate authorities for an https --url; none is the system's"),
    ] = None
    connections: Annotated[
        int, Field(ge=1, le=256, description="concurrent requests to the service at --url")
    ] = 4
    timeout_seconds: Annotated[
        float, Field(gt=0, le=3600, description="timeout of a request to the service at --url")
    ] = 30.0
    patience_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=86400,
            description="how long a failed request is retried before the run ends; written parts are kept, and the "
            "same command resumes the run",
        ),
    ] = 300.0
    column: Annotated[
        str | None,
        OrNone,
        Field(description="Parquet column of the images; none detects it"),
    ] = None
    part: Annotated[
        Part | None,
        OrNone,
        Field(description="score only this part of a data set; none is all"),
    ] = None
    pixels: Annotated[
        Literal["auto", "0..1", "0..255"],
        Field(
            description="range of pixels that are not bytes: 'auto' tells it from all values, and refuses what is in "
            "doubt"
        ),
    ] = "auto"
    classes: Annotated[
        Path | None,
        OrNone,
        Field(
            description="file with the names of the labels' numbers, one a line; none is what the data set says"
        ),
    ] = None
    resize: Annotated[
        Resize | None,
        OrNone,
        Field(
            description="how image files of other sizes become 28x28: fit, pad or mnist, whichever the model's "
            "training images were resized by; none rejects them"
        ),
    ] = None
    top: Annotated[
        Positive | None,
        OrNone,
        Field(description="write only the k most probable classes; none writes all probabilities"),
    ] = None
    csv_safe: Annotated[
        bool,
        Field(
            description="in CSV, begin texts that a spreadsheet would take for formulas, as they begin with =, +, -, "
            "@, a tab or a carriage return, with an apostrophe"
        ),
    ] = True
    part_rows: Annotated[
        int,
        Field(
            ge=1, le=1 << 20, description="images in a part; a killed run repeats at most the parts in flight"
        ),
    ] = 16384
    shard: Annotated[
        str | None,
        OrNone,
        Field(
            description="i/n: score only parts i, i+n, i+2n, ... (from 0); none is JOB_COMPLETION_INDEX and "
            "JOB_COMPLETIONS if these are set, else 0/1"
        ),
    ] = None
    workers: Annotated[
        Positive | None,
        OrNone,
        Field(description="processes that read and decode image files; none is one per usable CPU"),
    ] = None
    scratch: Annotated[
        Path | None,
        OrNone,
        Field(
            description="directory for what is fetched from object stores and not uploaded yet; none is "
            "glyph-score-UID in the temporary directory"
        ),
    ] = None
    scratch_bytes: Annotated[
        int,
        Field(
            ge=1 << 20,
            description="maximum number of bytes that are fetched as the input and for a resumed output",
        ),
    ] = 8 << 30
    strict: Annotated[bool, Field(description="stop at the first image that cannot be read")] = False
    labels: Annotated[
        str | None,
        OrNone,
        Field(
            description="true labels to compare with: 'input' for the input's own, column:NAME of its tables, or a "
            "file: IDX, .npy, .npz, .mat in the input's order; .csv, .parquet, .txt by the rows' names if it has them"
        ),
    ] = None
    report: Annotated[
        Path | None,
        OrNone,
        Field(description="write an HTML report with the summary and the least confident images"),
    ] = None
    quiet: Annotated[bool, Field(description="print only errors, no progress and no summary")] = False

    @model_validator(mode="before")
    @classmethod
    def _split_version(cls, values: Any) -> Any:
        return with_version(values)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        ending = ENDINGS.get(self.output.suffix.lower())
        if ending and self.format and ending != self.format:
            raise ValueError(
                f"format: {self.output.name} has the extension of {ending}, and --format is {self.format}: change one"
            )
        if self.url and self.engine == "ray":
            raise ValueError("url: --url and --engine ray exclude each other: omit one")
        if self.batch and self.batch.bit_count() != 1:
            raise ValueError(f"batch: {self.batch} is not a power of two: give 256, for example")
        if self.url and self.batch and self.batch > MAX_REMOTE_BATCH:
            raise ValueError(
                f"batch: {self.batch} is more than {MAX_REMOTE_BATCH}, the largest batch with --url: give a smaller one"
            )
        if self.report is not None and self._is_output(self.report):
            raise ValueError(f"report: {self.report} is a path of the output: give another file")
        if self.shard is not None:
            shard_of(self, {})
        return self

    def _is_output(self, path: Path) -> bool:
        """Return whether the output has, or may have, a file at a path."""
        place, output = path.resolve(), self.output.resolve()
        if self.is_single_file or place == output:
            return place == output
        return place.parent == output and place.name.startswith(("part-", "_"))

    def options(
        self,
        say: Callable[[str], None] = lambda _: None,
        on_image_files: Callable[[], None] = lambda: None,
        stat_files: StatFiles = lambda *_: None,
    ) -> Options:
        """Return how the input is read.

        Args:
            say: shows the user a line about skipped files.
            on_image_files: called as soon as an image file is found.
            stat_files: see `Options.stat_files`.
        """
        return Options(
            column=self.column,
            label_column=self.labels.removeprefix(LABEL_COLUMN)
            if self.labels and self.labels.startswith(LABEL_COLUMN)
            else None,
            pixels=self.pixels,
            classes=self.classes,
            resize=self.resize,
            say=say,
            on_image_files=on_image_files,
            stat_files=stat_files,
        )

    @property
    def written_format(self) -> Format:
        """Return the output's format, from `format` or the extension."""
        return self.format or ENDINGS.get(self.output.suffix.lower(), "parquet")

    @property
    def is_single_file(self) -> bool:
        """Return whether the output is a single file, not a folder of parts."""
        return self.output.suffix.lower() in ENDINGS


def shard_of(settings: ScoreSettings, environment: Mapping[str, str]) -> tuple[int, int]:
    """Return (index, count) of this process's shard.

    Kubernetes sets JOB_COMPLETION_INDEX in each pod of an Indexed Job
    (kubernetes.io/docs/concepts/workloads/controllers/job, Completion mode); the Job's manifest must set
    JOB_COMPLETIONS itself.

    Raises:
        ValueError: the shard is not i/n with i below n, or one of the two variables is missing.
    """
    text = settings.shard
    if text is None:
        index, count = environment.get("JOB_COMPLETION_INDEX"), environment.get("JOB_COMPLETIONS")
        if index is None and count is None:
            return 0, 1
        if index is None or count is None:
            lacking = "JOB_COMPLETIONS" if count is None else "JOB_COMPLETION_INDEX"
            raise ValueError(
                f"shard: {lacking} is not set, and the other variable is: set both, or give --shard i/n"
            )
        text = f"{index}/{count}"
    match = _SHARD.fullmatch(text)
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(f"shard: '{text}' is not i/n with i from 0 to n - 1, such as 0/4")
    return int(match[1]), int(match[2])


def environment_layer(environment: Mapping[str, str] | None = None) -> Layer:
    """Return the settings in `environment`, by default the process's.

    Raises:
        ConfigurationError: a `GLYPH_SCORE_` variable is unknown; the message names the nearest one.
    """
    return from_environment(
        ScoreSettings, os.environ if environment is None else environment, ENVIRONMENT_PREFIX
    )
