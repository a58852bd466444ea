"""`fit --publish URL`: the published version is pushed to an object store, whatever happens on the way."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bundle.remote import numbers, problems, resolve
from bundle.repository import Bundle, versions
from common.object_store import ObjectStore, StoreError
from tests.s3_server import S3Server, s3_server
from tests.training.loop.test_run_directory import arguments
from training.__main__ import main
from training.release import publish

pytest.importorskip("fsspec", reason="fsspec is not installed")


@pytest.fixture
def server() -> Iterator[S3Server]:
    """Run a server of S3's API."""
    with s3_server() as running:
        yield running


def test_a_fit_ends_with_its_version_in_the_store(
    tmp_path: Path, server: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest has the same bytes there and here, and not where it was pushed to."""
    url = f"{server.bucket()}/models"
    assert main(arguments(tmp_path, "--publish", url)) == 0
    bundle = Bundle.open(tmp_path / "models" / "noisy" / "1")
    assert problems(f"{url}/noisy/1") == []
    assert resolve(f"{url}/noisy").manifest == bundle.manifest
    assert b"s3://" not in bundle.manifest.to_bytes()
    assert f"pushed as {url}/noisy/1" in capsys.readouterr().err


def test_a_run_whose_push_failed_pushes_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The version is published locally; nothing is trained and nothing published twice."""
    url = f"memory://{tmp_path}/models"
    words = arguments(tmp_path, "--publish", url)
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise StoreError("the bucket is gone")

        patch.setattr(publish, "push", fail)
        assert main(words) == 73
    assert "error: the bucket is gone" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert versions(tmp_path / "models" / "noisy") == numbers(ObjectStore.open(f"{url}/noisy")) == [1]
    assert problems(f"{url}/noisy/1") == []


def test_a_store_that_cannot_be_written_is_found_out_before_anything_is_trained(
    tmp_path: Path, server: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """No bucket, no answer, no URL: hours later it would be the same."""
    assert main(arguments(tmp_path, "--publish", "s3://no-such-bucket/models")) == 73
    assert "s3://no-such-bucket/models/noisy/.claims/write-check cannot be written" in capsys.readouterr().err
    server.stop()
    assert main(arguments(tmp_path, "--publish", "s3://bucket/models")) == 73
    assert "s3://bucket/models cannot be listed" in capsys.readouterr().err
    for url, said in (
        ("models", "is no URL of an object store"),
        ("https://host/models", "is no URL of an object store"),
        ("s3://key:geheim@bucket/models", "leave credentials to the environment"),
    ):
        assert main(arguments(tmp_path, "--publish", url)) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "geheim" not in error
    assert versions(tmp_path / "models" / "noisy") == []
