"""`python -m bundle`: every changed byte is found and named, in a real process too."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bundle.errors import InvalidBundleError
from bundle.golden import GoldenExamples
from bundle.manifest import FILES, GOLDEN_FILE, MANIFEST_FILE, ONNX_FILE, OPTIONAL_FILES
from bundle.repository import CONFIG_FILE, Bundle
from bundle.verify import problems
from tests.bundle.hostile import relist, reseal, restate
from tests.bundle.making import CLASSES, publish_one, some_golden
from tests.conftest import ROOT


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Return a bundle to break, in its own repository."""
    return publish_one(tmp_path)


def flip(path: Path, position: int = -1, bit: int = 0) -> None:
    """Flip one bit of a file, published read-only or not."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.chmod(0o644)
    path.write_bytes(data)


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m bundle` and return how it ended."""
    return subprocess.run(
        [sys.executable, "-m", "bundle", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_intact_bundle_has_no_problems(bundle: Bundle) -> None:
    """What was published verifies, as often as one likes."""
    assert problems(bundle.path) == []
    assert problems(bundle.path) == []


@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("name", [*FILES, MANIFEST_FILE, f"../{CONFIG_FILE}"])
def test_one_flipped_bit_is_found_and_its_file_named(bundle: Bundle, name: str, position: int) -> None:
    """One bit, in the first or the last byte of any file, gives exactly one problem that names the file."""
    flip(bundle.path / name, position)
    found = problems(bundle.path)
    assert len(found) == 1
    assert Path(name).name in found[0]


@pytest.mark.parametrize("name", [*FILES, MANIFEST_FILE, f"../{CONFIG_FILE}"])
def test_a_missing_file_is_named(bundle: Bundle, name: str) -> None:
    """Any file's absence is found."""
    (bundle.path / name).unlink()
    found = problems(bundle.path)
    assert len(found) == 1
    assert Path(name).name in found[0]


@pytest.mark.parametrize("name", [*FILES, MANIFEST_FILE, f"../{CONFIG_FILE}"])
def test_a_directory_in_place_of_a_file_is_named(bundle: Bundle, name: str) -> None:
    """A directory where a file should be is a problem, not a crash."""
    (bundle.path / name).unlink()
    (bundle.path / name).mkdir()
    assert any(Path(name).name in problem for problem in problems(bundle.path))


def test_an_optional_file_is_checked_where_the_manifest_has_it(tmp_path: Path) -> None:
    """A bundle is intact with it and without; changed, lost or added later it is a problem."""
    without, bundle = publish_one(tmp_path), publish_one(tmp_path, OPTIONAL_FILES)
    for name in OPTIONAL_FILES:
        assert problems(without.path) == problems(bundle.path) == []
        flip(bundle.path / name)
        assert [problem.split()[0] for problem in problems(bundle.path)] == [name]
        flip(bundle.path / name)
        (bundle.path / name).rename(without.path / name)
        assert problems(bundle.path) == [f"{name} cannot be read: No such file or directory"]
        assert problems(without.path) == [f"{name} does not belong to the bundle: remove it"]


def test_a_stranger_is_named(bundle: Bundle) -> None:
    """A file, a directory or a link that does not belong is found."""
    (bundle.path / "notes.txt").touch()
    (bundle.path / "weights").mkdir()
    (bundle.path / "model.onnx.data").symlink_to("/dev/null")
    found = problems(bundle.path)
    assert [problem.split()[0] for problem in found] == ["model.onnx.data", "notes.txt", "weights"]


def test_all_problems_are_reported_at_once(bundle: Bundle) -> None:
    """Two changed files, a missing one and a stranger are four problems."""
    flip(bundle.path / "report.html")
    flip(bundle.path / ONNX_FILE)
    (bundle.path / "model.pt").unlink()
    (bundle.path / "stranger").touch()
    assert len(problems(bundle.path)) == 4


@pytest.mark.parametrize(
    "golden",
    [
        some_golden(images=3),
        some_golden(classes=len(CLASSES) + 1),
        dataclasses.replace(some_golden(), images=some_golden().images.astype(np.int64)),
        dataclasses.replace(some_golden(), probabilities=some_golden().probabilities * 1.01),
        dataclasses.replace(some_golden(), probabilities=some_golden().probabilities * np.float32(np.nan)),
        dataclasses.replace(
            some_golden(),
            images=some_golden().probabilities,  # type: ignore[arg-type]
            probabilities=some_golden().images,  # type: ignore[arg-type]
        ),
    ],
    ids=["fewer", "class count", "dtype", "sums", "nan", "swapped"],
)
def test_golden_examples_of_another_shape_are_found(bundle: Bundle, golden: GoldenExamples) -> None:
    """Golden examples that cannot be replayed are found even where every hash is right."""
    reseal(bundle.path, GOLDEN_FILE, golden.to_bytes())
    found = problems(bundle.path)
    assert len(found) == 1
    assert found[0].startswith(GOLDEN_FILE)


def npy() -> bytes:
    """Return the middle of an npz: one array, which numpy loads as well."""
    data = some_golden().to_bytes()
    start = data.index(b"\x93NUMPY")
    return data[start : start + 128 + some_golden().images.nbytes]


@pytest.mark.parametrize(
    "data",
    [b"", b"nothing", some_golden().to_bytes()[:500], npy(), b"PK\x03\x04" + bytes(100), b"\x80\x04N."],
    ids=["empty", "text", "cut", "npy", "zip", "pickle"],
)
def test_golden_bytes_that_are_no_npz_are_rejected(bundle: Bundle, data: bytes) -> None:
    """Whatever numpy would say, the sentence is an InvalidBundleError's and names the file."""
    with pytest.raises(InvalidBundleError, match=r"golden\.npz"):
        GoldenExamples.from_bytes(data, bundle.manifest)


def test_golden_examples_survive_the_file(bundle: Bundle) -> None:
    """The arrays that are read are those that were written."""
    read = GoldenExamples.from_bytes(bundle.read(GOLDEN_FILE), bundle.manifest)
    assert (read.images == some_golden().images).all()
    assert (read.probabilities == some_golden().probabilities).all()


def test_a_golden_mismatch_is_told_from_a_match() -> None:
    """Within the tolerance is a match; beyond it, another shape and NaN are not."""
    golden = some_golden()
    right = golden.probabilities
    nan = right.copy()
    nan[0, 0] = np.nan
    assert golden.mismatch(right + np.float32(5e-5), 1e-4) is None
    assert "off by" in (golden.mismatch(right + np.float32(2e-4), 1e-4) or "")
    assert "off by nan" in (golden.mismatch(nan, 1e-4) or "")
    assert "[4, 2]" in (golden.mismatch(right[:, :2], 1e-4) or "")


def test_a_manifest_with_other_files_is_found(bundle: Bundle) -> None:
    """A consistent manifest that lists fewer or other files than a bundle has is no bundle."""
    whole: dict[str, str | None] = dict(bundle.manifest.files)
    changes: list[dict[str, str | None]] = [
        {"../outside\0": "ab" * 32},
        {ONNX_FILE: None},
        {"": "ab" * 32},
        {"MODEL_CARD.MD": "ab" * 32},
    ]
    for change in changes:
        restate(bundle.path, files={})
        relist(bundle.path, whole | change)
        assert any("lists" in problem for problem in problems(bundle.path))
    restate(bundle.path, files={})
    relist(bundle.path, whole)
    assert problems(bundle.path) == []


def test_verify_says_intact_and_ends_with_0(bundle: Bundle) -> None:
    """The command counts the files and prints the digest."""
    done = command("verify", bundle.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"is intact: {len(FILES) + 1} files" in done.stdout
    assert bundle.manifest.digest in done.stdout


def test_verify_names_a_changed_file_and_ends_with_1(bundle: Bundle) -> None:
    """The command says which file, that the bundle is not intact, and ends with 1."""
    flip(bundle.path / ONNX_FILE)
    done = command("verify", bundle.path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: model.onnx was changed after it was published" in done.stderr
    assert "NOT intact: 1 problem(s)" in done.stderr


def test_show_prints_the_manifest(bundle: Bundle) -> None:
    """The command's output is the file, byte for byte."""
    done = command("show", bundle.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (bundle.path / MANIFEST_FILE).read_text()


def test_show_prints_any_text_in_any_locale(tmp_path: Path) -> None:
    """Class names of other scripts and undecodable paths are shown where the terminal speaks ASCII only."""
    classes = ("нуль", "一", "two")
    published = publish_one(
        tmp_path, classes=classes, sample_label="一", hyperparameters={"data_dir": "data/\udcff"}
    )
    shown = subprocess.run(
        [sys.executable, "-m", "bundle", "show", str(published.path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert shown.stdout == (published.path / MANIFEST_FILE).read_bytes()


def test_list_shows_every_version_and_marks_the_unusable(tmp_path: Path) -> None:
    """The command lists versions with their accuracy; one with a broken manifest is marked, not left out."""
    publish_one(tmp_path)
    flip(publish_one(tmp_path).path / MANIFEST_FILE)
    done = command("list", tmp_path / "shapes")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith("1\t")
    assert "90.00%" in first
    assert second.startswith("2\tunusable: manifest.json")


@pytest.mark.parametrize("name", ["verify", "show", "list"])
@pytest.mark.parametrize("path", ["missing", "shapes/2", "file", "file/1", "x" * 300])
def test_nothing_there_ends_with_1_and_a_sentence(
    bundle: Bundle, name: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path that leads nowhere gives a sentence and exit code 1, from every command."""
    from bundle.__main__ import main

    (bundle.path.parent.parent / "file").touch()
    assert main([name, str(bundle.path.parent.parent / path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) <= 2
    assert path in err


@pytest.mark.parametrize("arguments", [(), ("prove", "x"), ("verify",), ("list", "a", "b")])
def test_misuse_ends_with_2(arguments: tuple[str, ...]) -> None:
    """A missing or unknown command or path is misuse: exit code 2, and no traceback."""
    done = command(*arguments)
    assert done.returncode == 2
    assert "usage: python -m bundle" in done.stderr
    assert "Traceback" not in done.stderr


def test_show_is_json_for_other_programs(bundle: Bundle) -> None:
    """Another program finds the class names in the command's output."""
    assert json.loads(command("show", bundle.path).stdout)["classes"] == list(CLASSES)


def test_the_file_of_a_version_and_the_directory_of_one_are_understood(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """`verify models/NAME/1/model.onnx` says what to give; `list models/NAME/1` lists that version."""
    from bundle.__main__ import main

    for command in ("verify", "show", "list"):
        assert main([command, str(bundle.path / "model.onnx")]) == 1
        assert f"give the version's directory, {bundle.path}" in capsys.readouterr().err
    assert main(["list", str(bundle.path)]) == 0
    assert capsys.readouterr().out.startswith("1\t")
