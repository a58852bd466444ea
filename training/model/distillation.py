"""A committee of published models as teachers: what they say of each image that the student sees.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531),
sections 1 and 2; the loss is in `loss.py`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from bundle.errors import InvalidBundleError, NoBundleError
from bundle.manifest import ONNX_FILE, Manifest, Polarity
from bundle.repository import Bundle
from common.errors import ConfigurationError
from training.data.dataset import DataSet
from training.errors import DataError
from training.model.teacher import layers_from_onnx
from training.settings import TrainingSettings


class Committee:
    """Models that answer together: the mean of their probabilities at a temperature.

    They are functions of the pixels alone: nothing is random, nothing is learned, nothing waits for
    the device, so that a training step that asks them can be recorded as a CUDA graph.
    """

    def __init__(self, members: Sequence[nn.Module], digests: Mapping[str, str]) -> None:
        """Let the members answer together.

        Args:
            members: each takes pixels, `float32[n, 784]` in 0..255, and gives logits.
            digests: path of each member's bundle, to its manifest's digest.
        """
        self._members = tuple(members)
        self.digests = dict(digests)

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return the mean of the members' softmax(logits / temperature), `float32[n, classes]`.

        The temperature takes the place of each member's calibration. Under autocast the members'
        products are taken in bfloat16, like the student's.

        Args:
            pixels: `[n, 28, 28]`, uint8 or float of 0..255.
            temperature: above 0; 1 gives the committee's own probabilities.
        """
        flat = pixels.flatten(1).float()
        answers = [torch.softmax(member(flat).float() / temperature, dim=1) for member in self._members]
        return torch.stack(answers).mean(dim=0)


def load_committee(
    settings: TrainingSettings, data: DataSet, polarity: Polarity, device: torch.device
) -> Committee | None:
    """Load the teachers that the settings name onto the device; None if they name none.

    Raises:
        ConfigurationError: a teacher is not a published version.
        DataError: a teacher's files were changed or refused, or it learned from other data: other classes,
            polarity, files, or another test set held out of them.
    """
    if not settings.teachers:
        return None
    members, digests = [], {}
    for path in settings.teachers:
        try:
            bundle = Bundle.open(path)
            graph = bundle.prove(ONNX_FILE)[ONNX_FILE]
        except NoBundleError as error:
            raise ConfigurationError(f"teachers: {error}") from None
        except InvalidBundleError as error:
            raise DataError(f"the teacher {path} cannot be used: {error}") from None
        differing = _differences(bundle.manifest, settings, data, polarity)
        if differing:
            raise DataError(
                f"the teacher {path} cannot teach here: {'; '.join(differing)}. "
                "Name teachers that were trained on this data"
            )
        try:
            members.append(layers_from_onnx(graph, len(data.classes)).to(device))
        except DataError as error:
            raise DataError(f"the teacher {path} cannot be used: {error}") from None
        digests[str(path)] = bundle.manifest.digest
    return Committee(members, digests)


def _differences(
    manifest: Manifest, settings: TrainingSettings, data: DataSet, polarity: Polarity
) -> list[str]:
    """Say in what a teacher's data is not the student's.

    Where the data has no test set of its own, the settings choose it: a teacher that held out
    others has learned from images that the student will be tested with.
    """
    differing = []
    if manifest.classes != data.classes:
        differing.append(f"its classes are {_listing(manifest.classes)}, not {_listing(data.classes)}")
    if manifest.input.polarity != polarity:
        differing.append(f"its images are {manifest.input.polarity}, these {polarity}")
    if manifest.dataset.sha256 != data.sha256:
        differing.append(f"its data set '{manifest.dataset.name}' has other SHA-256 than '{data.name}'")
    for name in ("test_share", "test_seed"):
        theirs, mine = manifest.hyperparameters.get(name), getattr(settings, name)
        if theirs != mine:
            differing.append(f"its {name} was {theirs} and is {mine}, which can hold out another test set")
    return differing


def _listing(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:10])
    return shown if len(classes) <= 10 else f"{shown} and {len(classes) - 10} more"
