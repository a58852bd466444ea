"""The whole job, top to bottom: data, fit, calibrate, export, prove, test, publish."""

import io
import os

import numpy as np
import torch
from PIL import Image

from bundle.errors import BundleError
from bundle.golden import GoldenExamples
from bundle.manifest import (
    CARD_FILE,
    GOLDEN_FILE,
    REPORT_FILE,
    SAMPLE_FILE,
    Dataset,
    Facts,
    Golden,
    InputContract,
)
from bundle.repository import Bundle, publish, staging, versions
from training import checkpoint, distributed, evaluate, export, facts, report
from training.card import model_card
from training.data import DataSet, Images, load_mnist, polarity, split
from training.errors import DeviceError
from training.fit import Fitted, Run, fit
from training.progress import Progress
from training.settings import TrainingSettings
from training.stop import Stop, listen

GOLDEN_PER_CLASS = 3
GOLDEN_TOLERANCE = 1e-4


def run(settings: TrainingSettings, progress: Progress) -> Bundle | None:
    """Train, prove and publish one model; return what was published, in the process that wrote it.

    Raises:
        TrainingError: the data, the device, the training or the export failed, or a signal came;
            see `errors.py`.
        PublishError: the model repository could not be written.
    """
    device = choose_device(settings)
    with listen() as stop, distributed.join(cuda=device.type == "cuda") as world:
        progress = progress if world.is_writer else Progress(quiet=True)
        if not world.is_writer:
            world.wait()  # the writer may be fetching the data
        data = load_mnist(settings.data_dir, progress)
        if world.is_writer:
            world.wait()
        train, validation = split(data.training, settings.validation, settings.seed)
        progress.say(
            f"training on {len(train)} images, validating on {len(validation)}, on {device} "
            f"with {torch.get_num_threads()} threads"
        )
        directory = settings.runs / settings.name
        fitted = fit(
            Run(
                settings=settings,
                train=train.to(device),
                validation=validation.to(device),
                classes=len(data.classes),
                data_sha256=data.sha256,
                directory=directory,
                progress=progress,
                stop=stop,
                world=world,
            )
        )
        if not world.is_writer:
            return None
        published = find_published(settings, fitted.run_id)
        if published:
            progress.say(f"this run was published already, as {published.path}")
        else:
            published = _prove_and_publish(settings, data, train, validation, fitted, device, progress, stop)
        checkpoint.clear(directory)
        return published


def find_published(settings: TrainingSettings, run_id: str) -> Bundle | None:
    """Return the bundle that the run `run_id` published, if it did before it was ended."""
    model = settings.models / settings.name
    for version in reversed(versions(model)):
        try:
            bundle = Bundle.open(model / str(version))
        except BundleError:
            continue
        if bundle.manifest.run_id == run_id:
            return bundle
    return None


def _prove_and_publish(
    settings: TrainingSettings,
    data: DataSet,
    train: Images,
    validation: Images,
    fitted: Fitted,
    device: torch.device,
    progress: Progress,
    stop: Stop,
) -> Bundle:
    """Calibrate, export, prove, test, publish."""
    model = fitted.model.cpu()
    held_out = torch.from_numpy(validation.images)
    validation_logits = evaluate.logits_of(model, fitted.standardise, held_out, stop.check)
    temperature = evaluate.fit_temperature(validation_logits, validation.labels)
    with staging(settings.models, settings.name) as directory:
        export.export(export.Served(model, fitted.standardise, temperature), directory)
        stop.check()
        test = data.test()  # every choice is made: this is the one look at the test set
        parity = export.prove(directory, model, fitted.standardise, test.images)
        progress.say(
            "proven: " + ", ".join(f"{k} {v.max_relative_difference:.1e}" for k, v in parity.items())
        )
        stop.check()
        test_logits = evaluate.logits_of(model, fitted.standardise, torch.from_numpy(test.images), stop.check)
        golden, sample_label = _golden(test, test_logits, temperature)
        stated = Facts(
            name=settings.name,
            created=facts.now(),
            run_id=fitted.run_id,
            classes=data.classes,
            input=InputContract(polarity=polarity(data.training.images)),
            temperature=temperature,
            hyperparameters=settings.model_dump(mode="json"),
            dataset=Dataset(
                name=data.name,
                sha256=data.sha256,
                train=len(train),
                validation=len(validation),
                test=len(test),
                split_seed=settings.seed,
            ),
            environment=facts.environment(device, settings.code_revision),
            validation=evaluate.metrics(validation_logits, validation.labels, temperature),
            test=evaluate.metrics(test_logits, test.labels, temperature),
            parity=parity,
            golden=Golden(images=len(golden.images), tolerance=GOLDEN_TOLERANCE),
            sample_label=data.classes[sample_label],
            reference=facts.reference(validation.images, validation_logits, temperature),
        )
        (directory / GOLDEN_FILE).write_bytes(golden.to_bytes())
        (directory / SAMPLE_FILE).write_bytes(_png(golden.images[0]))
        subject = report.Subject(facts=stated, history=fitted.history, test=test, logits=test_logits)
        weights = model.linear_layers()[0].weight.detach().numpy()
        (directory / REPORT_FILE).write_text(report.render(subject, weights), encoding="utf-8")
        (directory / CARD_FILE).write_text(model_card(stated), encoding="utf-8")
        stop.check()
        published = publish(directory, stated)
    progress.say(
        f"published {published.path}: test accuracy {stated.test.accuracy:.2%}, "
        f"validation accuracy {stated.validation.accuracy:.2%}"
    )
    return published


def choose_device(settings: TrainingSettings) -> torch.device:
    """Return the device to train on, with the process set up to repeat itself exactly there.

    Raises:
        DeviceError: CUDA was asked for and is not there.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise DeviceError(
            "--device cuda was asked for and torch finds no CUDA device: look at nvidia-smi and at the "
            "driver, or train with --device cpu"
        )
    # cuBLAS picks its workspace by this; without it its sums may differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    return torch.device("cuda" if cuda and settings.device != "cpu" else "cpu")


def _golden(test: Images, logits: evaluate.Logits, temperature: float) -> tuple[GoldenExamples, int]:
    """Choose golden examples, the first few test images of each class; return them and the first's class.

    The first one becomes `sample.png`: an image that the model gets right, so that who tries it out
    is not met by a mistake.
    """
    right = np.flatnonzero(logits.argmax(axis=1) == test.labels)
    first = right[:1] if len(right) else np.array([0])
    members = [np.flatnonzero(test.labels == label)[:GOLDEN_PER_CLASS] for label in range(logits.shape[1])]
    chosen = np.array(list(dict.fromkeys(np.concatenate([first, *members]).tolist())))
    probabilities = np.exp(evaluate.log_softmax(logits[chosen], temperature)).astype(np.float32)
    examples = GoldenExamples(images=test.images[chosen], probabilities=probabilities)
    return examples, int(test.labels[chosen[0]])


def _png(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
