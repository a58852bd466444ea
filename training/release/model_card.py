"""The model card in Markdown: intended use, metrics, robustness, calibration and provenance of a model.

Source: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

import re

from bundle.manifest import BLACK_ON_WHITE, WHITE_ON_BLACK, ModelMetadata
from common.html.frame import visible
from training.augmentation.policy import describe_policy
from training.model.quantisation import describe_quantisation

MAX_LISTED_CLASSES = 100
"""Most class names that the card lists; the manifest has all."""

_CARD = """\
# {name}

A multilayer perceptron ({layers}{activation}) that classifies 28x28 grayscale images into {count} classes:
{classes}.

**Intended use.** Images like those of the data set "{dataset}": 28x28 pixels, 8 bits, {polarity}.{resized}
**Not intended** for other images: a softmax always predicts one of its classes. Use the calibrated
probability to abstain. The metrics below are for images like the training images; expect lower
accuracy on images from other sources, and measure it on your own.

| | validation | test |
|---|---|---|
| images | {validation.images} | {test.images} |
| accuracy | {validation.accuracy:.2%} | {test.accuracy:.2%} |
| negative log-likelihood, nats | {validation.nll:.4f} | {test.nll:.4f} |
| after calibration | {validation.nll_calibrated:.4f} | {test.nll_calibrated:.4f} |
| expected calibration error | {validation.ece:.4f} | {test.ece:.4f} |
| after calibration | {validation.ece_calibrated:.4f} | {test.ece_calibrated:.4f} |

**Quantisation.** {quantisation}

**Robustness.** {augmentation}

{robustness}

An inverted image, {inverted}, is answered with a warning: the service never inverts an image.

**Calibration.** Probabilities are softmax(logits / {temperature:.4f}). The temperature was fitted on
the validation set; it is 1 if no other had a lower log loss in cross-validation.

**Training.** {train} images, split with seed {seed}; created {created} on {device}, code revision
{revision}. All hyperparameters, data hashes and package versions are in `manifest.json`; the learning
curves and the misclassified test images are in `report.html`.
"""

_OPPOSITE = {WHITE_ON_BLACK: BLACK_ON_WHITE, BLACK_ON_WHITE: WHITE_ON_BLACK}
_RESIZED = {
    "fit": "scaled to 28x28 as a whole, whatever its aspect ratio",
    "pad": "scaled to 28x28 in its aspect ratio, and padded with the median gray of its border",
    "mnist": "reduced to its ink, which was fitted into 20x20 pixels and centred by mass, as MNIST's digits were",
}
_RESIZED = {
    how: f"\nEach training image was {what}\n(`resize={how}`); the service does the same to others."
    for how, what in _RESIZED.items()
}


def model_card(metadata: ModelMetadata) -> str:
    """Return the model card for the metadata, in CommonMark with tables."""
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
        resized=_RESIZED[metadata.input.resize] if metadata.input.resize else "",
        validation=metadata.validation,
        test=metadata.test,
        quantisation=plain(describe_quantisation(metadata)),
        robustness=_robustness(metadata),
        inverted=_OPPOSITE[metadata.input.polarity].replace("-", " "),
        augmentation=plain(describe_policy(metadata.hyperparameters)),
        temperature=metadata.temperature,
        train=metadata.dataset.train,
        seed=metadata.dataset.split_seed,
        created=plain(metadata.created),
        device=plain(metadata.environment.device),
        revision=plain(metadata.environment.code_revision),
    )


def _robustness(metadata: ModelMetadata) -> str:
    """Return a table of the test error on the original images and after each change."""
    accuracy = {"as they are": metadata.test.accuracy, **metadata.robustness}
    rows = [f"| {plain(change)} | {1 - value:.2%} |" for change, value in accuracy.items()]
    return "\n".join(["| test images | error |", "|---|---|", *rows])


def plain(text: str) -> str:
    """Return text escaped for Markdown, on one line.

    ASCII punctuation characters with a meaning in Markdown or HTML are escaped by a backslash (CommonMark 0.31,
    section 2.4), and so are the dot of a number that could start a list, and what makes a link of a bare address in
    GitHub's Markdown (GFM 0.29, section 6.9). Runs of white space become one space.
    """
    escaped = re.sub(r"([\\`*_{}\[\]<>()#+!|~&$\"'-])", r"\\\1", visible(text))
    escaped = re.sub(r"^(\d+)\.", r"\1\\.", escaped)
    escaped = re.sub(r"(?i)(?<=www)\.|:(?=//)", r"\\\g<0>", escaped)
    return re.sub(r"\s+", " ", escaped)
