"""The manifest of a bundle, `manifest.json`: typed, immutable, and sealed by a digest.

The file is canonical JSON, exactly `Manifest.to_bytes()`. Its `digest` is the SHA-256 of the same text without the
digest. As the manifest contains the SHA-256 of every other file, the digest identifies the whole bundle, and a changed
byte anywhere is detected.
"""

import json
from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from bundle import version_paths
from bundle.errors import InvalidBundleError
from bundle.images import contract
from common.atomic_files import sha256_bytes
from common.errors import one_line

SCHEMA_VERSION = 1
IMAGE_SIZE = contract.IMAGE_SIZE
MAX_SHOWN_DEPTH = 6
"""Most components of a field's location in an error message; hyperparameters can nest deeper."""

MANIFEST_FILE = version_paths.MANIFEST_FILE
ONNX_FILE = "model.onnx"
INTEGER_ONNX_FILE = "model.integer.onnx"
TORCHSCRIPT_FILE = "model.pt"
TORCH_EXPORT_FILE = "model.pt2"
GOLDEN_FILE = "golden.npz"
SAMPLE_FILE = "sample.png"
REPORT_FILE = "report.html"
CARD_FILE = "MODEL_CARD.md"
SIGNATURE_FILE = "model.sig"
"""Beside the manifest and not in it, because it signs the manifest too (`signing.py`)."""

FILES = (
    ONNX_FILE,
    TORCHSCRIPT_FILE,
    TORCH_EXPORT_FILE,
    GOLDEN_FILE,
    SAMPLE_FILE,
    REPORT_FILE,
    CARD_FILE,
)
"""The files of every bundle beside the manifest, which lists their SHA-256s."""
OPTIONAL_FILES = (INTEGER_ONNX_FILE,)
"""The files that a bundle may have. Older bundles have none; training omits those that it cannot prove."""

MIB = 1 << 20
MAX_MODEL_BYTES = 512 * MIB
"""134 million weights; the largest preset has 12 million."""
MAX_BYTES = {
    MANIFEST_FILE: MIB,  # 20 KB with 47 classes; parsing a hostile one takes a hundred times its size in memory
    ONNX_FILE: MAX_MODEL_BYTES,
    INTEGER_ONNX_FILE: MAX_MODEL_BYTES,
    TORCHSCRIPT_FILE: MAX_MODEL_BYTES,
    TORCH_EXPORT_FILE: MAX_MODEL_BYTES,
    GOLDEN_FILE: 256 * MIB,  # 11,000 examples of 4,000 classes take 180 MiB; training writes 1,000 at most
    SAMPLE_FILE: MIB,
    REPORT_FILE: 16 * MIB,  # training keeps it below 2 MB
    CARD_FILE: MIB,
    SIGNATURE_FILE: 1 << 16,  # 3 KB; what a server without a key for it reads of it is nothing
}
"""Size limit of each file, which readers enforce."""


def is_complete(names: Collection[str]) -> bool:
    """Return whether these files, beside the manifest, make a bundle: all required files, and no unknown ones."""
    return {*FILES} <= {*names} <= {*FILES, *OPTIONAL_FILES}


Polarity = contract.Polarity
WHITE_ON_BLACK = contract.WHITE_ON_BLACK
BLACK_ON_WHITE = contract.BLACK_ON_WHITE

MAX_GOLDEN_IMAGES = 20_000
"""A server replays them as one batch and one by one before it is ready. Training writes at most 1,000."""
MAX_INTEGER = (1 << 63) - 1
"""The largest int64, which every JSON reader can represent."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
ClassName = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Positive = Annotated[int, Field(gt=0, le=MAX_INTEGER)]


class Frozen(BaseModel):
    """An immutable record without unknown keys or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputContract(Frozen):
    """What the model expects of an image: `uint8[28, 28]`, and whether the ink is bright or dark."""

    height: Literal[28] = 28
    width: Literal[28] = 28
    dtype: Literal["uint8"] = "uint8"
    polarity: Polarity
    """`white-on-black` (ink near 255, paper near 0, as in MNIST) or its inverse."""
    resize: Annotated[contract.Resize | None, Field(exclude_if=lambda value: value is None)] = None
    """How the training images became 28x28, and so how others may (`bundle/images/resizing.py`). Omitted if they were
    28x28 as they are."""


class Metrics(Frozen):
    """Metrics of the model on one part of the data; losses are in nats."""

    images: Positive
    accuracy: Fraction
    nll: Annotated[float, Field(ge=0)]
    """Mean negative log-likelihood of the true class, before calibration."""
    ece: Fraction
    """Expected calibration error, 15 equal bins, before calibration."""
    nll_calibrated: Annotated[float, Field(ge=0)]
    ece_calibrated: Fraction


class Parity(Frozen):
    """The difference between an exported format and the trained module, over the whole test set."""

    images: Positive
    max_absolute_difference: Annotated[float, Field(ge=0)]
    """Largest |difference| of a logit."""
    max_relative_difference: Annotated[float, Field(ge=0)]
    """Largest |difference| of a logit, divided by max(1, the image's largest |logit|)."""
    labels_differing: Count


class Quantisation(Frozen):
    """The test set's metrics with the first layer's weights as they were trained, before they were rounded to int8."""

    accuracy: Fraction
    nll: Annotated[float, Field(ge=0)]
    """As `Metrics.nll`."""
    labels_differing: Count
    """Test images that the rounded weights give another label."""


class Dataset(Frozen):
    """The training data, identified by hashes."""

    name: str
    sha256: dict[str, Sha256]
    """SHA-256 of each raw file, or of the one array file."""
    train: Positive
    validation: Positive
    test: Positive
    split_seed: Count


class Environment(Frozen):
    """The hardware and software that trained the model."""

    code_revision: str
    python: str
    packages: dict[str, str]
    device: str
    """`cpu` or `cuda`, with the processor's architecture or the GPU's name in parentheses."""
    threads: Positive
    cuda: Annotated[str, Field(exclude_if=lambda value: not value)] = ""
    """The CUDA version that PyTorch was built for, such as `13.0`. Omitted if the model was trained on a CPU."""
    driver: Annotated[str, Field(exclude_if=lambda value: not value)] = ""
    """The NVIDIA driver and the newest CUDA that it supports: `580.95.05 (CUDA 13.0)`. Omitted if unknown."""


class Histogram(Frozen):
    """Counts by bin; `edges` has one element more than `counts`."""

    edges: tuple[float, ...]
    counts: tuple[Count, ...]

    @model_validator(mode="after")
    def _one_edge_more(self) -> Self:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError("a histogram needs one edge more than it has counts")
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("a histogram's edges must increase")
        return self


class Reference(Frozen):
    """Histograms of the validation set, against which the service measures drift."""

    mean_ink: Histogram
    """Mean pixel of an image, 0..255."""
    border_brightness: Histogram
    """Mean of an image's 108 border pixels, 0..255."""
    confidence: Histogram
    """Calibrated probability of the predicted class."""
    predicted: tuple[Count, ...]
    """Count of predictions by class."""


class Golden(Frozen):
    """How a server replays `golden.npz` before it is ready."""

    images: Annotated[int, Field(gt=0, le=MAX_GOLDEN_IMAGES)]
    tolerance: Annotated[float, Field(gt=0, le=0.01)]
    """Largest allowed |difference| of a probability."""


class ModelMetadata(Frozen):
    """The metadata that the training job records of a model, before its files are hashed."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    created: Annotated[str, Field(pattern=r"^[0-9TZ:.+-]{1,40}$")]
    """ISO 8601, UTC."""
    run_id: str = ""
    """Identifies the training run, so that a run that is restarted after publishing does not publish twice."""
    classes: Annotated[tuple[ClassName, ...], Field(min_length=2)]
    input: InputContract
    temperature: Annotated[float, Field(gt=0)]
    """Calibration: probabilities = softmax(logits / temperature)."""
    hyperparameters: dict[str, JsonValue]
    dataset: Dataset
    teachers: Annotated[dict[str, Sha256], Field(exclude_if=lambda value: not value)] = {}
    """Digest of each teacher of a distilled model, by its path. Omitted if there are none."""
    environment: Environment
    validation: Metrics
    test: Metrics
    robustness: Annotated[dict[str, Fraction], Field(exclude_if=lambda value: not value)] = {}
    """Test accuracy after each transform of the images (`training/model/robustness.py`). Omitted if empty."""
    quantisation: Annotated[Quantisation | None, Field(exclude_if=lambda value: value is None)] = None
    """What rounding the first layer to int8 changed. Omitted if its weights are float32."""
    parity: dict[str, Parity]
    """By exported format: `torchscript`, `torch_export`, `onnx_cpu`; `onnx_cpu_integer` for `model.integer.onnx`; and
    `onnx_cuda` if the model was trained on CUDA and ONNX Runtime runs there."""
    omitted: Annotated[dict[str, str], Field(exclude_if=lambda value: not value)] = {}
    """The optional file (`model.integer.onnx`) or exported format (`onnx_cuda`) that could not be proven, and why.
    Omitted if empty."""
    golden: Golden
    sample_label: ClassName
    """The class of `sample.png`."""
    reference: Reference

    @model_validator(mode="after")
    def _classes_agree(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names must be unique")
        if self.sample_label not in self.classes:
            raise ValueError("the sample's label must be one of the classes")
        if len(self.reference.predicted) != len(self.classes):
            raise ValueError("the reference must count the predictions of every class")
        return self


class Manifest(ModelMetadata):
    """The metadata, the SHA-256 of every file, and the digest over all of it."""

    schema_version: Literal[1] = 1
    files: dict[str, Sha256]
    """File name to SHA-256: all of `FILES`, optionally some of `OPTIONAL_FILES`, and no other names (paths)."""
    digest: Sha256

    @field_validator("files")
    @classmethod
    def _complete(cls, files: dict[str, str]) -> dict[str, str]:
        if not is_complete(files):
            raise ValueError(
                f"it lists {one_line(', '.join(sorted(files)))}; a bundle has {', '.join(FILES)} and optionally "
                f"{', '.join(OPTIONAL_FILES)}"
            )
        return files

    @classmethod
    def seal(cls, metadata: ModelMetadata, files: dict[str, str]) -> Self:
        """Return the sealed manifest of `metadata` and `files`, name to SHA-256."""
        fields = metadata.model_dump() | {"files": files}
        unsealed = cls.model_validate(fields | {"digest": "0" * 64})
        return cls.model_validate(fields | {"digest": unsealed.expected_digest()})

    def to_bytes(self) -> bytes:
        """Return canonical JSON: UTF-8, sorted keys, an indent of two spaces, one trailing newline."""
        return _canonical(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse `manifest.json` and verify its digest.

        Raises:
            InvalidBundleError: it is not JSON, has a newer schema, a missing or unknown field or a value out of range,
                or was changed after it was sealed.
        """
        try:
            document: Any = json.loads(data)
        except (ValueError, RecursionError) as error:  # ValueError also for a number with too many digits
            raise InvalidBundleError(f"{MANIFEST_FILE} is not JSON: {one_line(error)}") from None
        version = document.get("schema_version") if isinstance(document, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise InvalidBundleError(
                f"{MANIFEST_FILE} has schema version {one_line(version, 20)} and this code reads up to "
                f"{SCHEMA_VERSION}: upgrade Glyph, or publish with an older version of it"
            )
        try:
            manifest = cls.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"][:MAX_SHOWN_DEPTH]) or "the document"
            raise InvalidBundleError(
                f"{MANIFEST_FILE}: {one_line(where, 100)}: {one_line(first['msg'], 500)} "
                f"({error.error_count()} problem(s) in all)"
            ) from None
        if manifest.digest != manifest.expected_digest() or manifest.to_bytes() != data:
            raise InvalidBundleError(
                f"{MANIFEST_FILE} was changed after it was published: its digest does not match its content; "
                "restore the file, or publish again"
            )
        return manifest

    def expected_digest(self) -> str:
        """Return the SHA-256 of the canonical JSON without the digest itself."""
        return sha256_bytes(_canonical(self.model_dump(mode="json", exclude={"digest"})))


def _canonical(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="surrogatepass") + b"\n"
