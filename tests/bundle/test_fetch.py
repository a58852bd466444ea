"""Downloading a version by URL, from honest and dishonest servers on loopback."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bundle.errors import BundleError, InvalidBundleError, PublishError
from bundle.fetch import FetchError, fetch
from bundle.manifest import FILES, MANIFEST_FILE, MAX_BYTES, ONNX_FILE, OPTIONAL_FILES
from bundle.repository import Bundle, versions
from bundle.verify import problems
from tests.bundle.making import publish_one
from tests.bundle.serving_files import serving
from tests.conftest import ROOT


@dataclass(frozen=True)
class Site:
    """A web server of static files, and what it was asked for."""

    url: str
    directory: Path
    bundle: Bundle
    asked: list[str] = field(default_factory=list)


@pytest.fixture(params=[(), OPTIONAL_FILES], ids=["no optional file", "optional files"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Serve a published version 1 at /shapes/3."""
    bundle = publish_one(tmp_path / "publisher", request.param)
    directory = tmp_path / "www"
    shutil.copytree(bundle.path, directory / "shapes" / "3")
    for path in (directory / "shapes" / "3").iterdir():
        path.chmod(0o644)
    asked: list[str] = []

    with serving(directory, asked.append) as url:
        yield Site(f"{url}/shapes/3", directory / "shapes" / "3", bundle, asked)


def nothing_counts(models: Path) -> bool:
    """Tell whether the repository has no version and nothing half built."""
    return versions(models / "shapes") == [] and not list(models.glob("*/.staging-*"))


def test_a_version_arrives_whole_under_its_number(site: Site, tmp_path: Path) -> None:
    """What was fetched verifies, byte by byte, and is version 3 as its URL says."""
    found = fetch(f"{site.url}/", site.bundle.manifest.digest, tmp_path / "models")
    assert found.path == tmp_path / "models" / "shapes" / "3"
    assert problems(found.path) == []
    assert {*found.manifest.files} >= {*FILES}
    for name in (*site.bundle.manifest.files, MANIFEST_FILE):
        assert (found.path / name).read_bytes() == (site.bundle.path / name).read_bytes()


def test_what_is_there_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    """A container that starts again asks for the manifest alone."""
    fetch(site.url, site.bundle.manifest.digest, tmp_path)
    site.asked.clear()
    fetch(site.url, site.bundle.manifest.digest.upper(), tmp_path)
    assert site.asked == ["/shapes/3/manifest.json"]


def test_another_digest_is_rejected_before_any_file_is_asked_for(site: Site, tmp_path: Path) -> None:
    """Whoever exchanged the bundle on the server, manifest and all, gets nothing served."""
    with pytest.raises(FetchError, match="it is another version"):
        fetch(site.url, "ab" * 32, tmp_path)
    assert site.asked == ["/shapes/3/manifest.json"]
    assert nothing_counts(tmp_path)


def test_a_changed_file_is_rejected(site: Site, tmp_path: Path) -> None:
    """One byte in the model: its SHA-256 is not the manifest's, and nothing is left of it."""
    path = site.directory / ONNX_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(FetchError, match=r"failed verification: model\.onnx was changed"):
        fetch(site.url, site.bundle.manifest.digest, tmp_path)
    assert nothing_counts(tmp_path)


def test_a_changed_manifest_is_rejected(site: Site, tmp_path: Path) -> None:
    """A manifest that says another class does not fit its own digest."""
    path = site.directory / MANIFEST_FILE
    path.write_bytes(path.read_bytes().replace(b'"one"', b'"One"'))
    with pytest.raises(InvalidBundleError, match="was changed"):
        fetch(site.url, site.bundle.manifest.digest, tmp_path)


def test_a_missing_file_is_named(site: Site, tmp_path: Path) -> None:
    """The sentence has the address and the server's answer."""
    (site.directory / ONNX_FILE).unlink()
    with pytest.raises(FetchError, match=r"/shapes/3/model\.onnx returned 404"):
        fetch(site.url, site.bundle.manifest.digest, tmp_path)
    assert nothing_counts(tmp_path)


@pytest.mark.parametrize("name", [MANIFEST_FILE, ONNX_FILE])
def test_what_is_too_large_is_cut(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A server cannot fill the disk or the memory: reading ends at the limit."""
    monkeypatch.setitem(MAX_BYTES, name, 3)
    with pytest.raises(FetchError, match="more than 3 bytes"):
        fetch(site.url, site.bundle.manifest.digest, tmp_path)
    assert site.asked[-1].endswith(name)
    assert nothing_counts(tmp_path)


def test_another_version_of_that_number_stays(site: Site, tmp_path: Path) -> None:
    """What is published never changes, by nobody."""
    publish_one(tmp_path, created="2026-11-23T12:00:00+00:00").path.rename(tmp_path / "shapes" / "3")
    before = (tmp_path / "shapes" / "3" / MANIFEST_FILE).read_bytes()
    with pytest.raises(PublishError, match="exists already"):
        fetch(site.url, site.bundle.manifest.digest, tmp_path)
    assert (tmp_path / "shapes" / "3" / MANIFEST_FILE).read_bytes() == before


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd/1",
        "ftp://127.0.0.1/shapes/3",
        "shapes/3",
        "http://127.0.0.1/shapes/latest",
        "http://127.0.0.1/shapes/03",
        "http:///3",
        "http://[::1/3",
        "http://127.0.0.1/shapes/" + "1" * 40,
    ],
)
def test_only_versions_at_web_addresses_are_fetched(url: str, tmp_path: Path) -> None:
    """A path, another scheme, or a name that is no version is rejected by a sentence."""
    with pytest.raises(FetchError, match="is not the URL of a version"):
        fetch(url, "ab" * 32, tmp_path)


def test_nobody_there_is_a_sentence(tmp_path: Path) -> None:
    """Port 9 (discard) is not listened on; an address that is not ASCII cannot be asked for."""
    for url in ("http://127.0.0.1:9/shapes/3", "http://127.0.0.1:9/\xe9/3"):
        with pytest.raises(FetchError, match="cannot be fetched: "):
            fetch(url, "ab" * 32, tmp_path)


def test_a_repository_that_cannot_be_written_is_a_sentence(site: Site, tmp_path: Path) -> None:
    """A file stands where the repository is to be."""
    (tmp_path / "models").write_text("no directory")
    with pytest.raises(BundleError, match="cannot write in"):
        fetch(site.url, site.bundle.manifest.digest, tmp_path / "models")


def test_the_command_prints_the_path_or_a_sentence(site: Site, tmp_path: Path) -> None:
    """`python -m bundle fetch` as an init container runs it: exit code 0, then 1."""
    command = [sys.executable, "-m", "bundle", "fetch", site.url, "--models", str(tmp_path), "--digest"]
    good, bad = (
        subprocess.run([*command, digest], capture_output=True, text=True, check=False, cwd=ROOT)
        for digest in (site.bundle.manifest.digest, "ab" * 32)
    )
    assert (good.returncode, good.stdout) == (0, f"{tmp_path / 'shapes' / '3'}\n"), good.stderr
    assert bad.returncode == 1
    assert bad.stderr.startswith("error: ")
    assert bad.stderr.count("\n") == 1
