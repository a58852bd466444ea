"""Publishing and resolving versions: complete versions only, unique numbers, whenever the publisher is killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bundle.errors import InvalidBundleError, NoBundleError, PublishError
from bundle.manifest import FILES, MANIFEST_FILE, ONNX_FILE, OPTIONAL_FILES
from bundle.repository import (
    CONFIG_FILE,
    STAGING_LEFTOVER_SECONDS,
    STAGING_PREFIX,
    Bundle,
    publish,
    resolve,
    staging,
    versions,
)
from bundle.verify import problems
from tests.bundle.making import CLASSES, fill, publish_one, some_metadata
from tests.conftest import ROOT

PUBLISHERS = 8
EACH_PUBLISHES = 4


def hidden(model: Path) -> list[str]:
    """Return the names in `model` that start with a dot: what is being built, or was left behind."""
    return sorted(path.name for path in model.iterdir() if path.name.startswith("."))


def test_versions_count_up_from_one(tmp_path: Path) -> None:
    """The first three publications are versions 1, 2 and 3, and all of them verify."""
    published = [publish_one(tmp_path) for _ in range(3)]
    assert [bundle.version for bundle in published] == [1, 2, 3]
    assert versions(tmp_path / "shapes") == [1, 2, 3]
    assert [problems(bundle.path) for bundle in published] == [[], [], []]


def test_a_version_holds_exactly_its_files_and_any_user_may_read_them(tmp_path: Path) -> None:
    """A published version has the manifest and the contract's files, read-only and world-readable."""
    path = publish_one(tmp_path).path
    assert {entry.name for entry in path.iterdir()} == {*FILES, MANIFEST_FILE}
    assert {entry.stat().st_mode & 0o777 for entry in path.iterdir()} == {0o444}
    assert path.stat().st_mode & 0o777 == 0o755
    assert hidden(path.parent) == []


def test_an_optional_file_is_published_as_the_others_are(tmp_path: Path) -> None:
    """It is read-only and in the manifest, and stands in no other version."""
    path = publish_one(tmp_path, OPTIONAL_FILES).path
    assert {entry.name for entry in path.iterdir()} == {*FILES, *OPTIONAL_FILES, MANIFEST_FILE}
    assert {entry.stat().st_mode & 0o777 for entry in path.iterdir()} == {0o444}
    assert {*publish_one(tmp_path).manifest.files} == {*FILES}


def test_a_gap_is_not_filled(tmp_path: Path) -> None:
    """After version 7, the next one is 8, even where lower numbers are free."""
    first = publish_one(tmp_path)
    first.path.rename(first.path.with_name("7"))
    assert publish_one(tmp_path).version == 8


def test_a_file_in_the_way_of_a_number_is_passed_over(tmp_path: Path) -> None:
    """A plain file or a dangling link named like the next version does not stop the publication."""
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "1").write_text("in the way")
    (tmp_path / "shapes" / "2").symlink_to("nowhere")
    assert publish_one(tmp_path).version == 3
    assert (tmp_path / "shapes" / "1").read_text() == "in the way"


def test_concurrent_publishers_never_share_a_number(tmp_path: Path) -> None:
    """Eight processes that publish at once get different numbers, without gaps, and all bundles verify."""
    command = [sys.executable, "-m", "tests.bundle.publisher", str(tmp_path), str(EACH_PUBLISHES)]
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe, stderr=pipe)
        for _ in range(PUBLISHERS)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    got = []
    for process in running:
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        got += [int(line) for line in out.split()]
    assert sorted(got) == list(range(1, PUBLISHERS * EACH_PUBLISHES + 1))
    model = tmp_path / "shapes"
    assert versions(model) == sorted(got)
    assert [problem for version in got for problem in problems(model / str(version))] == []
    assert hidden(model) == []


def test_a_publisher_killed_anywhere_leaves_only_whole_versions(tmp_path: Path) -> None:
    """Killed before each call that touches the disk, a publisher never leaves a version that is not whole."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bundle.dying_publisher", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == []
    assert result["deaths"] > 3 * len(FILES)  # each file is written, made read-only and flushed
    # The last process ended by itself; those killed after the rename had published, too.
    assert result["versions"] == list(range(1, len(result["versions"]) + 1))
    assert 1 < len(result["versions"]) < 12
    assert publish_one(tmp_path).version == len(result["versions"]) + 1


@pytest.mark.parametrize("broken", ["missing", "unknown", "name"])
def test_a_rejected_publication_leaves_nothing(tmp_path: Path, broken: str) -> None:
    """A bundle with a missing or an unknown file, or of another model, is rejected and cleared away."""
    metadata = some_metadata(name="others" if broken == "name" else "shapes")

    def rejected() -> None:
        with staging(tmp_path, "shapes") as directory:
            fill(directory)
            if broken == "missing":
                (directory / ONNX_FILE).unlink()
            if broken == "unknown":
                (directory / "notes.txt").touch()
            publish(directory, metadata)

    with pytest.raises(PublishError) as refusal:
        rejected()
    named = {"missing": ONNX_FILE, "unknown": "notes.txt", "name": "others"}[broken]
    assert named in str(refusal.value)
    assert list((tmp_path / "shapes").iterdir()) == []


def test_files_reach_the_disk_before_the_version_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file and their directory are flushed before the rename, the model's directories after it."""
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watched_fsync(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def watched_rename(path: Path, target: Path) -> Path:
        done.append(f"rename {path.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    publish_one(tmp_path / "models")
    (renamed,) = (index for index, name in enumerate(done) if name.startswith("rename"))
    before, after = done[:renamed], done[renamed + 1 :]
    assert {*FILES, MANIFEST_FILE} <= set(before)
    assert before[-1] == done[renamed].removeprefix("rename ")
    assert {"shapes", "models"} <= set(after)


def test_a_failing_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk becomes a PublishError that says so, and no staging directory stays."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    publish_one(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PublishError, match="the disk is full"):
        publish_one(tmp_path)
    assert versions(tmp_path / "shapes") == [1]
    assert hidden(tmp_path / "shapes") == []


def test_an_exception_while_building_leaves_nothing(tmp_path: Path) -> None:
    """Whatever a builder raises comes through, and its staging directory is gone."""

    def interrupted() -> None:
        with staging(tmp_path, "shapes") as directory:
            fill(directory)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "shapes").iterdir()) == []


def test_old_leftovers_are_cleared_and_young_ones_kept(tmp_path: Path) -> None:
    """What a crash left more than a day ago goes at the next publication; what may be alive stays."""
    model = tmp_path / "shapes"
    now = time.time()
    old, young = STAGING_LEFTOVER_SECONDS + 60, STAGING_LEFTOVER_SECONDS - 60
    ages = {"old_abcd": old, "youngabc": young, "swp": old}  # the last is an editor's, not of our making
    for prefix in (STAGING_PREFIX, f".{CONFIG_FILE}."):
        for name, age in ages.items():
            path = model / f"{prefix}{name}"
            if prefix == STAGING_PREFIX:
                path.mkdir(parents=True)
                (path / ONNX_FILE).touch()
            else:
                path.touch()
            os.utime(path, (now - age, now - age))
    publish_one(tmp_path)
    kept = [
        f"{prefix}{name}" for prefix in (STAGING_PREFIX, f".{CONFIG_FILE}.") for name in ("youngabc", "swp")
    ]
    assert hidden(model) == sorted(kept)


def test_a_leftover_that_vanishes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another publisher's staging directory may take its final name between the look and the check."""
    (tmp_path / "shapes").mkdir()
    gone = tmp_path / "shapes" / f"{STAGING_PREFIX}gone"
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone]))
    assert publish_one(tmp_path).version == 1


def test_another_class_count_is_rejected_with_the_remedy(tmp_path: Path) -> None:
    """Versions share Triton's configuration, so a model of other outputs must take another name."""
    publish_one(tmp_path)
    before = (tmp_path / "shapes" / CONFIG_FILE).read_bytes()
    with pytest.raises(PublishError, match=r"has 3 classes and this model has 2.*--name"):
        publish_one(tmp_path, classes=CLASSES[:2], reference=two_class_reference())
    assert versions(tmp_path / "shapes") == [1]
    assert hidden(tmp_path / "shapes") == []
    assert (tmp_path / "shapes" / CONFIG_FILE).read_bytes() == before
    assert (
        publish_one(tmp_path, name="two", classes=CLASSES[:2], reference=two_class_reference()).version == 1
    )


def two_class_reference() -> dict[str, object]:
    """Return the reference histograms of a model of two classes."""
    return some_metadata().reference.model_dump() | {"predicted": (5, 5)}


def test_a_lost_triton_configuration_is_written_again(tmp_path: Path) -> None:
    """Publishing restores `config.pbtxt` where it was deleted, or was another Glyph's."""
    config = publish_one(tmp_path).path.parent / CONFIG_FILE
    before = config.read_bytes()
    config.unlink()
    publish_one(tmp_path)
    assert config.read_bytes() == before
    config.write_bytes(before + b"# from an older template")
    publish_one(tmp_path)
    assert config.read_bytes() == before


def test_a_configuration_of_somebody_elses_is_not_overwritten(tmp_path: Path) -> None:
    """A model that was made for Triton by other means keeps its configuration; the refusal names the remedies."""
    config = tmp_path / "shapes" / CONFIG_FILE
    config.parent.mkdir()
    config.write_text('name: "shapes"\nplatform: "tensorrt_plan"\n')
    with pytest.raises(PublishError, match=r"was not written by Glyph.*--name"):
        publish_one(tmp_path)
    assert config.read_text().startswith('name: "shapes"')
    assert versions(tmp_path / "shapes") == []
    assert hidden(tmp_path / "shapes") == []


@pytest.mark.parametrize("in_the_way", ["", "shapes"])
def test_a_place_that_cannot_be_written_is_a_publish_error(tmp_path: Path, in_the_way: str) -> None:
    """Where a file stands in place of a directory, publishing is rejected in one sentence."""
    models = tmp_path / "models"
    if in_the_way:
        models.mkdir()
    (models / in_the_way).write_text("a file")
    with pytest.raises(PublishError, match="cannot write in"):
        publish_one(models)


def test_resolve_takes_the_newest_by_number(tmp_path: Path) -> None:
    """Version 10 is newer than version 9: numbers are compared, not names."""
    first = publish_one(tmp_path)
    first.path.rename(first.path.with_name("9"))
    publish_one(tmp_path)
    assert resolve(tmp_path / "shapes").version == 10
    assert resolve(tmp_path / "shapes", 9).version == 9


def test_resolve_says_what_there_is(tmp_path: Path) -> None:
    """A version that is not published, and a model without any, are told apart, each with a remedy."""
    for _ in range(12):
        publish_one(tmp_path)
    with pytest.raises(NoBundleError, match=r"version 13 is not published .* 11, 12 and 2 older ones"):
        resolve(tmp_path / "shapes", 13)
    with pytest.raises(NoBundleError, match=r"no version is published .* 'python -m training fit'"):
        resolve(tmp_path / "nothing")


def test_only_integers_are_versions(tmp_path: Path) -> None:
    """Leading zeros, signs, words, other scripts' digits, files and leftovers are not versions."""
    model = publish_one(tmp_path).path.parent
    for name in ("0", "02", "-3", "+4", "v5", "٣", f"{STAGING_PREFIX}6", "7.0"):
        (model / name).mkdir()
    (model / "8").touch()
    assert versions(model) == [1]


def test_a_place_that_is_no_directory_has_no_versions(tmp_path: Path) -> None:
    """A file where the model's directory should be is a NoBundleError for `resolve`."""
    (tmp_path / "file").touch()
    with pytest.raises(NoBundleError):
        resolve(tmp_path / "file")


def test_a_model_can_be_reached_through_links(tmp_path: Path) -> None:
    """A linked repository, and a version that links to another directory, are read like real ones."""
    published = publish_one(tmp_path / "real")
    (tmp_path / "linked").symlink_to("real")
    assert resolve(tmp_path / "linked" / "shapes").manifest == published.manifest
    (tmp_path / "elsewhere").mkdir()
    moved = published.path.rename(tmp_path / "elsewhere" / "1")
    (tmp_path / "real" / "shapes" / "1").symlink_to(moved)
    linked = resolve(tmp_path / "real" / "shapes")
    assert (linked.version, problems(linked.path)) == (1, [])


def test_a_relative_path_is_as_good_as_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From inside the version's directory, `.` opens it."""
    published = publish_one(tmp_path)
    monkeypatch.chdir(published.path)
    assert Bundle.open(Path()).manifest == published.manifest


def test_open_rejects_what_is_no_version(tmp_path: Path) -> None:
    """No directory, a name that is no number, a model's directory: each is a NoBundleError."""
    published = publish_one(tmp_path)
    for path in (tmp_path / "missing", published.path.parent, tmp_path / ("x" * 300), published.path / "a/b"):
        with pytest.raises(NoBundleError):
            Bundle.open(path)


def test_open_rejects_another_models_version(tmp_path: Path) -> None:
    """A version directory that was copied under another model's name is rejected."""
    published = publish_one(tmp_path)
    (tmp_path / "other").mkdir()
    published.path.rename(tmp_path / "other" / "1")
    with pytest.raises(InvalidBundleError, match="of model 'shapes', but the directory is of model 'other'"):
        Bundle.open(tmp_path / "other" / "1")


def test_open_rejects_a_version_without_manifest(tmp_path: Path) -> None:
    """A version without its manifest is invalid, not absent: `resolve` does not fall back to an older one."""
    publish_one(tmp_path)
    (publish_one(tmp_path).path / MANIFEST_FILE).unlink()
    with pytest.raises(InvalidBundleError, match=r"manifest\.json cannot be read"):
        resolve(tmp_path / "shapes")


def test_read_returns_what_was_published(tmp_path: Path) -> None:
    """The bytes that `read` returns are the file's."""
    bundle = publish_one(tmp_path)
    assert bundle.read(ONNX_FILE) == (bundle.path / ONNX_FILE).read_bytes()


def test_read_rejects_a_changed_or_missing_or_unlisted_file(tmp_path: Path) -> None:
    """A file with one bit flipped, without a file, or not in the manifest is never returned."""
    bundle = publish_one(tmp_path)
    path = bundle.path / ONNX_FILE
    data = bytearray(path.read_bytes())
    data[1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(InvalidBundleError, match=r"model\.onnx was changed .* restore the file"):
        bundle.read(ONNX_FILE)
    path.unlink()
    with pytest.raises(InvalidBundleError, match=r"model\.onnx cannot be read"):
        bundle.read(ONNX_FILE)
    (bundle.path / "stranger").touch()
    with pytest.raises(InvalidBundleError, match="stranger"):
        bundle.read("stranger")
