"""From a trained model to a published bundle: calibrate, export, prove parity, test, publish."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from bundle import drift
from bundle.golden import GoldenExamples
from bundle.images.contract import PAPER
from bundle.manifest import (
    CARD_FILE,
    GOLDEN_FILE,
    INTEGER_ONNX_FILE,
    REPORT_FILE,
    SAMPLE_FILE,
    Dataset,
    Golden,
    InputContract,
    Metrics,
    ModelMetadata,
    Parity,
    Quantisation,
    Reference,
)
from bundle.remote import push
from bundle.repository import Bundle, publish, staging
from bundle.signing import Signer
from common.progress import Progress
from training import provenance
from training.data.dataset import DataSet, Images, polarity
from training.data.duplicates import Duplicates, duplicates
from training.errors import writing, writing_to_store
from training.interrupts import StopFlag
from training.loop.fit import Fitted
from training.model import evaluation, robustness
from training.model.mlp import RAW_PIXELS
from training.release import export, parity
from training.release.model_card import model_card
from training.report import page
from training.settings import TrainingSettings

GOLDEN_PER_CLASS = 3
GOLDEN_MOST = 1000
"""Most golden examples in total; a server replays each before it is ready."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A trained model and its data."""

    settings: TrainingSettings
    """With the model's name."""
    data: DataSet
    train: Images
    validation: Images
    teachers: Mapping[str, str]
    """Path of each teacher to its manifest's digest."""
    fitted: Fitted
    device: torch.device
    """The device that it was trained on."""
    signer: Signer | None = None
    """What signs the published version, if anything does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The measurements of a candidate, on the CPU."""

    temperature: float
    validation_logits: evaluation.Logits
    test: Images
    test_logits: evaluation.Logits
    training: Metrics
    """On a sample of the training images, for the generalisation gap."""
    duplicates: Duplicates
    changed: dict[str, evaluation.Labels]
    """Change of the test images to their predicted classes."""
    quantisation: Quantisation | None
    parity: dict[str, Parity]
    omitted: dict[str, str]
    """Optional file that is not written, or format that is not proven, to the reason."""


def release(candidate: Candidate, progress: Progress, stop: StopFlag) -> Bundle:
    """Publish the candidate as the next version of its model, after proving its export.

    Raises:
        ExportError: the export could not be proven; nothing was published.
        InterruptedRunError: a signal arrived; nothing was published.
        PublishError, UnwritableError: the model repository cannot be written.
    """
    settings, data = candidate.settings, candidate.data
    fitted = replace(candidate.fitted, model=candidate.fitted.model.cpu())
    exported = export.ExportedModel(fitted.model, fitted.standardise, quantise=settings.quantises)
    model, standardise = exported.layers, RAW_PIXELS
    with staging(settings.models, str(settings.name)) as directory:
        held_out = torch.from_numpy(candidate.validation.images)
        validation_logits = evaluation.logits_of(model, standardise, held_out, stop.check)
        exported.temperature = evaluation.fit_temperature(validation_logits, candidate.validation.labels)
        export.export(exported, directory)
        stop.check()

        test = data.test()  # all choices have been made: the test set is read only here
        proven = parity.prove(directory, model, standardise, test.images)
        stop.check()
        omitted = {}
        if candidate.device.type == "cuda":
            cuda = parity.prove_on_cuda(directory, model, standardise, test.images)
            if isinstance(cuda, Parity):
                proven[parity.CUDA_FORM] = cuda
            else:
                omitted[parity.CUDA_FORM] = cuda
                progress.say(
                    f"{parity.CUDA_FORM} is omitted: {cuda}; a server on CUDA verifies its own session with the golden "
                    "examples before it is ready"
                )
            stop.check()
        integer = (
            parity.add_integer_graph(directory, exported, test.images)
            if settings.quantises
            else "the weights of its first layer are float32 (first_layer)"
            if settings.hidden
            else "a network without hidden layers is not rounded to int8"
        )
        if isinstance(integer, Parity):
            proven[parity.INTEGER_FORM] = integer
        else:
            omitted[INTEGER_ONNX_FILE] = integer
            progress.say(
                f"{INTEGER_ONNX_FILE} is omitted: {integer}; CPUs will compute in float32 throughout"
            )
        stop.check()
        before = _as_trained(fitted, test, stop)
        repeated = duplicates(data.training, test)
        progress.say(f"{len(test)} test images: {repeated.sentence()}")
        seen = page.training_sample(candidate.train)
        seen_logits = evaluation.logits_of(model, standardise, torch.from_numpy(seen.images), stop.check)
        test_logits = evaluation.logits_of(model, standardise, torch.from_numpy(test.images), stop.check)
        measured = Measured(
            temperature=exported.temperature,
            validation_logits=validation_logits,
            test=test,
            test_logits=test_logits,
            training=evaluation.metrics(seen_logits, seen.labels, exported.temperature),
            duplicates=repeated,
            changed=robustness.predictions(
                model,
                standardise,
                test.images[robustness.indices(len(test))],
                PAPER[polarity(candidate.train.images)],
                poll=stop.check,
            ),
            quantisation=_quantisation(before, test_logits, test.labels) if settings.quantises else None,
            parity=proven,
            omitted=omitted,
        )
        weights = exported.first_layer.weight.numpy()
        stated = _write_documents(directory, candidate, measured, weights)
        stop.check()
        published = publish(directory, stated, candidate.signer)
    shown = ", ".join(f"{form} {p.max_relative_difference:.1e}" for form, p in proven.items())
    progress.say(f"proven over {len(test)} images, largest relative differences of a logit: {shown}")
    progress.say(
        f"published {published.path}: test accuracy {stated.test.accuracy:.2%}, "
        f"validation accuracy {stated.validation.accuracy:.2%}"
    )
    return published


def push_version(published: Bundle, url: str, progress: Progress) -> None:
    """Publish the version in an object store, too.

    Raises:
        PublishError: the store has something else in its place.
        UnwritableError: the store refused, or cannot be reached; the version is published locally.
    """
    progress.say(
        f"pushing {published.path} to {url}"
    )  # if that fails, --resume or `python -m bundle push` goes on
    with writing_to_store():
        pushed = push(published, url)
    progress.say(f"pushed as {pushed.store.url}, digest {pushed.manifest.digest[:12]}")


def _as_trained(fitted: Fitted, test: Images, stop: StopFlag) -> evaluation.Logits:
    """Return the logits of the network as it was trained, which the folded one gives too.

    Raises:
        ExportError: it does not.
    """
    images = torch.from_numpy(test.images)
    folded = export.ExportedModel(fitted.model, fitted.standardise)
    trained = evaluation.logits_of(fitted.model, fitted.standardise, images, stop.check)
    found = evaluation.logits_of(folded.layers, RAW_PIXELS, images, stop.check)
    parity.measure_parity("the folded network", trained, found, parity.LOGIT_TOLERANCE)
    return trained


def _quantisation(
    before: evaluation.Logits, after: evaluation.Logits, labels: evaluation.Labels
) -> Quantisation:
    return Quantisation(
        accuracy=evaluation.accuracy(before, labels),
        nll=evaluation.negative_log_likelihood(before, labels),
        labels_differing=int((before.argmax(1) != after.argmax(1)).sum()),
    )


def _write_documents(
    directory: Path, candidate: Candidate, measured: Measured, first_layer: npt.NDArray[np.float32]
) -> ModelMetadata:
    """Write all files but the exported models and the manifest; return the manifest's metadata."""
    golden, sample_label = _golden(measured)
    stated = _metadata(candidate, measured, golden, sample_label)
    subject = page.ReportData(
        metadata=stated,
        history=candidate.fitted.history,
        test=measured.test,
        logits=measured.test_logits,
        training=measured.training,
        duplicates=measured.duplicates,
        changed=measured.changed,
    )
    documents = {
        GOLDEN_FILE: golden.to_bytes(),
        SAMPLE_FILE: _png(golden.images[0]),
        REPORT_FILE: page.render(subject, first_layer).encode(),
        CARD_FILE: model_card(stated).encode(),
    }
    for name, data in documents.items():
        with writing(directory / name):
            (directory / name).write_bytes(data)
    return stated


def _metadata(
    candidate: Candidate, measured: Measured, golden: GoldenExamples, sample_label: int
) -> ModelMetadata:
    settings, data, temperature = candidate.settings, candidate.data, measured.temperature
    train, validation, test = candidate.train, candidate.validation, measured.test
    return ModelMetadata(
        name=str(settings.name),
        created=provenance.now(),
        run_id=candidate.fitted.run_id,
        classes=data.classes,
        input=InputContract(polarity=polarity(train.images), resize=settings.resize),
        temperature=temperature,
        hyperparameters=settings.model_dump(
            mode="json", exclude={"publish"}
        ),  # where it went says nothing of it
        dataset=Dataset(
            name=data.name,
            sha256=data.sha256,
            train=len(train),
            validation=len(validation),
            test=len(test),
            split_seed=settings.seed,
        ),
        teachers=dict(candidate.teachers),
        environment=provenance.environment(candidate.device, settings.code_revision),
        validation=evaluation.metrics(measured.validation_logits, validation.labels, temperature),
        test=evaluation.metrics(measured.test_logits, test.labels, temperature),
        robustness=robustness.accuracies(measured.changed, test.labels[robustness.indices(len(test))]),
        quantisation=measured.quantisation,
        parity=measured.parity,
        omitted=measured.omitted,
        golden=Golden(images=len(golden.images), tolerance=parity.GOLDEN_TOLERANCE),
        sample_label=data.classes[sample_label],
        reference=_reference(validation, measured.validation_logits, temperature),
    )


def _reference(validation: Images, logits: evaluation.Logits, temperature: float) -> Reference:
    confidence = np.exp(evaluation.log_softmax(logits, temperature)).max(axis=1)
    predicted = np.bincount(logits.argmax(axis=1), minlength=logits.shape[1])
    return drift.reference(validation.images, confidence, predicted)


def _golden(measured: Measured) -> tuple[GoldenExamples, int]:
    """Choose the golden examples, the first few test images of each class; return them and the first one's class.

    The first one becomes `sample.png` and is a correctly classified image if there is one.
    """
    test, logits = measured.test, measured.test_logits
    right = np.flatnonzero(logits.argmax(axis=1) == test.labels)
    first = right[:1] if len(right) else np.array([0])
    members = [np.flatnonzero(test.labels == label)[:GOLDEN_PER_CLASS] for label in range(logits.shape[1])]
    chosen = np.array(list(dict.fromkeys(np.concatenate([first, *members]).tolist())))[:GOLDEN_MOST]
    probabilities = np.exp(evaluation.log_softmax(logits[chosen], measured.temperature)).astype(np.float32)
    examples = GoldenExamples(images=test.images[chosen], probabilities=probabilities)
    return examples, int(test.labels[chosen[0]])


def _png(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
