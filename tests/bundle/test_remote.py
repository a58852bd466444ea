"""Versions in object stores: pushed, listed, verified and fetched, by one, by two at once, and by the killed."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundle import remote
from bundle.__main__ import main
from bundle.errors import BundleError, InvalidBundleError, NoBundleError, PublishError
from bundle.fetch import FetchError
from bundle.manifest import MANIFEST_FILE, MAX_BYTES, ONNX_FILE, OPTIONAL_FILES
from bundle.remote import fetch_version, numbers, problems, published, push, resolve
from bundle.repository import Bundle, versions
from bundle.verify import problems as local_problems
from common.object_store import ObjectStore, StoreError
from tests.bundle.making import publish_one
from tests.conftest import ROOT
from tests.s3_server import S3Server, s3_server

LATER = "2026-11-23T12:00:00+00:00"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """Run a server of S3's API."""
    with s3_server() as running:
        yield running


@pytest.fixture(params=["file", "memory", "s3"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty model repository, with each backend."""
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("server")
        return f"{server.bucket()}/models"
    return f"{request.param}://{tmp_path}/store/models"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Publish version 1 of `shapes` locally."""
    return publish_one(tmp_path / "models", OPTIONAL_FILES)


def write(url: str, data: bytes) -> None:
    """Write an object as anybody could who may write there."""
    import fsspec

    with fsspec.open(url, "wb") as file:
        file.write(data)


def test_a_version_is_pushed_and_fetched_whole(repository: str, bundle: Bundle, tmp_path: Path) -> None:
    """What arrives has the bytes that were published, and verifies there and here."""
    pushed = push(bundle, repository)
    assert (pushed.store.url, pushed.version) == (f"{repository}/shapes/1", 1)
    assert problems(f"{repository}/shapes") == []
    found = fetch_version(resolve(f"{repository}/shapes"), tmp_path / "fetched")
    assert local_problems(found.path) == []
    for name in (*bundle.manifest.files, MANIFEST_FILE):
        assert (found.path / name).read_bytes() == (bundle.path / name).read_bytes()


def test_a_version_that_is_there_is_not_pushed_twice(repository: str, bundle: Bundle) -> None:
    """A job that runs again after its push gets the number that it has."""
    assert [push(bundle, repository).version for _ in range(2)] == [1, 1]
    assert numbers(ObjectStore.open(f"{repository}/shapes")) == [1]


def test_another_version_gets_the_next_number(repository: str, bundle: Bundle, tmp_path: Path) -> None:
    """A fresh disk, whose first version is 1 again, overwrites nothing."""
    other = publish_one(tmp_path / "elsewhere", created=LATER)
    assert other.version == bundle.version
    assert (push(bundle, repository).version, push(other, repository).version) == (1, 2)
    found = resolve(f"{repository}/shapes/1")
    assert found.manifest == bundle.manifest


def test_a_version_that_was_copied_there_is_known_by_its_digest(
    repository: str, bundle: Bundle, tmp_path: Path
) -> None:
    """Other tools copy folders: without a claim, the manifest says what a number belongs to."""
    for path in bundle.path.iterdir():
        write(f"{repository}/shapes/7/{path.name}", path.read_bytes())
    assert push(bundle, repository).version == 7
    assert push(publish_one(tmp_path / "elsewhere", created=LATER), repository).version == 8


def test_two_pushers_at_once_get_two_numbers(repository: str, bundle: Bundle, tmp_path: Path) -> None:
    """Both saw an empty store; whoever claims the number first has it, and nothing is mixed."""
    other = publish_one(tmp_path / "elsewhere", created=LATER)
    claim, both = ObjectStore.create, threading.Barrier(2)

    def meet(store: ObjectStore, name: str, data: bytes) -> bool:
        if name == ".claims/1":
            both.wait(60)
        return claim(store, name, data)

    found: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "create", meet)
        pushers = [
            threading.Thread(
                target=lambda b=each: found.update({b.manifest.digest: push(b, repository).version})
            )
            for each in (bundle, other)
        ]
        for pusher in pushers:
            pusher.start()
        for pusher in pushers:
            pusher.join()
    assert sorted(found.values()) == [1, 2]
    for digest, version in found.items():
        assert resolve(f"{repository}/shapes/{version}").manifest.digest == digest
        assert problems(f"{repository}/shapes", version=version) == []


def test_a_store_without_conditions_mixes_nothing_that_counts(bundle: Bundle, tmp_path: Path) -> None:
    """A claim that the other has overwritten is noticed before the manifest is written."""
    other, repository = publish_one(tmp_path / "elsewhere", created=LATER), f"memory://{tmp_path}/models"
    push(bundle, repository)
    uploaded = remote._upload_config

    def overwritten(model: ObjectStore, manifest: Any) -> None:
        uploaded(model, manifest)
        if not overwrites:
            overwrites.append(model.url)
            write(f"{repository}/shapes/.claims/2", b"somebody else's")

    overwrites: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_upload_config", overwritten)
        assert push(other, repository).version == 3
    assert [one.version for one in published(ObjectStore.open(f"{repository}/shapes"))] == [3, 1]


def test_a_version_counts_once_its_manifest_is_there(repository: str, bundle: Bundle) -> None:
    """Files without a manifest are a push that goes on, or was killed: nobody reads them."""
    write(f"{repository}/shapes/5/{ONNX_FILE}", b"half")
    push(bundle, repository)
    assert [one.version for one in published(ObjectStore.open(f"{repository}/shapes"))] == [6]
    assert resolve(f"{repository}/shapes").version == 6
    with pytest.raises(NoBundleError, match=r"shapes/5 has no manifest\.json, so it is not published"):
        resolve(f"{repository}/shapes", version=5)


def test_a_push_that_is_killed_at_any_call_and_repeated_ends_right(server: S3Server, tmp_path: Path) -> None:
    """By SIGKILL before every call of S3's API, and after every one that writes; another version comes between."""
    models = tmp_path / "models"
    publish_one(models)
    publish_one(models, created=LATER)
    command = [sys.executable, "-m", "tests.bundle.dying_pusher", str(models / "shapes"), server.endpoint]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["wrong"] == []
    assert found["deaths"]["before"] > 30
    assert found["deaths"]["after"] == 10  # the claim, seven files, Triton's configuration, the manifest


def test_a_changed_object_is_found(repository: str, bundle: Bundle, tmp_path: Path) -> None:
    """Its hash is not the manifest's: verify says so, and fetch installs nothing."""
    push(bundle, repository)
    write(f"{repository}/shapes/1/{ONNX_FILE}", bundle.read(ONNX_FILE)[:-1] + b"!")
    assert problems(f"{repository}/shapes/1") == [
        f"{repository}/shapes/1/{ONNX_FILE} is missing, or was changed after it was published"
    ]
    with pytest.raises(FetchError, match=r"failed verification: model\.onnx was changed"):
        fetch_version(resolve(f"{repository}/shapes"), tmp_path / "fetched")
    assert versions(tmp_path / "fetched" / "shapes") == []


def test_a_changed_version_is_not_pushed(repository: str, bundle: Bundle) -> None:
    """What would fail there fails here, before anything is written."""
    path = bundle.path / ONNX_FILE
    path.chmod(0o644)
    path.write_bytes(b"changed")
    with pytest.raises(InvalidBundleError, match="was changed"):
        push(bundle, repository)
    assert ObjectStore.open(repository).tree() == {}


def test_what_is_too_large_is_not_asked_for(
    repository: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes are known before a byte is fetched."""
    push(bundle, repository)
    monkeypatch.setitem(MAX_BYTES, ONNX_FILE, 3)
    asked: list[str] = []
    chunks = ObjectStore.chunks

    def note(self: ObjectStore, name: str, *rest: Any) -> Iterator[bytes]:
        asked.append(name)
        return chunks(self, name, *rest)

    monkeypatch.setattr(ObjectStore, "chunks", note)
    found = resolve(f"{repository}/shapes")
    with pytest.raises(FetchError, match=r"model\.onnx has 4 bytes; at most 3 are fetched"):
        fetch_version(found, tmp_path / "fetched")
    assert asked == [MANIFEST_FILE]


def test_nothing_that_the_manifest_does_not_name_is_fetched(
    repository: str, bundle: Bundle, tmp_path: Path
) -> None:
    """Whatever else lies in the folder stays there."""
    push(bundle, repository)
    write(f"{repository}/shapes/1/evil.sh", b"#!/bin/sh\n")
    write(f"{repository}/shapes/..data/evil", b"")
    found = fetch_version(resolve(f"{repository}/shapes"), tmp_path / "fetched")
    assert {path.name for path in found.path.iterdir()} == {*bundle.manifest.files, MANIFEST_FILE}


def test_the_digest_chooses_a_version_and_refuses_another(
    repository: str, bundle: Bundle, tmp_path: Path
) -> None:
    """A digest is of one content, whatever numbers there are."""
    push(bundle, repository)
    push(publish_one(tmp_path / "elsewhere", created=LATER), repository)
    assert resolve(f"{repository}/shapes", digest=bundle.manifest.digest).version == 1
    with pytest.raises(NoBundleError, match="it is another version"):
        resolve(f"{repository}/shapes/2", digest=bundle.manifest.digest)
    with pytest.raises(NoBundleError, match="no version with the digest"):
        resolve(f"{repository}/shapes", digest="ab" * 32)


def test_versions_of_a_model_have_the_same_classes(repository: str, bundle: Bundle, tmp_path: Path) -> None:
    """As in a directory: Triton's configuration is the model's."""
    push(bundle, repository)
    other = publish_one(
        tmp_path / "elsewhere",
        classes=("zero", "one"),
        reference=bundle.manifest.reference.model_dump() | {"predicted": (5, 5)},
    )
    with pytest.raises(PublishError, match="has 3 classes and this model has 2"):
        push(other, repository)


def test_a_model_is_no_repository(repository: str, bundle: Bundle) -> None:
    """`push models/shapes s3://.../shapes` would make shapes/shapes/1."""
    push(bundle, repository)
    with pytest.raises(PublishError, match="is a model, not a model repository"):
        push(bundle, f"{repository}/shapes")


def test_the_commands_take_urls(
    repository: str, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Push, list, show, verify and fetch; exit codes are those of directories."""
    model, url = str(bundle.path.parent), f"{repository}/shapes"
    assert main(["list", url]) == 1
    assert main(["push", model, repository]) == 0
    assert capsys.readouterr().out == f"{url}/1 has digest {bundle.manifest.digest}\n"
    write(f"{url}/2/{ONNX_FILE}", b"half")
    assert main(["list", url]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(bundle.manifest.digest[:12])
    assert second == f"2\tunusable: {url}/2 has no manifest.json, so it is not published"
    assert main(["verify", f"{url}/1"]) == 0
    assert capsys.readouterr().out == f"{url}/1 is intact: 9 files, digest {bundle.manifest.digest}\n"
    assert main(["show", f"{url}/1"]) == 0
    assert capsys.readouterr().out.encode() == bundle.manifest.to_bytes()
    assert main(["fetch", url, "--models", str(tmp_path / "fetched")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/fetched/shapes/1\n"
    assert main(["verify", f"{url}/2"]) == 1
    assert "no version is published" in capsys.readouterr().err


def test_a_wrong_url_is_a_wrong_command_line(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """A password never comes back in a message."""
    for url, said in (
        ("s3://key:geheim@bucket/models", "leave credentials to the environment"),
        ("s3://bucket/models?token=geheim", "leave credentials to the environment"),
        ("https://key:geheim@host/models", "is no URL of an object store"),
        ("s3://bucket/../models", "may have no '::', '.' or '..'"),
        ("models", "is no URL of an object store"),
    ):
        assert main(["push", str(bundle.path), url]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "geheim" not in error
    assert main(["fetch", "https://host/models/1"]) == 2
    assert "--digest is missing" in capsys.readouterr().err


@pytest.mark.parametrize(("url", "extra"), [("s3://b/m", "s3"), ("gs://b/m", "gcs"), ("abfs://b/m", "azure")])
def test_a_missing_backend_ends_with_one_sentence_that_names_the_extra(
    url: str, extra: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of it is imported before, and the command says what to install."""
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    from fsspec.registry import _registry

    _registry.pop(url.partition(":")[0], None)
    for name in ("s3fs", "gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["push", str(bundle.path), url]) == 1
    error = capsys.readouterr().err
    assert f"install glyph[{extra}]" in error
    assert error.count("\n") == 1


def test_fsspec_is_imported_only_where_a_store_is_opened() -> None:
    """Verifying a directory costs nothing of it."""
    code = "import sys, bundle.__main__, bundle.remote; sys.exit('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_store_that_is_not_reachable_ends_with_one_sentence(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials in it, whatever the client says."""
    with s3_server() as server:
        server.stop()
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint.replace("//", "//user:geheim@"))
        assert main(["push", str(bundle.path), "s3://bucket/models"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: s3://bucket/models cannot be listed: ")
    assert error.count("\n") == 1
    assert "geheim" not in error


def test_a_store_error_is_no_bundle_error() -> None:
    """Whoever retries tells them apart: the store may answer later, a changed version never will."""
    assert not issubclass(StoreError, BundleError)
