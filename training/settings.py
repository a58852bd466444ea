"""The settings of the training job, each with its default, limits and help.

A setting has the same name on the command line (`--batch-size`), in a YAML file (`batch_size`) and in the environment
(`GLYPH_TRAIN_BATCH_SIZE`). There is one class for each subject; `TrainingSettings` combines them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from bundle.images.contract import IMAGE_SIZE, Resize
from common.configuration import CommaSeparated, OrNone, Settings
from common.store_urls import check_store_url

ENVIRONMENT_PREFIX = "GLYPH_TRAIN_"
MAX_HIDDEN_LAYERS = 64

Probability = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
Above0 = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]

_SECRET_IN_QUERY = re.compile(r"[?&][^=&]*(pass|pwd|token|secret|key|sig)[^=&]*=", re.IGNORECASE)


def model_name(text: str) -> str:
    """Return a valid model name: lower case, with dashes in place of other characters."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).lstrip("._-")[:63]
    return name or "model"


def _without_password(uri: str | None) -> str | None:
    """Reject a URI with a password or a token: the manifest and the report contain every setting."""
    if uri and ("@" in uri.partition("://")[2].partition("/")[0] or _SECRET_IN_QUERY.search(uri)):
        raise ValueError(
            "the password would be published: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    return uri


def _store_url(url: str | None) -> str | None:
    """Reject what is no URL of an object store, or has credentials."""
    return None if url is None else check_store_url(url)


class IOSettings(Settings):
    """Inputs and outputs: the data, its split, and where files are written."""

    data: Annotated[
        str,
        Field(
            description="data set: mnist, or the PATH of a file or folder (IDX, .npz, .npy, .mat, .csv, .parquet, "
            ".tar, .zip, a subfolder of images per class); FORM:PATH and PATH#SET decide where several are there, see "
            "docs/data.md"
        ),
    ] = "mnist"
    pixels: Annotated[
        Literal["auto", "0..1", "0..255"],
        Field(
            description="range of pixels that are not bytes: 'auto' tells it from all values, and refuses what is in "
            "doubt"
        ),
    ] = "auto"
    label_column: Annotated[
        str | None, OrNone, Field(description="column of the labels in a table; none finds it")
    ] = None
    classes: Annotated[
        Path | None,
        OrNone,
        Field(
            description="file of class names, one a line, in the order of the labels; none is what the set says"
        ),
    ] = None
    skip_bad: Annotated[
        Path | None,
        OrNone,
        Field(
            description="leave out images that cannot be read, and list them in this file; none stops at them"
        ),
    ] = None
    data_dir: Annotated[Path, Field(description="directory of the MNIST files")] = Path("data/mnist")
    resize: Annotated[
        Resize | None,
        OrNone,
        Field(
            description="how images of other sizes become 28x28: fit scales them, pad keeps their aspect ratio, mnist "
            "fits the ink into 20x20 and centres it by mass; none rejects them"
        ),
    ] = None
    models: Annotated[Path, Field(description="model repository to publish to")] = Path("models")
    name: Annotated[
        ModelName | None,
        OrNone,
        Field(description="name of the model, published as MODELS/NAME/VERSION; none is the data set's name"),
    ] = None
    publish: Annotated[
        str | None,
        OrNone,
        AfterValidator(_store_url),
        Field(
            description="model repository in an object store that 'fit' pushes the published version to as well: "
            "s3://BUCKET/models, gs://, az:// (docs/object-storage.md)",
        ),
    ] = None
    runs: Annotated[
        Path, Field(description="directory of checkpoints and metrics, in RUNS/NAME, while a model trains")
    ] = Path("runs")
    tensorboard: Annotated[
        Path | None,
        OrNone,
        Field(description="write TensorBoard event files to this directory; needs glyph[tracking]"),
    ] = None
    mlflow: Annotated[
        str | None,
        OrNone,
        AfterValidator(_without_password),
        Field(description="log to the MLflow server at this URI; needs glyph[tracking]"),
    ] = None
    sign: Annotated[
        Path | None,
        OrNone,
        Field(
            exclude=True,  # the manifest states every other setting, and whoever has the key concerns no reader
            description="PEM file of the private key that signs the published version; SIGNING_KEY_PASSPHRASE is the "
            "passphrase of an encrypted one; none leaves it unsigned; needs glyph[signing]",
        ),
    ] = None
    code_revision: Annotated[
        str, Field(description="code revision for the manifest where there is no .git; empty is git's")
    ] = ""
    validation: Annotated[
        Positive | None,
        OrNone,
        Field(description="number of images held out for validation; none is one in twelve"),
    ] = None
    test_share: Annotated[
        float, Field(gt=0, lt=1, description="share held out as the test set if the data has none")
    ] = 1 / 6
    test_seed: Annotated[
        int, Field(ge=0, lt=2**31, description="seed of that test set; keep it for runs that are compared")
    ] = 0
    seed: Annotated[
        int,
        Field(ge=0, lt=2**31, description="seed of split, weights, image order, dropout and augmentation"),
    ] = 0


class ModelSettings(Settings):
    """The multilayer perceptron; without hidden layers it is softmax regression."""

    hidden: Annotated[
        tuple[Positive, ...],
        CommaSeparated,
        Field(description="widths of the hidden layers, first to last; empty is softmax regression"),
    ] = (512, 256)
    activation: Annotated[
        Literal["relu", "leaky_relu", "elu", "gelu", "tanh", "sigmoid"],
        Field(description="activation after each hidden layer"),
    ] = "relu"
    initialisation: Annotated[
        Literal["he", "xavier", "orthogonal", "pytorch"],
        Field(description="initialisation of the weights; biases start at 0, except with 'pytorch'"),
    ] = "he"
    dropout: Annotated[
        tuple[Probability, ...],
        CommaSeparated,
        Field(
            description="probability of dropping a hidden unit: one for all hidden layers, or one for each"
        ),
    ] = (0.2,)
    input_dropout: Annotated[Probability, Field(description="probability of dropping a pixel")] = 0.0
    noise: Annotated[
        NotNegative, Field(description="standard deviation of Gaussian noise before each activation")
    ] = 0.0
    input_noise: Annotated[
        NotNegative, Field(description="standard deviation of Gaussian noise on the standardised pixels")
    ] = 0.0
    batch_norm: Annotated[bool, Field(description="batch normalisation before each activation")] = False
    first_layer: Annotated[
        Literal["int8", "float32"],
        Field(
            description="weights of the published first layer: int8 rounds them to 8 bits with a scale for each unit, "
            "for a graph that multiplies bytes; float32 leaves them, and so does a network without hidden layers"
        ),
    ] = "int8"
    max_norm: Annotated[
        Above0 | None,
        OrNone,
        Field(description="max-norm constraint: largest Euclidean norm of a hidden unit's incoming weights"),
    ] = None

    @model_validator(mode="after")
    def _layers_agree(self) -> Self:
        if len(self.hidden) > MAX_HIDDEN_LAYERS:
            raise ValueError(
                f"hidden: more than {MAX_HIDDEN_LAYERS} layers do not train without skip connections: give fewer"
            )
        if len(self.dropout) not in (1, len(self.hidden)):
            raise ValueError(
                f"dropout: {len(self.dropout)} probabilities for {len(self.hidden)} hidden layers: "
                "give one for all, or one for each"
            )
        return self

    def dropout_of(self, layer: int) -> float:
        """Return the dropout probability after hidden layer `layer`, counted from 0."""
        return self.dropout[layer if len(self.dropout) > 1 else 0]


class OptimizationSettings(Settings):
    """Optimizer, schedule, regularisation and early stopping."""

    epochs: Annotated[Positive, Field(description="passes over the training images")] = 20
    batch_size: Annotated[Positive, Field(description="images of a step, over all devices together")] = 128
    accumulate: Annotated[
        Positive, Field(description="gradient accumulation: parts of a batch that are computed one by one")
    ] = 1
    optimizer: Annotated[
        Literal["sgd", "adam", "adamw", "muon"],
        Field(description="optimizer; muon trains the hidden matrices and adamw the other parameters"),
    ] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 1e-3
    momentum: Annotated[Probability, Field(description="momentum of sgd and muon")] = 0.9
    nesterov: Annotated[bool, Field(description="Nesterov momentum of sgd")] = True
    schedule: Annotated[
        Literal["constant", "step", "cosine", "one_cycle"],
        Field(
            description="learning rate schedule; step divides the rate by 10 at 1/2 and at 3/4 of all steps"
        ),
    ] = "one_cycle"
    warmup: Annotated[
        float, Field(ge=0, lt=1, description="warm-up: share of all steps in which the learning rate rises")
    ] = 0.3
    weight_decay: Annotated[
        NotNegative,
        Field(
            description="weight decay of the optimizer: decoupled with adamw and muon, else in the gradient"
        ),
    ] = 0.05
    l2: Annotated[
        NotNegative,
        Field(description="L2 as a penalty in the loss: lambda / n * sum of squares, n training images"),
    ] = 0.0
    l1: Annotated[
        NotNegative, Field(description="L1 as a penalty in the loss: lambda / n * sum of magnitudes")
    ] = 0.0
    decay_biases: Annotated[bool, Field(description="apply L1, L2 and weight decay to biases as well")] = (
        False
    )
    label_smoothing: Annotated[
        Probability, Field(description="share of each target that is spread evenly over all classes")
    ] = 0.0
    adversarial: Annotated[
        float,
        Field(
            ge=0,
            le=28,
            description="adversarial training: Euclidean norm by which each image is moved along the gradient of its "
            "loss, where ink is 1 and paper 0; half of the loss is that of the moved images; 0 is off",
        ),
    ] = 0.0
    clip: Annotated[
        Above0 | None, OrNone, Field(description="gradient clipping: largest norm of the gradient")
    ] = None
    ema: Annotated[
        Probability, Field(description="decay of the exponential moving average of the weights; 0 is off")
    ] = 0.0
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(
            description="precision of matrix products; auto is bfloat16 where the device multiplies it and the layers "
            "are large enough to gain"
        ),
    ] = "auto"
    straight_through: Annotated[
        int,
        Field(
            ge=0,
            description="last epochs that train with the first layer rounded to int8, by the straight-through "
            "estimator; 0 rounds it after training only",
        ),
    ] = 0
    patience: Annotated[
        int, Field(ge=0, description="early stopping: epochs without improvement until it stops; 0 is off")
    ] = 0
    monitor: Annotated[
        Literal["accuracy", "loss"], Field(description="validation metric that early stopping monitors")
    ] = "accuracy"

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate: {self.accumulate} parts are more than the {self.batch_size} images of a batch"
            )
        return self


class AugmentationSettings(Settings):
    """Random deformations of the training images, and their limits; all are off by default."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    augmentation: Literal["custom", "auto", "handwriting", "basic"] = "custom"
    """augmentation policy, which sets the limits that are not given: basic moves and scales, handwriting also rotates
    and deforms elastically, custom does nothing; auto is handwriting for MNIST, KMNIST and EMNIST, else basic"""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """largest rotation to either side, in degrees"""

    shear: Annotated[float, Field(ge=0, le=60)] = 0.0
    """largest shear to either side, in degrees"""

    rotate_or_shear: bool = False
    """rotate or shear each image, with equal probability, but not both (Cireşan 2010)"""

    scaling: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """largest change of width, and independently of height, as a fraction: 0.15 is 85% to 115%"""

    translation: Annotated[float, Field(ge=0, le=IMAGE_SIZE)] = 0.0
    """largest translation along each axis, in pixels"""

    elastic_alpha: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """elastic deformation: factor of the blurred noise, in pixels (Simard 2003: 34); 0 is off"""

    elastic_sigma: Annotated[float, Field(ge=0, le=100)] = 0.0
    """elastic deformation: standard deviation of the blur, in pixels (Simard 2003: 4)"""

    erasing: Fraction = 0.0
    """probability of erasing a rectangle of an image"""

    erasing_area: Annotated[tuple[Fraction, Fraction], CommaSeparated] = (0.02, 0.33)
    """smallest and largest share of the image that is erased"""

    erasing_aspect: Annotated[
        tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], CommaSeparated
    ] = (0.3, 3.3)
    """smallest and largest aspect ratio, height by width, of the erased rectangle"""

    gentle_classes: Annotated[tuple[Annotated[int, Field(ge=0)], ...], CommaSeparated] = ()
    """indices of the classes that are rotated and sheared less (Cireşan 2010: 1 and 7)"""

    gentle_factor: Fraction = 0.5
    """factor on the limits of rotation and shear of the gentle classes"""

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.elastic_alpha and not self.elastic_sigma:
            raise ValueError("elastic_alpha needs an elastic_sigma above 0, such as 4")
        for name in ("erasing_area", "erasing_aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the smallest ({low}) is above the largest ({high})")
        return self

    @property
    def has_affine(self) -> bool:
        """Whether images are rotated, sheared, scaled or moved."""
        return any((self.rotation, self.shear, self.scaling, self.translation))


class DistillationSettings(Settings):
    """Distillation: training on the outputs of published models as well as on the labels; off without teachers."""

    teachers: Annotated[
        tuple[Path, ...],
        CommaSeparated,
        Field(description="published versions to distil, as an ensemble: MODELS/NAME/VERSION,..."),
    ] = ()
    distill_temperature: Annotated[
        float,
        Field(
            gt=0, le=100, description="distillation temperature: divides the logits of teachers and student"
        ),
    ] = 2.0
    distill_share: Annotated[
        Fraction,
        Field(description="share of the distillation term in the loss; the rest is that of the labels"),
    ] = 0.9

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        twice = [str(path) for path in self.teachers if self.teachers.count(path) > 1]
        if twice:
            raise ValueError(f"teachers: {twice[0]} is listed twice and would count twice: list it once")
        return self


class RuntimeSettings(Settings):
    """The device, CPU threads and checkpoints."""

    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Field(description="device to train on; auto is cuda if it is available"),
    ] = "auto"
    threads: Annotated[
        int, Field(ge=0, description="CPU threads; 0 is as many cores as a batch has work for")
    ] = 0
    cuda_graphs: Annotated[
        bool, Field(description="on CUDA, capture the training step as a CUDA graph and replay it")
    ] = True
    resume: Annotated[
        bool, Field(description="continue from the last checkpoint in RUNS/NAME, if there is one")
    ] = False
    restart: Annotated[
        bool,
        Field(
            description="remove the checkpoints of an unfinished run in RUNS/NAME, and start over; without this option "
            "and resume they are an error"
        ),
    ] = False
    checkpoint_seconds: Annotated[
        NotNegative,
        Field(
            description="seconds between checkpoints; one is also written after the last epoch and on a signal"
        ),
    ] = 60.0
    keep_checkpoints: Annotated[Positive, Field(description="number of checkpoints to keep")] = 2

    @model_validator(mode="after")
    def _one_way_on(self) -> Self:
        if self.resume and self.restart:
            raise ValueError(
                "resume and restart exclude each other: give one of them (--no-resume switches off what a file or the "
                "environment sets)"
            )
        return self


class TrainingSettings(
    IOSettings,
    ModelSettings,
    OptimizationSettings,
    AugmentationSettings,
    DistillationSettings,
    RuntimeSettings,
):
    """The settings of a training run; equal settings on equal devices give equal weights."""

    @model_validator(mode="after")
    def _is_rounded(self) -> Self:
        if self.straight_through and self.first_layer == "float32":
            raise ValueError(
                "straight_through trains for a first layer of int8, and first_layer is float32: leave out one of them"
            )
        return self

    @property
    def quantises(self) -> bool:
        """Whether the first layer is rounded to int8: softmax regression has no layer that would gain from it."""
        return self.first_layer == "int8" and bool(self.hidden)

    synonyms: ClassVar[Mapping[str, str]] = {
        other: own
        for own, others in {
            "accumulate": "grad_accum gradient_accumulation gradient_accumulation_steps accumulation_steps",
            "activation": "act activation_fn activation_function nonlinearity",
            "adversarial": "adv adv_eps adversarial_eps fgsm",
            "augmentation": "augment aug data_augmentation",
            "batch_norm": "bn batchnorm use_bn batch_normalization",
            "batch_size": "bs b batch batchsize mini_batch_size minibatch_size train_batch_size",
            "checkpoint_seconds": "save_every checkpoint_every save_interval",
            "clip": "grad_clip gradient_clipping clip_norm clip_grad max_grad_norm grad_clip_norm",
            "code_revision": "commit git_sha revision",
            "data": "dataset data_path data_set train_data input",
            "device": "gpu cuda use_cuda accelerator no_cuda",
            "distill_share": "distill_alpha kd_alpha alpha",
            "distill_temperature": "temperature kd_temperature",
            "dropout": "dropout_rate drop drop_rate dropout_p p_dropout",
            "ema": "ema_decay ema_rate averaging",
            "epochs": "e n num_epochs n_epochs nb_epochs max_epochs epoch iterations",
            "first_layer": "quantization quantize quantise quantisation int8 weight_bits",
            "hidden": "layers hidden_layers hidden_size hidden_sizes hidden_dim hidden_units units layer_sizes width",
            "initialisation": "init initializer weight_init initialization",
            "keep_checkpoints": "save_total_limit max_checkpoints",
            "l1": "l1_lambda l1_penalty l1_reg",
            "l2": "l2_lambda l2_penalty l2_reg reg",
            "label_smoothing": "smoothing ls label_smooth",
            "learning_rate": "lr rate learning_rate_init base_lr max_lr eta step_size",
            "models": "output out output_dir model_dir model_path save_dir export_dir",
            "momentum": "beta m",
            "name": "model_name run_name experiment",
            "optimizer": "optim opt optimiser solver",
            "publish": "push push_to upload remote",
            "patience": "early_stop early_stopping early_stopping_patience n_iter_no_change",
            "precision": "dtype amp fp16 bf16 mixed_precision",
            "restart": "overwrite force fresh clean from_scratch",
            "resume": "continue resume_from checkpoint load",
            "rotation": "rotate degrees max_rotation",
            "runs": "run_dir log_dir logdir checkpoint_dir ckpt_dir checkpoints",
            "schedule": "scheduler lr_scheduler lr_schedule sched",
            "seed": "random_seed random_state rng_seed",
            "straight_through": "ste qat quantization_aware_training qat_epochs",
            "teachers": "teacher distill",
            "test_share": "test_size test_split test_fraction",
            "threads": "num_threads n_jobs jobs workers num_workers cpus",
            "translation": "translate shift max_shift",
            "validation": "val validation_size val_size validation_split val_split validation_fraction",
            "warmup": "warmup_ratio warmup_steps warmup_epochs warm_up",
            "weight_decay": "wd decay weightdecay",
        }.items()
        for other in others.split()
    }
