"""Prepared versions beside a good one: the good one is served, by living workers, and nothing is told of the rest."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench.support.management import await_, managed
from bench.support.models import publish_synthetic
from bench.support.pictures import a_digit, png
from bundle.repository import Bundle
from bundle.verify import problems
from serving.errors import ProviderError
from serving.model.engine import Engine, open_version
from serving.model.prove import MAX_REASON
from serving.model.store import ModelStore
from serving.score import main as score
from serving.settings import ServiceSettings
from serving.system.memory_directory import DIRECTORY_VARIABLE
from serving.telemetry.metrics import Metrics
from tests.bundle.hostile import ATTACKS, Attack, clear, no_secret, put, write_secret


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return a file that is in no bundle."""
    return write_secret(tmp_path)


def start(model: Path) -> ModelStore:
    """Return what a worker starts with."""
    return ModelStore.start(ServiceSettings(model=model, provider="cpu"))


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_the_good_version_beside_it_is_served(
    tmp_path: Path, secret: Path, attack: Attack, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal is one short sentence in the report and the log, and tells nothing of a file outside."""
    good, prepared = (publish_synthetic(tmp_path / "models") for _ in range(2))
    attack.prepare(prepared.path, secret)
    state = start(good.path.parent)
    report = state.report()
    (refused,) = report["refused"]
    assert (report["model"]["version"], refused["version"]) == (1, 2)
    assert re.search(attack.said, refused["reason"])
    assert len(refused["reason"]) <= MAX_REASON
    assert no_secret(json.dumps(report) + caplog.text)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_prepared_version_scores_nothing(
    tmp_path: Path, secret: Path, attack: Attack, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scorer, which takes the newest version, ends with the sentence; nothing is written."""
    prepared = publish_synthetic(tmp_path / "models")
    attack.prepare(prepared.path, secret)
    (tmp_path / "image.png").write_bytes(png(a_digit()))
    places = ["--input", str(tmp_path / "image.png"), "--output", str(tmp_path / "scores")]
    assert score([*places, "--model", str(prepared.path.parent), "--provider", "cpu"]) == 70
    told = capsys.readouterr().err
    assert re.search(attack.said, told)
    assert no_secret(told)
    assert not (tmp_path / "scores").exists()


def test_a_service_outlives_every_prepared_version(tmp_path: Path, secret: Path) -> None:
    """All of them at once beside a good one: the same worker answers, and both ports say why each is refused."""
    good = publish_synthetic(tmp_path / "models")
    for version, attack in enumerate(ATTACKS.values(), 2):
        path = shutil.copytree(good.path, good.path.with_name(str(version)))
        attack.prepare(path, secret)
    with managed(tmp_path, model=good.path.parent, reload_seconds=0.5) as asked:
        service = asked.service
        await_(lambda: asked.ask("/readyz").status == 200)
        reports = [service.ask("GET", "/readyz").json(), asked.ask("/readyz").json()]
        prediction = service.post(png(a_digit()))
        document = service.ask("GET", "/v2/models/synthetic").body + service.ask("GET", "/metadata").body
        told = service.log()
    assert prediction.json()["model"]["version"] == 1
    for report in reports:
        refused = {refusal["version"]: refusal["reason"] for refusal in report["refused"]}
        for version, attack in enumerate(ATTACKS.values(), 2):
            assert re.search(attack.said, refused[version])
        assert no_secret(json.dumps(report))
    assert no_secret(told)
    assert no_secret(document.decode())
    assert told.count("ready: synthetic version 1") == 1, "no worker died and was started again"


def test_a_repaired_version_is_noticed(tmp_path: Path, secret: Path) -> None:
    """Also where a link or a FIFO was in the place of a file, and where a link leads nowhere."""
    good, prepared = (publish_synthetic(tmp_path / "models") for _ in range(2))
    (prepared.path / "stray").symlink_to("nowhere")
    whole = (prepared.path / "model.pt").read_bytes()
    state = start(good.path.parent)
    assert state.engine().bundle.version == 2, "what is no file of the bundle's is not looked at"
    for name in ("a FIFO", "a link to a device"):
        ATTACKS[name].prepare(prepared.path, secret)
        state.load()
        assert state.report()["refused"]
        put(prepared.path / "model.pt", whole)
        state.load()
        assert state.report()["refused"] == []


def test_a_directory_that_is_a_link_is_served(tmp_path: Path) -> None:
    """Volumes, image mounts and who switches versions link directories; what is in them is proven as ever."""
    published = publish_synthetic(tmp_path / "store")
    (tmp_path / "models" / "synthetic").mkdir(parents=True)
    (tmp_path / "models" / "synthetic" / "1").symlink_to(published.path)
    (tmp_path / "current").symlink_to("models")
    state = start(tmp_path / "current" / "synthetic")
    assert state.engine().bundle.version == 1
    assert problems(published.path) == []


def test_a_directory_whose_number_is_too_long_is_no_version(tmp_path: Path) -> None:
    """No answer could hold it: a worker would die of it at each start."""
    good = publish_synthetic(tmp_path)
    bad = shutil.copytree(good.path, good.path.with_name("9" * 30))
    clear(bad / "model.pt")
    settings = ServiceSettings(model=good.path.parent, provider="cpu")
    state = ModelStore.start(settings, Metrics.create({DIRECTORY_VARIABLE: str(tmp_path)}))
    assert state.engine().bundle.version == 1
    assert orjson.loads(orjson.dumps(state.report()))["refused"] == []


def test_a_version_that_cuda_refuses_ends_nothing_beside_one_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At start too, the provider is at fault only where it takes no version at all."""
    good, bad = (publish_synthetic(tmp_path) for _ in range(2))
    refused = {bad.version}

    def refusing(bundle: Bundle, *arguments: Any, **options: Any) -> Engine:
        if bundle.version in refused:
            raise ProviderError("CUDA was found, but the model cannot be loaded on it")
        return open_version(bundle, *arguments, **options)

    for opening in ("open_bounded", "open_version"):
        monkeypatch.setattr(f"serving.model.version_loader.{opening}", refusing)
    state = start(good.path.parent)
    assert state.engine().bundle.version == 1
    assert "CUDA was found" in state.report()["refused"][0]["reason"]
    refused.add(good.version)
    with pytest.raises(ProviderError):
        start(good.path.parent)
