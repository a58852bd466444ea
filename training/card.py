"""The model card: what a model is for, how good it is, and where it comes from, in Markdown.

Source of the form: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from bundle.manifest import Facts

_CARD = """\
# {name}

A multilayer perceptron ({layers}) that sorts 28x28 grayscale images into {count} classes:
{classes}.

**Intended use.** Images like those of the data set "{dataset}": 28x28 pixels, 8 bits, {polarity}.
**Not intended** for images of other things: a softmax always names one of its classes. Use the
calibrated probability to abstain.

| | validation | test |
|---|---|---|
| images | {validation.images} | {test.images} |
| accuracy | {validation.accuracy:.2%} | {test.accuracy:.2%} |
| negative log-likelihood, nats | {validation.nll:.4f} | {test.nll:.4f} |
| after calibration | {validation.nll_calibrated:.4f} | {test.nll_calibrated:.4f} |
| expected calibration error | {validation.ece:.4f} | {test.ece:.4f} |
| after calibration | {validation.ece_calibrated:.4f} | {test.ece_calibrated:.4f} |

**Calibration.** Probabilities are softmax(logits / {temperature:.4f}); the temperature was fitted on
the validation set.

**Training.** {train} images, split with seed {seed}; created {created} on {device}, code
{revision}. Every hyperparameter, data hash and package version is in `manifest.json`, the curves
and every misclassified test image in `report.html`.
"""


def model_card(facts: Facts) -> str:
    """Return the card of the model that the facts describe."""
    hidden = facts.hyperparameters.get("hidden")
    widths = [28 * 28, *(hidden if isinstance(hidden, list) else []), len(facts.classes)]
    return _CARD.format(
        name=facts.name,
        layers="-".join(str(width) for width in widths),
        count=len(facts.classes),
        classes=", ".join(facts.classes),
        dataset=facts.dataset.name,
        polarity=facts.input.polarity.replace("-", " "),
        validation=facts.validation,
        test=facts.test,
        temperature=facts.temperature,
        train=facts.dataset.train,
        seed=facts.dataset.split_seed,
        created=facts.created,
        device=facts.environment.device,
        revision=facts.environment.code_revision,
    )
