"""Jobs whose model, input and output are in object stores: the same predictions, and nothing lost on the way."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.support.jobs import digits, folder, parts, score
from bundle.remote import push
from bundle.repository import Bundle
from common.object_store import ObjectStore, StoreError
from serving.score import main
from tests.s3_server import S3Server, s3_server

pytest.importorskip("fsspec", reason="fsspec is not installed")
COUNT = 300


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """Run a server of S3's API."""
    with s3_server() as running:
        yield running


@pytest.fixture(params=["file", "s3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty bucket."""
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("server")
        return server.bucket()
    return f"file://{tmp_path}/bucket"


@pytest.fixture
def local(bundle: Bundle, tmp_path: Path) -> dict[str, bytes]:
    """Return the parts that a run on a directory writes; its input is `in/` below the temporary directory."""
    folder(tmp_path / "in", digits(COUNT))
    (tmp_path / "in" / "001" / "00150.png").write_bytes(b"no image")
    score(bundle, tmp_path / "in", tmp_path / "out", part_rows=64)
    return parts(tmp_path / "out")


@pytest.fixture
def stored(local: dict[str, bytes], bundle: Bundle, bucket: str, tmp_path: Path) -> list[str]:
    """Put model and input into a bucket; return the options of a job on them."""
    push(bundle, f"{bucket}/models")
    store = ObjectStore.open(f"{bucket}/photos")
    for path in (tmp_path / "in").rglob("*.png"):
        store.upload(path, path.relative_to(tmp_path / "in").as_posix())
    return [
        *("--model", f"{bucket}/models/synthetic", "--input", f"{bucket}/photos", "--provider", "cpu"),
        *("--part-rows", "64", "--scratch", str(tmp_path / "scratch"), "--quiet"),
    ]


def contents(url: str, columns: tuple[str, ...] = ("row", "label", "probability")) -> list[object]:
    """Return rows of all parts in a store, and check that these are intact."""
    store, rows = ObjectStore.open(url), []
    for name in sorted(name for name in store.names() if name.startswith("part-")):
        data = store.read(name, 1 << 30)
        assert data is not None
        rows += pq.read_table(__import__("io").BytesIO(data)).select(columns).to_pylist()
    return rows


def rows_of(local: dict[str, bytes]) -> list[object]:
    """Return the rows of local parts."""
    import io

    tables = [pq.read_table(io.BytesIO(local[name])) for name in sorted(local) if name.startswith("part-")]
    return [row for table in tables for row in table.select(("row", "label", "probability")).to_pylist()]


def test_a_job_from_a_bucket_to_a_bucket_gives_the_same_predictions(
    stored: list[str], local: dict[str, bytes], bucket: str
) -> None:
    """Model, input and output by URL; rows name the objects, by the input's URL, wherever scratch is."""
    assert main([*stored, "--output", f"{bucket}/scores"]) == 3  # one image is none
    assert contents(f"{bucket}/scores") == rows_of(local)
    sources = {row["source"] for row in contents(f"{bucket}/scores", ("source",))}  # type: ignore[index]
    assert sources == {f"{bucket}/photos"}
    success = ObjectStore.open(f"{bucket}/scores").read("_SUCCESS", 1 << 20)
    assert success is not None
    assert json.loads(success)["rows"] == COUNT


def test_a_job_that_is_complete_has_nothing_to_do(
    stored: list[str], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine too: what was written is fetched and verified, and nothing is written again."""
    assert main([*stored, "--output", f"{bucket}/scores"]) == 3

    def never(*_: object) -> None:
        raise AssertionError("it was written again")

    monkeypatch.setattr(ObjectStore, "upload", never)
    assert main([*stored, "--output", f"{bucket}/scores"]) == 3


@pytest.mark.parametrize("output", ["scores", "scores.csv"])
def test_a_job_that_fails_at_any_write_and_is_repeated_ends_right(
    output: str, stored: list[str], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of the store fails once; the same command goes on, and what counts in between is whole."""
    url, uploads, failures = f"{bucket}/{output}", ObjectStore.upload, 0
    assert main([*stored, "--output", f"{bucket}/whole{output}"]) == 3
    for calls in range(100):
        left = [calls]

        def fail(self: ObjectStore, path: Path, name: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise StoreError(f"{name} was not written")
            uploads(self, path, name)

        with monkeypatch.context() as patch:
            patch.setattr(ObjectStore, "upload", fail)
            code = main([*stored, "--output", url])
        if code != 71:
            break
        failures += 1
        assert "_SUCCESS" not in ObjectStore.open(url if output == "scores" else f"{url}.parts").names()
    assert code == 3
    assert failures > (2 if output == "scores" else 3)
    whole, again = (ObjectStore.open(bucket).below(name) for name in (f"whole{output}", output))
    if output == "scores":
        assert contents(url) == contents(f"{bucket}/wholescores")
    else:
        assert whole.read("", 1 << 20) == again.read("", 1 << 20)
        assert ObjectStore.open(f"{url}.parts").names() == ["_SUCCESS", "_manifest.json"]


def test_shards_in_pods_of_their_own_are_merged(
    stored: list[str], local: dict[str, bytes], bucket: str, tmp_path: Path
) -> None:
    """Each has a scratch directory of its own, as pods have; the merge fetches all parts."""
    output = ["--output", f"{bucket}/scores"]
    for index in range(3):
        own = ["--shard", f"{index}/3", "--scratch", str(tmp_path / f"pod-{index}")]
        assert main([*stored, *output, *own]) == 3 if index == 2 else main([*stored, *output, *own]) in (0, 3)
    assert "_SUCCESS" not in ObjectStore.open(f"{bucket}/scores").names()
    assert main(["merge", *output, "--scratch", str(tmp_path / "merge"), "--quiet"]) == 3
    assert "_SUCCESS" in ObjectStore.open(f"{bucket}/scores").names()
    assert contents(f"{bucket}/scores") == rows_of(local)


def test_another_job_with_the_same_output_is_refused(
    stored: list[str], bucket: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By its manifest, as in a folder; and so is a prefix with other objects."""
    assert main([*stored, "--output", f"{bucket}/scores"]) == 3
    assert main([*stored, "--output", f"{bucket}/scores", "--top", "2"]) == 66
    assert "belongs to another job" in capsys.readouterr().err
    assert main([*stored, "--output", f"{bucket}/photos"]) == 66
    assert "has what no job writes" in capsys.readouterr().err


def test_a_changed_input_is_another_job(stored: list[str], bucket: str, tmp_path: Path) -> None:
    """An object of the same size with other bytes is noticed, as a changed file is."""
    assert main([*stored, "--output", f"{bucket}/scores"]) == 3
    store = ObjectStore.open(f"{bucket}/photos")
    data = store.read("001/00151.png", 1 << 20)
    assert data is not None
    store.write("001/00151.png", data[:-1] + bytes([data[-1] ^ 1]))
    assert main([*stored, "--output", f"{bucket}/scores"]) == 66


def test_one_object_is_an_input_too(stored: list[str], bucket: str, tmp_path: Path) -> None:
    """An array, a table or an archive, by its own name."""
    np.save(tmp_path / "in.npy", digits(40))
    ObjectStore.open(bucket).upload(tmp_path / "in.npy", "arrays/in.npy")
    assert main([*stored, "--input", f"{bucket}/arrays/in.npy", "--output", f"{bucket}/scores"]) == 3
    sources = {row["source"] for row in contents(f"{bucket}/scores", ("source",))}  # type: ignore[index]
    assert sources == {f"{bucket}/photos", f"{bucket}/arrays/in.npy"}


def test_what_cannot_be_fetched_ends_with_a_sentence(
    stored: list[str], bucket: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An empty prefix, too many bytes, no such model, and a URL with a password."""
    output = ["--output", f"{bucket}/scores"]
    for options, code, said in (
        (["--input", f"{bucket}/nothing"], 65, "nothing has no objects"),
        (["--model", f"{bucket}/models/other"], 70, "no version is published in"),
        (["--model", f"{bucket}/models/synthetic/9"], 70, "is not published"),
        (["--model", "s3://key:geheim@bucket/models/mnist"], 2, "leave credentials to the environment"),
        (["--engine", "ray"], 2, "with --engine ray"),
    ):
        assert main([*stored, *output, *options]) == code
        error = capsys.readouterr().err
        assert said in error
        assert "geheim" not in error
    (tmp_path / "big").write_bytes(bytes(1 << 20))
    ObjectStore.open(f"{bucket}/photos").upload(tmp_path / "big", "big.bin")
    assert main([*stored, *output, "--scratch-bytes", str(1 << 20)]) == 65
    assert "raise it where the disk has that room" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/evil.png", "a//evil.png", "a\\evil.png"]
)
def test_names_of_a_listing_stay_in_scratch(
    name: str,
    stored: list[str],
    bucket: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S3 allows any name; one that leaves its directory is refused before anything is fetched."""
    tree = ObjectStore.tree
    monkeypatch.setattr(
        ObjectStore, "tree", lambda self: {**(found := tree(self)), name: next(iter(found.values()))}
    )
    assert main([*stored, "--output", f"{bucket}/scores"]) == 65
    assert "whose name no file may have" in capsys.readouterr().err
