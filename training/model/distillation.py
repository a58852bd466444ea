"""Distillation: an ensemble (committee) of published models as teachers, whose outputs the student learns.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531),
sections 1 and 2; the loss is in `loss.py`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from bundle.errors import InvalidBundleError, NoBundleError
from bundle.manifest import ONNX_FILE, Manifest, Polarity
from bundle.repository import Bundle
from common.errors import ConfigurationError, listing
from imagesets.errors import DataError
from training.data.dataset import DataSet
from training.model.teacher import layers_from_onnx
from training.settings import TrainingSettings


class Ensemble:
    """An ensemble of models: the mean of their probabilities at a temperature.

    The members are fixed functions of the pixels and never synchronise with the device, so that a training step that
    calls them can be captured as a CUDA graph.
    """

    def __init__(self, members: Sequence[nn.Module], digests: Mapping[str, str]) -> None:
        """Combine the members.

        Args:
            members: modules that map pixels, `float32[n, 784]` in 0..255, to logits.
            digests: path of each member's bundle to its manifest's digest.
        """
        self._members = tuple(members)
        self.digests = dict(digests)

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return the mean of the members' softmax(logits / temperature), `float32[n, classes]`.

        The temperature replaces each member's calibration. Under autocast the members compute in bfloat16, like the
        student.

        Args:
            pixels: `[n, 28, 28]`, uint8 or float in 0..255.
            temperature: above 0; at 1, the uncalibrated probabilities.
        """
        flat = pixels.flatten(1).float()
        outputs = [torch.softmax(member(flat).float() / temperature, dim=1) for member in self._members]
        return torch.stack(outputs).mean(dim=0)


def load_teachers(
    settings: TrainingSettings, data: DataSet, polarity: Polarity, device: torch.device
) -> Ensemble | None:
    """Load the teachers in the settings onto the device; return None if there are none.

    Raises:
        ConfigurationError: a teacher is not a published version.
        DataError: a teacher failed verification, has an unsupported graph, or was trained on other data: other classes,
            polarity or files, or with another held-out test set.
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
                f"the teacher {path} was trained on other data: {'; '.join(differing)}. "
                "Give teachers that were trained on this data"
            )
        try:
            members.append(layers_from_onnx(graph, len(data.classes)).to(device))
        except DataError as error:
            raise DataError(f"the teacher {path} cannot be used: {error}") from None
        digests[str(path)] = bundle.manifest.digest
    return Ensemble(members, digests)


def _differences(
    manifest: Manifest, settings: TrainingSettings, data: DataSet, polarity: Polarity
) -> list[str]:
    """Return the differences between a teacher's data and the student's, in words.

    If the data has no test set of its own, the settings choose it, and a teacher that held out other images was trained
    on images that the student will be tested with.
    """
    differing = []
    if manifest.classes != data.classes:
        differing.append(f"its classes are {listing(manifest.classes)}, not {listing(data.classes)}")
    if manifest.input.polarity != polarity:
        differing.append(f"its images are {manifest.input.polarity}, these are {polarity}")
    if manifest.input.resize != settings.resize:
        differing.append(f"its images were resized by {manifest.input.resize}, these by {settings.resize}")
    if manifest.dataset.sha256 != data.sha256:
        differing.append(f"its data set '{manifest.dataset.name}' has other SHA-256s than '{data.name}'")
    for name in ("test_share", "test_seed"):
        theirs, mine = manifest.hyperparameters.get(name), getattr(settings, name)
        if theirs != mine:
            differing.append(f"its {name} is {theirs}, not {mine}, so its test set can be another")
    return differing
