"""The training loss: cross entropy with the labels, and for distillation the KL divergence from the teachers."""

import torch
from torch import nn

from training.settings import TrainingSettings


def training_loss(
    settings: TrainingSettings, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None
) -> torch.Tensor:
    """Return the loss summed over the images, `float32[]`, in nats.

    Without targets it is the cross entropy of the labels. With them it is

        (1 - share) CE(labels, softmax(z)) + share T^2 KL(targets || softmax(z / T)),

    where T^2 compensates for the gradient of the second term, which scales as 1 / T^2. Source: Hinton, Vinyals and
    Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2. KL differs from the cross
    entropy used there by the targets' entropy, which is constant: the gradient is the same, and the loss of a perfect
    student is 0.

    Args:
        settings: `label_smoothing` of the first term; `distill_share` and `distill_temperature`.
        logits: z, `float32[n, classes]`.
        labels: `int64[n]`.
        targets: the teachers' probabilities at the temperature, `float32[n, classes]`, or None.
    """
    loss = nn.functional.cross_entropy(
        logits, labels, label_smoothing=settings.label_smoothing, reduction="sum"
    )
    if targets is None:
        return loss
    share, temperature = settings.distill_share, settings.distill_temperature
    student = nn.functional.log_softmax(logits / temperature, dim=1)
    divergence = nn.functional.kl_div(student, targets, reduction="sum")
    return (1 - share) * loss + share * temperature**2 * divergence
