"""Folders of images: parts, classes, labels, what is skipped, and what is everything for the scorer."""

import hashlib
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagesets.errors import DataError
from imagesets.formats.files import folder as folders
from imagesets.formats.files.folder import collect, open_folder, walk
from imagesets.formats.files.layout import Layout, classify, components, parent
from imagesets.formats.files.listing import FileSource, listing_sha256, stat_fields
from imagesets.labels import UNKNOWN
from imagesets.source import Options


def fill(root: Path, *names: str) -> None:
    """Write files; what is in them is their name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def labelled(sources: list[Any]) -> dict[str, tuple[str | None, str | None]]:
    """Return part and label of each row."""
    found: dict[str, tuple[str | None, str | None]] = {}
    for source in sources:
        labels = source.labels()
        rows = source.take(0, source.count).rows
        codes = [UNKNOWN] * source.count if labels is None else labels.codes.tolist()
        for row, code in zip(rows, codes, strict=True):
            found[row] = (source.part, None if code == UNKNOWN else labels.values[code])
    return found


def opened(root: Path, said: list[str] | None = None, **options: Any) -> list[FileSource]:
    """Open a folder as training does."""
    return open_folder("in", root, Options(say=(said if said is not None else []).append, **options))


def problems(sources: list[FileSource]) -> set[str]:
    """Return the problems as the user sees them."""
    return {f"{path}: {kind}" for source in sources for path, kind, _ in source.problems}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "valid", "Testing"), ("TRAIN", "Validation", "t10k")],
)
@pytest.mark.parametrize("top", ["", "mnist_png/", "data/mnist_png/"])
def test_parts_are_read_in_any_case_and_below_a_folder_of_their_own(
    train: str, val: str, test: str, top: str, tmp_path: Path
) -> None:
    """As archives unpack; the order of the sources is training, validation, test."""
    fill(
        tmp_path,
        "README",
        *(f"{top}{part}/{name}/1.png" for part in (train, val, test) for name in ("b", "A")),
    )
    sources = opened(tmp_path)
    assert [source.part for source in sources] == ["training", "validation", "test"]
    assert all(source.labels().values == ("A", "b") for source in sources)  # type: ignore[union-attr]
    assert labelled(sources) == {
        f"{top}{folder}/{name}/1.png": (part, name)
        for folder, part in ((train, "training"), (val, "validation"), (test, "test"))
        for name in ("b", "A")
    }
    assert not problems(sources)


def test_classes_without_parts(tmp_path: Path) -> None:
    """Sorted by name; a class may be called `test` if no folder is in it; files need no ending."""
    fill(tmp_path, "test/1.png", "train/1.png", "cat/000", "cat/001")
    (source,) = opened(tmp_path)
    assert source.part is None
    assert labelled([source]) == {
        "cat/000": (None, "cat"),
        "cat/001": (None, "cat"),
        "test/1.png": (None, "test"),
        "train/1.png": (None, "train"),
    }
    assert source.take(1, 2).read() == [b"cat/001", b"test/1.png"]


def test_one_class_is_a_class_and_no_folder_around(tmp_path: Path) -> None:
    """Images directly in the one folder: training says that there must be two, and takes it for nothing else."""
    fill(tmp_path, "cat/1.png", "cat/2.png")
    assert labelled(opened(tmp_path)) == {"cat/1.png": (None, "cat"), "cat/2.png": (None, "cat")}


def test_what_the_system_left_behind_is_skipped_and_said(tmp_path: Path) -> None:
    """Files and folders of macOS, Windows, notebooks and Synology are no classes and no images."""
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png")
    expected = labelled(opened(tmp_path))
    junk = ("train/a/.DS_Store", "train/a/._1.png", "train/a/Thumbs.db", "train/b/desktop.ini", "README.md")
    fill(tmp_path, *junk, "__MACOSX/train/a/._1.png", "train/@eaDir/x.png", "train/.ipynb_checkpoints/y.png")
    fill(tmp_path, "train/a/@eaDir/1.png", "train/notes.txt")
    said: list[str] = []
    sources = opened(tmp_path, said)
    assert labelled(sources) == expected
    assert not problems(sources)
    assert f"skipped 1 file(s) beside the class folders of {tmp_path}/train" in said
    assert f"skipped 5 hidden file(s) in {tmp_path}/train" in said


def test_what_training_does_not_take_is_a_problem_and_no_row(tmp_path: Path) -> None:
    """Each is named with its reason, and neither hangs nor ends the listing."""
    fill(tmp_path, "a/1.png", "b/1.png", "a/nested/x.png")
    a = tmp_path / "a"
    (a / "huge.png").write_bytes(bytes((1 << 20) + 1))
    os.mkfifo(a / "pipe.png")
    (a / "broken.png").symlink_to("nowhere.png")
    (a / "itself.png").symlink_to("itself.png")
    (a / "up").symlink_to("..")
    (tmp_path / "c").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    sources = opened(tmp_path)
    assert problems(sources) == {
        "a/huge.png: larger than 1 MiB",
        "a/nested: folder inside a class",
        "a/pipe.png: not a regular file",
        "a/broken.png: broken link",
        "a/itself.png: link to itself",
        "a/up: folder inside a class",
        "c: empty class",
        "loop: link to itself",
    }
    assert set(labelled(sources)) == {"a/1.png", "b/1.png"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("cat/train/1.png", "cat/test/1.png", "dog/train/1.png"), "cat/train: folder inside a class"),
        (("train/a/1", "train/b/1", "test/a/1", "test/c/1"), "test/c: class that is not in train/"),
        (("train/a/1", "train/b/1", "other/a/1"), "other/a: folder beside train/ and test/"),
        (("train/a/1", "train/b/1", "Training/a/1"), "train/a: second folder of the same part"),
    ],
)
def test_folders_in_the_wrong_place(names: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    """Parts inside classes, classes beside parts, a part that is there twice: refused, not guessed."""
    fill(tmp_path, *names)
    assert expected in problems(opened(tmp_path))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((), "has no subfolders"),
        (("1.png",), "has no subfolders: create one .* or add a CSV file"),
        (("test/a/1.png", "test/b/1.png"), "has test/ but no train/"),
        (("train/a/1.png", "train/b/1.png", "test/1.png"), "test has no class folders"),
    ],
)
def test_folders_that_are_no_set_are_refused(names: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    """Each a sentence that says what is missing."""
    fill(tmp_path, *names)
    with pytest.raises(DataError, match=sentence):
        opened(tmp_path)


def test_no_folder_is_a_sentence(tmp_path: Path) -> None:
    """A path that is not there, or is a file."""
    fill(tmp_path, "file.png")
    for name, reason in (("nowhere", "No such file"), ("file.png", "Not a directory")):
        with pytest.raises(DataError, match=f"{name} cannot be listed: {reason}"):
            opened(tmp_path / name)


def test_links_are_followed(tmp_path: Path) -> None:
    """Classes and files elsewhere are read as what the links point to."""
    fill(tmp_path / "elsewhere", "a/1.png", "b/1.png")
    root = tmp_path / "root"
    (root / "b").mkdir(parents=True)
    (root / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (root / "b" / "2.png").symlink_to(tmp_path / "elsewhere" / "b" / "1.png")
    assert labelled(opened(root)) == {"a/1.png": (None, "a"), "b/2.png": (None, "b")}


def test_a_flat_folder_and_a_table(tmp_path: Path) -> None:
    """Any CSV whose one column names the files; it says what was read."""
    fill(tmp_path, "1.png", "2.png", "3.png", "README.txt")
    (tmp_path / "train.csv").write_text("id_code,diagnosis\n3,cat\n1,dog\n2,cat\n")
    said: list[str] = []
    assert labelled(opened(tmp_path, said)) == {
        "1.png": ("training", "dog"),
        "2.png": ("training", "cat"),
        "3.png": ("training", "cat"),
    }
    assert said == [f"labels of {tmp_path} are read from train.csv"]


def test_a_column_of_parts_makes_the_parts(tmp_path: Path) -> None:
    """`split` with train, val and test."""
    fill(tmp_path, "images/1.png", "images/2.png", "images/3.png")
    (tmp_path / "any name.csv").write_text("file,split,label\n1.png,test,a\n2.png,train,b\n3.png,val,a\n")
    assert labelled(opened(tmp_path)) == {
        "images/1.png": ("test", "a"),
        "images/2.png": ("training", "b"),
        "images/3.png": ("validation", "a"),
    }


def test_folders_of_images_with_a_table_are_no_classes(tmp_path: Path) -> None:
    """As skin lesions (`..._images_part_1/` and a metadata file) and Kaggle's `train_images/` are published."""
    fill(tmp_path, "HAM10000_images_part_1/ISIC_1.jpg", "HAM10000_images_part_2/ISIC_2.jpg")
    (tmp_path / "HAM10000_metadata.csv").write_text(
        "lesion_id,image_id,dx,dx_type,age\nHAM_0,ISIC_2,nv,histo,80.0\nHAM_0,ISIC_1,bkl,histo,\n"
    )
    assert labelled(opened(tmp_path)) == {
        "HAM10000_images_part_1/ISIC_1.jpg": (None, "bkl"),
        "HAM10000_images_part_2/ISIC_2.jpg": (None, "nv"),
    }
    kaggle = tmp_path / "kaggle"
    fill(kaggle, "train_images/1.png", "train_images/2.png", "test_images/3.png")
    (kaggle / "train.csv").write_text("id_code,diagnosis\n2,0\n1,4\n")
    fill(kaggle, "test_images/4.png")
    (kaggle / "test.csv").write_text("id_code\n3\n4\n")
    (kaggle / "sample_submission.csv").write_text("id_code,diagnosis\n3,0\n4,0\n")
    said: list[str] = []
    assert labelled(opened(kaggle, said)) == {
        "train_images/1.png": ("training", "4"),
        "train_images/2.png": ("training", "0"),
    }
    assert "skipped 2 file(s)" in said[0]


def test_a_table_beside_class_folders(tmp_path: Path) -> None:
    """One that says the same or is of something else is no trouble; one that says otherwise must be chosen."""
    fill(tmp_path, "cat/1.png", "dog/2.png", "dog/3.png")
    folders = labelled(opened(tmp_path))
    (tmp_path / "notes.csv").write_text("who,when\nme,now\n")
    assert labelled(opened(tmp_path)) == folders
    (tmp_path / "same.csv").write_text("file,label\n1.png,0\n2.png,1\n3.png,1\n")
    assert labelled(opened(tmp_path)) == folders
    (tmp_path / "same.csv").write_text("file,label\n1.png,0\n2.png,1\n3.png,0\n")
    with pytest.raises(
        DataError, match=r"same.csv has labels .* folders that say something else: .*--label-column"
    ):
        opened(tmp_path)
    (tmp_path / "notes.csv").unlink()
    chosen = labelled(opened(tmp_path, label_column="label"))
    assert [label for _, label in chosen.values()] == ["0", "1", "0"]


def test_a_table_for_folders_of_parts_and_one_of_parts_for_class_folders(tmp_path: Path) -> None:
    """The folders say the parts where the table does not, and the other way round; what is no file is reported."""
    fill(tmp_path / "flat", "train/1.png", "val/2.png", "test/3.png")
    os.mkfifo(tmp_path / "flat" / "train" / "pipe.png")
    (tmp_path / "flat" / "labels.csv").write_text("file,label\n1,a\n2,b\n3,a\n")
    assert labelled(opened(tmp_path / "flat")) == {
        "train/1.png": ("training", "a"),
        "val/2.png": ("validation", "b"),
        "test/3.png": ("test", "a"),
    }
    assert problems(opened(tmp_path / "flat")) == {"train/pipe.png: not a regular file"}
    fill(tmp_path / "classes", "cat/1.png", "dog/2.png", "dog/3.png")
    (tmp_path / "classes" / "split.csv").write_text(
        "file,split,label\n1,train,cat\n2,test,dog\n3,train,dog\n"
    )
    assert labelled(opened(tmp_path / "classes")) == {
        "cat/1.png": ("training", "cat"),
        "dog/2.png": ("test", "dog"),
        "dog/3.png": ("training", "dog"),
    }


def test_a_cls_file_beside_each_image(tmp_path: Path) -> None:
    """As WebDataset unpacks, with parts or without; a file without one is named."""
    fill(tmp_path, "train/1.png", "train/2.seg.png", "test/3.png")
    for name, label in (("train/1", "7\n"), ("train/2", "8"), ("test/3", "7")):
        (tmp_path / f"{name}.cls").write_text(label)
    expected = {
        "train/1.png": ("training", "7"),
        "train/2.seg.png": ("training", "8"),
        "test/3.png": ("test", "7"),
    }
    assert labelled(opened(tmp_path)) == expected
    assert all(source.labels().numeric for source in opened(tmp_path))  # type: ignore[union-attr]
    (tmp_path / "test/3.cls").unlink()
    with pytest.raises(DataError, match=r"test/3.png has no .cls file beside it"):
        opened(tmp_path)
    (tmp_path / "test/3.cls").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"test/3.cls is no label"):
        opened(tmp_path)


def test_the_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    """Whatever the files are called."""
    names = [
        f"{folder}/{name}.png"
        for folder in ("a", "b b")
        for name in ("1", "back\\slash", "new\nline", "ümlaut")
    ]
    fill(tmp_path, *names)
    command = (
        "find -L . -mindepth 2 -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    )
    printed = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (source,) = opened(tmp_path)
    assert source.sha256() == {"folder": printed.stdout.split()[0]}
    digests = [hashlib.sha256(name.encode()).digest() for name in names]
    assert listing_sha256([os.fsencode(name) for name in names], digests) == printed.stdout.split()[0]


def everything(root: Path, said: list[str] | None = None) -> tuple[FileSource, list[str]]:
    """List a folder as the scorer does."""
    place = os.path.join(root, "")  # noqa: PTH118
    return collect(
        "in", place, walk(os.fsencode(place)), Options(say=(said if said is not None else []).append)
    )


@pytest.mark.parametrize("ready", [True, False], ids=["others are ready", "others are too late"])
def test_files_that_another_process_looks_at_are_listed_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ready: bool
) -> None:
    """In the same order, with the same fingerprint: what is no regular file is looked at here."""
    fill(tmp_path, *(f"{folder}{number:02}.png" for folder in ("", "a/") for number in range(40)))
    (tmp_path / "07.png").unlink()
    (tmp_path / "07.png").symlink_to("nothing")
    (tmp_path / "08.png").unlink()
    os.mkfifo(tmp_path / "08.png")
    (tmp_path / "31.npy").touch()
    monkeypatch.setattr(folders, "BLOCK", 3)
    monkeypatch.setattr(folders, "WINDOW", 17)
    asked: list[bytes] = []

    def elsewhere(folder: bytes, names: Sequence[bytes]) -> Future[bytes]:
        future = Future[bytes]()
        if ready:
            asked.extend(names)
            future.set_result(stat_fields(folder, names))
        return future

    root = os.path.join(os.fsencode(tmp_path), b"")  # noqa: PTH118
    files, containers = collect("in", f"{tmp_path}/", walk(root, stat_files=elsewhere), Options())
    here, same = everything(tmp_path)
    assert [*files.paths()] == [*here.paths()]
    assert (files.fingerprint(), containers) == (here.fingerprint(), same)
    assert len(asked) == (82 if ready else 0)


def test_the_scorer_takes_everything_in_order(tmp_path: Path) -> None:
    """By name, sidecars and hidden files left out, files of many images apart; labels are the folders' names."""
    fill(
        tmp_path,
        "b/2.png",
        "a/c/1.png",
        "a.png",
        "z",
        "b/10.PNG",
        "b/.hidden.png",
        "b/labels.csv",
        ".git/x.png",
    )
    fill(
        tmp_path, "images-idx3-ubyte", "labels-idx1-ubyte", "a/x.tar.xz", "m.mat", "b/Thumbs.db", "n.npy.bz2"
    )
    (tmp_path / "a" / "loop").symlink_to("..")
    said: list[str] = []
    files, containers = everything(tmp_path, said)
    assert [*files.take(0, files.count).rows] == ["a/c/1.png", "a.png", "b/10.PNG", "b/2.png", "z"]
    assert [Path(place).name for place in containers] == [
        "x.tar.xz",
        "images-idx3-ubyte",
        "m.mat",
        "n.npy.bz2",
    ]
    assert said == ["in: 4 file(s) that are not images are skipped (labels, descriptions, hidden files)"]
    assert [label for _, label in labelled([files]).values()] == ["c", None, "b", "b", None]


def test_a_flat_folder_has_no_labels_for_the_scorer(tmp_path: Path) -> None:
    """Unless `.cls` files are there; an image without one has no label."""
    fill(tmp_path, "1.png", "2.png")
    assert everything(tmp_path)[0].labels() is None
    (tmp_path / "2.cls").write_text("5")
    assert labelled([everything(tmp_path)[0]]) == {"1.png": (None, None), "2.png": (None, "5")}


def test_what_cannot_be_read_is_a_row_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subfolder that cannot be listed, a link to nothing, a named pipe whatever its ending: none ends the listing."""
    fill(tmp_path, "a/1.png", "b/1.png", "c/1.png")
    os.mkfifo(tmp_path / "b" / "x.tar")
    (tmp_path / "b" / "y.png").symlink_to("nowhere")
    (tmp_path / "b" / "z.png").symlink_to("z.png")
    listdir = os.listdir

    def denied(path: bytes) -> list[bytes]:
        if path.rstrip(b"/").endswith(b"/a"):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", denied)
    files, containers = everything(tmp_path)
    assert not containers
    read = dict(zip(files.take(0, files.count).rows, files.take(0, files.count).read(), strict=True))
    assert [*read] == ["a/", "b/1.png", "b/x.tar", "b/y.png", "b/z.png", "c/1.png"]
    assert str(read["a/"]).startswith("the folder cannot be read")
    assert read["b/x.tar"] == "the file cannot be read: it is not a regular file"
    assert read["b/y.png"] == "the file cannot be read: No such file or directory"
    assert "Too many levels" in str(read["b/z.png"])
    assert read["c/1.png"] == b"c/1.png"
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        everything(tmp_path / "a")


def test_files_that_stat_denies_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that may be listed but not entered, neither the file nor the link can be looked at."""
    fill(tmp_path, "a/1.png", "b.png")
    look = {name: getattr(os, name) for name in ("stat", "lstat")}

    def denied(name: str, path: Any, *args: Any, **options: Any) -> os.stat_result:
        if os.fsencode(path).endswith(b"a/1.png"):
            raise PermissionError(13, "Permission denied")
        return look[name](path, *args, **options)  # type: ignore[no-any-return]

    for name in look:
        monkeypatch.setattr(os, name, lambda *args, name=name, **options: denied(name, *args, **options))
    files, _ = everything(tmp_path)
    assert [*files.take(0, 2).rows] == ["a/1.png", "b.png"]


def test_folders_deeper_than_a_stack_are_listed(tmp_path: Path) -> None:
    """Two thousand folders in each other: the path is too long for the system there, and that is a row."""
    here = tmp_path
    before = Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(2000):
            os.mkdir("deep")  # noqa: PTH102
            os.chdir("deep")
        os.chdir(before)
        files, _ = everything(here)
        assert files.count == 1
        assert "File name too long" in str(files.take(0, 1).read()[0])
        with pytest.raises(DataError, match="cannot be listed: File name too long"):
            opened(here)
    finally:
        os.chdir(before)
        subprocess.run(["rm", "-rf", str(tmp_path / "deep")], check=False)


NAMES = st.sampled_from(["train", "Test", "val", "cat", "dog", "images", ".", "", "..", "数字", "__MACOSX"])
FOLDERS = st.dictionaries(st.lists(NAMES, max_size=4).map("/".join), st.booleans(), max_size=12)


@given(folders=FOLDERS)
def test_any_folders_have_one_place_each(folders: dict[str, bool]) -> None:
    """A class is the folder itself, a part is one of the parts found, and what is sound is so by the rules."""
    layout = classify(folders)
    assert set(layout.places) == set(folders)
    for folder, place in layout.places.items():
        below = components(folder)[len(components(layout.top)) :]
        assert place.label in (None, below[-1] if below else None)
        if place.label is not None and not place.problem:
            assert len(below) == (2 if layout.parts else 1)
            assert place.part is None or layout.parts[place.part] == below[0]
    assert classify(dict(reversed(folders.items()))) == Layout(
        top=layout.top, parts=layout.parts, places={**layout.places}
    )


@given(folders=FOLDERS.map(lambda found: {f"{folder}/x": True for folder in found}))
def test_a_folder_around_changes_nothing(folders: dict[str, bool]) -> None:
    """A set that has parts or several classes has the same in a folder of its own."""
    layout = classify(folders)
    around = classify({f"wrapped/{folder}": has for folder, has in folders.items()})
    if len({components(folder)[:1] for folder in folders}) > 1 or layout.parts:
        assert around.parts == layout.parts
        assert [*around.places.values()] == [*layout.places.values()]
    assert all(parent(f"{folder}/1.png") == folder for folder in folders)
