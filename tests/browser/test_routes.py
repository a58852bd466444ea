"""The page's routes, without a browser: what is sent, how it is kept, and that it is packaged."""

import base64
import io
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from bench.support.models import CLASSES, Linear
from bench.support.processes import ROOT, Service
from bundle.repository import Bundle
from serving.settings import ServiceSettings
from serving.web import page
from serving.web.app import create_app
from serving.web.page import MAX_SAMPLES
from tests.browser.bundles import Images, publish_linear, untrained

ASSETS = sorted(path.name for path in (ROOT / "serving" / "web" / "page" / "assets").iterdir())
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


@pytest.fixture(scope="module")
def bundle(digits: Images, linear: Linear, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Publish a model whose golden examples are MNIST's first thirty test images."""
    return publish_linear(tmp_path_factory.mktemp("models"), linear, digits[:30], CLASSES)


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[FlaskClient]:
    """Return a client of the application itself."""
    app = create_app(ServiceSettings(model=bundle.path.parent, provider="cpu"))
    with app.test_client() as client:
        yield client


def path_of(asset: str) -> str:
    """Return the path at which a file of the page is answered."""
    return "/" if asset == "index.html" else f"/assets/{asset}"


@pytest.mark.parametrize("asset", ASSETS)
def test_files_are_sent_once_and_then_confirmed(client: FlaskClient, asset: str) -> None:
    """A file comes with an ETag; who has it already is told so, without the file."""
    answer = client.get(path_of(asset))
    assert answer.status_code == 200
    assert answer.mimetype == MEDIA_TYPES[Path(asset).suffix]
    assert answer.data == (ROOT / "serving" / "web" / "page" / "assets" / asset).read_bytes()
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    etag = answer.headers["ETag"]
    again = client.get(path_of(asset), headers={"If-None-Match": f'"other", {etag}'})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get(path_of(asset), headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.head(path_of(asset)).headers["Content-Length"] == str(len(answer.data))


def test_both_worker_classes_send_the_same_files(service: Service, other_service: Service) -> None:
    """The inference worker and Gunicorn's threads: the same bytes, the same tags, the same policy."""
    for asset in ASSETS:
        one, other = (each.ask("GET", path_of(asset)) for each in (service, other_service))
        assert one.status == other.status == 200
        assert one.body == other.body
        for field in ("ETag", "Cache-Control", "Content-Type", "Content-Security-Policy"):
            assert one.headers[field] == other.headers[field]


@pytest.mark.parametrize("name", ["index.html", "other.js", "..%2f__init__.py", "%2e%2e/__init__.py"])
def test_nothing_else_is_sent(client: FlaskClient, name: str) -> None:
    """What is no file of the page is a problem document, and no way leads out of the directory."""
    answer = client.get(f"/assets/{name}")
    assert answer.status_code == 404
    assert answer.mimetype == "application/problem+json"


def test_samples_are_golden_examples_one_for_each_class(
    client: FlaskClient, digits: Images, linear: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come in the classes' order, each the first of the thirty that the model calls so."""
    answer = client.get("/samples")
    said = linear.probabilities(digits[:30]).argmax(axis=1)
    expected = [(CLASSES[index], digits[said.tolist().index(index)]) for index in sorted(set(said.tolist()))]
    got = answer.get_json()["samples"]
    assert [sample["label"] for sample in got] == [label for label, _ in expected]
    for sample, (_, pixels) in zip(got, expected, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(sample["png"]))) as image:
            assert (image.format, image.mode) == ("PNG", "L")
            assert np.array_equal(np.asarray(image), pixels)
    again = client.get("/samples", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    monkeypatch.setattr(page, "samples", None)  # they are made once for a version
    assert client.get("/samples").data == answer.data


def test_very_many_classes_have_a_few_samples(digits: Images, tmp_path: Path) -> None:
    """The page stays small, however many classes there are."""
    many = tuple(f"class {index}" for index in range(1000))
    bundle = publish_linear(tmp_path, untrained(1000), digits[:200], many)
    client = create_app(ServiceSettings(model=bundle.path.parent, provider="cpu")).test_client()
    labels = [sample["label"] for sample in client.get("/samples").get_json()["samples"]]
    assert len(set(labels)) == len(labels) == MAX_SAMPLES


def test_without_a_model_the_page_is_there_and_the_samples_are_not(tmp_path: Path) -> None:
    """The page can say what is wrong."""
    client = create_app(ServiceSettings(model=tmp_path / "none", provider="cpu")).test_client()
    assert client.get("/").status_code == 200
    answer = client.get("/samples")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


def test_a_model_whose_files_are_gone_has_no_samples(digits: Images, linear: Linear, tmp_path: Path) -> None:
    """What is loaded answers on; the page only lacks its samples, until the files are back."""
    bundle = publish_linear(tmp_path, linear, digits[:3], CLASSES)
    client = create_app(ServiceSettings(model=bundle.path.parent, provider="cpu")).test_client()
    golden = bundle.path / "golden.npz"
    kept = golden.read_bytes()
    golden.unlink()
    answer = client.get("/samples")
    assert (answer.status_code, answer.get_json()) == (200, {"samples": []})
    assert "ETag" not in answer.headers
    golden.write_bytes(kept)
    assert client.get("/samples").get_json()["samples"]


def test_the_page_s_files_are_packaged() -> None:
    """An installed Glyph has the page: setuptools is told of the package and of its files."""
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "serving*" in stated["packages"]["find"]["include"]
    assert stated["package-data"]["serving.web.page"] == ["assets/*"]
    assert sorted(entry.name for entry in files("serving.web.page").joinpath("assets").iterdir()) == ASSETS


def test_the_page_names_only_what_is_there() -> None:
    """Every file that the page or a module refers to exists, and each is fetched early."""
    directory = ROOT / "serving" / "web" / "page" / "assets"
    page = (directory / "index.html").read_text()
    for name in ASSETS:
        if name.endswith(".js"):
            assert f'"assets/{name}"' in page, f"{name} is not preloaded"
        text = (directory / name).read_text()
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
