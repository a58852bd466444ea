"""Published bundles for the page: a small model that knows digits, and one with very many classes."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.support.models import CLASSES, Linear, metadata
from bench.support.pictures import png
from bundle.golden import GoldenExamples
from bundle.manifest import FILES, GOLDEN_FILE, ONNX_FILE, SAMPLE_FILE, ModelMetadata
from bundle.repository import Bundle, publish, staging

Images = npt.NDArray[np.uint8]

MANY = tuple(f"kind {index} of a thing whose name is long" for index in range(300))


def learnt(images: Images, labels: npt.NDArray[np.uint8]) -> Linear:
    """Return a softmax regression that is right on nine digits of ten: least squares, in closed form."""
    flat = images.reshape(len(images), -1) / 255
    design = np.hstack([flat, np.ones((len(flat), 1))])
    targets = np.eye(len(CLASSES))[labels]
    solution = np.linalg.solve(design.T @ design + 10 * np.eye(785), design.T @ targets)
    sharpness = 8  # of the softmax: the targets are 0 and 1, not logits
    return Linear(
        (sharpness * solution[:-1] / 255).astype(np.float32), (sharpness * solution[-1]).astype(np.float32)
    )


def untrained(classes: int) -> Linear:
    """Return a softmax regression with random weights."""
    random = np.random.default_rng(17)
    return Linear(
        random.normal(0, 0.002, (784, classes)).astype(np.float32),
        random.normal(0, 0.1, classes).astype(np.float32),
    )


def publish_linear(
    models: Path,
    linear: Linear,
    images: Images,
    classes: tuple[str, ...],
    *,
    polarity: str = "white-on-black",
) -> Bundle:
    """Publish a softmax regression; the images become its golden examples."""
    golden = GoldenExamples(images=images, probabilities=linear.probabilities(images))
    contents = dict.fromkeys(FILES, b"a placeholder") | {
        ONNX_FILE: linear.graph(classes=len(classes)),
        GOLDEN_FILE: golden.to_bytes(),
        SAMPLE_FILE: png(images[0]),
    }
    ten = Linear(linear.weights[:, :10], linear.bias[:10])
    fields = metadata(ten, images[0], polarity=polarity, golden=len(images)).model_dump()
    fields |= {"classes": classes, "sample_label": classes[0]}
    fields["reference"]["predicted"] = (1,) * len(classes)
    with staging(models, "synthetic") as directory:
        for name, content in contents.items():
            (directory / name).write_bytes(content)
        return publish(directory, ModelMetadata.model_validate(fields))
