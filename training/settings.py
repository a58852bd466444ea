"""Every option of the training job, with its default, its limits and its help.

The same names serve the command line (`--batch-size`), a YAML file (`batch_size`) and the
environment (`GLYPH_TRAIN_BATCH_SIZE`). One class per subject, all of them together at the end.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from bundle.manifest import IMAGE_SIZE
from common.configuration import CommaSeparated, OrNone, Settings

ENVIRONMENT_PREFIX = "GLYPH_TRAIN_"
MAX_HIDDEN_LAYERS = 64

Probability = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
Above0 = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


def model_name(text: str) -> str:
    """Return the nearest allowed model name: lower case, and a dash for what is not allowed."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).lstrip("._-")[:63]
    return name or "model"


def _without_password(uri: str | None) -> str | None:
    """Refuse a URI with a password: the manifest and the report state every setting."""
    if uri and "@" in uri.partition("://")[2].partition("/")[0]:
        raise ValueError("it would be published: give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    return uri


class IOSettings(Settings):
    """What to read, and where to write."""

    data: Annotated[
        str,
        Field(description="mnist, idx:DIR, idx:DIR#SET, folder:DIR (a subfolder per class) or npz:FILE"),
    ] = "mnist"
    data_dir: Annotated[Path, Field(description="directory of the MNIST files")] = Path("data/mnist")
    models: Annotated[Path, Field(description="model repository to publish in")] = Path("models")
    name: Annotated[
        ModelName | None,
        OrNone,
        Field(description="the model's name, published as MODELS/NAME/VERSION; none is the data set's"),
    ] = None
    runs: Annotated[
        Path, Field(description="where checkpoints and metrics go while a model trains: RUNS/NAME")
    ] = Path("runs")
    tensorboard: Annotated[
        Path | None,
        OrNone,
        Field(description="log to TensorBoard event files in this directory; needs glyph[tracking]"),
    ] = None
    mlflow: Annotated[
        str | None,
        OrNone,
        AfterValidator(_without_password),
        Field(description="log to the MLflow server at this URI; needs glyph[tracking]"),
    ] = None
    code_revision: Annotated[
        str, Field(description="revision to record where there is no .git; empty asks git")
    ] = ""
    validation: Annotated[
        Positive | None,
        OrNone,
        Field(description="images held out of training for validation; none is one in twelve"),
    ] = None
    test_share: Annotated[
        float, Field(gt=0, lt=1, description="share held out as the test set where the data has none")
    ] = 1 / 6
    test_seed: Annotated[
        int, Field(ge=0, lt=2**31, description="seed of that; keep it where runs are compared")
    ] = 0
    seed: Annotated[
        int,
        Field(ge=0, lt=2**31, description="seed of the split, weights, order, dropout and augmentation"),
    ] = 0


class ModelSettings(Settings):
    """The multilayer perceptron. No hidden layer at all is softmax regression."""

    hidden: Annotated[
        tuple[Positive, ...],
        CommaSeparated,
        Field(description="widths of the hidden layers, first to last; empty is softmax regression"),
    ] = (512, 256)
    activation: Annotated[
        Literal["relu", "leaky_relu", "elu", "gelu", "tanh", "sigmoid"],
        Field(description="what follows each hidden layer"),
    ] = "relu"
    initialisation: Annotated[
        Literal["he", "xavier", "orthogonal", "pytorch"],
        Field(description="how weights start; biases start at 0, or as PyTorch does with 'pytorch'"),
    ] = "he"
    dropout: Annotated[
        tuple[Probability, ...],
        CommaSeparated,
        Field(description="probability of dropping a unit: one for all hidden layers, or one for each"),
    ] = (0.2,)
    input_dropout: Annotated[Probability, Field(description="probability of dropping a pixel")] = 0.0
    noise: Annotated[NotNegative, Field(description="deviation of normal noise before each activation")] = 0.0
    input_noise: Annotated[
        NotNegative, Field(description="deviation of normal noise on the standardised pixels")
    ] = 0.0
    batch_norm: Annotated[bool, Field(description="batch normalisation before each activation")] = False
    max_norm: Annotated[
        Above0 | None,
        OrNone,
        Field(description="largest Euclidean norm of a hidden unit's incoming weights"),
    ] = None

    @model_validator(mode="after")
    def _layers_agree(self) -> Self:
        if len(self.hidden) > MAX_HIDDEN_LAYERS:
            raise ValueError(f"hidden: more than {MAX_HIDDEN_LAYERS} layers do not train without shortcuts")
        if len(self.dropout) not in (1, len(self.hidden)):
            raise ValueError(
                f"dropout: {len(self.dropout)} probabilities for {len(self.hidden)} hidden layers; "
                "give one for all or one for each"
            )
        return self

    def dropout_of(self, layer: int) -> float:
        """Return the dropout probability after hidden layer `layer`, counted from 0."""
        return self.dropout[layer if len(self.dropout) > 1 else 0]


class OptimizationSettings(Settings):
    """How the weights are found."""

    epochs: Annotated[Positive, Field(description="passes over the training images")] = 20
    batch_size: Annotated[Positive, Field(description="images in one step, over all devices together")] = 128
    accumulate: Annotated[
        Positive, Field(description="parts a batch is worked through in, to save memory; same gradient")
    ] = 1
    optimizer: Annotated[
        Literal["sgd", "adam", "adamw", "muon"],
        Field(description="muon takes the hidden matrices and leaves the rest to adamw"),
    ] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 1e-3
    momentum: Annotated[Probability, Field(description="momentum of sgd and muon")] = 0.9
    nesterov: Annotated[bool, Field(description="Nesterov's form of sgd's momentum")] = True
    schedule: Annotated[
        Literal["constant", "step", "cosine", "one_cycle"],
        Field(description="how the learning rate goes: step divides it by 10 at 1/2 and at 3/4"),
    ] = "one_cycle"
    warmup: Annotated[
        float, Field(ge=0, lt=1, description="share of all steps in which the learning rate rises")
    ] = 0.3
    weight_decay: Annotated[
        NotNegative,
        Field(description="L2 by the optimizer: decoupled with adamw and muon, in the gradient with sgd"),
    ] = 0.05
    l2: Annotated[
        NotNegative,
        Field(description="L2 as a penalty in the loss: lambda / n * sum of squares, n training images"),
    ] = 0.0
    l1: Annotated[
        NotNegative, Field(description="L1 as a penalty in the loss: lambda / n * sum of magnitudes")
    ] = 0.0
    decay_biases: Annotated[bool, Field(description="let L1 and L2 act on biases too")] = False
    label_smoothing: Annotated[
        Probability, Field(description="share of each target spread evenly over all classes")
    ] = 0.0
    clip: Annotated[
        Above0 | None, OrNone, Field(description="largest norm of a gradient; longer ones are scaled")
    ] = None
    ema: Annotated[Probability, Field(description="decay of the moving average of the weights; 0 is off")] = (
        0.0
    )
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(description="of the matrix products; auto takes bfloat16 where it was measured to be faster"),
    ] = "auto"
    patience: Annotated[
        int, Field(ge=0, description="epochs without improvement until training stops; 0 never stops early")
    ] = 0
    monitor: Annotated[
        Literal["accuracy", "loss"], Field(description="what early stopping watches, on the validation set")
    ] = "accuracy"

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate: {self.accumulate} parts of a batch of {self.batch_size} images")
        return self


class AugmentationSettings(Settings):
    """What may happen to an image, and how much of it; everything is off by default."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    augmentation: Literal["custom", "auto", "handwriting", "basic"] = "custom"
    """policy for the limits that are not given: basic moves and scales, handwriting also rotates and deforms
    elastically, custom does nothing; auto is handwriting for MNIST, KMNIST and EMNIST, and basic for other images"""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """largest rotation to either side, in degrees"""

    shear: Annotated[float, Field(ge=0, le=60)] = 0.0
    """largest slant to either side, in degrees"""

    rotate_or_shear: bool = False
    """rotate or shear an image, at even odds, and never both (as Cireşan 2010)"""

    scaling: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """largest change of width, and separately of height, as a fraction: 0.15 is 85% to 115%"""

    translation: Annotated[float, Field(ge=0, le=IMAGE_SIZE)] = 0.0
    """largest move along each axis, in pixels"""

    elastic_alpha: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """elastic deformation: factor of the blurred noise, in pixels (Simard 2003: 34); 0 turns it off"""

    elastic_sigma: Annotated[float, Field(ge=0, le=100)] = 0.0
    """elastic deformation: standard deviation of the blur, in pixels (Simard 2003: 4)"""

    erasing: Fraction = 0.0
    """probability of erasing a rectangle of an image"""

    erasing_area: Annotated[tuple[Fraction, Fraction], CommaSeparated] = (0.02, 0.33)
    """least and largest share of the image that is erased"""

    erasing_aspect: Annotated[
        tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], CommaSeparated
    ] = (0.3, 3.3)
    """least and largest ratio of height to width of what is erased"""

    gentle_classes: Annotated[tuple[Annotated[int, Field(ge=0)], ...], CommaSeparated] = ()
    """numbers of the classes that are rotated and sheared less (Cireşan 2010: 1 and 7)"""

    gentle_factor: Fraction = 0.5
    """factor of the limits of rotation and shear for those classes"""

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.elastic_alpha and not self.elastic_sigma:
            raise ValueError("elastic_alpha needs an elastic_sigma above 0, such as 4")
        for name in ("erasing_area", "erasing_aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the least ({low}) is above the largest ({high})")
        return self

    @property
    def has_affine(self) -> bool:
        """Whether images are rotated, sheared, scaled or moved."""
        return any((self.rotation, self.shear, self.scaling, self.translation))


class DistillationSettings(Settings):
    """Learning from published models as well as from the labels; without teachers it is off."""

    teachers: Annotated[
        tuple[Path, ...],
        CommaSeparated,
        Field(description="published versions to learn from, as a committee: MODELS/NAME/VERSION,..."),
    ] = ()
    distill_temperature: Annotated[
        float, Field(gt=0, le=100, description="what the teachers' and the student's logits are divided by")
    ] = 2.0
    distill_share: Annotated[
        Fraction, Field(description="share of the loss that is the teachers'; the labels have the rest")
    ] = 0.9

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        twice = [str(path) for path in self.teachers if self.teachers.count(path) > 1]
        if twice:
            raise ValueError(f"teachers: {twice[0]} is named twice, and would count twice")
        return self


class RuntimeSettings(Settings):
    """Where the job runs, and how it survives being ended."""

    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Field(description="where to train; auto takes CUDA where there is one"),
    ] = "auto"
    threads: Annotated[
        int, Field(ge=0, description="CPU threads; 0 takes as many cores as a batch has work for")
    ] = 0
    cuda_graphs: Annotated[
        bool, Field(description="on CUDA, record the training step once and replay it")
    ] = True
    resume: Annotated[
        bool, Field(description="go on from the last checkpoint in RUNS/NAME, where there is one")
    ] = False
    checkpoint_seconds: Annotated[
        NotNegative,
        Field(description="seconds between two checkpoints; the last epoch and a signal write one as well"),
    ] = 60.0
    keep_checkpoints: Annotated[Positive, Field(description="how many of the last checkpoints are kept")] = 2


class TrainingSettings(
    IOSettings,
    ModelSettings,
    OptimizationSettings,
    AugmentationSettings,
    DistillationSettings,
    RuntimeSettings,
):
    """What one training run is; two runs with equal settings on equal devices give equal weights."""
