"""The complete state of a training run, and its snapshot for a checkpoint."""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from training.augmentation.augmenter import Augmenter
from training.errors import CheckpointError
from training.loop import cuda_graph
from training.loop.checkpoint import START_OVER, Snapshot
from training.loop.distributed import World
from training.model.mlp import MLP, Standardisation
from training.model.optimizers import AveragedWeights
from training.model.quantisation import straight_through
from training.settings import IOSettings, RuntimeSettings, TrainingSettings

FORMAT = 2
CHANGEABLE_ON_RESUME = frozenset(
    {*IOSettings.model_fields, *RuntimeSettings.model_fields}
    - {"data", "pixels", "label_column", "classes", "skip_bad", "resize"}
    - {"validation", "seed", "test_share", "test_seed"}
)
"""Settings that a resumed run may change, because the weights do not depend on them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """The metrics of an epoch; losses are in nats, before calibration."""

    epoch: int
    train_loss: float
    """Mean over the epoch's steps, in training mode: with dropout, and while the weights change."""
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    """Of the epoch's first step."""
    seconds: float
    images_per_second: float


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """The mutable state of a training run."""

    settings: TrainingSettings
    world: World
    run_id: str
    """Identifies the run, so that a restart after publishing does not publish again."""
    model: MLP
    standardise: Standardisation
    optimizers: list[torch.optim.Optimizer]
    augment: Augmenter
    epoch_index: torch.Tensor
    """`int64[]` on the device: the current epoch, for augmentation, at a fixed address."""
    bfloat16: bool
    """Whether matrix products are computed in bfloat16; a resumed run keeps what it began with."""
    average: AveragedWeights | None
    total_loss: torch.Tensor
    """Sum of the loss over this epoch's images so far, on the device."""
    correct: torch.Tensor
    """Number of correctly classified images among them, on the device."""
    saved: float
    """Monotonic time of the last checkpoint, or of the start of this process; not in checkpoints."""
    epoch: int = 0
    """Completed epochs."""
    position: int = 0
    """Steps taken in the current epoch."""
    step: int = 0
    """Steps taken in total."""
    seconds: float = 0.0
    """Time spent in the current epoch."""
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, torch.Tensor] | None = None
    """The weights of the best epoch, for early stopping."""
    best_score: float = -float("inf")
    epochs_since_best: int = 0
    metrics_bytes: int = 0
    """Length of the metrics file with all of `history`."""

    @property
    def evaluated_model(self) -> MLP:
        """The model that is evaluated and published: with the averaged weights, if averaging is on."""
        return self.average.model if self.average else self.model  # type: ignore[return-value]

    def rounding(self, model: MLP) -> AbstractContextManager[None]:
        """Return the context in which a model's first layer is rounded, in the last `straight_through` epochs.

        The device compares the epoch where steps are captured: one captured step is replayed in every epoch.
        """
        settings, device = self.settings, self.epoch_index.device
        first = settings.epochs - settings.straight_through
        is_early = self.epoch < first and not cuda_graph.supports_cuda_graphs(device)
        if not (settings.straight_through and settings.quantises) or is_early:
            return nullcontext()
        return straight_through(model.linear_layers()[0].weight, self.epoch_index >= first)

    def snapshot(self, data_sha256: dict[str, str]) -> Snapshot:
        """Return the state as tensors and plain values on the CPU; a collective operation."""
        device = self.total_loss.device
        generators = {"cpu": self.world.gather(torch.get_rng_state(), device)}
        if device.type == "cuda":
            generators["cuda"] = self.world.gather(torch.cuda.get_rng_state(device), device)
        return {
            "format": FORMAT,
            "settings": self.settings.model_dump(mode="json"),
            "data_sha256": data_sha256,
            "world_size": self.world.size,
            "device": device.type,
            "bfloat16": self.bfloat16,
            "run_id": self.run_id,
            "standardise": asdict(self.standardise),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average.model.state_dict() if self.average else None,
            "generators": generators,
            "total_loss": self.total_loss,
            "right": self.correct,
            "epoch": self.epoch,
            "position": self.position,
            "step": self.step,
            "seconds": self.seconds,
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best,
            "best_score": self.best_score,
            "epochs_since_best": self.epochs_since_best,
            "metrics_bytes": self.metrics_bytes,
        }

    def restore(self, snapshot: Snapshot, data_sha256: dict[str, str]) -> None:
        """Restore the state from a snapshot.

        Raises:
            CheckpointError: the snapshot is of a run with other settings, data, device or number of processes.
        """
        self._check_same_run(snapshot, data_sha256)
        self.model.load_state_dict(snapshot["model"])
        for optimizer, saved in zip(self.optimizers, snapshot["optimizers"], strict=True):
            # Keep the parameter groups: `load_state_dict` would replace the tensor from which a CUDA graph reads the
            # learning rate by the saved one, which may be a Python float or have another address.
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
        if self.average:
            self.average.model.load_state_dict(snapshot["average"])
        torch.set_rng_state(snapshot["generators"]["cpu"][self.world.rank])
        if "cuda" in snapshot["generators"]:
            torch.cuda.set_rng_state(snapshot["generators"]["cuda"][self.world.rank], self.total_loss.device)
        self.standardise = Standardisation(**snapshot["standardise"])
        self.total_loss.copy_(snapshot["total_loss"])
        self.correct.copy_(snapshot["right"])
        self.history = [Epoch(**epoch) for epoch in snapshot["history"]]
        for name in ("run_id", "bfloat16", "epoch", "position", "step", "seconds", "best", "best_score"):
            setattr(self, name, snapshot[name])
        self.epochs_since_best = snapshot["epochs_since_best"]
        self.metrics_bytes = snapshot["metrics_bytes"]

    def remember_best(self) -> None:
        """Keep a copy of the evaluated model's weights."""
        self.best = copy.deepcopy(self.evaluated_model.state_dict())

    def _check_same_run(self, snapshot: Snapshot, data_sha256: dict[str, str]) -> None:
        if snapshot.get("format") != FORMAT:
            raise CheckpointError(f"the checkpoints are of another version of Glyph: {START_OVER}")
        mine: dict[str, Any] = self.settings.model_dump(mode="json")
        theirs = snapshot["settings"]
        differing = [
            f"{name} was {theirs.get(name)!r} and is {value!r}"
            for name, value in mine.items()
            if name not in CHANGEABLE_ON_RESUME and theirs.get(name) != value
        ]
        if snapshot["data_sha256"] != data_sha256:
            both = snapshot["data_sha256"].items() ^ data_sha256.items()
            names = ", ".join(sorted({name for name, _ in both}))
            differing.append(f"the SHA-256 of data files or teachers differs: {names}")
        if snapshot["world_size"] != self.world.size:
            differing.append(f"the number of processes was {snapshot['world_size']} and is {self.world.size}")
        if snapshot["device"] != self.total_loss.device.type:
            differing.append(f"the device was {snapshot['device']} and is {self.total_loss.device.type}")
        if differing:
            raise CheckpointError(
                f"the checkpoints are of another run ({'; '.join(differing)}): restore these settings, or {START_OVER}"
            )
