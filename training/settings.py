"""Every option of the training job, with its default, its limits and its help.

The same names serve the command line (`--batch-size`), a YAML file (`batch_size`) and the
environment (`GLYPH_TRAIN_BATCH_SIZE`).
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from bundle.configuration import CommaSeparated, Settings

ENVIRONMENT_PREFIX = "GLYPH_TRAIN_"

Probability = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class TrainingSettings(Settings):
    """What one training run is; two runs with equal settings on equal devices give equal weights."""

    # What to read, and where to write.
    data_dir: Annotated[Path, Field(description="directory of the MNIST files")] = Path("data/mnist")
    models: Annotated[Path, Field(description="model repository to publish in")] = Path("models")
    name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$",
            description="the model's name: it is published as MODELS/NAME/VERSION",
        ),
    ] = "mnist"
    runs: Annotated[Path, Field(description="directory for the metrics file of each run")] = Path("runs")

    code_revision: Annotated[
        str, Field(description="revision to record where there is no .git; empty asks git")
    ] = ""

    # The split.
    validation: Annotated[Positive, Field(description="images held out of training for validation")] = 5000
    seed: Annotated[
        int, Field(ge=0, lt=2**31, description="seed of the split, the weights, the order and dropout")
    ] = 0

    # The model.
    hidden: Annotated[
        tuple[Positive, ...],
        CommaSeparated,
        Field(description="widths of the hidden layers, first to last"),
    ] = (512, 256)
    dropout: Annotated[
        Probability, Field(description="probability of dropping a unit after each hidden layer")
    ] = 0.2

    # Optimization.
    epochs: Annotated[Positive, Field(description="passes over the training images")] = 20
    batch_size: Annotated[Positive, Field(description="images in one step")] = 128
    learning_rate: Annotated[float, Field(gt=0, description="peak of the one-cycle schedule")] = 1e-3
    weight_decay: Annotated[
        NotNegative, Field(description="L2: AdamW's decoupled weight decay, on weights and not biases")
    ] = 1e-2

    # The machine.
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Field(description="where to train; auto takes CUDA where there is one"),
    ] = "auto"
    threads: Annotated[int, Field(ge=0, description="CPU threads; 0 takes every usable core")] = 0

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        if len(self.hidden) > 64:
            raise ValueError("hidden: more than 64 layers is not a multilayer perceptron that trains")
        return self
