"""The report's advice: each diagnosis on synthetic curves, with options that exist and suit the run."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.manifest import Metrics
from tests.training.subjects import an_epoch
from training.loop.state import Epoch
from training.report.advice import Diagnosis, advise, diagnose, published_epoch, standard_error
from training.settings import TrainingSettings


def said(history: list[Epoch], *, classes: int = 10, validation_images: int = 5_000, **given: Any) -> str:
    """Return the advice on a run, as one text; `given` are settings, and the measurements of `advise`."""
    known = {key: given.pop(key) for key in ("training", "test", "temperature", "robustness") if key in given}
    values = TrainingSettings.model_validate(given).model_dump(mode="json")
    sentences = advise(history, values, classes=classes, validation_images=validation_images, **known)
    return "\n".join(sentences)


def curves(train: list[float], validation: list[float], **values: float) -> list[Epoch]:
    """Return a history with these errors, in percent, and losses in proportion."""
    return [
        an_epoch(
            number,
            train_accuracy=1 - t / 100,
            validation_accuracy=1 - v / 100,
            train_loss=t / 30 + 0.001,
            validation_loss=v / 30 + 0.001,
            **values,
        )
        for number, (t, v) in enumerate(zip(train, validation, strict=True), start=1)
    ]


def measured(accuracy: float, images: int = 10_000) -> Metrics:
    """Return metrics with this accuracy."""
    return Metrics(images=images, accuracy=accuracy, nll=0.1, ece=0, nll_calibrated=0.1, ece_calibrated=0)


FITTING = curves([8, 3, 1.2, 1.0], [6, 3, 1.6, 1.59])
OVERFITTING = curves([8, 2, 0.5, 0.1], [6, 4, 3.2, 3.2])
UNDERFITTING = curves([30, 15, 12, 11.5], [29, 15, 12, 11.8])
LOST = curves([90, 90], [90, 89.8])


@pytest.mark.parametrize(
    ("history", "diagnosis"),
    [
        (FITTING, "The model fits: it misclassifies 1.00% of the training images"),
        (OVERFITTING, "The model overfits (high variance): it misclassifies 0.10% of the training images"),
        (UNDERFITTING, "The model underfits (high bias): it misclassifies 11.50% of the training images"),
        (LOST, "The model learned nothing: an accuracy of 10.20% is close to guessing."),
    ],
    ids=["fits", "overfits", "underfits", "learned nothing"],
)
def test_the_diagnosis_comes_first(history: list[Epoch], diagnosis: str) -> None:
    """Synthetic curves of each kind get the diagnosis that the course would give."""
    assert said(history).startswith(diagnosis)


def test_the_gap_is_stated() -> None:
    """The generalisation gap is the difference of the accuracies, in percentage points."""
    assert "a generalisation gap of 3.10 percentage points" in said(OVERFITTING)


def test_overfitting_asks_for_regularisation_that_is_not_there_yet() -> None:
    """Dropout, L2, augmentation and early stopping are advised where they are off, and raised where on."""
    bare = said(OVERFITTING, dropout=(0.0,), weight_decay=0, patience=0)
    for option in (
        "Add dropout (--dropout",
        "Add weight decay (--weight-decay",
        "--patience 5",
        "--translation",
        "Collect more data",
    ):
        assert option in bare
    full = said(OVERFITTING, dropout=(0.3,), l2=0.5, weight_decay=0, patience=3, rotation=10)
    assert "Raise --dropout, now up to 0.3" in full
    assert "Raise the penalty on large weights (--l2, now 0.5)" in full
    assert "--patience 5" not in full
    assert "--translation" not in full
    assert "--dropout" not in said(OVERFITTING, dropout=(0.5,))


def test_underfitting_asks_for_capacity_and_less_regularisation() -> None:
    """Wider or deeper networks are advised, and whatever holds the model back is named with its value."""
    text = said(
        UNDERFITTING,
        hidden=(16,),
        dropout=(0.5,),
        weight_decay=0.2,
        label_smoothing=0.1,
        rotation=90,
        adversarial=2,
    )
    for part in (
        *("--hidden, now 16", "less dropout", "--weight-decay, now 0.2"),
        *("--label-smoothing, now 0.1", "--adversarial, now 2"),
    ):
        assert part in text
    assert "Reduce augmentation" in text
    assert "longer than 4 epochs" in text
    bare = said(UNDERFITTING, hidden=(16,), dropout=(0.0,), weight_decay=0)
    assert "dropout" not in bare.split("\n", 1)[1]
    assert "penalty" not in bare


def test_softmax_regression_is_told_to_have_a_hidden_layer() -> None:
    """Without hidden layers capacity means the first one, and dropout between layers is not spoken of."""
    text = said(UNDERFITTING, hidden=())
    assert "add a hidden layer (--hidden 256)" in text
    assert "--dropout" not in text
    assert "--dropout" not in said(OVERFITTING, hidden=())


def test_dropout_does_not_pass_for_underfitting() -> None:
    """Where the published weights were measured at rest, a poor training accuracy under dropout is no bias."""
    history = curves([20, 6, 4.5], [6, 3, 1.6])
    assert said(history).startswith("The model underfits")
    assert "measured with dropout on" in said(history)
    rested = said(history, training=measured(0.99))
    assert rested.startswith("The model fits: it misclassifies 1.00% of the training images")
    assert said(history, training=measured(0.9995)).startswith("The model overfits")


def test_a_gap_within_chance_is_no_overfitting() -> None:
    """The same gap is overfitting on 5,000 validation images and chance on 100."""
    history = curves([1.0], [3.0])
    assert said(history, validation_images=5_000).startswith("The model overfits")
    assert said(history, validation_images=100).startswith("The model fits")


def test_both_faults_are_told_apart_by_size() -> None:
    """With much bias and much variance the larger part of the error decides."""
    assert said(curves([3], [10])).startswith("The model overfits")
    assert said(curves([10], [13])).startswith("The model underfits")


def test_a_rising_validation_loss_asks_to_stop_early() -> None:
    """The epoch of the least validation loss is named; with patience, the one that was published."""
    history = [
        an_epoch(n, train_loss=0.3 / n, validation_loss=loss, validation_accuracy=0.98, train_accuracy=0.99)
        for n, loss in enumerate([0.2, 0.1, 0.08, 0.1, 0.13], start=1)
    ]
    assert "lowest after epoch 3 (0.0800 nats) and rose to 0.1300" in said(history)
    assert "--patience 5 --monitor loss" in said(history)
    assert "Early stopping published epoch 3." in said(history, patience=2, monitor="loss")
    still = [an_epoch(n, train_loss=0.3 / n, validation_loss=0.08) for n in range(1, 6)]
    assert "memorised" not in said(still)


def test_a_falling_validation_loss_asks_for_more_epochs() -> None:
    """What is said depends on whether the schedule was at its end."""
    history = curves([8, 4, 1.5], [6, 3, 1.9])
    assert "still falling when training ended" in said(history, schedule="constant")
    assert "a longer schedule (--epochs) may help" in said(history, schedule="cosine")
    flat = curves([8, 1.5, 1.5], [6, 1.9, 1.9])
    for schedule in ("constant", "cosine"):
        assert "--epochs" not in said(flat, schedule=schedule)


def test_a_jumping_training_loss_asks_for_smaller_steps() -> None:
    """An epoch whose training loss rose by more than a quarter is named."""
    history = [an_epoch(n, train_loss=loss) for n, loss in enumerate([0.5, 0.2, 0.3, 0.1], start=1)]
    assert "rose by more than 25% in epoch 3" in said(history)
    calm = [an_epoch(n, train_loss=loss) for n, loss in enumerate([0.5, 0.2, 0.24, 0.1], start=1)]
    assert "rose by more than" not in said(calm)


def test_a_small_validation_set_is_doubted() -> None:
    """With 200 images the accuracy's interval is stated; with 5,000 there is nothing to doubt."""
    assert "The validation set has 200 images" in said(FITTING, validation_images=200)
    assert "The validation set has" not in said(FITTING)


def test_a_test_set_of_another_kind_is_noticed() -> None:
    """A test accuracy that chance does not explain is said, and one that it explains is not."""
    assert "4.41 percentage points below" in said(FITTING, test=measured(0.94))
    assert "below the validation accuracy" not in said(FITTING, test=measured(0.983))
    assert "below the validation accuracy" not in said(FITTING, test=measured(0.999))


@pytest.mark.parametrize(
    ("temperature", "part"),
    [(1.6, "The model was overconfident"), (0.6, "The model was underconfident"), (1.05, "")],
)
def test_confidence_is_spoken_of_where_calibration_changed_much(temperature: float, part: str) -> None:
    """Temperatures far from 1 are explained, near it they are not."""
    text = said(FITTING, temperature=temperature)
    assert ("confident" in text) == bool(part)
    assert part in text


def test_the_published_epoch_is_the_first_best_one() -> None:
    """With patience it is the best by what was watched, the earlier of two equal ones; else the last."""
    accuracies, losses = [0.9, 0.97, 0.97, 0.96], [0.4, 0.2, 0.1, 0.15]
    history = [
        an_epoch(n, validation_accuracy=a, validation_loss=v)
        for n, (a, v) in enumerate(zip(accuracies, losses, strict=True), start=1)
    ]
    assert published_epoch(history, {"patience": 0}).epoch == 4
    assert published_epoch(history, {"patience": 2, "monitor": "accuracy"}).epoch == 2
    assert published_epoch(history, {"patience": 2, "monitor": "loss"}).epoch == 3
    assert published_epoch(history, {}).epoch == 4


def test_two_classes_at_the_level_of_guessing_have_learned_nothing() -> None:
    """What guessing gives depends on the number of classes."""
    epoch = an_epoch(validation_accuracy=0.52, train_accuracy=0.52)
    assert diagnose(epoch, classes=2, validation_images=5_000) == Diagnosis.LEARNED_NOTHING
    assert diagnose(epoch, classes=10, validation_images=5_000) == Diagnosis.UNDERFITS


def test_the_standard_error_is_the_binomials() -> None:
    """It is sqrt(p (1 - p) / n), and never 0: a perfect score on few images proves little."""
    assert standard_error(0.9, 100) == pytest.approx(0.03)
    assert standard_error(1.0, 100) == standard_error(0.99, 100) > 0


SHARE = st.floats(0, 1)
LOSS = st.floats(0, 50)


@given(
    rows=st.lists(st.tuples(LOSS, SHARE, LOSS, SHARE, st.floats(1e-8, 1)), min_size=1, max_size=6),
    patience=st.sampled_from([0, 3]),
    hidden=st.sampled_from([(), (32,), (512, 256)]),
    images=st.integers(1, 10_000),
    temperature=st.floats(0.05, 20),
)
def test_any_run_gets_advice_whose_options_exist(
    rows: list[tuple[float, float, float, float, float]],
    patience: int,
    hidden: tuple[int, ...],
    images: int,
    temperature: float,
) -> None:
    """Whatever the curves are there are two sentences or more, and every option named is a setting."""
    history = [
        Epoch(
            epoch=n,
            train_loss=a,
            train_accuracy=b,
            validation_loss=c,
            validation_accuracy=d,
            learning_rate=e,
            seconds=1.0,
            images_per_second=1.0,
        )
        for n, (a, b, c, d, e) in enumerate(rows, start=1)
    ]
    text = said(history, patience=patience, hidden=hidden, validation_images=images, temperature=temperature)
    assert len(text.splitlines()) >= 2
    options = {option.replace("-", "_") for option in re.findall(r"--([a-z0-9-]+)", text)}
    assert options <= set(TrainingSettings.model_fields)


def test_a_network_that_fails_on_moved_images_is_told_to_augment() -> None:
    """Where it was not trained on moved images, and their error is far larger."""
    fragile: dict[str, Any] = {"test": measured(0.984), "robustness": {"moved by 2 and 2 pixels": 0.6}}
    advice = said(FITTING, **fragile)
    assert "Moved by 2 and 2 pixels, 40.0% of the test images are misclassified instead of 1.6%." in advice
    assert "--augmentation auto" in advice
    assert "Moved by" not in said(FITTING, translation=2, **fragile)
    assert "Moved by" not in said(FITTING, test=measured(0.984), robustness={"moved by 2 and 2 pixels": 0.96})
    assert "Moved by" not in said(FITTING)
