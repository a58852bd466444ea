"""`?resize=`: files of other sizes, for a model whose training images were resized in the same way."""

import base64
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image

from bench.support.models import publish_synthetic
from bench.support.pictures import Pixels, a_digit, encoded, png
from bench.support.processes import Part, form, running
from bundle.images.contract import BLACK_ON_WHITE, RESIZES, Resize
from bundle.images.hardening import MAX_SIDE, SERVED_PIXELS
from bundle.images.resizing import resize
from bundle.manifest import MANIFEST_FILE, Manifest
from bundle.repository import resolve
from serving.model.store import ModelStore
from serving.predict.bodies.image_files import MAX_RESIZED
from serving.predict.exchange import JSON, Request, Response
from serving.predict.pipeline import Pipeline
from serving.settings import ServiceSettings
from serving.web.api_docs import metadata
from training.__main__ import main


def a_pipeline(models: Path, how: Resize | None, polarity: str = "white-on-black") -> Pipeline:
    """Return the prediction routes for a model that was trained on images that were resized."""
    published = publish_synthetic(models, resize=how, polarity=polarity)
    settings = ServiceSettings(model=published.path.parent, provider="cpu")
    return Pipeline(settings, ModelStore.start(settings))


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[Resize | None, Pipeline]:
    """Return one for each way, and one for none."""
    ways: tuple[Resize | None, ...] = (None, *RESIZES)
    return {how: a_pipeline(tmp_path_factory.mktemp("models"), how) for how in ways}


def ask(pipeline: Pipeline, body: bytes, media_type: str = "image/png", query: str = "") -> Response:
    """Return the answer to a request that has just arrived."""
    headers = {"content-type": media_type}
    request = Request(method="POST", path="/predict", query=query, headers=headers, body=body)
    return pipeline.answer(pipeline.open(request, time.perf_counter()))


def predictions(response: Response) -> list[dict[str, Any]]:
    """Return what a good answer says."""
    assert response.status == 200, response.body
    found: list[dict[str, Any]] = orjson.loads(response.body)["predictions"]
    return found


def refused(response: Response, status: int, *words: str) -> dict[str, Any]:
    """Check a problem's status and words."""
    assert response.status == status
    document: dict[str, Any] = orjson.loads(response.body)
    assert all(word in document["detail"] + document["remedy"] for word in words), document
    return document


def a_picture(seed: int = 4, shape: tuple[int, int] = (90, 60)) -> Pixels:
    """Return a digit's random squares, enlarged, off the middle of a dark sheet."""
    picture = np.zeros(shape, np.uint8)
    picture[10:58, 5:53] = np.kron(np.random.default_rng(seed).integers(0, 256, (12, 12)), np.ones((4, 4)))
    return picture


@pytest.mark.parametrize("how", RESIZES)
def test_every_way_in_which_files_arrive_is_resized(
    how: Resize, pipelines: dict[Resize | None, Pipeline]
) -> None:
    """A file, a form of several, base64 and data URLs: each answered as the 28x28 image that training would make."""
    pictures = [a_picture(1), a_picture(2, (120, 200)), a_digit()]
    files = [png(picture) for picture in pictures]
    small = [png(resize(picture, how, "white-on-black")) for picture in pictures]
    pipeline, query = pipelines[how], f"resize={how}"
    expected = [predictions(ask(pipeline, data))[0] for data in small]
    assert [predictions(ask(pipeline, data, query=query))[0] for data in files] == expected
    sent = form(*(Part(data, filename=None) for data in files))
    formed = predictions(ask(pipeline, *sent, query=query))
    assert [one["probabilities"] for one in formed] == [one["probabilities"] for one in expected]
    strings = [base64.b64encode(data).decode() for data in files]
    instances: list[Any] = [strings[0], f"data:image/png;base64,{strings[1]}", {"b64": strings[2]}]
    body = orjson.dumps({"instances": instances})
    assert predictions(ask(pipeline, body, JSON, query)) == expected
    top = predictions(ask(pipeline, files[0], query=f"top=1&{query}"))[0]
    assert top["label"] == expected[0]["label"]


def test_mnist_makes_images_of_the_models_polarity(tmp_path: Path) -> None:
    """A light drawing for a model of dark ink is answered as the dark one, without a warning."""
    pipeline = a_pipeline(tmp_path, "mnist", BLACK_ON_WHITE)
    (light,) = predictions(ask(pipeline, png(a_picture()), query="resize=mnist"))
    (dark,) = predictions(ask(pipeline, png(255 - a_picture()), query="resize=mnist"))
    assert light == dark
    assert light["warnings"] == []


@pytest.mark.parametrize("how", RESIZES)
def test_a_model_of_images_as_they_are_resizes_none(
    how: Resize, pipelines: dict[Resize | None, Pipeline]
) -> None:
    """It has not learnt what resizing does to an image; even one of 28x28 is refused, so that nobody relies on it."""
    for data in (png(a_picture()), png(a_digit())):
        document = refused(
            ask(pipelines[None], data, query=f"resize={how}"), 400, "as they are", "Omit resize"
        )
        assert document["type"] == "urn:glyph:problem:bad-query"


def test_another_way_than_the_trainings_is_refused_and_the_right_one_named(
    pipelines: dict[Resize | None, Pipeline],
) -> None:
    """A model of padded images must not get stretched ones."""
    refused(ask(pipelines["pad"], png(a_picture()), query="resize=fit"), 400, "'pad'", "?resize=pad")


@pytest.mark.parametrize(
    "query", ["resize=", "resize=FIT", "resize=crop", "resize=fit&resize=fit", "resiz=fit"]
)
def test_an_unknown_way_is_refused(query: str, pipelines: dict[Resize | None, Pipeline]) -> None:
    """A misspelt parameter is told the right name, a wrong value the three."""
    document = refused(ask(pipelines["fit"], png(a_picture()), query=query), 400)
    assert document["type"] == "urn:glyph:problem:bad-query"
    if query.startswith("resize=") and "&" not in query:
        assert "fit, pad or mnist" in document["remedy"]


def test_a_wrong_size_is_told_the_way_where_there_is_one(pipelines: dict[Resize | None, Pipeline]) -> None:
    """And only there: without one, the image has to be prepared by its sender."""
    for how, pipeline in pipelines.items():
        body = orjson.dumps({"instances": [base64.b64encode(png(a_picture())).decode()]})
        for answer in (
            ask(pipeline, png(a_picture())),
            ask(pipeline, *form(Part(png(a_picture())))),
            ask(pipeline, body, JSON),
        ):
            document = refused(answer, 422, "60x90", "28x28")
            assert ("?resize=" in document["remedy"]) == (how is not None)
            assert how is None or f"?resize={how}" in document["remedy"]


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (bytes(784), "application/octet-stream"),
        (b"\x93NUMPY", "application/x-npy"),
        (orjson.dumps({"instances": [[0] * 784]}), JSON),
    ],
)
def test_pixels_are_not_resized(
    body: bytes, media_type: str, pipelines: dict[Resize | None, Pipeline]
) -> None:
    """They are 28x28 by their form; a client that thinks otherwise is told so."""
    refused(ask(pipelines["pad"], body, media_type, "resize=pad"), 400, "for image files", "omit resize")


def test_the_cost_of_a_request_is_bounded(pipelines: dict[Resize | None, Pipeline]) -> None:
    """A file by its pixels, which its header declares, and a body by its files."""
    pipeline = pipelines["fit"]
    assert 800 * 600 <= SERVED_PIXELS < 800 * 800
    assert ask(pipeline, encoded(Image.new("L", (800, 600)), "PNG"), query="resize=fit").status == 200
    for size in ((800, 800), (MAX_SIDE + 1, 1)):
        data = encoded(Image.new("L", size), "PNG")
        document = refused(ask(pipeline, data, query="resize=fit"), 413, str(SERVED_PIXELS))
        assert document["type"] == "urn:glyph:problem:image-too-large"
    text = base64.b64encode(png(a_digit())).decode()
    for count, status in ((MAX_RESIZED, 200), (MAX_RESIZED + 1, 413)):
        sent = form(*[Part(png(a_digit()))] * count)
        assert ask(pipeline, *sent, query="resize=fit").status == status
        assert ask(pipeline, *sent).status == 200
        body = orjson.dumps({"instances": [text] * count})
        assert ask(pipeline, body, JSON, "resize=fit").status == status
        assert ask(pipeline, body, JSON).status == 200


def test_the_metadata_say_how_and_up_to_which_size(pipelines: dict[Resize | None, Pipeline]) -> None:
    """In the manifest, too, where older readers find nothing new unless the images were resized."""
    for how, pipeline in pipelines.items():
        engine = pipeline.store.engine()
        document = metadata(engine, pipeline.settings)
        assert document["input"].get("resize") == how
        assert ("resize" in document["input"]) == (how is not None)
        assert document["limits"]["image_pixels"] == SERVED_PIXELS
        raw = (engine.bundle.path / MANIFEST_FILE).read_bytes()
        assert (b'"resize"' in raw) == (how is not None)
        assert Manifest.from_bytes(raw).input.resize == how


def test_it_works_over_http(tmp_path: Path) -> None:
    """The description, both metadata routes, and an answer from a thread of the inference worker."""
    published = publish_synthetic(tmp_path / "models", resize="mnist")
    with running(tmp_path, until="/readyz", model=published.path.parent) as service:
        assert service.ask("GET", "/metadata").json()["input"]["resize"] == "mnist"
        assert service.ask("GET", "/v2/models/synthetic").json()["properties"]["resize"] == "mnist"
        parameters = service.ask("GET", "/openapi.json").json()["components"]["parameters"]
        assert parameters["resize"]["schema"]["enum"] == [*RESIZES]
        asked = service.ask("POST", "/predict?resize=mnist", png(a_picture()), Content_Type="image/png")
        small = png(resize(a_picture(), "mnist"))
        plain = service.ask("POST", "/predict", small, Content_Type="image/png")
        assert asked.status == plain.status == 200
        assert asked.json()["predictions"] == plain.json()["predictions"]


def test_a_model_trained_with_resize_knows_photographs_of_digits(
    tmp_path: Path, mnist_directory: Path
) -> None:
    """From the setting to the answer: enlarged digits, off the middle of gray paper, as JPEG.

    An epoch of a small network on MNIST, whose images are as `mnist` would make them.
    """
    raw = (mnist_directory / "t10k-images-idx3-ubyte").read_bytes()
    images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.frombuffer((mnist_directory / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    np.savez(tmp_path / "some.npz", x_train=images[:6000], y_train=labels[:6000])
    places = ["--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    small = ["--epochs", "2", "--hidden", "64", "--threads", "1", "--device", "cpu", "--resize", "mnist"]
    assert main(["fit", *places, *small, "--data", f"npz:{tmp_path / 'some.npz'}"]) == 0
    published = resolve(tmp_path / "models" / "some")
    assert published.manifest.input.resize == "mnist"
    assert published.manifest.hyperparameters["resize"] == "mnist"
    assert "`resize=mnist`" in (published.path / "MODEL_CARD.md").read_text()

    settings = ServiceSettings(model=published.path.parent, provider="cpu")
    pipeline = Pipeline(settings, ModelStore.start(settings))
    right = 0
    for image, label in zip(images[6000:6100], labels[6000:6100], strict=True):
        paper = np.full((400, 300), 200, np.uint8)
        large = np.asarray(Image.fromarray(image).resize((196, 196)))
        paper[20:216, 60:256] -= (large * 0.7).astype(np.uint8)
        photo = encoded(Image.fromarray(paper).convert("RGB"), "JPEG", quality=80)
        (one,) = predictions(ask(pipeline, photo, "image/jpeg", "resize=mnist"))
        assert one["warnings"] == []
        right += one["label"] == str(label)
    assert right >= 75
