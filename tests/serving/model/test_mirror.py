"""A model in an object store: fetched by one process, served by all, and what happens when something is wrong."""

import errno
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.support.management import await_, managed
from bench.support.models import publish_synthetic
from bench.support.pictures import a_digit, png
from bench.support.processes import ROOT
from bundle.manifest import MANIFEST_FILE, ONNX_FILE
from bundle.remote import push
from bundle.repository import Bundle, sign, versions
from bundle.signing import Signer
from common.errors import ConfigurationError
from common.object_store import ObjectStore, StoreError
from serving.__main__ import main
from serving.errors import NotReadyError
from serving.model import mirror
from serving.model.store import ModelStore
from serving.settings import ServiceSettings, load_settings
from tests.bundle.keys import key_pair
from tests.s3_server import SECRET, S3Server, s3_server
from tests.serving.management.test_management import workers_of

pytest.importorskip("fsspec", reason="fsspec is not installed")


@pytest.fixture
def server() -> Iterator[S3Server]:
    """Run a server of S3's API."""
    with s3_server() as running:
        yield running


@pytest.fixture
def made(tmp_path: Path) -> list[Bundle]:
    """Publish three versions with different manifests, in a directory."""
    return [publish_synthetic(tmp_path / "models", resize=resize) for resize in (None, "fit", "pad")]


@pytest.fixture
def repository(tmp_path: Path) -> str:
    """Return the URL of an empty model repository."""
    return f"file://{tmp_path}/store"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Return a directory that does not exist yet."""
    return tmp_path / "scratch"


def a_store(repository: str, scratch: Path, **more: object) -> ModelStore:
    """Return the models of a process that has not fetched any yet."""
    values = {"model": f"{repository}/synthetic", "provider": "cpu", "scratch": scratch, **more}
    return ModelStore.start(ServiceSettings.model_validate(values))


def look(store: ModelStore) -> None:
    """Do what the reloader does."""
    assert store.mirror is not None
    store.mirror.poll()
    store.load()


def object_path(repository: str, name: str) -> Path:
    """Return where the store keeps an object."""
    return Path(repository.removeprefix("file://")) / "synthetic" / name


def reason(store: ModelStore) -> str:
    """Return why nothing is served."""
    with pytest.raises(NotReadyError) as error:
        store.engine()
    return error.value.detail


def test_a_version_that_no_trusted_key_signed_is_not_fetched(
    made: list[Bundle], repository: str, scratch: Path, tmp_path: Path
) -> None:
    """The older one, which is signed, is served; the reason why the newest is not is told."""
    private, public = key_pair(tmp_path)
    push(sign(made[0].path, Signer(private)), repository)
    push(made[1], repository)
    store = a_store(repository, scratch, trusted_keys=public)
    look(store)
    assert store.versions() == [1]
    assert store.mirror is not None
    (refused,) = store.mirror.refused()
    assert refused["version"] == 2
    assert "it is not signed" in refused["reason"]


def test_a_start_does_not_wait_for_the_store(made: list[Bundle], repository: str, scratch: Path) -> None:
    """It is not ready and says what it waits for; the first look fetches, and then it serves."""
    push(made[0], repository)
    store = a_store(repository, scratch)
    assert f"the model is being fetched from {repository}/synthetic" in reason(store)
    assert store.is_waiting
    look(store)
    assert store.engine().bundle.manifest == made[0].manifest
    assert not store.is_waiting


def test_new_versions_are_served_and_old_ones_are_removed(
    made: list[Bundle], repository: str, scratch: Path
) -> None:
    """Two stay, so that there is one to go back to; a version that is taken back is no longer served."""
    store = a_store(repository, scratch)
    for number, bundle in enumerate(made, 1):
        push(bundle, repository)
        look(store)
        assert store.engine().bundle.version == number
    directory = store.settings.model_directory
    assert versions(directory) == [2, 3]
    object_path(repository, f"3/{MANIFEST_FILE}").unlink()
    look(store)
    assert store.engine().bundle.manifest == made[1].manifest
    assert versions(directory) == [1, 2]


def test_a_version_that_is_being_pushed_is_not_looked_at(
    made: list[Bundle], repository: str, scratch: Path
) -> None:
    """Without its manifest it does not count, and the older one is fetched."""
    push(made[0], repository)
    object_path(repository, f"2/{ONNX_FILE}").parent.mkdir()
    object_path(repository, f"2/{ONNX_FILE}").write_bytes(b"half")
    store = a_store(repository, scratch)
    look(store)
    assert store.engine().bundle.version == 1
    assert store.report()["refused"] == []


def test_a_changed_version_is_refused_and_the_older_one_serves(
    made: list[Bundle], repository: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start and later; it is fetched again after a while, and served once it is whole."""
    push(made[0], repository)
    push(made[1], repository)
    path = object_path(repository, f"2/{ONNX_FILE}")
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    store = a_store(repository, scratch)
    look(store)
    assert store.engine().bundle.version == 1
    (refused,) = store.report()["refused"]
    assert refused["version"] == 2
    assert "model.onnx was changed" in refused["reason"]
    path.write_bytes(whole)
    look(store)
    assert store.engine().bundle.version == 1
    later = time.monotonic() + mirror.REFUSED_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    look(store)
    assert store.engine().bundle.version == 2
    assert store.report()["refused"] == []


def test_a_version_that_gives_other_predictions_is_refused_and_the_older_one_serves(
    made: list[Bundle], repository: str, scratch: Path, tmp_path: Path
) -> None:
    """It is whole, so only its golden examples tell; the version before it was fetched for that case."""
    push(made[0], repository)
    push(publish_synthetic(tmp_path / "models", golden_shift=0.001), repository)
    store = a_store(repository, scratch)
    look(store)
    assert store.engine().bundle.version == 1
    assert "golden" in store.report()["refused"][0]["reason"]


def test_the_digest_pins_a_version(made: list[Bundle], repository: str, scratch: Path) -> None:
    """Whoever may write to the bucket cannot make the service load anything else."""
    for bundle in made:
        push(bundle, repository)
    store = a_store(repository, scratch, model_digest=made[1].manifest.digest)
    look(store)
    assert store.engine().bundle.manifest == made[1].manifest
    assert versions(store.settings.model_directory) == [2]
    other = a_store(repository, scratch, model_digest="ab" * 32)
    look(other)
    assert f"no version with the digest {'ab' * 32} is published in {repository}/synthetic" in reason(other)


def test_the_digest_pins_a_version_in_a_directory_too(made: list[Bundle]) -> None:
    """The same setting, the same promise."""
    settings = {"model": made[0].path.parent, "provider": "cpu", "model_digest": made[1].manifest.digest}
    store = ModelStore.start(ServiceSettings.model_validate(settings))
    assert store.engine().bundle.version == 2
    assert [one["version"] for one in store.report()["refused"]] == [3]


def test_the_url_of_a_version_serves_that_one(made: list[Bundle], repository: str, scratch: Path) -> None:
    """As the directory of a version does."""
    for bundle in made:
        push(bundle, repository)
    settings = ServiceSettings.model_validate({"model": f"{repository}/synthetic/2/", "scratch": scratch})
    assert (settings.model, settings.version) == (f"{repository}/synthetic", 2)
    store = a_store(repository, scratch, version=2)
    look(store)
    assert store.engine().bundle.version == 2


def test_a_store_that_fails_is_tried_again_later_each_time(
    repository: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is ready, `/readyz` has the store's answer, and the pauses grow up to a minute."""
    asked: list[float] = []
    clock = [1000.0]

    def fail(*_: object) -> ObjectStore:
        asked.append(clock[0])
        raise StoreError("the bucket does not answer")

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(ObjectStore, "open", fail)
    store = a_store(repository, scratch)
    for _ in range(600):
        look(store)
        clock[0] += 1
    assert "the bucket does not answer" in reason(store)
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert pauses[0] <= 3
    assert 30 <= max(pauses) <= 61
    assert 8 <= len(asked) <= 30


def test_while_the_store_fails_what_is_loaded_serves_on(
    made: list[Bundle], repository: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is in scratch serves at a restart; nothing is removed because a listing failed."""
    push(made[0], repository)
    store = a_store(repository, scratch)
    look(store)
    assert store.mirror is not None
    store.mirror.close()

    def fail(*_: object) -> list[str]:
        raise StoreError("the bucket does not answer")

    monkeypatch.setattr(ObjectStore, "folders", fail)
    look(store)
    assert store.engine().bundle.version == 1
    again = a_store(repository, scratch)
    assert again.engine().bundle.version == 1


def test_a_version_without_room_is_a_sentence_and_the_old_one_serves_on(
    made: list[Bundle], repository: str, scratch: Path
) -> None:
    """Sizes are known before a byte is fetched; the version that serves is not removed to make room."""
    big = b"x" * (1 << 20)
    push(made[0], repository)
    store = a_store(repository, scratch, scratch_bytes=1 << 20)
    look(store)
    push(made[1], repository)
    object_path(repository, "2/report.html").write_bytes(big)
    look(store)
    assert store.engine().bundle.version == 1
    assert store.mirror is not None
    assert "GLYPH_SCRATCH_BYTES allows: raise it" in store.mirror.reason
    assert versions(store.settings.model_directory) == [1]


def test_a_full_disk_is_a_sentence(
    made: list[Bundle], repository: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing half is left, and the service says why it is not ready."""
    push(made[0], repository)
    store = a_store(repository, scratch)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("bundle.repository.fsync_path", full)
        look(store)
    assert "the disk is full" in reason(store)
    assert [path for path in store.settings.model_directory.iterdir() if path.is_dir()] == []


def test_scratch_that_others_can_write_is_not_used(
    made: list[Bundle], repository: str, scratch: Path
) -> None:
    """They could exchange a version between its check and its use."""
    push(made[0], repository)
    store = a_store(repository, scratch)
    place = store.settings.model_directory.parent
    place.mkdir(parents=True)
    place.chmod(0o777)
    look(store)
    assert "others can write it" in reason(store)


def test_one_process_fetches_and_another_takes_over(
    made: list[Bundle], repository: str, scratch: Path
) -> None:
    """The lock is the kernel's: whoever holds it fetches, and the other has the reasons from a file."""
    first, second = a_store(repository, scratch), a_store(repository, scratch)
    look(first)
    look(second)
    assert f"no version is published in {repository}/synthetic" in reason(second)
    push(made[0], repository)
    look(second)
    assert second.is_waiting
    assert first.mirror is not None
    assert second.mirror is not None
    first.mirror._next = 0
    look(first)
    second.load()
    assert second.engine().bundle.version == 1
    push(made[1], repository)
    look(second)
    assert second.engine().bundle.version == 1
    first.mirror.close()
    look(second)
    assert second.engine().bundle.version == 2


def test_a_check_fetches_and_proves(
    made: list[Bundle], repository: str, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` says what a start would serve, or why there is nothing."""
    options = ["--check", "--provider", "cpu", "--connections", "8", "--scratch", str(scratch)]
    assert main([*options, "--model", f"{repository}/synthetic"]) == 3
    assert f"no version is published in {repository}/synthetic" in capsys.readouterr().err
    push(made[0], repository)
    assert main([*options, "--model", f"{repository}/synthetic"]) == 0
    assert "synthetic version 1 is proven on cpu" in capsys.readouterr().out


def test_a_url_with_a_password_is_refused_without_it() -> None:
    """Settings are printed, and a password is the environment's affair."""
    with pytest.raises(ConfigurationError, match="leave credentials to the environment") as error:
        load_settings({"GLYPH_MODEL": "s3://key:geheim@bucket/models/mnist"})
    assert "geheim" not in str(error.value)


def test_settings_import_no_file_system_and_no_client() -> None:
    """What the arbiter imports stays small."""
    code = "import sys, serving.settings; sys.exit(bool({'fsspec', 'urllib.request'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_service_starts_without_its_store_and_serves_what_comes(
    server: S3Server, made: list[Bundle], tmp_path: Path
) -> None:
    """Two workers on S3's API: not ready and why, ready, a new version, another worker fetches, the store goes away."""
    url = f"{server.bucket()}/models"
    with managed(
        tmp_path,
        until="/livez",
        model=f"{url}/synthetic",
        scratch=tmp_path / "scratch",
        reload_seconds=0.2,
        workers=2,
    ) as pod:
        await_(lambda: f"no version is published in {url}/synthetic" in pod.ask("/readyz").body.decode())
        push(made[0], url)
        await_(lambda: pod.ask("/readyz").status == 200)
        pod.await_value(2, "glyph_model_workers", version="1")
        assert pod.value("glyph_model_fetches_total", outcome="fetched") == 1
        assert pod.value("glyph_model_store_up") == 1
        push(made[1], url)
        pod.await_value(2, "glyph_model_workers", version="2")
        assert pod.value("glyph_model_fetches_total", outcome="fetched") == 2
        fetching = [
            worker
            for worker in workers_of(pod.service.process.pid)
            if any(str(path.readlink()).endswith("/lock") for path in Path(f"/proc/{worker}/fd").iterdir())
        ]
        assert len(fetching) == 1
        os.kill(fetching[0], signal.SIGKILL)
        push(made[2], url)
        pod.await_value(2, "glyph_model_workers", version="3")
        server.stop()
        pod.await_value(0, "glyph_model_store_up")
        assert pod.ask("/readyz").status == 200
        assert pod.service.post(png(a_digit())).status == 200
        log = pod.service.log()
    assert "looking for new versions" in log
    assert SECRET not in log
    assert re.search(r"fetched s3://bucket-\d+/models/synthetic/3, digest [0-9a-f]{12}", log)
