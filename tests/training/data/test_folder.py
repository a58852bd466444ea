"""Folders of images: what is read, how it is split, and what is reported of bad files."""

import contextlib
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.support.pictures import EVERY_MODE, odd_tiff, webp_bomb
from bench.support.tiffs import Kind, written
from bundle.images import decoding
from bundle.images.hardening import MAX_FILE_BYTES
from common.progress import Progress
from imagesets.errors import DataError
from imagesets.formats.files import listing
from serving.predict.bodies import image_files as serving_images
from training.data import reading
from training.data.dataset import DataSet
from training.data.loading import load

GENERATOR = np.random.default_rng(0)


def picture(size: tuple[int, int] = (28, 28)) -> npt.NDArray[np.uint8]:
    """Return an image that no other one equals."""
    return GENERATOR.integers(0, 256, size, dtype=np.uint8)


def save(path: Path, pixels: npt.NDArray[np.uint8] | None = None) -> Path:
    """Write an image, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture() if pixels is None else pixels).save(path)
    return path


def fill(root: Path, counts: dict[str, int]) -> dict[str, npt.NDArray[np.uint8]]:
    """Write so many images into each folder; return them by relative path."""
    pixels = {f"{name}/{i:03}.png": picture() for name, count in counts.items() for i in range(count)}
    for path, image in pixels.items():
        save(root / path, image)
    return pixels


def read(root: Path, said: list[str] | None = None, **options: Any) -> DataSet:
    """Load a folder as the job does."""
    progress: Any = Progress(quiet=True)
    if said is not None:
        progress.say = said.append
    return load(f"folder:{root}", mnist_directory=root, progress=progress, **options)


def contents(data: npt.NDArray[np.uint8]) -> set[bytes]:
    """Return the set of images, as bytes."""
    return {image.tobytes() for image in data}


def test_train_and_test_folders_are_read(tmp_path: Path) -> None:
    """Subfolders' sorted names are the classes, and each image comes back with its class."""
    pixels = fill(tmp_path, {"train/cat": 4, "train/Ape": 3, "test/cat": 2, "test/Ape": 1})
    data = read(tmp_path)
    test = data.test()
    assert data.name == tmp_path.name
    assert data.classes == ("Ape", "cat")
    assert data.training.labels.tolist() == [0] * 3 + [1] * 4
    assert test.labels.tolist() == [0, 1, 1]
    for part, name in ((data.training, "train"), (test, "test")):
        expected = [image for path, image in sorted(pixels.items()) if path.startswith(name)]
        np.testing.assert_array_equal(part.images, expected)


def test_folders_called_train_and_test_may_be_classes(tmp_path: Path) -> None:
    """A folder `train` that holds images is a class like any other."""
    fill(tmp_path, {"car": 3, "test": 3, "train": 3})
    assert read(tmp_path).classes == ("car", "test", "train")


def test_without_test_a_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    """A sixth of each class is held out, nothing is lost or in both parts, and it is said."""
    pixels = fill(tmp_path, {"a": 12, "b": 6, "c": 3})
    said: list[str] = []
    data = read(tmp_path, said)
    test = data.test()
    assert np.bincount(test.labels).tolist() == [2, 1, 1]
    assert np.bincount(data.training.labels).tolist() == [10, 5, 2]
    assert not contents(data.training.images) & contents(test.images)
    assert contents(data.training.images) | contents(test.images) == contents(np.array(list(pixels.values())))
    assert any("no test set: 4 of 21 images are held out" in line for line in said)


def test_what_is_held_out_depends_on_paths_and_seed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another listing order, another place and another class leave it as it is; another seed does not."""
    pixels = fill(tmp_path / "one", {"a": 30, "b": 30})
    first = read(tmp_path / "one").test()
    assert contents(first.images) != contents(read(tmp_path / "one", seed=1).test().images)
    for path in reversed(pixels):
        save(tmp_path / "two" / path, pixels[path])
    scandir = os.scandir

    @contextlib.contextmanager
    def backwards(path: Path) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(path) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=True)

    monkeypatch.setattr(os, "scandir", backwards)
    np.testing.assert_array_equal(read(tmp_path / "two").test().images, first.images)
    fill(tmp_path / "two", {"z": 9})
    with_another = read(tmp_path / "two").test()
    assert contents(with_another.images[with_another.labels < 2]) == contents(first.images)


def test_the_hash_is_that_of_find_and_sha256sum(tmp_path: Path) -> None:
    """The documented shell command prints the manifest's SHA-256, whatever the files are called."""
    fill(tmp_path, {"train/b b": 3, "train/a": 3, "train/a-": 3, "test/a": 1, "test/b b": 1})
    for name in ("back\\slash", "new\nline", "ümlaut", "B", "a.b"):
        save(tmp_path / "train" / "a" / f"{name}.png")
    documented = re.search(r"cd DIR && (find .*\n.*)", listing.listing_sha256.__doc__ or "")
    assert documented
    printed = subprocess.run(
        ["bash", "-c", documented[1]], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert read(tmp_path).sha256 == {"folder": printed.stdout.split()[0]}


def test_a_changed_byte_or_name_changes_the_hash(tmp_path: Path) -> None:
    """Content and path of every file, of the test set too, are in the hash."""
    fill(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 1})
    hashes = [read(tmp_path).sha256["folder"]]
    save(tmp_path / "test" / "a" / "000.png")
    hashes.append(read(tmp_path).sha256["folder"])
    (tmp_path / "train" / "a" / "000.png").rename(tmp_path / "train" / "b" / "new.png")
    hashes.append(read(tmp_path).sha256["folder"])
    assert len(set(hashes)) == 3


def test_test_images_are_not_decoded_before_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading decodes the training images and none of the test images."""
    decoded: list[str] = []

    def spy(data: bytes, _: object) -> npt.NDArray[np.uint8]:
        decoded.append(hashlib.sha256(data).hexdigest())
        return decoding.decode(data)

    monkeypatch.setattr(reading, "decode", spy)
    fill(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    data = read(tmp_path)
    assert len(decoded) == 6
    data.test()
    assert len(decoded) == 8
    assert len(set(decoded)) == 8


def test_a_test_file_of_wrong_size_is_found_when_loading(tmp_path: Path) -> None:
    """The header of a test image is looked at before hours are spent on training."""
    fill(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    save(tmp_path / "test" / "a" / "big.png", picture((32, 30)))
    with pytest.raises(DataError, match=r"test/a/big.png: not 28x28 \(30x32\)"):
        read(tmp_path)


def test_a_test_file_that_changed_meanwhile_is_rejected(tmp_path: Path) -> None:
    """The test set is the one whose SHA-256 was recorded, or none."""
    fill(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    data = read(tmp_path)
    save(tmp_path / "test" / "b" / "000.png")
    with pytest.raises(DataError, match=r"test/b/000.png was changed during"):
        data.test()


def test_every_kind_of_bad_file_is_reported_with_its_path(tmp_path: Path) -> None:
    """Each bad file is named with its own reason, all in one message that ends with the counts."""
    fill(tmp_path, {"a": 5, "b": 5})
    a = tmp_path / "a"
    save(a / "wide.png", picture((28, 29)))
    (a / "text.png").write_text("no image")
    (a / "empty.png").touch()
    (a / "cut.png").write_bytes((a / "000.png").read_bytes()[:-30])
    (a / "huge.png").write_bytes(b"\x89PNG" + bytes(MAX_FILE_BYTES))
    frames = [Image.fromarray(picture()) for _ in range(2)]
    frames[0].save(a / "frames.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(picture().astype(np.float32)).save(a / "deep.tiff")
    save(a / "nested" / "x.png")
    os.mkfifo(a / "pipe.png")
    (a / "broken.png").symlink_to("nowhere.png")
    (a / "itself.png").symlink_to("itself.png")
    (a / "up").symlink_to("..")
    (tmp_path / "c").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    structure = {
        "a/huge.png: larger than 1 MiB",
        "a/nested: folder inside a class",
        "a/pipe.png: not a regular file",
        "a/broken.png: broken link",
        "a/itself.png: link to itself",
        "a/up: folder inside a class",
        "c: empty class",
        "loop: link to itself",
    }
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    first, *lines, last = str(caught.value).splitlines()
    assert first == f"{tmp_path} has 8 bad file(s) or folder(s):"
    assert {line.strip() for line in lines} == structure
    assert "2 folder inside a class" in last
    for line in structure:
        path = tmp_path / line.split(":")[0]
        if path.is_dir() and not path.is_symlink():
            for inner in path.iterdir():
                inner.unlink()
            path.rmdir()
        else:
            path.unlink()
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    text = str(caught.value)
    assert "a/wide.png: not 28x28 (29x28)" in text
    assert "a/text.png: not a PNG, JPEG, GIF, BMP, WebP or TIFF image" in text
    assert "a/empty.png: empty file" in text
    assert "a/cut.png: damaged" in text
    assert "a/frames.gif: several frames" in text
    assert "a/deep.tiff: pixels of 32 bits" in text
    assert "in total: " in text
    assert "1 damaged" in text


def test_thousands_of_bad_files_are_counted_and_twenty_named(tmp_path: Path) -> None:
    """The message stays short, and its counts are those of all files."""
    fill(tmp_path, {"a": 3, "b": 3})
    for index in range(2000):
        (tmp_path / "a" / f"bad{index:04}.png").write_bytes(b"" if index % 4 else b"text")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 23
    assert lines[0] == f"{tmp_path} has 2000 bad file(s) or folder(s):"
    assert lines[1].startswith("  a/bad0000.png: ")
    assert lines[-2] == "  and 1980 more"
    assert "1500 empty file, 500 not a PNG" in lines[-1]


def test_hidden_files_are_left_out_and_said(tmp_path: Path) -> None:
    """What file managers leave behind is no error, and neither read nor hashed."""
    fill(tmp_path, {"a": 3, "b": 3})
    before = read(tmp_path).sha256
    for name in (".DS_Store", "Thumbs.db", "._000.png"):
        (tmp_path / "a" / name).write_bytes(b"?")
    (tmp_path / "README.md").write_text("a and b")
    (tmp_path / ".cache").mkdir()
    said: list[str] = []
    data = read(tmp_path, said)
    assert data.sha256 == before
    assert data.classes == ("a", "b")
    assert any("skipped 3 hidden file(s)" in line for line in said)
    assert any("skipped 1 file(s) beside" in line for line in said)


def test_a_linked_class_is_followed(tmp_path: Path) -> None:
    """Links to folders and files elsewhere are read as what they point to."""
    fill(tmp_path / "elsewhere", {"a": 3, "b": 3})
    root = tmp_path / "root"
    (root / "b").mkdir(parents=True)
    (root / "a").symlink_to(tmp_path / "elsewhere" / "a")
    for path in (tmp_path / "elsewhere" / "b").iterdir():
        (root / "b" / path.name).symlink_to(path)
    assert len(read(root).training) == 4


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({}, "has no subfolders"),
        ({"a": 5}, "has one class, 'a'"),
        ({"a": 5, "b": 2}, "at least 3 images to be split, but class 'b' has 2"),
        ({"train/a": 3, "train/b": 1, "test/a": 1, "test/b": 1}, "at least 2 images .* 'b' has 1"),
        ({"train/a": 3, "test/a": 1}, "has one class, 'a'"),
        ({"train/a": 3, "train/b": 3, "test/a": 1, "test/c": 1}, "test/c: class that is not in train/"),
        ({"train/a": 3, "train/b": 3, "test": 1}, "test has no class folders"),
        ({"train/a": 3, "train/b": 3, "other/a": 1}, "other/a: folder beside train/ and test/"),
        ({"test/a": 3, "test/b": 3}, "has test/ but no train/"),
        ({"a": 5, "b\x07": 5}, "control characters"),
        ({"a": 5, "x" * 201: 5}, "class name 'x+'.*200"),
        ({"a": 5, "\udcff": 5}, "not UTF-8"),
    ],
)
def test_folders_that_make_no_data_set_are_rejected(
    tmp_path: Path, counts: dict[str, int], sentence: str
) -> None:
    """Too few classes or images, or classes where none belong, end with a sentence."""
    fill(tmp_path, counts)
    with pytest.raises(DataError, match=sentence):
        read(tmp_path)


def test_no_such_folder_is_a_sentence(tmp_path: Path) -> None:
    """A folder that is not there, or is a file, is named."""
    with pytest.raises(DataError, match=r"there is no .*nowhere"):
        read(tmp_path / "nowhere")
    save(tmp_path / "file.png")
    with pytest.raises(DataError, match=r"file.png is not a folder"):
        read(tmp_path / "file.png")


def test_a_test_class_without_images_is_said(tmp_path: Path) -> None:
    """A class that the test set lacks is no error, and is named."""
    fill(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 1})
    said: list[str] = []
    read(tmp_path, said)
    assert any("has no images of b" in line for line in said)


def test_only_a_few_chunks_are_read_ahead(tmp_path: Path) -> None:
    """With more chunks than may wait, all come, in order."""
    with ThreadPoolExecutor(3) as pool:
        assert list(reading._ahead(pool, lambda n: n * n, range(100))) == [n * n for n in range(100)]


def test_files_are_decoded_as_the_service_does(tmp_path: Path) -> None:
    """Colour, depth, alpha, orientation: training and serving make the same 784 bytes of a file."""
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        for index, data in enumerate(EVERY_MODE):
            (tmp_path / name / f"{index:03}").write_bytes(data)
    expected = [serving_images.decode(data, None, "white-on-black").pixels for data in EVERY_MODE]
    found = read(tmp_path)
    np.testing.assert_array_equal(found.training.images, expected * 2)
    np.testing.assert_array_equal(found.test().images, expected * 2)


def test_a_webp_bomb_is_reported_before_its_canvas_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 bytes that claim 268 million pixels are named by their claim, in both parts."""
    fill(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    for part in ("train", "test"):
        (tmp_path / part / "a" / "bomb.webp").write_bytes(webp_bomb())
    monkeypatch.delitem(decoding.PARSERS, "image/webp")  # it would be looked for if the size were right
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    for part in ("train", "test"):
        assert f"{part}/a/bomb.webp: not 28x28 (16383x16383)" in str(caught.value)


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\x00", b"\xff\xd8\xff"]),
    rest=st.binary(max_size=200),
)
def test_garbage_in_a_folder_is_a_data_error(tmp_path: Path, start: bytes, rest: bytes) -> None:
    """Any bytes in the place of an image end as a `DataError` that names the file."""
    if not (tmp_path / "a").exists():
        fill(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "x.png").write_bytes(start + rest)
    with contextlib.suppress(DataError):
        read(tmp_path).test()
        pytest.fail("garbage was taken for an image")


def test_what_is_refused_is_named_as_the_service_names_it(tmp_path: Path) -> None:
    """A tag that makes no sense does no harm; a kind that is not read is told from damage."""
    fill(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "odd.tiff").write_bytes(odd_tiff())
    (tmp_path / "b" / "deep.tiff").write_bytes(written(Kind(bits=12)))
    with pytest.raises(
        DataError, match=r"b/deep.tiff: of a kind that is not read \(a TIFF: gray of 12"
    ) as caught:
        read(tmp_path)
    assert "odd.tiff" not in str(caught.value)


def test_problems_come_in_the_order_of_the_paths(tmp_path: Path) -> None:
    """Whatever reader is first, the files named are the first by path."""
    fill(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    names = [f"{index:05}" for index in range(500)]
    for name in names:
        (tmp_path / "train" / "b" / f"z{name}.png").touch()
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    found = re.findall(r"b/z(\d+)", str(caught.value))
    assert found == names[:20]
