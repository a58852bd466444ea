"""Diagnosis of a run's learning curves, underfitting or overfitting, and advice on what to try.

The validation error is decomposed into the training error (bias) and the generalisation gap (variance). Whichever is
larger is worth working on.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Any

from bundle.manifest import Metrics
from training.loop.state import Epoch

LARGE_BIAS = 0.02
"""Training error above which a model underfits. Softmax regression misclassifies 7% of MNIST's training images, and a
network with one small hidden layer under 1%: above 2%, more capacity or longer training helps."""
LARGE_GAP = 0.01
"""Generalisation gap in accuracy above which a model overfits; regularised networks on MNIST end near 0.5%."""
SIGNIFICANT = 2.0
"""Standard errors that a gap must exceed to be significant (95%), which matters for small validation sets."""
LOSS_RISE = 1.1
"""Ratio of the validation loss to its minimum from which it counts as rising; epochs differ by a few percent anyway."""
STILL_FALLING = 0.98
"""Ratio of the last validation loss to the one before, below which the loss counts as still falling."""
ANNEALED = 0.1
"""Share of the peak learning rate below which a schedule has ended, so that longer training needs a new schedule."""
UNSTABLE = 1.25
"""Ratio of an epoch's training loss to the one before from which training is unstable: the learning rate is too
high."""
NOTHING_LEARNED = 0.1
"""Share of the accuracy between guessing and perfect, below which the model has learned nothing."""
OVERCONFIDENT, UNDERCONFIDENT = 1.25, 0.8
"""Temperatures from which the uncalibrated model is overconfident, or underconfident."""
OTHER_TEST = 3.0
"""Standard errors (99.7%) by which the test error must exceed the validation error to be reported; a small excess is
expected, because the model was selected on the validation set."""
NOISY_VALIDATION = 0.005
"""Standard error of the validation accuracy from which it cannot distinguish good models."""

FRAGILE = 3.0
"""Ratio of the error on moved images to the error on images as they are from which a model is fragile."""
MOVED = "moved by 2 and 2 pixels"

AUGMENTATIONS = ("rotation", "shear", "scaling", "translation", "elastic_alpha", "erasing")
"""Settings that turn augmentation on if one is not 0."""


class Diagnosis(StrEnum):
    """The diagnosis of the learning curves."""

    FITS = "fits"
    OVERFITS = "overfits"
    UNDERFITS = "underfits"
    LEARNED_NOTHING = "learned nothing"


def published_epoch(history: Sequence[Epoch], hyperparameters: Mapping[str, Any]) -> Epoch:
    """Return the epoch of the published weights: the best one with early stopping, else the last."""
    if not hyperparameters.get("patience"):
        return history[-1]
    if hyperparameters.get("monitor") == "loss":
        return min(history, key=lambda epoch: epoch.validation_loss)
    return max(history, key=lambda epoch: epoch.validation_accuracy)


def diagnose(
    epoch: Epoch, *, classes: int, validation_images: int, training: Metrics | None = None
) -> Diagnosis:
    """Return the diagnosis of the published epoch.

    Args:
        epoch: the published epoch.
        classes: number of classes.
        validation_images: number of images of the validation accuracy.
        training: metrics of the published weights on training images in evaluation mode; without them the epoch's
            training accuracy is used, which dropout lowers.
    """
    bias, gap = _bias_and_gap(epoch, training)
    if epoch.validation_accuracy < 1 / classes + NOTHING_LEARNED * (1 - 1 / classes):
        return Diagnosis.LEARNED_NOTHING
    certain = gap > SIGNIFICANT * standard_error(epoch.validation_accuracy, validation_images)
    is_overfit = gap > LARGE_GAP and certain
    is_underfit = bias > LARGE_BIAS
    if is_overfit and (gap > bias or not is_underfit):
        return Diagnosis.OVERFITS
    return Diagnosis.UNDERFITS if is_underfit else Diagnosis.FITS


def advise(
    history: Sequence[Epoch],
    hyperparameters: Mapping[str, Any],
    *,
    classes: int,
    validation_images: int,
    training: Metrics | None = None,
    test: Metrics | None = None,
    temperature: float = 1.0,
    robustness: Mapping[str, float] | None = None,
) -> list[str]:
    """Return sentences: the diagnosis, then what to try, by option, then caveats.

    Args:
        history: at least one `Epoch`.
        hyperparameters: of the run, by the settings' names; missing ones give no advice.
        classes: number of classes.
        validation_images: number of validation images.
        training: metrics on training images in evaluation mode, if measured.
        test: metrics on the test set.
        temperature: of the calibration.
        robustness: change of the test images to their accuracy.
    """
    epoch = published_epoch(history, hyperparameters)
    diagnosis = diagnose(epoch, classes=classes, validation_images=validation_images, training=training)
    bias, gap = _bias_and_gap(epoch, training)
    where = "training images" if training else "training images (measured with dropout on)"
    found = (
        f"it misclassifies {bias:.2%} of the {where} and {1 - epoch.validation_accuracy:.2%} of the validation "
        f"images, a generalisation gap of {100 * gap:.2f} percentage points."
    )
    match diagnosis:
        case Diagnosis.LEARNED_NOTHING:
            said = [
                f"The model learned nothing: an accuracy of {epoch.validation_accuracy:.2%} is close to guessing.",
                *_learn(hyperparameters),
            ]
        case Diagnosis.UNDERFITS:
            said = [f"The model underfits (high bias): {found}", *_fit_more(history, hyperparameters)]
        case Diagnosis.OVERFITS:
            said = [f"The model overfits (high variance): {found}", *_regularise(hyperparameters)]
        case Diagnosis.FITS:
            said = [f"The model fits: {found}", *_refine(hyperparameters)]
    return [
        *said,
        *_of_the_curves(history, hyperparameters, diagnosis),
        *_doubts(epoch, validation_images, test),
        *_of_moved_images(hyperparameters, diagnosis, test, robustness or {}),
        *_of_confidence(temperature, diagnosis),
    ]


def standard_error(accuracy: float, images: int) -> float:
    """Return the binomial standard error of an accuracy; at least that of a single error."""
    share = min(max(accuracy, 1 / images), 1 - 1 / images)
    return math.sqrt(share * (1 - share) / images) if images > 1 else 1.0


def _bias_and_gap(epoch: Epoch, training: Metrics | None) -> tuple[float, float]:
    """Return the training error, and the validation error less the training error."""
    accuracy = training.accuracy if training else epoch.train_accuracy
    return 1 - accuracy, accuracy - epoch.validation_accuracy


def _learn(values: Mapping[str, Any]) -> list[str]:
    rate = values.get("learning_rate")
    said = f"Check the data and its labels first. Then try another --learning-rate (now {rate}), lower if "
    return [said + "the loss jumps and higher if it falls slowly, and fewer layers or --batch-norm."]


def _fit_more(history: Sequence[Epoch], values: Mapping[str, Any]) -> list[str]:
    hidden = values.get("hidden")
    said = []
    if hidden is not None and not hidden:
        said.append("Softmax regression has linear decision boundaries: add a hidden layer (--hidden 256).")
    elif hidden:
        now = ",".join(map(str, hidden))
        said.append(f"Increase the capacity: wider layers, or one more (--hidden, now {now}).")
    if (drops := _dropout(values)) > 0:
        said.append(f"Reduce regularisation: less dropout (--dropout, now up to {drops:g}).")
    if decay := _decay(values):
        said.append(f"Lower the L2 or L1 penalty ({decay}).")
    if values.get("label_smoothing"):
        said.append(f"Lower --label-smoothing, now {values['label_smoothing']:g}.")
    if values.get("adversarial"):
        said.append(f"Lower --adversarial, now {values['adversarial']:g}.")
    said.append(f"Train longer than {len(history)} epochs (--epochs).")
    if _is_augmented(values):
        said.append("Reduce augmentation, which makes the training images harder, while the model underfits.")
    return said


def _regularise(values: Mapping[str, Any]) -> list[str]:
    said = []
    drops = _dropout(values)
    if values.get("hidden") and drops < 0.5:
        more = "Add dropout (--dropout 0.2 to 0.5)" if drops == 0 else f"Raise --dropout, now up to {drops:g}"
        said.append(f"{more}, which prevents co-adaptation of units.")
    decay = _decay(values)
    if not decay:
        said.append("Add weight decay (--weight-decay), or an L2 penalty in the loss (--l2).")
    else:
        said.append(f"Raise the penalty on large weights ({decay}).")
    if _is_augmented(values):
        said.append(
            "Collect more data if possible, which helps most, or raise the limits of the augmentation."
        )
    else:
        said.append(
            "Collect more data if possible, which helps most, or use augmentation if moved and rotated images keep "
            "their class (--translation 2 --rotation 10 --elastic-alpha 34 --elastic-sigma 4)."
        )
    if not values.get("patience"):
        said.append("Use early stopping: --patience 5 keeps the weights of the best epoch.")
    if values.get("hidden"):
        said.append("Reduce the capacity (--hidden) last: a large regularised network beats a small one.")
    return said


def _refine(values: Mapping[str, Any]) -> list[str]:
    average = "" if values.get("ema") else "average the weights (--ema 0.999); "
    said = (
        "Capacity and regularisation are balanced. To improve further, check the misclassified images below "
    )
    said += "for wrong labels and ambiguous images; add or augment data; "
    return [f"{said}{average}average the predictions of several seeds."]


def _of_the_curves(history: Sequence[Epoch], values: Mapping[str, Any], diagnosis: Diagnosis) -> list[str]:
    """Return advice from the curves over the epochs."""
    said = []
    last, best = history[-1], min(history, key=lambda epoch: epoch.validation_loss)
    if last.validation_loss > LOSS_RISE * best.validation_loss and last.train_loss < best.train_loss:
        said.append(
            f"The validation loss was lowest after epoch {best.epoch} ({best.validation_loss:.4f} nats) and rose to "
            f"{last.validation_loss:.4f} while the training loss was still falling: from then on the model memorised "
            "the training images. "
            + (
                f"Early stopping published epoch {published_epoch(history, values).epoch}."
                if values.get("patience")
                else "Use early stopping (--patience 5 --monitor loss), or more regularisation."
            )
        )
    elif len(history) > 1 and diagnosis != Diagnosis.LEARNED_NOTHING:
        is_falling = last.validation_loss < STILL_FALLING * history[-2].validation_loss
        peak = max(epoch.learning_rate for epoch in history)
        is_annealed = (
            values.get("schedule") in ("cosine", "one_cycle") or last.learning_rate <= ANNEALED * peak
        )
        if is_falling and not is_annealed:
            said.append("The validation loss was still falling when training ended: train for more --epochs.")
        elif is_falling:
            said.append(
                "The validation loss fell until the last epoch, while the learning rate was annealed to 0: "
                "a longer schedule (--epochs) may help."
            )
    rises = [b.epoch for a, b in pairwise(history) if b.train_loss > UNSTABLE * a.train_loss]
    if rises:
        said.append(
            f"The training loss rose by more than {UNSTABLE - 1:.0%} in epoch {rises[0]}, so the steps are too large: "
            "lower --learning-rate, lengthen --warmup, or clip gradients (--clip 1)."
        )
    return said


def _doubts(epoch: Epoch, validation_images: int, test: Metrics | None) -> list[str]:
    """Return caveats about the sizes of the validation and test sets."""
    said = []
    error = standard_error(epoch.validation_accuracy, validation_images)
    if error > NOISY_VALIDATION:
        said.append(
            f"The validation set has {validation_images} images, so its accuracy has a 95% interval of "
            f"±{SIGNIFICANT * error:.1%}. Hold out more (--validation), or compare models over several seeds."
        )
    if test:
        difference = epoch.validation_accuracy - test.accuracy
        both = math.hypot(error, standard_error(test.accuracy, test.images))
        if difference > OTHER_TEST * both:
            said.append(
                f"The test accuracy is {100 * difference:.2f} percentage points below the validation accuracy, "
                f"{difference / both:.0f} standard errors: the test images differ from the training images, or many "
                "choices were made on the validation set."
            )
    return said


def _of_moved_images(
    values: Mapping[str, Any], diagnosis: Diagnosis, test: Metrics | None, robustness: Mapping[str, float]
) -> list[str]:
    if test is None or MOVED not in robustness or diagnosis == Diagnosis.LEARNED_NOTHING:
        return []
    before, after = 1 - test.accuracy, 1 - robustness[MOVED]
    if after <= FRAGILE * max(before, 1 / test.images) or values.get("translation"):
        return []
    said = (
        f"Moved by 2 and 2 pixels, {after:.1%} of the test images are misclassified instead of {before:.1%}. "
    )
    return [
        said
        + "Images from other sources are rarely centred as these: use augmentation (--augmentation auto)."
    ]


def _of_confidence(temperature: float, diagnosis: Diagnosis) -> list[str]:
    if temperature > OVERCONFIDENT:
        more = (
            "" if diagnosis == Diagnosis.OVERFITS else " More dropout, L2 or --label-smoothing reduces that."
        )
        return [f"The model was overconfident: calibration divides its logits by {temperature:.2f}.{more}"]
    if temperature < UNDERCONFIDENT:
        said = f"The model was underconfident: calibration divides its logits by {temperature:.2f}, "
        return [said + "which is usual with strong regularisation or label smoothing."]
    return []


def _is_augmented(values: Mapping[str, Any]) -> bool:
    return any(values.get(name) for name in AUGMENTATIONS)


def _dropout(values: Mapping[str, Any]) -> float:
    given = values.get("dropout") or ()
    hidden = given if values.get("hidden") and not isinstance(given, int | float) else ()
    return float(max((*hidden, values.get("input_dropout") or 0.0)))


def _decay(values: Mapping[str, Any]) -> str:
    given = [
        f"--{name.replace('_', '-')}, now {values[name]:g}"
        for name in ("weight_decay", "l2", "l1")
        if values.get(name)
    ]
    return "; ".join(given)
