"""What can be read: every kind of file gives the same answers, and what is no image says so in its row."""

import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.support.jobs import KINDS, digits, folder, idx, rows_of, score
from bench.support.models import CLASSES, Linear
from bench.support.pictures import EVERY_MODE, in_mode, png
from bundle.repository import Bundle
from imagesets.errors import DataError
from imagesets.source import Options
from serving.scoring.errors import BadImageError
from serving.scoring.inputs.sources import open_inputs


def probabilities(rows: list[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return `float64[n, classes]` of a Parquet output."""
    return np.array([row["probabilities"] for row in rows], np.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_format_gives_the_models_predictions(
    kind: str, bundle: Bundle, linear: Linear, tmp_path: Path
) -> None:
    """The probabilities are those that NumPy computes, in the input's order, with the row's own name."""
    images = digits(210)
    name, write = KINDS[kind]
    write(tmp_path / name, images)
    outcome = score(bundle, tmp_path / name, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert outcome.complete
    assert outcome.errors == 0
    expected = linear.probabilities(images)
    np.testing.assert_allclose(probabilities(rows), expected, atol=1e-5)
    assert [row["label"] for row in rows] == [CLASSES[i] for i in expected.argmax(axis=1)]
    assert [row["index"] for row in rows] == expected.argmax(axis=1).tolist()
    assert len({(row["source"], row["row"]) for row in rows}) == 210
    assert {row["model"] for row in rows} == {bundle.manifest.digest}


def test_every_array_of_images_in_an_archive_is_a_source(
    bundle: Bundle, linear: Linear, tmp_path: Path
) -> None:
    """In the order of their names, each with its own rows from 0; labels and other arrays are left out."""
    train, test, flat = digits(150), digits(40, seed=6), digits(7, seed=8)
    np.savez(
        tmp_path / "mnist.npz",
        x_train=train,
        x_test=test,
        another=flat.reshape(7, 784),
        y_train=np.arange(150),
        y_test=np.zeros(40, np.uint8),
        scaled=train.astype(np.float32) / 255,
    )
    score(bundle, tmp_path / "mnist.npz", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    place = str(tmp_path / "mnist.npz")
    expected = [(f"{place}:another", str(row)) for row in range(7)]
    expected += [(f"{place}:x_test", str(row)) for row in range(40)]
    expected += [(f"{place}:x_train", str(row)) for row in range(150)]
    assert [(row["source"], row["row"]) for row in rows] == expected
    images = np.concatenate([flat, test, train])
    np.testing.assert_allclose(probabilities(rows), linear.probabilities(images), atol=1e-5)


@pytest.mark.parametrize(
    "kind", ["idx", "idx, gzip", "npy", "tar", "tar, gzip", "zip", "list", "parquet of files"]
)
def test_the_standard_input_may_be_any_format(
    kind: str, bundle: Bundle, linear: Linear, tmp_path: Path
) -> None:
    """What is piped in is told by its first bytes, and read as the file would be."""
    images = digits(100)
    name, write = KINDS[kind]
    write(tmp_path / name, images)
    with (tmp_path / name).open("rb") as stdin:
        score(bundle, "-", tmp_path / "out", stdin=stdin)
    rows = rows_of(tmp_path / "out")
    np.testing.assert_allclose(probabilities(rows), linear.probabilities(images), atol=1e-5)
    assert {row["source"] for row in rows} == {"-"}


def test_every_mode_of_a_file_is_read_as_by_the_service(
    bundle: Bundle, linear: Linear, tmp_path: Path
) -> None:
    """Colour, palettes, alpha and sixteen bits go through the one decoder."""
    from bundle.images.decoding import decode

    (tmp_path / "in").mkdir()
    for place, data in enumerate(EVERY_MODE):
        (tmp_path / "in" / f"{place:03}").write_bytes(data)
    score(bundle, tmp_path / "in", tmp_path / "out")
    expected = linear.probabilities(np.stack([decode(data) for data in EVERY_MODE]))
    np.testing.assert_allclose(probabilities(rows_of(tmp_path / "out")), expected, atol=1e-5)


def test_bad_images_are_rows_with_an_error(bundle: Bundle, tmp_path: Path) -> None:
    """Each is in its place with an error and no answer, and its neighbours are not touched."""
    good = digits(1)[0]
    files = {
        "a.png": png(good),
        "b.png": b"",
        "c.png": png(good)[:60],
        "d.png": in_mode("PNG", "L").replace(b"IHDR", b"IHDX"),
        "e.png": b"GIF",
        "f.png": png(np.zeros((9, 9), np.uint8)),
        "g.png": b"\x89PNG\r\n\x1a\n" + bytes(2 << 20),
        "h.png": png(good),
    }
    (tmp_path / "in").mkdir()
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "in" / "i.png").symlink_to("nowhere")
    outcome = score(bundle, tmp_path / "in", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["row"] for row in rows] == [*files, "i.png"]
    assert outcome.errors == 7
    for row in rows:
        assert (row["error"] is None) == (row["row"] in ("a.png", "h.png"))
        assert (row["label"] is None) == (row["error"] is not None)
        assert (row["probabilities"] is None) == (row["error"] is not None)
    assert rows[0]["probabilities"] == rows[7]["probabilities"]
    said = {row["row"]: row["error"] for row in rows}
    assert said["b.png"] == "the file is empty"
    assert "9x9" in said["f.png"]
    assert f"{(2 << 20) + 8} bytes" in said["g.png"]
    assert "No such file" in said["i.png"]


def test_strict_stops_at_the_first_bad_image(bundle: Bundle, tmp_path: Path) -> None:
    """The error names it, nothing counts as complete, and without --strict the run goes on from there."""
    folder(tmp_path / "in", digits(150))
    (tmp_path / "in" / "000" / "00077.png").write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"000/00077\.png"):
        score(bundle, tmp_path / "in", tmp_path / "out", strict=True)
    assert [path.name for path in (tmp_path / "out").glob("part-*")] == ["part-000000.parquet"]
    assert score(bundle, tmp_path / "in", tmp_path / "out").errors == 1


def test_bad_members_of_archives_are_rows_with_an_error(bundle: Bundle, tmp_path: Path) -> None:
    """A wrong checksum is; a member that is compressed by LZMA is read."""
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.png", png(digits(1)[0]))
        archive.writestr("b.png", b"damaged here" * 9)
        archive.writestr("c.png", png(digits(1)[0]), compress_type=zipfile.ZIP_LZMA)
        archive.writestr("d.json", b"{}")
    data = (tmp_path / "in.zip").read_bytes().replace(b"damaged here" * 9, b"Damaged here" * 9)
    (tmp_path / "in.zip").write_bytes(data)
    rows = {
        row["row"]: row["error"]
        for row in (score(bundle, tmp_path / "in.zip", tmp_path / "out"), rows_of(tmp_path / "out"))[1]
    }
    assert rows["a.png"] is None
    assert "checksum" in rows["b.png"]
    assert rows["c.png"] is None
    assert set(rows) == {"a.png", "b.png", "c.png"}


def test_bad_rows_of_parquet_have_an_error(bundle: Bundle, linear: Linear, tmp_path: Path) -> None:
    """Null, a wrong number of numbers, one out of range, a fraction, a null among them."""
    image = digits(1)[0].reshape(-1).tolist()
    column = [image, None, image[:783], [256, *image[1:]], [0.5, *image[1:]], [None, *image[1:]], image]
    pq.write_table(pa.table({"pixels": pa.array(column, pa.list_(pa.float64()))}), tmp_path / "in.parquet")
    score(bundle, tmp_path / "in.parquet", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    errors = [row["error"] for row in rows]
    assert [error is None for error in errors] == [True, False, False, False, False, False, True]
    assert errors[1] == "the image is null"
    assert "783" in errors[2]
    assert "pixel 0 is 256" in errors[3]
    assert "pixel 0 is 0.5" in errors[4]
    expected = linear.probabilities(digits(1))[0]
    np.testing.assert_allclose(
        [rows[0]["probabilities"], rows[6]["probabilities"]], [expected] * 2, atol=1e-5
    )


def test_other_columns_are_passed_through(bundle: Bundle, tmp_path: Path) -> None:
    """With their types and values, nulls too; a name that is ours gets a prefix; other sources have nulls."""
    table = pa.table(
        {
            "image": [png(image) for image in digits(5)],
            "label": pa.array([3, 1, None, 1, 5], pa.int16()),
            "when": pa.array([1, 2, 3, 4, 5], pa.timestamp("us", "UTC")),
            "tags": pa.array([["a"], [], None, ["b", "c"], []], pa.list_(pa.string())),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    np.save(tmp_path / "in.npy", digits(2))
    score(
        bundle,
        [str(tmp_path / "in.npy"), str(tmp_path / "in.parquet")],
        tmp_path / "out.parquet",
        part_rows=3,
    )
    found = pq.read_table(tmp_path / "out.parquet")
    nulls = [None, None]
    assert found.column("input_label").to_pylist() == nulls + table.column("label").to_pylist()
    assert found.column("when").to_pylist() == nulls + table.column("when").to_pylist()
    assert found.column("tags").to_pylist() == nulls + table.column("tags").to_pylist()
    assert found.schema.field("input_label").type == pa.int16()
    assert found.schema.field("when").type == pa.timestamp("us", "UTC")


def test_folders_are_read_recursively_and_sorted(bundle: Bundle, tmp_path: Path) -> None:
    """By name, whatever order the system lists them in; labels and hidden files are left out."""
    image = png(digits(1)[0])
    for name in (
        "b/2.png",
        "a/c/1.png",
        "a.png",
        "z",
        "b/10.png",
        "b/.hidden.png",
        "b/labels.csv",
        ".git/x.png",
    ):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(image)
    (tmp_path / "in" / "a" / "loop").symlink_to("..")
    (tmp_path / "in" / "images-idx3-ubyte").write_bytes(idx(digits(2)))
    (tmp_path / "in" / "labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x01\x07")
    lines: list[str] = []
    sources = open_inputs([str(tmp_path / "in")], Options(say=lines.append))
    score(bundle, tmp_path / "in", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["row"] for row in rows] == ["a/c/1.png", "a.png", "b/10.png", "b/2.png", "z", "0", "1"]
    assert [source.name for source in sources] == [
        str(tmp_path / "in"),
        str(tmp_path / "in/images-idx3-ubyte"),
    ]
    assert "3 file(s)" in lines[0]


def test_a_file_with_any_name_is_scored(bundle: Bundle, tmp_path: Path) -> None:
    """Bytes that are no UTF-8, a line break, and characters of other scripts are names as any."""
    (tmp_path / "in").mkdir()
    for name in (b"\xff.png", b"a\nb.png", "数字.png".encode()):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(png(digits(1)[0]))
    for output in ("out.parquet", "out.csv", "out.jsonl"):
        assert score(bundle, tmp_path / "in", tmp_path / output).errors == 0
        assert [row["row"] for row in rows_of(tmp_path / output)] == ["a\nb.png", "数字.png", "\\xff.png"]


def test_a_pattern_matches_files_in_any_depth(bundle: Bundle, tmp_path: Path) -> None:
    """`**` and the rest are Python's glob; what matches is sorted."""
    folder(tmp_path / "in", digits(120))
    score(bundle, f"{tmp_path}/in/**/*7.png", tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 12


def test_a_damaged_container_ends_the_run(bundle: Bundle, tmp_path: Path) -> None:
    """A cut-off file, one of another size, no images at all: each a sentence that names the file."""
    data = idx(digits(50))
    cases = {
        "cut-idx3-ubyte": data[:-1],
        "long-idx3-ubyte": data + b"\0",
        "wide-idx3-ubyte": data[:12] + b"\0\0\0\x1d" + data[16:],
        "short.npy": b"\x93NUMPY\x01\x00",
        "no.parquet": b"PAR1 but no more",
        "no.zip": b"PK\x03\x04",
        "no.tar": b"not a tar file" * 100,
        "empty": b"",
        "binary": bytes(range(256)),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            score(bundle, tmp_path / name, tmp_path / "out")
    with pytest.raises(DataError, match="nowhere"):
        score(bundle, tmp_path / "nowhere", tmp_path / "out")


def test_a_damaged_gzip_is_detected_at_its_end(bundle: Bundle, tmp_path: Path) -> None:
    """The checksum is compared, though no row needs its bytes."""
    name, write = KINDS["idx, gzip"]
    write(tmp_path / name, digits(100))
    data = bytearray((tmp_path / name).read_bytes())
    data[-8] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match="CRC"):
        score(bundle, tmp_path / name, tmp_path / "out")


def test_a_truncated_tar_is_detected_before_scoring(bundle: Bundle, tmp_path: Path) -> None:
    """The last member's end lies beyond the file's."""
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = 5000
        archive.addfile(member, io.BytesIO(bytes(5000)))
    with (tmp_path / "in.tar").open("r+b") as file:
        file.truncate(3000)
    with pytest.raises(DataError, match=r"in\.tar"):
        score(bundle, tmp_path / "in.tar", tmp_path / "out")


def test_a_table_of_pixels_in_a_folder_is_scored_and_other_tables_are_not(tmp_path: Path) -> None:
    """As Kaggle's folders are: two tables of pixels, and one of what is to be submitted."""
    images = digits(3)
    rows = [",".join(map(str, image.reshape(784).tolist())) for image in images]
    (tmp_path / "train.csv").write_text("\n".join(f"{row},{line}" for row, line in enumerate(rows)))
    (tmp_path / "test.csv").write_text("\n".join(rows))
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n2,0\n3,0\n")
    lines: list[str] = []
    found = open_inputs([str(tmp_path)], Options(say=lines.append))
    assert [source.name for source in found] == [str(tmp_path / "test.csv"), str(tmp_path / "train.csv")]
    np.testing.assert_array_equal(found[1].take(0, 3).pixels, images)  # type: ignore[union-attr]
    found[1].close()
    assert "1 file(s)" in lines[0]


def test_own_output_in_the_input_is_not_scored(bundle: Bundle, tmp_path: Path) -> None:
    """Neither the folder of parts nor a single file; the same job again finds the same rows."""
    (tmp_path / "in").mkdir()
    for number, image in enumerate(digits(4)):
        (tmp_path / "in" / f"{number}.png").write_bytes(png(image))
    for output in ("in/out", "in/scores.csv", "in/scores.parquet", "in/out"):
        score(bundle, tmp_path / "in", tmp_path / output)
    lines: list[str] = []
    (source,) = open_inputs([str(tmp_path / "in")], Options(say=lines.append))
    assert source.count == 4
    assert any("that the scorer wrote are skipped" in line for line in lines)


@pytest.mark.parametrize("content", [b"\x01\x02 some\nbytes", b"name\x07", b"\x7fELF"])
def test_what_is_no_text_is_no_list_of_paths(content: bytes, tmp_path: Path) -> None:
    """Bytes with control characters are refused at once."""
    (tmp_path / "junk").write_bytes(content)
    with pytest.raises(DataError, match="which is not read"):
        open_inputs([str(tmp_path / "junk")], Options())


def test_a_list_of_paths_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As Windows' editors write it; it is no part of the first name."""
    (tmp_path / "a.png").write_bytes(png(digits(1)[0]))
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.png\r\n", encoding="utf-8-sig")
    (source,) = open_inputs([str(tmp_path / "list.txt")], Options())
    assert [*source.take(0, 1).rows] == [f"{tmp_path}/a.png"]


def test_an_image_on_the_standard_input_is_a_row_named_so(bundle: Bundle, tmp_path: Path) -> None:
    """And not by the number of a process."""
    (tmp_path / "a.png").write_bytes(png(digits(1)[0]))
    with (tmp_path / "a.png").open("rb") as stdin:
        score(bundle, "-", tmp_path / "out", stdin=stdin)
    assert [(row["source"], row["row"]) for row in rows_of(tmp_path / "out")] == [("-", "-")]
