"""Trusted keys: a version that none of them signed is neither served nor scored with; the served one stays."""

from pathlib import Path
from typing import Any

import pytest

from bench.support.management import await_, managed
from bench.support.models import publish_synthetic
from bench.support.pictures import a_digit, png
from bundle.repository import Bundle, sign
from bundle.signing import Signer
from serving.__main__ import EXIT_SETTING
from serving.__main__ import main as serve
from serving.errors import NotReadyError
from serving.model.prove import attempt
from serving.model.store import ModelStore
from serving.score import main as score
from serving.settings import ServiceSettings
from tests.bundle.keys import key_pair, new_key, public_pem


def signed(models: Path, key: Path) -> Bundle:
    """Publish a version and sign it."""
    return sign(publish_synthetic(models).path, Signer(key))


def start(bundle: Bundle, keys: Path, *, prove_first: bool = False) -> ModelStore:
    """Return what a worker starts with."""
    settings = ServiceSettings(model=bundle.path.parent, provider="cpu", trusted_keys=keys)
    return ModelStore.start(settings, prove_first=prove_first)


def refused(state: ModelStore) -> dict[int, str]:
    """Return what `/readyz` says of versions that are not served."""
    return {refusal["version"]: refusal["reason"] for refusal in state.report()["refused"]}


def test_the_child_that_proves_a_version_verifies_its_signature_too(tmp_path: Path) -> None:
    """The files may have been exchanged since its parent has looked."""
    bundle = publish_synthetic(tmp_path / "models")
    _, public = key_pair(tmp_path)
    opened: list[Bundle] = []
    kind, reason = attempt(bundle.path, "cpu", 0, public, opened.append)  # type: ignore[arg-type]  # nothing is opened
    assert (kind, opened) == ("invalid", [])
    assert "it is not signed" in reason


@pytest.mark.parametrize("prove_first", [False, True])
def test_a_newer_version_that_is_not_signed_is_refused_and_the_older_one_served(
    tmp_path: Path, prove_first: bool
) -> None:
    """The reason is reported; signed a moment later, it is served."""
    private, public = key_pair(tmp_path)
    good, bare = signed(tmp_path / "models", private), publish_synthetic(tmp_path / "models")
    state = start(good, public, prove_first=prove_first)
    assert state.engine().bundle.version == 1
    assert refused(state)[2].startswith("it is not signed, and trusted keys are set")
    sign(bare.path, Signer(private))
    state.load(prove_first=prove_first)
    assert state.engine().bundle.version == 2
    assert refused(state) == {}


def test_without_a_signed_version_the_service_is_not_ready(tmp_path: Path) -> None:
    """It says that another key signed it."""
    private, _ = key_pair(tmp_path)
    bundle = signed(tmp_path / "models", private)
    state = start(bundle, key_pair(tmp_path, "other")[1])
    with pytest.raises(NotReadyError, match="signed by another key"):
        state.engine()


def test_keys_that_change_are_read_again(tmp_path: Path) -> None:
    """A key that is added makes its versions good; one that is removed makes the served one reported, and it stays."""
    private, public = key_pair(tmp_path)
    bundle = signed(tmp_path / "models", private)
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "old.pem").write_bytes(public_pem(new_key()))
    state = start(bundle, keys)
    with pytest.raises(NotReadyError):
        state.engine()
    (keys / "new.pem").write_bytes(public.read_bytes())
    state.load()
    assert (state.engine().bundle.version, refused(state)) == (1, {})
    (keys / "new.pem").unlink()
    state.load()
    assert state.engine().bundle.version == 1
    assert "signed by another key" in refused(state)[1]


def test_a_running_service_refuses_and_counts_what_is_not_signed(tmp_path: Path) -> None:
    """The version that is served answers on, and the metric that has an alert counts the failure."""
    private, public = key_pair(tmp_path)
    good = signed(tmp_path / "models", private)
    settings: dict[str, Any] = {"model": good.path.parent, "reload_seconds": 0.2, "trusted_keys": public}
    with managed(tmp_path, **settings) as asked:
        await_(lambda: asked.ask("/readyz").status == 200)
        publish_synthetic(tmp_path / "models")
        await_(lambda: asked.ask("/readyz").json()["refused"] != [])
        [refusal] = asked.ask("/readyz").json()["refused"]
        assert (refusal["version"], refusal["reason"][:16]) == (2, "it is not signed")
        assert asked.ask("/readyz").json()["model"]["version"] == 1
        await_(lambda: "\nglyph_model_versions_refused 1" in asked.ask("/metrics").body.decode())
        signed(tmp_path / "models", private)
        await_(lambda: asked.ask("/readyz").json()["model"]["version"] == 3)


@pytest.mark.parametrize("name", ["nothing", "empty", "key.pem"])
def test_keys_that_are_none_end_a_start_with_the_setting(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a worker starts: exit code 2, and a sentence with the variable."""
    key_pair(tmp_path)
    (tmp_path / "empty").mkdir()
    assert serve(["--check", "--trusted-keys", str(tmp_path / name)]) == EXIT_SETTING
    said = capsys.readouterr().err
    assert said.startswith("error: GLYPH_TRUSTED_KEYS: ")
    assert str(tmp_path / name) in said


def test_the_scorer_takes_a_signed_version_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 70 and nothing written without a signature; with it, all is as without the option."""
    private, public = key_pair(tmp_path)
    bundle = publish_synthetic(tmp_path / "models")
    (tmp_path / "image.png").write_bytes(png(a_digit()))
    options = ["--input", str(tmp_path / "image.png"), "--output", str(tmp_path / "scores")]
    options += ["--model", str(bundle.path.parent), "--provider", "cpu", "--trusted-keys", str(public)]
    assert score(options) == 70
    assert "it is not signed" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()
    sign(bundle.path, Signer(private))
    assert score(options) == 0
