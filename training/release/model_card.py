"""The model card: what a model is for, how good it is, and where it comes from, in Markdown.

Source of the form: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

import re

from bundle.manifest import ModelMetadata
from common.html.frame import visible
from training.augmentation.policy import describe_policy

MAX_LISTED_CLASSES = 100
"""Class names that are listed; the manifest has all of them."""

_CARD = """\
# {name}

A multilayer perceptron ({layers}{activation}) that sorts 28x28 grayscale images into {count} classes:
{classes}.

**Intended use.** Images like those of the data set "{dataset}": 28x28 pixels, 8 bits, {polarity}.
**Not intended** for images of other things: a softmax always names one of its classes. Use the
calibrated probability to abstain. The figures below are of images like the training images; expect
less of images from elsewhere, and measure on some of your own.

| | validation | test |
|---|---|---|
| images | {validation.images} | {test.images} |
| accuracy | {validation.accuracy:.2%} | {test.accuracy:.2%} |
| negative log-likelihood, nats | {validation.nll:.4f} | {test.nll:.4f} |
| after calibration | {validation.nll_calibrated:.4f} | {test.nll_calibrated:.4f} |
| expected calibration error | {validation.ece:.4f} | {test.ece:.4f} |
| after calibration | {validation.ece_calibrated:.4f} | {test.ece_calibrated:.4f} |

**Robustness.** {robustness} {augmentation}

**Calibration.** Probabilities are softmax(logits / {temperature:.4f}); the temperature was fitted on
the validation set, and is 1 where none had a lower log loss on images that it was not fitted on.

**Training.** {train} images, split with seed {seed}; created {created} on {device}, code
{revision}. Every hyperparameter, data hash and package version is in `manifest.json`, the curves
and the misclassified test images in `report.html`.
"""


def model_card(metadata: ModelMetadata) -> str:
    """Return the card of the model that the metadata describe, in CommonMark with tables."""
    hidden = metadata.hyperparameters.get("hidden")
    hidden = hidden if isinstance(hidden, list) else []
    widths = [28 * 28, *hidden, len(metadata.classes)]
    activation = f", {metadata.hyperparameters.get('activation')}" if hidden else ""
    names = [plain(name) for name in metadata.classes[:MAX_LISTED_CLASSES]]
    if len(metadata.classes) > len(names):
        names.append(f"and {len(metadata.classes) - len(names)} more")
    return _CARD.format(
        name=plain(metadata.name),
        layers="-".join(str(width) for width in widths),
        activation=plain(activation),
        count=len(metadata.classes),
        classes=", ".join(names),
        dataset=plain(metadata.dataset.name),
        polarity=metadata.input.polarity.replace("-", " "),
        validation=metadata.validation,
        test=metadata.test,
        robustness=_robustness(metadata),
        augmentation=plain(describe_policy(metadata.hyperparameters)),
        temperature=metadata.temperature,
        train=metadata.dataset.train,
        seed=metadata.dataset.split_seed,
        created=plain(metadata.created),
        device=plain(metadata.environment.device),
        revision=plain(metadata.environment.code_revision),
    )


def _robustness(metadata: ModelMetadata) -> str:
    """Return the test error as the images are and after each change, as a sentence."""
    changed = "".join(f", {1 - accuracy:.2%} {change}" for change, accuracy in metadata.robustness.items())
    return f"The test error is {1 - metadata.test.accuracy:.2%} as the images are{changed}."


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line.

    Every ASCII punctuation character that Markdown or HTML gives a meaning has a backslash before it
    (CommonMark 0.31, section 2.4), and so has the dot of a number that could begin a list. White space
    that would end a line or indent one becomes one space.
    """
    escaped = re.sub(r"([\\`*_{}\[\]<>()#+!|~&$\"'-])", r"\\\1", visible(text))
    escaped = re.sub(r"^(\d+)\.", r"\1\\.", escaped)
    return re.sub(r"\s+", " ", escaped)
