"""What a bundle states about itself: `manifest.json`, typed, frozen and digested.

The file is canonical: it is exactly `Manifest.to_bytes()`, and its last fact, `digest`, is the
SHA-256 of the same text without the digest. With the SHA-256 of every other file inside, one
string identifies the whole bundle, and one changed byte anywhere is noticed.
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

from bundle.errors import InvalidBundleError
from bundle.images import contract
from common.atomic_files import sha256_bytes
from common.errors import one_line

SCHEMA_VERSION = 1
IMAGE_SIZE = contract.IMAGE_SIZE
MAX_SHOWN_DEPTH = 6
"""Parts of a field's place that an error names; hyperparameters can nest deeper."""

MANIFEST_FILE = "manifest.json"
ONNX_FILE = "model.onnx"
INTEGER_ONNX_FILE = "model.integer.onnx"
TORCHSCRIPT_FILE = "model.pt"
TORCH_EXPORT_FILE = "model.pt2"
GOLDEN_FILE = "golden.npz"
SAMPLE_FILE = "sample.png"
REPORT_FILE = "report.html"
CARD_FILE = "MODEL_CARD.md"

FILES = (
    ONNX_FILE,
    TORCHSCRIPT_FILE,
    TORCH_EXPORT_FILE,
    GOLDEN_FILE,
    SAMPLE_FILE,
    REPORT_FILE,
    CARD_FILE,
)
"""What every bundle has, beside the manifest, which lists each file's SHA-256."""
OPTIONAL_FILES = (INTEGER_ONNX_FILE,)
"""What a bundle may have: older ones have it not, and it is left out where it cannot be proven."""

MIB = 1 << 20
MAX_MODEL_BYTES = 512 * MIB
"""134 million weights; the largest preset has 12."""
MAX_BYTES = {
    MANIFEST_FILE: MIB,  # one of 47 classes has 20 KB; to parse a hostile one takes a hundred times its size
    ONNX_FILE: MAX_MODEL_BYTES,
    INTEGER_ONNX_FILE: MAX_MODEL_BYTES,
    TORCHSCRIPT_FILE: MAX_MODEL_BYTES,
    TORCH_EXPORT_FILE: MAX_MODEL_BYTES,
    GOLDEN_FILE: 256 * MIB,  # 11,000 examples of 4,000 classes have 180; training writes 1,000 at most
    SAMPLE_FILE: MIB,
    REPORT_FILE: 16 * MIB,  # training keeps it below 2 MB
    CARD_FILE: MIB,
}
"""Most bytes of each file that are read."""


def is_complete(names: Collection[str]) -> bool:
    """Tell whether these files, the manifest aside, make a bundle: all that it has, and none that it may not."""
    return {*FILES} <= {*names} <= {*FILES, *OPTIONAL_FILES}


Polarity = contract.Polarity
WHITE_ON_BLACK = contract.WHITE_ON_BLACK
BLACK_ON_WHITE = contract.BLACK_ON_WHITE

MAX_GOLDEN_IMAGES = 20_000
"""A server replays them whole and one by one before it is ready. Training writes 1,000 at most."""
MAX_INTEGER = (1 << 63) - 1
"""What every reader of JSON and of int64 can hold."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
ClassName = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Positive = Annotated[int, Field(gt=0, le=MAX_INTEGER)]


class Frozen(BaseModel):
    """A record that cannot be changed, with no unknown keys and no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputContract(Frozen):
    """What an image must be: `uint8[28, 28]`, and which end of 0..255 is ink."""

    height: Literal[28] = 28
    width: Literal[28] = 28
    dtype: Literal["uint8"] = "uint8"
    polarity: Polarity
    """`white-on-black` (ink near 255, paper near 0, as in MNIST) or its inverse."""


class Metrics(Frozen):
    """How well the model does on one part of the data, in nats for the losses."""

    images: Positive
    accuracy: Fraction
    nll: Annotated[float, Field(ge=0)]
    """Mean negative log-likelihood of the true class, before calibration."""
    ece: Fraction
    """Expected calibration error, 15 equal bins, before calibration."""
    nll_calibrated: Annotated[float, Field(ge=0)]
    ece_calibrated: Fraction


class Parity(Frozen):
    """How far one exported form is from the trained module, over the whole test set."""

    images: Positive
    max_absolute_difference: Annotated[float, Field(ge=0)]
    """Largest |difference| of a logit."""
    max_relative_difference: Annotated[float, Field(ge=0)]
    """Largest |difference| of a logit, divided by max(1, the image's largest |logit|)."""
    labels_differing: Count


class Dataset(Frozen):
    """What the model was trained on, so that it can be found again."""

    name: str
    sha256: dict[str, Sha256]
    """SHA-256 of each raw file, or of the one array file."""
    train: Positive
    validation: Positive
    test: Positive
    split_seed: Count


class Environment(Frozen):
    """Where and with what the model was trained."""

    code_revision: str
    python: str
    packages: dict[str, str]
    device: str
    """`cpu` or `cuda`, and in brackets the processor's architecture or the GPU's name."""
    threads: Positive
    cuda: Annotated[str, Field(exclude_if=lambda value: not value)] = ""
    """The version that torch was built for, such as `13.0`. Left out of the file where no GPU trained."""
    driver: Annotated[str, Field(exclude_if=lambda value: not value)] = ""
    """Of NVIDIA, and the newest CUDA that it runs: `580.95.05 (CUDA 13.0)`. Left out of the file if not known."""


class Histogram(Frozen):
    """Counts over bins; `edges` has one number more than `counts`."""

    edges: tuple[float, ...]
    counts: tuple[Count, ...]

    @model_validator(mode="after")
    def _one_edge_more(self) -> Self:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError("a histogram has one edge more than it has counts")
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("a histogram's edges increase")
        return self


class Reference(Frozen):
    """What the validation set looked like, for measuring drift against it."""

    mean_ink: Histogram
    """Mean pixel of an image, 0..255."""
    border_brightness: Histogram
    """Mean of an image's 108 border pixels, 0..255."""
    confidence: Histogram
    """Calibrated probability of the predicted class."""
    predicted: tuple[Count, ...]
    """Count of predictions by class."""


class Golden(Frozen):
    """How `golden.npz` is to be replayed before a server calls itself ready."""

    images: Annotated[int, Field(gt=0, le=MAX_GOLDEN_IMAGES)]
    tolerance: Annotated[float, Field(gt=0, le=0.01)]
    """Largest allowed |difference| of a probability."""


class ModelMetadata(Frozen):
    """All that the training job knows of a model, before its files are hashed."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    created: Annotated[str, Field(pattern=r"^[0-9TZ:.+-]{1,40}$")]
    """ISO 8601, UTC."""
    run_id: str = ""
    """Of the training run, so that a run restarted after publishing does not publish twice."""
    classes: Annotated[tuple[ClassName, ...], Field(min_length=2)]
    input: InputContract
    temperature: Annotated[float, Field(gt=0)]
    """Calibration: probabilities = softmax(logits / temperature)."""
    hyperparameters: dict[str, JsonValue]
    dataset: Dataset
    teachers: Annotated[dict[str, Sha256], Field(exclude_if=lambda value: not value)] = {}
    """Of a distilled model: each teacher's digest, by its place. Left out of the file where there are none."""
    environment: Environment
    validation: Metrics
    test: Metrics
    robustness: Annotated[dict[str, Fraction], Field(exclude_if=lambda value: not value)] = {}
    """Test accuracy after each change of the images (`training/model/robustness.py`). Left out of the file if empty."""
    parity: dict[str, Parity]
    """By exported form: `torchscript`, `torch_export`, `onnx_cpu`; `onnx_cpu_integer` of the file
    `model.integer.onnx`; `onnx_cuda` if it was trained on CUDA and ONNX Runtime runs there."""
    omitted: Annotated[dict[str, str], Field(exclude_if=lambda value: not value)] = {}
    """What could not be proven, by optional file (`model.integer.onnx`, left out) or exported form (`onnx_cuda`), and
    why. Left out of the file if empty."""
    golden: Golden
    sample_label: ClassName
    """The class of `sample.png`."""
    reference: Reference

    @model_validator(mode="after")
    def _classes_agree(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names are unique")
        if self.sample_label not in self.classes:
            raise ValueError("the sample's label is one of the classes")
        if len(self.reference.predicted) != len(self.classes):
            raise ValueError("the reference counts predictions of every class")
        return self


class Manifest(ModelMetadata):
    """The metadata, the SHA-256 of every file, and the digest that covers all of it."""

    schema_version: Literal[1] = 1
    files: dict[str, Sha256]
    """All of `FILES`, maybe some of `OPTIONAL_FILES`, and no others: another name could lead anywhere."""
    digest: Sha256

    @field_validator("files")
    @classmethod
    def _complete(cls, files: dict[str, str]) -> dict[str, str]:
        if not is_complete(files):
            raise ValueError(
                f"it lists {one_line(', '.join(sorted(files)))}; a bundle is {', '.join(FILES)} and maybe "
                f"{', '.join(OPTIONAL_FILES)}"
            )
        return files

    @classmethod
    def seal(cls, metadata: ModelMetadata, files: dict[str, str]) -> Self:
        """Return the manifest of `metadata` and of the `files`, name to SHA-256."""
        fields = metadata.model_dump() | {"files": files}
        unsealed = cls.model_validate(fields | {"digest": "0" * 64})
        return cls.model_validate(fields | {"digest": unsealed.expected_digest()})

    def to_bytes(self) -> bytes:
        """Return the manifest as canonical JSON: UTF-8, sorted keys, two spaces, one last newline."""
        return _canonical(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse `manifest.json` and prove that it is unchanged.

        Raises:
            InvalidBundleError: it is no JSON, has a newer schema, lacks or adds a field, holds a
                value out of range, or was changed after it was sealed.
        """
        try:
            document: Any = json.loads(data)
        except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError, too
            raise InvalidBundleError(f"{MANIFEST_FILE} is not JSON: {one_line(error)}") from None
        version = document.get("schema_version") if isinstance(document, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise InvalidBundleError(
                f"{MANIFEST_FILE} has schema version {one_line(version, 20)} and this code reads up to "
                f"{SCHEMA_VERSION}: upgrade Glyph, or publish with the older one"
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
                f"{MANIFEST_FILE} was changed after it was published: its digest does not match "
                "its content; restore the file or publish again"
            )
        return manifest

    def expected_digest(self) -> str:
        """Return the SHA-256 of the canonical JSON without the digest itself."""
        return sha256_bytes(_canonical(self.model_dump(mode="json", exclude={"digest"})))


def _canonical(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="surrogatepass") + b"\n"
