"""The training job from top to bottom: load the data, split it, fit, release (`release/publish.py`)."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import torch

from bundle.errors import BundleError
from bundle.remote import check_pushable
from bundle.repository import Bundle, check_room, versions
from bundle.signing import Signer, SigningError
from common.errors import ConfigurationError
from common.progress import Progress
from training.augmentation.policy import apply_policy, describe_policy
from training.data.dataset import polarity
from training.data.loading import load_chosen
from training.data.splits import split_data
from training.errors import reading_into_memory, writing_to_store
from training.interrupts import catch_signals
from training.loop import checkpoint, distributed
from training.loop.device import choose_device
from training.loop.fit import Run, fit
from training.loop.run_directory import check_no_unfinished_run, locked
from training.loop.trackers import Loggers, check_packages, open_loggers
from training.model.distillation import load_teachers
from training.model.parameters import check_publishable, exported_bytes
from training.release.publish import Candidate, push_version, release
from training.settings import TrainingSettings, model_name


def run(settings: TrainingSettings, progress: Progress) -> Bundle | None:
    """Train, prove and publish a model; return the bundle in the process of rank 0, and None in the others.

    Raises:
        ConfigurationError: the package of a tracker is not installed, the key to sign with cannot be used, the network
            is larger than a bundle can be, or a teacher is not a published version.
        TrainingError: the data, the device, the training or the export failed, or a signal arrived; see `errors.py`.
        PublishError: the model repository cannot be written; what can be known of it is checked before training, and so
            of the object store that the version is pushed to.
    """
    check_packages(settings)
    signer = _signer(settings)
    device = choose_device(settings)
    with catch_signals() as stop, distributed.join(cuda=device.type == "cuda") as world:
        progress = progress if world.is_writer else Progress(quiet=True)
        with world.writer_first(), reading_into_memory():  # it may have to download the data
            data = load_chosen(settings, progress)
        settings = apply_policy(settings, data.is_handwriting)
        settings = settings.model_copy(update={"name": settings.name or model_name(data.name)})
        check_publishable(settings, len(data.classes))
        train, validation = split_data(data, settings.validation, settings.seed)
        ink = polarity(train.images)
        ensemble = load_teachers(settings, data, ink, device)
        progress.say(
            f"training on {len(train)} images, validating on {len(validation)}, on {device} "
            f"with {torch.get_num_threads()} threads"
        )
        progress.say(describe_policy(settings.model_dump()))
        directory = settings.runs / str(settings.name)
        alone = _alone(settings, directory, len(data.classes), progress)
        with (
            alone if world.is_writer else nullcontext(),
            closing(open_loggers(settings, progress) if world.is_writer else Loggers()) as loggers,
        ):
            fitted = fit(
                Run(
                    settings=settings,
                    train=train.to(device),
                    validation=validation.to(device),
                    classes=len(data.classes),
                    polarity=ink,
                    data_sha256=data.sha256,
                    directory=directory,
                    progress=progress,
                    stop=stop,
                    on_begin=loggers.begun,
                    on_epoch=loggers.epoch,
                    world=world,
                    ensemble=ensemble,
                )
            )
            if not world.is_writer:
                return None
            published = find_published(settings.models / str(settings.name), fitted.run_id)
            if published:
                progress.say(f"this run has already been published as {published.path}")
            else:
                candidate = Candidate(
                    settings=settings,
                    data=data,
                    train=train,
                    validation=validation,
                    teachers=ensemble.digests if ensemble else {},
                    fitted=fitted,
                    device=device,
                    signer=signer,
                )
                published = release(candidate, progress, stop)
            if settings.publish is not None:
                push_version(published, settings.publish, progress)
            loggers.published(published)
            checkpoint.clear(directory)
            return published


def _signer(settings: TrainingSettings) -> Signer | None:
    """Return what is to sign the version, before anything is trained."""
    try:
        return None if settings.sign is None else Signer(settings.sign)
    except SigningError as error:
        raise ConfigurationError(f"--sign: {error}") from None


@contextmanager
def _alone(settings: TrainingSettings, directory: Path, classes: int, progress: Progress) -> Iterator[None]:
    """Hold the run's directory, where nothing is lost, for a model that can be published."""
    name = str(settings.name)
    with locked(directory, "another --name or --runs", progress):
        check_room(settings.models, name, classes=classes, size=exported_bytes(settings, classes))
        if settings.publish is not None:
            with writing_to_store():
                check_pushable(settings.publish, name, classes)
        if not (settings.resume or settings.restart):
            check_no_unfinished_run(
                directory, lambda run_id: find_published(settings.models / name, run_id) is not None, progress
            )
        yield


def find_published(model: Path, run_id: str) -> Bundle | None:
    """Return the bundle in `models/<name>` that the run `run_id` published before it was interrupted, if any."""
    for version in reversed(versions(model)):
        try:
            bundle = Bundle.open(model / str(version))
        except BundleError:
            continue
        if bundle.manifest.run_id == run_id:
            return bundle
    return None
