"""The studies: what each varies, what it holds fixed, and how it is drawn.

Every point of a study is trained several times, with seeds 0, 1, 2... added to the base seed; the
split, the subsets and the test set stay those of the base seed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigurationError
from training.model.parameters import equal_widths, parameter_count
from training.search_settings import StudySettings
from training.settings import TrainingSettings

QUICK: Mapping[str, Any] = {"epochs": 4, "hidden": (128, 64)}
"""What the quick scale sets, unless the user does."""
REPEATS = {"quick": 3, "full": 5}
RESTARTS = {"quick": 5, "full": 10}
SIZES = {
    "quick": (500, 1500, 5000, 15_000),
    "full": (100, 300, 1000, 3000, 10_000, 30_000),
}
MOST_EPOCHS = 10
"""A small part of the data is seen at most this many times as often as all of it."""
DEPTHS = {"quick": (1, 2, 3, 4), "full": (1, 2, 3, 4, 6, 8)}
DROPOUTS = {"quick": (0.0, 0.2, 0.4, 0.6), "full": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)}
L2S = {"quick": (0.0, 10.0, 100.0, 1000.0), "full": (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One kind of model in a study."""

    series: str
    """Points of one series are joined by a line, where the axis is one of numbers."""
    x: float
    label: str
    """What the table calls the point, and the axis where it has no numbers."""
    settings: TrainingSettings
    images: int
    """Training images: the first of the nested order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A question, and the points that answer it."""

    name: str
    title: str
    text: str
    """What is varied and what is held fixed, for the report."""
    axis: str
    scale: str
    """`linear`, `log`, or `names` for an axis without numbers."""
    points: Sequence[Point]
    repeats: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyBase:
    """What all studies start from."""

    base: TrainingSettings
    scale: str
    repeats: int
    """0 takes the scale's."""
    images: int
    """Training images there are."""
    classes: int

    def with_(self, **changes: Any) -> TrainingSettings:
        """Return the base with other settings; layers and dropout probabilities agree again."""
        if "hidden" in changes and "dropout" not in changes:
            changes["dropout"] = self.base.dropout[:1]
        values = {name: getattr(self.base, name) for name in TrainingSettings.model_fields}
        return TrainingSettings.model_validate(values | changes)

    def point(
        self, label: str, *, series: str = "", x: float = 0.0, images: int = 0, **changes: Any
    ) -> Point:
        """Return the base with changes as a point."""
        return Point(
            series=series or "multilayer perceptron",
            x=x,
            label=label,
            settings=self.with_(**changes),
            images=images or self.images,
        )

    @property
    def times(self) -> int:
        """Runs of each point."""
        return self.repeats or REPEATS[self.scale]


def study_base(settings: StudySettings, given: Collection[str], images: int, classes: int) -> StudyBase:
    """Return what the studies start from: the settings, with the scale's where the user gave none.

    Raises:
        ConfigurationError: there is no hidden layer.
    """
    values = {name: getattr(settings, name) for name in TrainingSettings.model_fields}
    if settings.scale == "quick":
        quick = {name: value for name, value in QUICK.items() if name not in given}
        values |= quick
        if "hidden" in quick and len(settings.dropout) > 1:
            values["dropout"] = settings.dropout[:1]
    if not values["hidden"]:
        raise ConfigurationError("hidden: studies vary a network that has hidden layers, and this has none")
    return StudyBase(
        base=TrainingSettings.model_validate(values),
        scale=settings.scale,
        repeats=settings.repeats,
        images=images,
        classes=classes,
    )


def size(start: StudyBase) -> Study:
    """Accuracy against the number of training images."""
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
        title="Learning curve over the data set's size",
        text="Nested parts of the training set with the classes' proportions; validation and test set stay "
        "the same. A smaller part is seen more often, so that all take about as many steps, but at most "
        f"{MOST_EPOCHS} times as many epochs.",
        axis="training images",
        scale="log",
        points=points,
        repeats=start.times,
    )


def shape(start: StudyBase) -> Study:
    """Wide against deep."""
    target = parameter_count(start.base, start.classes)
    points = []
    for depth in DEPTHS[start.scale]:
        hidden = equal_widths(start.base, depth, target, start.classes)
        points.append(start.point(f"{depth} x {hidden[0]}", x=depth, hidden=hidden))
    return Study(
        name="shape",
        title="Wide against deep, with equally many parameters",
        text=f"Equal widths, chosen so that every network has {target:,} parameters within 1%.",
        axis="hidden layers",
        scale="linear",
        points=points,
        repeats=start.times,
    )


def activations(start: StudyBase) -> Study:
    """What follows each hidden layer."""
    names = ("relu", "leaky_relu", "elu", "gelu", "tanh", "sigmoid")
    rules = {"tanh": "xavier", "sigmoid": "xavier"}
    points = [
        start.point(name, x=x, activation=name, initialisation=rules.get(name, "he"))
        for x, name in enumerate(names)
    ]
    return Study(
        name="activations",
        title="Activations",
        text="Weights start by He's rule, and by Xavier's before tanh and sigmoid.",
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
        text="The probability of dropping a unit, the same in every hidden layer.",
        axis="dropout probability",
        scale="linear",
        points=points,
        repeats=start.times,
    )


def l2(start: StudyBase) -> Study:
    """The explicit penalty's factor."""
    points = [start.point(f"{v:g}", x=v, l2=v, weight_decay=0.0) for v in L2S[start.scale]]
    return Study(
        name="l2",
        title="L2 penalty",
        text="The penalty lambda / n * sum of squared weights, with the optimizer's own weight decay off.",
        axis="lambda",
        scale="symlog",
        points=points,
        repeats=start.times,
    )


def restarts(start: StudyBase) -> Study:
    """The same settings with other seeds."""
    times = start.repeats or RESTARTS[start.scale]
    return Study(
        name="restarts",
        title="Restarts",
        text=f"The same settings with {times} seeds of weights, order and dropout: what one run says.",
        axis="",
        scale="names",
        points=[start.point("base settings")],
        repeats=times,
    )


def baseline(start: StudyBase) -> Study:
    """Softmax regression, which has no hidden layer, against networks that do."""
    return Study(
        name="baseline",
        title="Softmax regression as the baseline",
        text="No hidden layer, one, and those of the base settings.",
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
