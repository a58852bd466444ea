"""Published bundles that the page has to cope with: many classes, long names, dark ink on light paper."""

from pathlib import Path

import numpy as np

from bundle.golden import GoldenExamples
from bundle.manifest import FILES, GOLDEN_FILE, ONNX_FILE, SAMPLE_FILE, Facts
from bundle.repository import Bundle, publish, staging
from tests.pictures import a_digit, png
from tests.serving.models import Linear, facts


def publish_with_classes(models: Path, classes: tuple[str, ...], *, polarity: str = "white-on-black") -> Bundle:
    """Publish a softmax regression with random weights over these classes."""
    random = np.random.default_rng(17)
    weights = random.normal(0, 0.002, (784, len(classes))).astype(np.float32)
    linear = Linear(weights, random.normal(0, 0.1, len(classes)).astype(np.float32))
    images = random.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    golden = GoldenExamples(images=images, probabilities=linear.probabilities(images))
    contents = dict.fromkeys(FILES, b"a placeholder") | {
        ONNX_FILE: linear.graph(classes=len(classes)),
        GOLDEN_FILE: golden.to_bytes(),
        SAMPLE_FILE: png(a_digit()),
    }
    stated = facts(Linear(weights[:, :10], linear.bias[:10]), a_digit(), polarity=polarity, golden=len(images))
    fields = stated.model_dump() | {"classes": classes, "sample_label": classes[0]}
    fields["reference"]["predicted"] = (1,) * len(classes)
    with staging(models, "synthetic") as directory:
        for name, content in contents.items():
            (directory / name).write_bytes(content)
        return publish(directory, Facts.model_validate(fields))
