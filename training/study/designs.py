"""The designs of the studies: the setting that each varies, what it holds fixed, and its axis.

Each point of a study is trained several times, with 0, 1, 2... added to the base seed. The split, the subsets and the
test set are those of the base seed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigurationError
from training.model.parameters import equal_widths, parameter_count
from training.search_settings import StudySettings
from training.settings import TrainingSettings

QUICK: Mapping[str, Any] = {"epochs": 4, "hidden": (128, 64)}
"""Settings of the quick scale, unless the user gives them."""
REPEATS = {"quick": 3, "full": 5}
RESTARTS = {"quick": 5, "full": 10}
SIZES = {
    "quick": (500, 1500, 5000, 15_000),
    "full": (100, 300, 1000, 3000, 10_000, 30_000),
}
MOST_EPOCHS = 10
"""Largest factor on the epochs for a small subset of the data."""
DEPTHS = {"quick": (1, 2, 3, 4), "full": (1, 2, 3, 4, 6, 8)}
DROPOUTS = {"quick": (0.0, 0.2, 0.4, 0.6), "full": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)}
L2S = {"quick": (0.0, 10.0, 100.0, 1000.0), "full": (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A point of a study: a configuration that is trained with several seeds."""

    series: str
    """Points of a series are joined by a line on a numeric axis."""
    x: float
    label: str
    """The point's name in the table, and on an axis of names."""
    settings: TrainingSettings
    images: int
    """Number of training images, taken from the nested order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A study: the points to train, and how the report shows them."""

    name: str
    title: str
    text: str
    """What is varied and what is held fixed, for the report."""
    axis: str
    scale: str
    """`linear`, `log`, `symlog`, or `names` for a categorical axis."""
    points: Sequence[Point]
    repeats: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyBase:
    """The base settings and sizes that all studies share."""

    base: TrainingSettings
    scale: str
    repeats: int
    """0 is the scale's number."""
    images: int
    """Number of training images."""
    classes: int

    def with_(self, **changes: Any) -> TrainingSettings:
        """Return the base with changes; dropout is reduced to one probability if the hidden layers change."""
        if "hidden" in changes and "dropout" not in changes:
            changes["dropout"] = self.base.dropout[:1]
        values = {name: getattr(self.base, name) for name in TrainingSettings.model_fields}
        return TrainingSettings.model_validate(values | changes)

    def point(
        self, label: str, *, series: str = "", x: float = 0.0, images: int = 0, **changes: Any
    ) -> Point:
        """Return a point: the base with changes."""
        return Point(
            series=series or "multilayer perceptron",
            x=x,
            label=label,
            settings=self.with_(**changes),
            images=images or self.images,
        )

    @property
    def times(self) -> int:
        """The number of runs of each point."""
        return self.repeats or REPEATS[self.scale]


def study_base(settings: StudySettings, given: Collection[str], images: int, classes: int) -> StudyBase:
    """Return the base of the studies: the settings, with the scale's for those that the user has not given.

    Raises:
        ConfigurationError: the network has no hidden layer.
    """
    values = {name: getattr(settings, name) for name in TrainingSettings.model_fields}
    if settings.scale == "quick":
        quick = {name: value for name, value in QUICK.items() if name not in given}
        values |= quick
        if "hidden" in quick and len(settings.dropout) > 1:
            values["dropout"] = settings.dropout[:1]
    if not values["hidden"]:
        raise ConfigurationError("hidden: studies vary a network with hidden layers: give at least one")
    return StudyBase(
        base=TrainingSettings.model_validate(values),
        scale=settings.scale,
        repeats=settings.repeats,
        images=images,
        classes=classes,
    )


def size(start: StudyBase) -> Study:
    """Learning curve: accuracy against the number of training images."""
    counts = [count for count in SIZES[start.scale] if count < start.images] + [start.images]
    points = []
    for series, changes in (("multilayer perceptron", {}), ("softmax regression", _SOFTMAX)):
        for count in counts:
            epochs = start.base.epochs * min(MOST_EPOCHS, round(start.images / count))
            points.append(
                start.point(f"{count}", series=series, x=count, images=count, epochs=epochs, **changes)
            )
    return Study(
        name="size",
        title="Learning curve over the size of the training set",
        text="Nested, stratified subsets of the training set; validation and test set are the same. Smaller subsets "
        f"are trained for more epochs, at most {MOST_EPOCHS} times as many, so that all take about as many steps.",
        axis="training images",
        scale="log",
        points=points,
        repeats=start.times,
    )


def shape(start: StudyBase) -> Study:
    """Wide against deep networks with equally many parameters."""
    target = parameter_count(start.base, start.classes)
    points = []
    for depth in DEPTHS[start.scale]:
        hidden = equal_widths(start.base, depth, target, start.classes)
        points.append(start.point(f"{depth} x {hidden[0]}", x=depth, hidden=hidden))
    return Study(
        name="shape",
        title="Wide against deep networks, with equally many parameters",
        text=f"All layers of a network have equal widths, chosen for {target:,} parameters within 1%.",
        axis="hidden layers",
        scale="linear",
        points=points,
        repeats=start.times,
    )


def activations(start: StudyBase) -> Study:
    """The activation after each hidden layer."""
    names = ("relu", "leaky_relu", "elu", "gelu", "tanh", "sigmoid")
    rules = {"tanh": "xavier", "sigmoid": "xavier"}
    points = [
        start.point(name, x=x, activation=name, initialisation=rules.get(name, "he"))
        for x, name in enumerate(names)
    ]
    return Study(
        name="activations",
        title="Activations",
        text="He initialisation, and Xavier initialisation with tanh and sigmoid.",
        axis="activation",
        scale="names",
        points=points,
        repeats=start.times,
    )


def dropout(start: StudyBase) -> Study:
    """The probability of dropping a hidden unit."""
    points = [start.point(f"{p}", x=p, dropout=(p,)) for p in DROPOUTS[start.scale]]
    return Study(
        name="dropout",
        title="Dropout",
        text="The same dropout probability in every hidden layer.",
        axis="dropout probability",
        scale="linear",
        points=points,
        repeats=start.times,
    )


def l2(start: StudyBase) -> Study:
    """The factor of the L2 penalty in the loss."""
    points = [start.point(f"{v:g}", x=v, l2=v, weight_decay=0.0) for v in L2S[start.scale]]
    return Study(
        name="l2",
        title="L2 penalty",
        text="The penalty lambda / n * sum of squared weights, without the optimizer's weight decay.",
        axis="lambda",
        scale="symlog",
        points=points,
        repeats=start.times,
    )


def restarts(start: StudyBase) -> Study:
    """The base settings with different seeds."""
    times = start.repeats or RESTARTS[start.scale]
    return Study(
        name="restarts",
        title="Restarts",
        text=f"The base settings with {times} seeds of weights, image order and dropout: the variance of a single run.",
        axis="",
        scale="names",
        points=[start.point("base settings")],
        repeats=times,
    )


def baseline(start: StudyBase) -> Study:
    """Softmax regression, which has no hidden layer, against networks with hidden layers."""
    return Study(
        name="baseline",
        title="Softmax regression as the baseline",
        text="No hidden layer, one hidden layer, and the hidden layers of the base settings.",
        axis="network",
        scale="names",
        points=[
            start.point("softmax regression", x=0, **_SOFTMAX),
            start.point("one hidden layer", x=1, hidden=start.base.hidden[:1]),
            start.point("base settings", x=2),
        ],
        repeats=start.times,
    )


_SOFTMAX: Mapping[str, Any] = {"hidden": (), "input_dropout": 0.0, "batch_norm": False}

DESIGNS: Mapping[str, Callable[[StudyBase], Study]] = {
    plan.__name__: plan for plan in (size, shape, activations, dropout, l2, restarts, baseline)
}
