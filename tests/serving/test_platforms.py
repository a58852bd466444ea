"""Where platforms put the model and how they ask for it: variables, mounted directories, routes and names."""

import base64
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.models import Linear, publish_synthetic
from bench.support.pictures import png
from bench.support.processes import ROOT, Service, environment, running, serving_command
from bundle.repository import Bundle
from common.errors import ConfigurationError
from serving import settings as settings_module
from serving.__main__ import main
from serving.errors import NotReadyError
from serving.model.store import ModelStore
from serving.settings import ServiceSettings, load_settings

Pixels = npt.NDArray[np.uint8]
VERTEX_ROUTE = "/v1/endpoints/12/deployedModels/34"


@pytest.fixture(autouse=True)
def sagemaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory in the place of SageMaker's, which this machine may have."""
    directory = tmp_path / "opt" / "ml" / "model"
    monkeypatch.setattr(settings_module, "SAGEMAKER_MODEL", directory)
    return directory


def store_of(**settings: Any) -> ModelStore:
    """Return the models that a worker with these settings has."""
    return ModelStore.start(ServiceSettings(provider="cpu", **settings))


def served(**settings: Any) -> tuple[str, int]:
    """Return name and number of the version that a worker with these settings serves."""
    bundle = store_of(**settings).engine().bundle
    return bundle.manifest.name, bundle.version


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 8080),
        ({"PORT": "8000"}, 8000),
        ({"PORT": "8000", "AIP_HTTP_PORT": "8001"}, 8001),
        ({"PORT": "8000", "AIP_HTTP_PORT": "8001", "GLYPH_PORT": "8002"}, 8002),
        ({"PORT": ""}, 8080),
        ({"PORT": "8000", "GLYPH_PORT": "tcp://10.0.0.11:8080"}, 8000),
    ],
)
def test_our_own_variable_comes_before_vertex_ais_and_that_before_port(
    variables: dict[str, str], expected: int
) -> None:
    """An empty one sets nothing, and a Service's variable is no setting."""
    assert load_settings(variables).port == expected


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PORT", "eighty"), ("PORT", "65536"), ("AIP_HTTP_PORT", "0"), ("AIP_HEALTH_ROUTE", "health")]
    + [("AIP_PREDICT_ROUTE", route) for route in ("/a b", "/<name>", "/a?b", "/%61")],
)
def test_what_a_platform_sets_wrong_ends_the_service_with_a_sentence(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the variable and the value, and has the exit code of settings."""
    monkeypatch.setenv(variable, value)
    assert main(["--check-address"]) == 2
    assert f"error: the environment variable {variable}: " in (wrong := capsys.readouterr().err)
    assert f"it was '{value}'" in wrong


def test_an_option_comes_before_every_variable(bundle: Bundle, tmp_path: Path) -> None:
    """The processes of the service agree about it, and the word `serve` changes nothing."""
    model, port = str(bundle.path.parent), "8"
    command = serving_command("serve", "--model", model, "--workers", "1", "--provider", "cpu")
    done = subprocess.run(
        [*command, "--check"],
        env=environment() | {"PORT": port},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with running(tmp_path, command=command, until="/ping", model=tmp_path / "none") as service:
        assert service.ask("GET", "/ping").json()["model"]["name"] == "synthetic"


def test_another_word_than_serve_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """SageMaker would start a training by `train`, which this program does not do."""
    with pytest.raises(SystemExit) as ended:
        main(["train"])
    assert ended.value.code == 2
    assert "invalid choice: 'train'" in capsys.readouterr().err


@pytest.mark.parametrize("packed", [".", "1", "synthetic", "synthetic/1", "export/1"])
def test_a_version_is_found_wherever_an_archive_has_it(bundle: Bundle, sagemaker: Path, packed: str) -> None:
    """As a model.tar.gz holds it: its files, VERSION/, NAME/VERSION/, or either under any name."""
    archive = sagemaker.parent.parent / "model.tar.gz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as writing:
        writing.add(bundle.path, packed)
    assert load_settings({}).model == Path("models/mnist"), "an empty directory has no model"
    with tarfile.open(archive) as reading:
        reading.extractall(sagemaker, filter="data")
    settings = load_settings({})
    assert served(model=settings.model, version=settings.version) == ("synthetic", 1)
    assert load_settings({"GLYPH_MODEL": "models/other"}).model == Path("models/other")


def test_a_directory_of_two_models_is_none(bundle: Bundle, sagemaker: Path) -> None:
    """Which of them is meant, only GLYPH_MODEL can say."""
    for name in ("a", "b"):
        shutil.copytree(bundle.path.parent, sagemaker / name)
    assert load_settings({}).model == Path("models/mnist")
    assert load_settings({"GLYPH_MODEL": str(sagemaker / "b")}).model == sagemaker / "b"


def test_a_mounted_version_is_loaded_anew_when_its_files_change(bundle: Bundle, tmp_path: Path) -> None:
    """As any other version; the number stays 1, and the digest says which it is."""
    mounted = tmp_path / "mnt" / "models"
    shutil.copytree(bundle.path, mounted)
    store = store_of(model=mounted)
    assert store.engine().bundle.manifest.digest == bundle.manifest.digest
    other = publish_synthetic(tmp_path / "other", polarity="black-on-white")
    shutil.rmtree(mounted)
    shutil.copytree(other.path, mounted)
    store.load(prove_first=False)
    assert store.engine().bundle.manifest.digest == other.manifest.digest
    assert store.versions() == [1]


def test_a_version_of_another_model_is_refused_where_the_directory_has_the_models_name(
    bundle: Bundle, tmp_path: Path
) -> None:
    """At the start and later; unless GLYPH_SERVED_NAME says that all of them are one model."""
    model = Path(shutil.copytree(bundle.path.parent, tmp_path / "synthetic"))
    shutil.copytree(publish_synthetic(tmp_path / "others", name="another").path, model / "2")
    assert served(model=model) == ("synthetic", 1)
    assert served(model=model, served_name="digits") == ("digits", 2)
    store = store_of(model=Path(shutil.copytree(bundle.path.parent, tmp_path / "any")))
    shutil.copytree(model / "2", tmp_path / "any" / "2")
    store.load(prove_first=False)
    (refused,) = store.report()["refused"]
    assert refused["version"] == 2
    assert "the manifest is of model 'another', but the served model is 'synthetic'" in refused["reason"]


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-a", "a:b"])
def test_a_name_that_no_path_can_have_is_refused(name: str) -> None:
    """It would be no part of a route; an empty one is none."""
    if not name:
        assert load_settings({"GLYPH_SERVED_NAME": name}).served_name is None
        return
    with pytest.raises(ConfigurationError, match="GLYPH_SERVED_NAME"):
        load_settings({"GLYPH_SERVED_NAME": name})


def test_a_mount_that_is_empty_is_not_ready(tmp_path: Path) -> None:
    """And the reason names it."""
    with pytest.raises(NotReadyError, match=f"no version is published in {tmp_path}"):
        store_of(model=tmp_path).engine()


@pytest.fixture(scope="module", params=["inference", "gthread"])
def platform(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    """Return a service as Vertex AI starts it, of a bundle mounted under no name, which needs a token."""
    directory = tmp_path_factory.mktemp("platform")
    mounted = shutil.copytree(bundle.path, directory / "mnt" / "models")
    tokens = directory / "tokens"
    tokens.write_text(
        "till sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n"
    )  # secret
    with running(
        directory,
        until="/v1/health",
        worker=request.param,
        model=mounted,
        served_name="digits",
        tokens_file=tokens,
        predict_route=VERTEX_ROUTE + ":predict",
        health_route="/v1/health",
    ) as service:
        yield service


def ask(service: Service, path: str, body: Any, content_type: str = "application/json") -> Any:
    """Post a body with the token."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return service.ask("POST", path, sent, Content_Type=content_type, Authorization="Bearer secret")


def test_health_routes_need_no_token_and_prediction_routes_do(platform: Service, digit: Pixels) -> None:
    """As /readyz and /predict; the refusal has the form of the path's other errors."""
    for path in ("/ping", "/v1/health"):
        assert platform.ask("GET", path).json()["model"]["name"] == "digits"
    for path, form in (
        ("/invocations", "detail"),
        (VERTEX_ROUTE + ":predict", "detail"),
        ("/v1/models/digits:predict", "error"),
    ):
        answer = platform.ask("POST", path, png(digit), Content_Type="image/png")
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="glyph"'
        assert "the request has no bearer token" in answer.json()[form]
    for path in ("/v1/models", "/v1/models/digits", "/v2/models/stats", "/v2/models/digits/config"):
        assert platform.ask("GET", path).status == 401


def test_vertex_ai_gets_the_predictions_alone(platform: Service, digit: Pixels) -> None:
    """It defines the member `model` itself; its `parameters` are ignored; /predict answers as ever."""
    body = {"instances": [digit.tolist(), base64.b64encode(png(digit)).decode()], "parameters": {"a": [1]}}
    answer = ask(platform, VERTEX_ROUTE + ":predict", body)
    assert answer.status == 200
    usual = ask(platform, "/predict", body).json()
    assert list(answer.json()) == ["predictions"]
    assert answer.json()["predictions"] == usual["predictions"]
    assert usual["model"]["name"] == "digits"
    assert answer.headers["Server-Timing"].startswith("queue;dur=")
    raw = ask(platform, VERTEX_ROUTE + ":predict", png(digit), "image/png")
    assert raw.json() == ask(platform, "/predict", png(digit), "image/png").json()


def test_a_route_of_the_settings_may_be_one_that_there_is(
    bundle: Bundle, tmp_path: Path, digit: Pixels
) -> None:
    """Then /predict answers Vertex AI's form, and / is a health check."""
    with running(
        tmp_path, until="/", model=bundle.path.parent, predict_route="/predict", health_route="/"
    ) as service:
        assert service.ask("GET", "/").json()["ready"] is True
        body = json.dumps({"instances": [digit.tolist()]})
        assert list(service.post(body, "application/json").json()) == ["predictions"]


def test_sagemakers_clients_may_send_what_predict_takes(
    platform: Service, digit: Pixels, linear: Linear
) -> None:
    """JSON, image files under any of their names, NumPy files; a table is refused with what is supported."""
    expected = ask(platform, "/predict", png(digit), "image/png").json()
    assert expected["predictions"][0]["probability"] == pytest.approx(
        linear.probabilities(digit[None]).max(), abs=1e-5
    )
    for content_type in ("image/png", "application/x-image"):
        assert ask(platform, "/invocations", png(digit), content_type).json() == expected
    answer = ask(platform, "/invocations", {"instances": [digit.tolist()]})
    assert answer.json()["predictions"][0]["label"] == expected["predictions"][0]["label"]
    refused = ask(platform, "/invocations", b"0,1,2\n", "text/csv")
    assert refused.status == 415
    assert "the content type text/csv is not supported" in refused.json()["detail"]
    assert "application/x-npy" in refused.json()["remedy"]


def test_every_route_and_answer_has_the_served_name(platform: Service, digit: Pixels) -> None:
    """That of the manifest is not there any more."""

    def get(path: str) -> Any:
        return platform.ask("GET", path, Authorization="Bearer secret")

    assert get("/metadata").json()["model"]["name"] == "digits"
    assert get("/v2/models/digits").json()["name"] == "digits"
    assert get("/v2/models/digits/config").json()["name"] == "digits"
    assert get("/v2/models/stats").json()["model_stats"][0]["name"] == "digits"
    assert get("/v1/models").json() == {"models": ["digits"]}
    assert ask(platform, "/v1/models/digits:predict", {"instances": [digit.tolist()]}).status == 200
    index = ask(platform, "/v2/repository/index", b"").json()
    assert index == [{"name": "digits", "version": "1", "state": "READY", "reason": ""}]
    for path in ("/v1/models/synthetic", "/v2/models/synthetic"):
        assert get(path).status == 404
        assert "The served model is 'digits'" in get(path).json()["error"]
