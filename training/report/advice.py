"""What the course would say of a run's learning curves: it underfits, overfits or fits, and what to try.

The error on the validation set is taken apart as the course does: what is wrong on the training
images already (bias) and what comes on top on images not trained on (variance, the generalisation
gap). Whichever part is larger is worth working on.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Any

from bundle.manifest import Metrics
from training.loop.state import Epoch

LARGE_BIAS = 0.02
"""Share of its own training images that a model may have wrong. Softmax regression leaves 7% of MNIST
wrong and a network of one small hidden layer under 1%: who is above 2% has capacity or time to gain."""
LARGE_GAP = 0.01
"""Generalisation gap in accuracy that is worth a word; regularised networks on MNIST end near 0.5%."""
CERTAIN = 2.0
"""Standard errors that a gap must exceed, so that a small validation set does not call chance a gap (95%)."""
LOSS_RISE = 1.1
"""Validation loss over its least from which it counts as rising: epochs differ by a few percent anyway."""
STILL_FALLING = 0.98
"""Validation loss of the last epoch over that before, below which another epoch would have paid."""
ANNEALED = 0.1
"""Share of the peak learning rate under which a schedule is at its end: training on needs a new schedule."""
UNSTABLE = 1.25
"""Training loss over the epoch before's: a mean over a whole epoch rises by a quarter only if steps are
too long."""
NOTHING_LEARNED = 0.1
"""Share of the way from guessing to perfect under which no advice but to find the fault makes sense."""
OVERCONFIDENT, TIMID = 1.25, 0.8
"""Temperatures from which the logits were a quarter too large, or too small, before calibration."""
OTHER_TEST = 3.0
"""Standard errors by which the test error must exceed the validation error (99.7%) to be no chance: each
model was chosen by looking at the validation set, so a little is expected."""
NOISY_VALIDATION = 0.005
"""Standard error of the validation accuracy from which it cannot tell good models apart."""

AUGMENTATIONS = ("rotation", "shear", "scaling", "translation", "elastic_alpha", "erasing")
"""Settings of which one that is not 0 means that the training images are changed."""


class Diagnosis(StrEnum):
    """What the curves show."""

    FITS = "fits"
    OVERFITS = "overfits"
    UNDERFITS = "underfits"
    LEARNED_NOTHING = "learned nothing"


def published_epoch(history: Sequence[Epoch], hyperparameters: Mapping[str, Any]) -> Epoch:
    """Return the epoch whose weights were published: the best one with early stopping, else the last."""
    if not hyperparameters.get("patience"):
        return history[-1]
    if hyperparameters.get("monitor") == "loss":
        return min(history, key=lambda epoch: epoch.validation_loss)
    return max(history, key=lambda epoch: epoch.validation_accuracy)


def diagnose(
    epoch: Epoch, *, classes: int, validation_images: int, training: Metrics | None = None
) -> Diagnosis:
    """Return what the published epoch shows.

    Args:
        epoch: the published one.
        classes: how many there are.
        validation_images: how many the validation accuracy was measured on.
        training: of training images in evaluation mode, without dropout and with the weights at
            rest; without it the epoch's own training accuracy stands in, which dropout makes worse.
    """
    bias, gap = _bias_and_gap(epoch, training)
    if epoch.validation_accuracy < 1 / classes + NOTHING_LEARNED * (1 - 1 / classes):
        return Diagnosis.LEARNED_NOTHING
    certain = gap > CERTAIN * standard_error(epoch.validation_accuracy, validation_images)
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
) -> list[str]:
    """Return sentences, the diagnosis first, then what to try with the option's name, then what to doubt.

    Args:
        history: one `Epoch` or more.
        hyperparameters: of the run, by the settings' names; what is missing is not advised upon.
        classes: how many there are.
        validation_images: how many images were held out for validation.
        training: of training images in evaluation mode, if that was measured.
        test: of the test set.
        temperature: the calibration's.
    """
    epoch = published_epoch(history, hyperparameters)
    diagnosis = diagnose(epoch, classes=classes, validation_images=validation_images, training=training)
    bias, gap = _bias_and_gap(epoch, training)
    where = "training images" if training else "training images (measured with dropout on)"
    found = (
        f"{bias:.2%} of the {where} are wrong, and {1 - epoch.validation_accuracy:.2%} of the validation "
        f"images: a generalisation gap of {100 * gap:.2f} percentage points."
    )
    match diagnosis:
        case Diagnosis.LEARNED_NOTHING:
            said = [
                f"It learned nothing: {epoch.validation_accuracy:.2%} is about what guessing gives.",
                *_learn(hyperparameters),
            ]
        case Diagnosis.UNDERFITS:
            said = [f"It underfits (high bias): {found}", *_fit_more(history, hyperparameters)]
        case Diagnosis.OVERFITS:
            said = [f"It overfits (high variance): {found}", *_regularise(hyperparameters)]
        case Diagnosis.FITS:
            said = [f"It fits: {found}", *_refine(hyperparameters)]
    return [
        *said,
        *_of_the_curves(history, hyperparameters, diagnosis),
        *_doubts(epoch, validation_images, test),
        *_of_confidence(temperature, diagnosis),
    ]


def standard_error(accuracy: float, images: int) -> float:
    """Return the standard error of an accuracy, by the binomial distribution; at least that of one mistake."""
    share = min(max(accuracy, 1 / images), 1 - 1 / images)
    return math.sqrt(share * (1 - share) / images) if images > 1 else 1.0


def _bias_and_gap(epoch: Epoch, training: Metrics | None) -> tuple[float, float]:
    """Return the training error, and what the validation error exceeds it by."""
    accuracy = training.accuracy if training else epoch.train_accuracy
    return 1 - accuracy, accuracy - epoch.validation_accuracy


def _learn(values: Mapping[str, Any]) -> list[str]:
    rate = values.get("learning_rate")
    said = f"Look at the data and its labels first; then try another --learning-rate (now {rate}), lower if "
    return [said + "the loss jumps and higher if it creeps, and fewer layers or --batch-norm."]


def _fit_more(history: Sequence[Epoch], values: Mapping[str, Any]) -> list[str]:
    hidden = values.get("hidden")
    said = []
    if hidden is not None and not hidden:
        said.append("Softmax regression separates by hyperplanes only: add a hidden layer (--hidden 256).")
    elif hidden:
        now = ",".join(map(str, hidden))
        said.append(f"Add capacity: wider layers, or one more (--hidden, now {now}).")
    if (drops := _dropout(values)) > 0:
        said.append(f"Take regularisation away: less dropout (--dropout, now up to {drops:g}).")
    if decay := _decay(values):
        said.append(f"Lower the L2 or L1 penalty ({decay}).")
    if values.get("label_smoothing"):
        said.append(f"Lower --label-smoothing, now {values['label_smoothing']:g}.")
    said.append(f"Train for longer: more than these {len(history)} epochs (--epochs).")
    if _is_augmented(values):
        said.append(
            "Augmentation makes the training images harder: use less of it while the model underfits."
        )
    return said


def _regularise(values: Mapping[str, Any]) -> list[str]:
    said = []
    drops = _dropout(values)
    if values.get("hidden") and drops < 0.5:
        more = "Add dropout (--dropout 0.2 to 0.5)" if drops == 0 else f"Raise --dropout, now up to {drops:g}"
        said.append(f"{more}, so that no unit can rely on another.")
    decay = _decay(values)
    if not decay:
        said.append("Add L2 (--weight-decay, or --l2 as a penalty in the loss), which keeps weights small.")
    else:
        said.append(f"Raise the penalty on large weights ({decay}).")
    if _is_augmented(values):
        said.append("More data helps most where it can be had; then more augmentation than there is.")
    else:
        said.append(
            "More data helps most where it can be had; then augmented data, where a moved or turned image keeps "
            "its class (--translation 2 --rotation 10 --elastic-alpha 34 --elastic-sigma 4)."
        )
    if not values.get("patience"):
        said.append("Stop early: --patience 5 keeps the weights of the best epoch.")
    if values.get("hidden"):
        said.append("Only then take capacity away (--hidden): a large regularised network beats a small one.")
    return said


def _refine(values: Mapping[str, Any]) -> list[str]:
    said = (
        "Neither capacity nor regularisation is missing. What is left: look at the mistakes below for labels "
    )
    said += "that are wrong or images that nobody could tell; more or augmented data; "
    if not values.get("ema"):
        said += "averaged weights (--ema 0.999); "
    return [said + "a committee of several seeds."]


def _of_the_curves(history: Sequence[Epoch], values: Mapping[str, Any], diagnosis: Diagnosis) -> list[str]:
    """Return what only the course over the epochs shows."""
    said = []
    last, best = history[-1], min(history, key=lambda epoch: epoch.validation_loss)
    if last.validation_loss > LOSS_RISE * best.validation_loss and last.train_loss < best.train_loss:
        said.append(
            f"The validation loss was least after epoch {best.epoch} ({best.validation_loss:.4f} nats) and rose to "
            f"{last.validation_loss:.4f} while the training loss still fell: from there on the model learned the "
            "training images by heart. "
            + (
                f"Early stopping published epoch {published_epoch(history, values).epoch}."
                if values.get("patience")
                else "Stop there (--patience 5 --monitor loss), or regularise more."
            )
        )
    elif len(history) > 1 and diagnosis != Diagnosis.LEARNED_NOTHING:
        is_falling = last.validation_loss < STILL_FALLING * history[-2].validation_loss
        peak = max(epoch.learning_rate for epoch in history)
        is_annealed = (
            values.get("schedule") in ("cosine", "one_cycle") or last.learning_rate <= ANNEALED * peak
        )
        if is_falling and not is_annealed:
            said.append("The validation loss was still falling when training ended: give it more --epochs.")
        elif is_falling:
            said.append(
                "The validation loss fell up to the last epoch, as the learning rate went to nothing: "
                "a longer schedule (--epochs) may still gain."
            )
    rises = [b.epoch for a, b in pairwise(history) if b.train_loss > UNSTABLE * a.train_loss]
    if rises:
        said.append(
            f"The training loss rose by more than {UNSTABLE - 1:.0%} in epoch {rises[0]}: the steps are too long. "
            "Lower --learning-rate, lengthen --warmup, or give --clip 1."
        )
    return said


def _doubts(epoch: Epoch, validation_images: int, test: Metrics | None) -> list[str]:
    """Return what the sizes of the sets do not let one conclude."""
    said = []
    error = standard_error(epoch.validation_accuracy, validation_images)
    if error > NOISY_VALIDATION:
        said.append(
            f"The validation set has {validation_images} images: its accuracy is certain to ±{CERTAIN * error:.1%} "
            "only (95%). Hold out more (--validation), or compare models over several seeds."
        )
    if test:
        difference = epoch.validation_accuracy - test.accuracy
        both = math.hypot(error, standard_error(test.accuracy, test.images))
        if difference > OTHER_TEST * both:
            said.append(
                f"The test accuracy is {100 * difference:.2f} percentage points below the validation accuracy, "
                f"{difference / both:.0f} standard errors: the test images differ from the training images, or "
                "many choices were made by the validation set."
            )
    return said


def _of_confidence(temperature: float, diagnosis: Diagnosis) -> list[str]:
    if temperature > OVERCONFIDENT:
        more = (
            ""
            if diagnosis == Diagnosis.OVERFITS
            else " More dropout, L2 or --label-smoothing makes it humbler."
        )
        return [f"It was overconfident: calibration divides its logits by {temperature:.2f}.{more}"]
    if temperature < TIMID:
        said = (
            f"It was less confident than it is right: calibration divides its logits by {temperature:.2f}, "
        )
        return [said + "as heavy regularisation or label smoothing asks for."]
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
