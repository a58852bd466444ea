"""The data that all runs of a search or a study share: loaded once, split, and on the device."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from common.errors import ConfigurationError
from common.progress import Progress
from training.data.dataset import DataSet, DeviceImages, Images, polarity
from training.data.loading import load_chosen
from training.data.splits import split_data
from training.errors import reading_into_memory
from training.interrupts import StopFlag
from training.loop.device import choose_device
from training.loop.fit import Run, ignore
from training.loop.state import CHANGEABLE_ON_RESUME, Epoch
from training.model.distillation import Ensemble, load_teachers
from training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedData:
    """A data set, split and on a device; its test set is unread."""

    data: DataSet
    train: Images
    validation: Images
    train_on_device: DeviceImages
    """`train`, on the device."""
    validation_on_device: DeviceImages
    """`validation`, on the device."""
    device: torch.device
    ensemble: Ensemble | None
    """The ensemble of teachers of every run, if there is one."""

    def run(
        self,
        settings: TrainingSettings,
        directory: Path,
        stop: StopFlag,
        *,
        on_epoch: Callable[[Epoch], None] = ignore,
        train: DeviceImages | None = None,
    ) -> Run:
        """Return a silent run that resumes from its last checkpoint, on `train` instead of all images if given."""
        return Run(
            settings=settings.model_copy(update={"resume": True}),
            train=train or self.train_on_device,
            validation=self.validation_on_device,
            classes=len(self.data.classes),
            polarity=polarity(self.train.images),
            data_sha256=self.data.sha256,
            directory=directory,
            progress=Progress(quiet=True),
            stop=stop,
            on_epoch=on_epoch,
            ensemble=self.ensemble,
        )


def load_shared_data(settings: TrainingSettings, progress: Progress) -> SharedData:
    """Load and split the data as `fit` does.

    Raises:
        ConfigurationError: torchrun started several processes, restart is set, or a teacher is not a published version.
        DeviceError: CUDA was requested and is not available.
        DataError: the data is invalid.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigurationError(
            "torchrun is for fit: start tune and study without it (several processes of tune share one search)"
        )
    if settings.restart:
        raise ConfigurationError(
            "restart is for fit: tune and study go on with what they have; to start anew, give another --study or "
            "--output"
        )
    device = choose_device(settings)
    with reading_into_memory():
        data = load_chosen(settings, progress)
    train, validation = split_data(data, settings.validation, settings.seed)
    return SharedData(
        data=data,
        train=train,
        validation=validation,
        train_on_device=train.to(device),
        validation_on_device=validation.to(device),
        device=device,
        ensemble=load_teachers(settings, data, polarity(train.images), device),
    )


def weight_settings(settings: TrainingSettings) -> dict[str, object]:
    """Return the settings that the weights depend on, as JSON values."""
    dumped = settings.model_dump(mode="json")
    return {name: dumped[name] for name in TrainingSettings.model_fields if name not in CHANGEABLE_ON_RESUME}


def fit_settings(settings: TrainingSettings) -> TrainingSettings:
    """Return the settings of `fit` among those of a search or a study."""
    # Only those that were given: the augmentation policy sets the others.
    given = settings.model_fields_set & TrainingSettings.model_fields.keys()
    return TrainingSettings.model_validate({name: getattr(settings, name) for name in given})
