"""`report.html`: a self-contained page about a training run, without scripts or network requests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bundle.manifest import Metrics, ModelMetadata
from common.html import confusion_matrix
from common.html.frame import NOTHING, Html, Section, page, scroll, table, text
from training.augmentation.policy import describe_policy
from training.data.dataset import Images
from training.data.duplicates import Duplicates
from training.loop.state import Epoch
from training.model.evaluation import ECE_BINS, Labels, Logits
from training.model.quantisation import describe_quantisation
from training.model.robustness import indices
from training.report import figures
from training.report.advice import Diagnosis, advise, diagnose, published_epoch
from training.report.figures import Bins
from training.report.misclassified import mistakes
from training.report.robustness_table import UNCHANGED, robustness_table
from training.report.wrong_labels import sentence
from training.settings import TrainingSettings

MAX_BYTES = 2_000_000
"""Most bytes of the page; mail servers and artifact viewers reject much larger ones."""
TRAINING_SAMPLE = 10_000
"""Training images on which the published weights are evaluated: accurate to 0.2 percentage points."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """The data of a report."""

    metadata: ModelMetadata
    history: Sequence[Epoch]
    test: Images
    logits: Logits
    """`float32[n, classes]`, of the test images."""
    training: Metrics | None = None
    """Of the published weights on `training_sample`, in evaluation mode, for the generalisation gap."""
    duplicates: Duplicates | None = None
    changed: Mapping[str, Labels] = field(default_factory=dict)
    """Change of the test images (`training/model/robustness.py`) to the predicted classes of its sample, `int64[m]`."""


def training_sample(train: Images) -> Images:
    """Return at most 10,000 training images, evenly spaced, to measure the generalisation gap."""
    count = min(len(train), TRAINING_SAMPLE)
    return train.take(np.linspace(0, len(train) - 1, count).astype(np.int64))


def render(subject: ReportData, first_layer: npt.NDArray[np.float32]) -> str:
    """Return the page, at most 2 MB of UTF-8.

    Args:
        subject: the data of the report.
        first_layer: the first layer's weights, `float32[units, 784]`.
    """
    metadata = subject.metadata
    predicted = subject.logits.argmax(axis=1)
    counts = confusion_matrix.Confusion(metadata.classes)
    counts.add(subject.test.labels, predicted)
    title = f"{metadata.name}: training report"
    summary = (
        f"Trained {metadata.created} on {metadata.environment.device}. {counts.images - counts.right} of "
        f"{metadata.test.images} test images are misclassified."
    )
    before = [
        Section(anchor="merit", title="Metrics", body=_merit(metadata)),
        Section(anchor="curves", title="Learning curves and advice", body=_curves(subject)),
        Section(
            anchor="confusion",
            title="Confusion matrix",
            body=confusion_matrix.matrix(counts, "Test images"),
        ),
        Section(
            anchor="classes",
            title="Classes",
            body=confusion_matrix.by_class(counts, "test images", "Per class, on the test set"),
        ),
        Section(anchor="robustness", title="Robustness", body=_robustness(subject)),
        Section(anchor="calibration", title="Calibration", body=_calibration(subject)),
    ]
    after = [
        Section(anchor="weights", title="Weights of the first layer", body=_weights(first_layer, metadata)),
        Section(anchor="parity", title="Parity of the exports", body=_parity(metadata)),
        Section(anchor="configuration", title="Configuration", body=_configuration(metadata)),
        Section(anchor="lineage", title="Provenance and environment", body=_lineage(subject)),
    ]

    wrong = sentence(subject.test.labels, predicted)
    known_wrong = f"<p>{text(wrong)}</p>" if wrong else ""

    def outline(body: str) -> list[Section]:
        body = known_wrong + body
        return [*before, Section(anchor="mistakes", title="Misclassified test images", body=body), *after]

    without = len(page(title, summary, outline("")).encode())
    shown = mistakes(
        subject.test, subject.logits, metadata.temperature, metadata.classes, MAX_BYTES - without - 2000
    )
    sections = outline(shown.body)
    return page(title, summary, sections, sprites=shown.sprites, sprites_width=shown.sprites_width)


def _merit(metadata: ModelMetadata) -> str:
    tiles = {
        "test accuracy": f"{metadata.test.accuracy:.2%}",
        "test error": f"{1 - metadata.test.accuracy:.2%}",
        "test loss, calibrated": f"{metadata.test.nll_calibrated:.4f} nats",
        "ECE, calibrated": f"{metadata.test.ece_calibrated:.2%}",
        "temperature": f"{metadata.temperature:.3f}",
    }
    shown = "".join(f"<div><dt>{term}</dt><dd>{value}</dd></div>" for term, value in tiles.items())

    def row(title: str, shown: Callable[[Metrics], object]) -> Sequence[object]:
        return (title, shown(metadata.validation), shown(metadata.test))

    rows = [
        row("images", lambda m: m.images),
        row("accuracy", lambda m: f"{m.accuracy:.2%}"),
        row("loss, nats", lambda m: f"{m.nll:.4f}"),
        row("loss after calibration", lambda m: f"{m.nll_calibrated:.4f}"),
        row("ECE", lambda m: f"{m.ece:.2%}"),
        row("ECE after calibration", lambda m: f"{m.ece_calibrated:.2%}"),
    ]
    note = (
        '<p class="quiet">The loss is the cross entropy, the mean of -ln p(true class). The expected calibration error '
        "(ECE) is the mean difference between confidence and accuracy.</p>"
    )
    return f"<dl>{shown}</dl>{table(rows, ('', 'validation', 'test'))}{note}"


def _curves(subject: ReportData) -> str:
    history, metadata, rest = subject.history, subject.metadata, subject.training
    published = published_epoch(history, metadata.hyperparameters)
    diagnosis = diagnose(
        published, classes=len(metadata.classes), validation_images=metadata.validation.images, training=rest
    )
    first, *more = advise(
        history,
        metadata.hyperparameters,
        classes=len(metadata.classes),
        validation_images=metadata.validation.images,
        training=rest,
        test=metadata.test,
        temperature=metadata.temperature,
        robustness=metadata.robustness,
    )
    kind = "advice" if diagnosis == Diagnosis.FITS else "advice warn"
    listed = "".join(f"<li>{text(sentence)}</li>" for sentence in more)
    advice = f'<div class="{kind}"><p><strong>{text(first)}</strong></p><ul>{listed}</ul></div>'
    drawn = [
        figures.curve(
            "loss (nats)",
            history,
            [epoch.train_loss for epoch in history],
            [epoch.validation_loss for epoch in history],
            published=published.epoch,
            at_rest=rest.nll if rest else None,
        ),
        figures.curve(
            "error (% of images wrong)",
            history,
            [100 * (1 - epoch.train_accuracy) for epoch in history],
            [100 * (1 - epoch.validation_accuracy) for epoch in history],
            published=published.epoch,
            at_rest=100 * (1 - rest.accuracy) if rest else None,
        ),
        figures.learning_rate(history),
    ]
    pictures = "".join(f"<figure>{picture}</figure>" for picture in drawn)
    at_rest = (
        f" The diamond shows the published weights on {rest.images} training images, without dropout and augmentation; "
        "its distance from the validation curve is the generalisation gap."
        if rest
        else ""
    )
    note = (
        '<p class="quiet">The training curve is the mean over an epoch in training mode, with dropout, augmentation '
        f"and changing weights, so it can be above the validation curve; the area between them is shaded.{at_rest}</p>"
    )
    rows = [
        (
            epoch.epoch,
            f"{epoch.train_loss:.4f}",
            f"{epoch.validation_loss:.4f}",
            f"{epoch.train_accuracy:.2%}",
            f"{epoch.validation_accuracy:.2%}",
            f"{epoch.learning_rate:.2e}",
            f"{epoch.seconds:.1f}",
            f"{epoch.images_per_second:,.0f}",
        )
        for epoch in history
    ]
    head = (
        "epoch",
        "training loss (nats)",
        "validation loss",
        "training accuracy",
        "validation accuracy",
        "learning rate",
        "seconds",
        "images/s",
    )
    numbers = table(rows, head, changed=[index for index, epoch in enumerate(history) if epoch is published])
    return (
        f'{advice}<div class="pictures">{pictures}</div>{note}'
        f"<details><summary>Metrics by epoch; the published epoch is highlighted</summary>{numbers}</details>"
    )


def _robustness(subject: ReportData) -> str:
    metadata = subject.metadata
    chosen = indices(len(subject.test))
    labels, predicted = subject.test.labels[chosen], subject.logits[chosen].argmax(axis=1)
    expected = metadata.input.polarity.replace("-", " ")
    note = (
        f"<p>Every test image is changed alike{_of(len(chosen), len(subject.test))}; what comes in from outside is "
        f"background. The network was trained on {expected}: an inverted image looks like no image that it knows. The "
        "service answers one with a warning and never inverts it, so invert such images before they are sent.</p>"
    )
    drawn = robustness_table(metadata.classes, labels, {UNCHANGED: predicted, **subject.changed})
    return f"<p>{text(describe_policy(metadata.hyperparameters))}</p>{drawn}{note}"


def _of(count: int, whole: int) -> str:
    return "" if count == whole else f" ({count:,} of {whole:,}, evenly spaced)"


def _calibration(subject: ReportData) -> str:
    metadata = subject.metadata
    before = Bins.of(subject.logits, subject.test.labels, 1.0)
    after = Bins.of(subject.logits, subject.test.labels, metadata.temperature)
    pictures = "".join(
        f"<figure>{figures.reliability(bins, when)}</figure>"
        for bins, when in ((before, "before calibration"), (after, "after calibration"))
    )

    def cells(bins: Bins, index: int) -> tuple[object, ...]:
        if not bins.count[index]:
            return (0, NOTHING, NOTHING)
        return (int(bins.count[index]), f"{bins.confidence[index]:.2%}", f"{bins.accuracy[index]:.2%}")

    rows = [
        (f"{i / ECE_BINS:.2f} to {(i + 1) / ECE_BINS:.2f}", *cells(before, i), *cells(after, i))
        for i in range(ECE_BINS)
    ]
    head = ("confidence", *("images before", "mean confidence", "accuracy"))
    numbers = table(rows, (*head, "images after", "mean confidence", "accuracy"))
    found = (
        f"which was fitted on the validation set. Predicted classes do not change. "
        f"ECE {before.error:.2%} before, {after.error:.2%} after."
        if metadata.temperature != 1
        else "because no other had a lower log loss in cross-validation, so the probabilities do not change."
    )
    return (
        f"<p>Test images by the probability of the predicted class. Calibration divides the logits by the "
        f"temperature {metadata.temperature:.4f}, {found}</p>"
        f'<div class="pictures">{pictures}</div>'
        f"<details><summary>Values by bin</summary>{numbers}</details>"
    )


def _weights(first_layer: npt.NDArray[np.float32], metadata: ModelMetadata) -> str:
    if metadata.hyperparameters.get("hidden"):
        said = "Incoming weights of the units of the first hidden layer"
    else:
        said = "Weights of each class"
    if len(first_layer) > figures.SHOWN_UNITS:
        said += f", the {figures.SHOWN_UNITS} with the largest norms of {len(first_layer)}"
    said += ": red is positive and blue is negative, scaled to the strongest weights of each. "
    said += text(describe_quantisation(metadata))
    return f"<p>{said}</p>{scroll(figures.first_layer(first_layer), 'weights of the first layer')}"


def _parity(metadata: ModelMetadata) -> str:
    head = ("format", "images", "largest logit difference", "relative", "labels that differ")
    rows = [
        (
            form,
            parity.images,
            f"{parity.max_absolute_difference:.1e}",
            f"{parity.max_relative_difference:.1e}",
            parity.labels_differing,
        )
        for form, parity in metadata.parity.items()
    ]
    proven = table(
        rows, head, caption="Each exported format against the trained module, over the whole test set"
    )
    return proven + "".join(
        f"<p>{text(f'{name} is omitted: {reason}.')}</p>" for name, reason in metadata.omitted.items()
    )


def _configuration(metadata: ModelMetadata) -> str:
    defaults = TrainingSettings().model_dump(mode="json")
    fields = TrainingSettings.model_fields
    values = sorted(metadata.hyperparameters.items())
    changed = [key for key, value in values if key in defaults and value != defaults[key]]
    same = [(key, value) for key, value in values if key not in changed]

    def row(key: str) -> Sequence[object]:
        default = _shown(defaults[key]) if key in defaults else NOTHING
        meaning = (fields[key].description or "") if key in fields else ""
        return (key, _shown(metadata.hyperparameters[key]), default, meaning)

    head = ("setting", "value", "default", "meaning")
    changes = (
        table(
            [row(key) for key in changed],
            head,
            caption="Changed from the default",
            changed=range(len(changed)),
        )
        if changed
        else "<p>All settings have their defaults.</p>"
    )
    rest = table([(key, _shown(value), row(key)[3]) for key, value in same], ("setting", "value", "meaning"))
    return f"{changes}<details><summary>{len(same)} settings with their defaults</summary>{rest}</details>"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _lineage(subject: ReportData) -> str:
    metadata, dataset, environment = subject.metadata, subject.metadata.dataset, subject.metadata.environment
    rows: list[Sequence[object]] = [
        ("run", metadata.run_id or NOTHING),
        ("created", metadata.created),
        ("code revision", environment.code_revision),
        ("data set", dataset.name),
        ("images", f"{dataset.train} training, {dataset.validation} validation, {dataset.test} test"),
        ("seed of the split", str(dataset.split_seed)),
        *(
            (f"SHA-256 of {file}", Html(f"<code>{text(digest)}</code>"))
            for file, digest in sorted(dataset.sha256.items())
        ),
        *(
            (f"teacher {teacher}", Html(f"<code>{text(digest)}</code>"))
            for teacher, digest in metadata.teachers.items()
        ),
        ("polarity", metadata.input.polarity.replace("-", " ")),
        ("device", environment.device),
        *(
            (name, value)
            for name, value in (("CUDA", environment.cuda), ("driver", environment.driver))
            if value
        ),
        ("threads", str(environment.threads)),
        ("Python", environment.python),
        *sorted(environment.packages.items()),
    ]
    said = f"<p>{text(subject.duplicates.sentence().capitalize())}.</p>" if subject.duplicates else ""
    return said + table(rows)
