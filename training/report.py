"""`report.html`: one self-contained page about one training run, without scripts or network.

Pictures are drawn by `figures.py`; this file says what stands where.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import Template

import numpy as np
import numpy.typing as npt
from PIL import Image

from bundle.manifest import Facts, Metrics
from training import figures
from training.data import Images
from training.evaluate import Logits, log_softmax
from training.state import Epoch

MAX_MISTAKES = 600
"""Misclassified images shown; each takes about 500 bytes of the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What a report is about."""

    facts: Facts
    history: Sequence[Epoch]
    test: Images
    logits: Logits
    """`float32[n, classes]`, the trained model's answers to the test images."""


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #8886; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; background: #fff; border-radius: .4rem; }
figure svg { width: 100%; height: auto; }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .6rem; }
.mistakes figure { margin: 0; background: none; font-size: .75rem; }
.mistakes img { width: 84px; height: 84px; image-rendering: pixelated; display: block; }
</style></head><body>
<h1>$title</h1>
<p>$summary</p>
<h2>Figures of merit</h2>$metrics
<h2>Learning curves</h2><figure>$curves</figure>
<h2>Confusion matrix of the test set</h2><figure>$confusion</figure>
<h2>Calibration of the test set</h2>
<p>Temperature $temperature, fitted on the validation set.</p><figure>$reliability</figure>
<h2>Weights of the first layer</h2><figure>$weights</figure>
<h2>Misclassified test images</h2><p>$mistakes_title</p><div class="mistakes">$mistakes</div>
<h2>Proof of the export</h2>$parity
<h2>Configuration</h2>$configuration
<h2>Lineage and environment</h2>$environment
</body></html>
""")


def render(subject: Subject, first_layer: npt.NDArray[np.float32]) -> str:
    """Return the page.

    Args:
        subject: what it is about.
        first_layer: the first layer's weights, `float32[units, 784]`.
    """
    facts = subject.facts
    predicted = subject.logits.argmax(axis=1)
    wrong = np.flatnonzero(predicted != subject.test.labels)
    return _PAGE.substitute(
        title=escape(f"{facts.name}: training report"),
        summary=escape(
            f"{facts.test.accuracy:.2%} of {facts.test.images} test images right, "
            f"{len(wrong)} wrong. Trained {facts.created} on {facts.environment.device}."
        ),
        metrics=_metrics(facts),
        curves=figures.curves(subject.history),
        confusion=figures.confusion(subject.test.labels, predicted, facts.classes),
        temperature=f"{facts.temperature:.4f}",
        reliability=figures.reliability(subject.logits, subject.test.labels, facts.temperature),
        weights=figures.first_layer(first_layer),
        mistakes_title=_mistakes_title(len(wrong)),
        mistakes=_mistakes(subject, wrong),
        parity=_parity(facts),
        configuration=_table([(key, value) for key, value in sorted(facts.hyperparameters.items())]),
        environment=_table(
            [
                ("data set", facts.dataset.name),
                *((f"SHA-256 of {name}", digest) for name, digest in sorted(facts.dataset.sha256.items())),
                ("code revision", facts.environment.code_revision),
                ("device", facts.environment.device),
                ("threads", facts.environment.threads),
                ("Python", facts.environment.python),
                *sorted(facts.environment.packages.items()),
            ]
        ),
    )


def _metrics(facts: Facts) -> str:
    def row(name: str, metrics: Metrics) -> Sequence[object]:
        return (
            name,
            metrics.images,
            f"{metrics.accuracy:.2%}",
            f"{metrics.nll:.4f}",
            f"{metrics.nll_calibrated:.4f}",
            f"{metrics.ece:.4f}",
            f"{metrics.ece_calibrated:.4f}",
        )

    head = ("", "images", "accuracy", "NLL (nats)", "calibrated", "ECE", "calibrated")
    return _table([row("validation", facts.validation), row("test", facts.test)], head)


def _parity(facts: Facts) -> str:
    head = ("form", "images", "largest logit difference", "relative", "labels differing")
    rows = [
        (
            name,
            p.images,
            f"{p.max_absolute_difference:.2e}",
            f"{p.max_relative_difference:.2e}",
            p.labels_differing,
        )
        for name, p in facts.parity.items()
    ]
    return _table(rows, head)


def _mistakes_title(count: int) -> str:
    shown = f", the first {MAX_MISTAKES} shown" if count > MAX_MISTAKES else ""
    return f"{count} in all{shown}: t is the true class, p the predicted one with its probability."


def _mistakes(subject: Subject, wrong: npt.NDArray[np.int64]) -> str:
    classes = subject.facts.classes
    probabilities = np.exp(log_softmax(subject.logits, subject.facts.temperature))
    cards = []
    for index in wrong[:MAX_MISTAKES]:
        best = np.argsort(-probabilities[index])[:3]
        target = classes[subject.test.labels[index]]
        three = ", ".join(f"{classes[k]} {probabilities[index, k]:.0%}" for k in best)
        cards.append(
            f'<figure><img alt="test image {index}" src="{_data_uri(subject.test.images[index])}">'
            f"<figcaption>#{index} t={escape(target)} p={escape(three)}</figcaption></figure>"
        )
    return "".join(cards)


def _data_uri(image: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _table(rows: Sequence[Sequence[object]], head: Sequence[str] = ()) -> str:
    def cell(value: object) -> str:
        number = ' class="number"' if isinstance(value, int | float) else ""
        return f"<td{number}>{escape(str(value))}</td>"

    heading = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table>{heading}{body}</table>"
