"""Archives of images: parts and labels as in folders, WebDataset's labels, and members that are damaged or hostile."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagesets.errors import DataError
from imagesets.formats.files.archives import ArchiveSource, open_tar, open_zip
from imagesets.formats.files.zip_directory import ENTRY
from imagesets.labels import UNKNOWN
from imagesets.source import Options

IMAGE = bytes(range(256)) * 2
Members = Sequence[tuple[str, bytes]]


def write_zip(path: Path, members: Members, method: int = zipfile.ZIP_STORED) -> None:
    """Write a zip file."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)


def write_tar(path: Path, members: Members, pack: Callable[[bytes], bytes] = bytes) -> None:
    """Write a tar file, compressed or not."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path.write_bytes(pack(content.getvalue()))


def opened(path: Path, said: list[str] | None = None, **options: Any) -> list[ArchiveSource]:
    """Open an archive by its name."""
    opener = open_zip if path.suffix == ".zip" else open_tar
    return opener("in", path, Options(say=(said if said is not None else []).append, **options))


def labelled(sources: list[ArchiveSource]) -> dict[str, tuple[str | None, str | None]]:
    """Return part and label of each row."""
    found: dict[str, tuple[str | None, str | None]] = {}
    for source in sources:
        labels = source.labels()
        codes = [UNKNOWN] * source.count if labels is None else labels.codes.tolist()
        for row, code in zip(source.take(0, source.count).rows, codes, strict=True):
            assert labels is not None or code == UNKNOWN
            found[row] = (source.part, None if code == UNKNOWN or labels is None else labels.values[code])
    return found


def read(source: ArchiveSource) -> dict[str, bytes | str]:
    """Return the content of each row."""
    rows = source.take(0, source.count)
    return dict(zip(rows.rows, rows.read(), strict=True))


WRITERS: dict[str, Callable[[Path, Members], None]] = {
    "in.zip": write_zip,
    "in.tar": write_tar,
    "in.tar.gz": lambda path, members: write_tar(path, members, gzip.compress),
    "in.tar.xz": lambda path, members: write_tar(path, members, lzma.compress),
    "in.tar.bz2": lambda path, members: write_tar(path, members, bz2.compress),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("top", ["", "mnist_png/", "./mnist_png/", "/", "../"])
def test_parts_and_classes_are_those_of_the_folders(name: str, top: str, tmp_path: Path) -> None:
    """As mnist_png is packed; junk of the system is no image, and a README beside is skipped."""
    rows = [
        f"{top}{part}/{label}/{number}.png"
        for part in ("Testing", "training")
        for label in "10"
        for number in range(3)
    ]
    junk = [
        (f"__MACOSX/{top}training/0/._1.png", b"x"),
        (f"{top}training/.DS_Store", b"x"),
        (f"{top}README.md", b"x"),
    ]
    WRITERS[name](tmp_path / name, [*junk, *((row, row.encode()) for row in rows)])
    said: list[str] = []
    sources = opened(tmp_path / name, said)
    assert [source.part for source in sources] == ["test", "training"]
    assert labelled(sources) == {
        row: ("test" if "Testing" in row else "training", row.split("/")[-2]) for row in rows
    }
    assert {row: content for source in sources for row, content in read(source).items()} == {
        row: row.encode() for row in rows
    }
    assert all(source.labels().values == ("0", "1") for source in sources)  # type: ignore[union-attr]
    assert said == ["in: 3 file(s) that are not images are skipped (labels, descriptions, hidden files)"]
    assert not any(source.problems for source in sources)


def test_classes_without_parts_are_one_source_in_the_archives_order(tmp_path: Path) -> None:
    """Rows are never sorted: labels by place would be wrong."""
    write_zip(tmp_path / "in.zip", [("b/1.png", b""), ("a/2.png", b""), ("b/0.png", b""), ("x.png", b"")])
    assert [*labelled(opened(tmp_path / "in.zip")).items()] == [
        ("b/1.png", (None, "b")),
        ("a/2.png", (None, "a")),
        ("b/0.png", (None, "b")),
        ("x.png", (None, None)),
    ]


def test_many_rows_of_mixed_parts_are_in_order(tmp_path: Path) -> None:
    """More than a block of the listing, alternating."""
    rows = [(f"{('train', 'test')[n % 2]}/{n % 3}/{n}.png", b"%d" % n) for n in range(1500)]
    write_tar(tmp_path / "in.tar", rows)
    train, test = opened(tmp_path / "in.tar")
    assert (train.count, test.count) == (750, 750)
    assert train.take(700, 2).read() == [b"1400", b"1402"]
    assert test.take(0, 2).read() == [b"1", b"3"]
    assert test.fingerprint() != train.fingerprint()
    assert test.sha256() == {"in.tar": hashlib.sha256((tmp_path / "in.tar").read_bytes()).hexdigest()}


def test_a_folder_in_the_wrong_place_is_a_problem_and_a_row(tmp_path: Path) -> None:
    """Training refuses it, the scorer scores it."""
    write_zip(tmp_path / "in.zip", [("a/1.png", b""), ("b/2.png", b""), ("a/deep/3.png", b"")])
    (source,) = opened(tmp_path / "in.zip")
    assert [(problem.path, problem.kind) for problem in source.problems] == [
        ("a/deep", "folder inside a class")
    ]
    assert labelled([source])["a/deep/3.png"] == (None, "deep")


@pytest.mark.parametrize("name", ["in.tar", "in.zip", "in.tar.gz"])
@pytest.mark.parametrize("label", ["7", "7\n", "cat"])
def test_labels_of_webdataset(name: str, label: str, tmp_path: Path) -> None:
    """A `.cls` with the image's key, before or after it, and images without one."""
    members = [
        ("000/1.cls", b"3"),
        ("000/1.png", b""),
        ("2.seg.png", b""),
        ("x.png", b""),
        ("2.cls", label.encode()),
    ]
    WRITERS[name](tmp_path / name, members)
    (source,) = opened(tmp_path / name)
    assert [value for _, value in labelled([source]).values()] == ["3", label.strip(), None]
    assert source.labels().numeric == (label != "cat")  # type: ignore[union-attr]


def test_labels_in_json(tmp_path: Path) -> None:
    """An object with `label` or `cls`; others are descriptions."""
    members = [
        ("1.png", b""),
        ("1.json", json.dumps({"label": 4}).encode()),
        ("2.png", b""),
        ("2.json", b'{"cls": "4"}'),
    ]
    write_tar(tmp_path / "in.tar", [*members, ("3.png", b""), ("3.json", b"[" * 10000)])
    assert [label for _, label in labelled(opened(tmp_path / "in.tar")).values()] == ["4", "4", None]


def test_a_cls_that_is_no_label_is_named(tmp_path: Path) -> None:
    """Only when the labels are asked for: the scorer need not."""
    write_tar(tmp_path / "in.tar", [("1.png", IMAGE), ("1.cls", b"\xff" * 9)])
    (source,) = opened(tmp_path / "in.tar")
    assert read(source) == {"1.png": IMAGE}
    with pytest.raises(DataError, match=r"in.tar: 1.cls is no label: write a number or a name into it"):
        source.labels()


@pytest.mark.parametrize("name", ["in.tar.xz", "in.zip"])
def test_a_table_in_an_archive(name: str, tmp_path: Path) -> None:
    """By name, with a column of parts; one that names other files is refused if labels are asked for."""
    images = [("images/1.png", b""), ("images/2.png", b""), ("images/3.png", b"")]
    text = b"id,split,label\n3,train,a\n1,test,b\n2,train,b\n"
    WRITERS[name](tmp_path / name, [*images, ("labels.csv", text)])
    sources = opened(tmp_path / name)
    assert [source.part for source in sources] == ["test", "training"]
    assert labelled(sources) == {
        "images/1.png": ("test", "b"),
        "images/2.png": ("training", "b"),
        "images/3.png": ("training", "a"),
    }
    WRITERS[name](tmp_path / name, [*images, ("labels.csv", text.replace(b"3,", b"9,"))])
    (source,) = opened(tmp_path / name)
    with pytest.raises(
        DataError, match=r"labels.csv has 2 of the 3 names of in in its column id; missing are images/3"
    ):
        source.labels()


def test_a_table_beside_class_folders_in_an_archive(tmp_path: Path) -> None:
    """As in a folder: one that says otherwise is refused when labels are asked for, unless its column is named."""
    images = [("cat/1.png", IMAGE), ("dog/2.png", IMAGE), ("dog/3.png", IMAGE)]
    for text, wanted in (
        (b"file,label\n1,0\n2,1\n3,1\n", ["cat", "dog", "dog"]),
        (b"who,when\nme,now\n", ["cat", "dog", "dog"]),
        (b"file,label\n1,0\n2,1\n3,0\n", None),
    ):
        write_zip(tmp_path / "in.zip", [*images, ("l.csv", text)])
        sources = opened(tmp_path / "in.zip")
        if wanted:
            assert [label for _, label in labelled(sources).values()] == wanted
            continue
        assert [*read(sources[0]).values()] == [IMAGE] * 3
        with pytest.raises(DataError, match=r"in folders that say something else: .*--label-column"):
            sources[0].labels()
        chosen = labelled(opened(tmp_path / "in.zip", label_column="label"))
        assert [label for _, label in chosen.values()] == ["0", "1", "0"]


def test_a_name_that_is_not_utf_8_ends_nothing(tmp_path: Path) -> None:
    """Its row has the bytes as escapes."""
    write_zip(tmp_path / "in.zip", [("a\xe9.png", IMAGE), ("b.png", IMAGE)])
    data = (tmp_path / "in.zip").read_bytes().replace("a\xe9".encode(), b"a\xff\xff")
    (tmp_path / "in.zip").write_bytes(data)
    assert read(opened(tmp_path / "in.zip")[0]) == {"a\\xff\\xff.png": IMAGE, "b.png": IMAGE}


def patched(path: Path, number: int, **fields: int) -> None:
    """Change fields of an entry of a zip's directory."""
    places = {"method": 4, "packed": 8, "size": 9, "offset": 16}
    data = bytearray(path.read_bytes())
    at = -1
    for _ in range(number + 1):
        at = data.index(b"PK\x01\x02", at + 1)
    values = [*ENTRY.unpack_from(data, at)]
    for name, value in fields.items():
        values[places[name]] = value
    ENTRY.pack_into(data, at, *values)
    path.write_bytes(data)


def add_zip64(path: Path, offset: int) -> None:
    """Write an archive of two images of which the second says it is at an offset of 64 bits."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", IMAGE)
        info = zipfile.ZipInfo("b.png")
        archive.writestr(info, IMAGE)
        info.extra = struct.pack("<HHQ", 1, 8, offset)
        archive.filelist[1].extra = info.extra
    patched(path, 1, offset=0xFFFFFFFF)


@pytest.mark.parametrize("offset", [1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_an_absurd_offset_is_an_error_of_that_row(offset: int, tmp_path: Path) -> None:
    """Numbers that no file reaches, or that the system does not take."""
    add_zip64(tmp_path / "in.zip", offset)
    rows = read(opened(tmp_path / "in.zip")[0])
    assert rows["a.png"] == IMAGE
    assert "the archive is damaged" in str(rows["b.png"])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"offset": 5}, "no header"),
        ({"offset": 1 << 31}, "no header"),
        ({"size": 0xFFFFFFFE}, "the file has 4294967294 bytes"),
        ({"packed": 0xFFFFFFFE, "method": 8}, "the file has 4294967294 bytes"),
        ({"size": 1}, "checksum"),
        ({"packed": 3}, "checksum"),
        ({"method": 8}, "damaged at this file"),
        ({"method": 12}, "damaged at this file"),
        ({"method": 14}, "damaged at this file"),
        ({"method": 9}, "compressed by method 9; stored, deflated, bzip2 and LZMA files are read"),
        ({"method": 93}, "compressed by method 93"),
    ],
)
def test_a_damaged_entry_is_an_error_of_that_row(
    fields: dict[str, int], sentence: str, tmp_path: Path
) -> None:
    """Its neighbours are read."""
    write_zip(tmp_path / "in.zip", [("a.png", IMAGE), ("b.png", IMAGE), ("c.png", IMAGE)])
    patched(tmp_path / "in.zip", 1, **fields)
    rows = read(opened(tmp_path / "in.zip")[0])
    assert rows["a.png"] == rows["c.png"] == IMAGE
    assert sentence in str(rows["b.png"])


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_every_method_of_the_standard_library_is_read_within_bounds(method: int, tmp_path: Path) -> None:
    """A bomb is refused by its size, or cut off where it lies about it."""
    write_zip(tmp_path / "in.zip", [("a.png", IMAGE), ("bomb.png", bytes(1 << 24)), ("c.png", IMAGE)], method)
    rows = read(opened(tmp_path / "in.zip")[0])
    assert rows["a.png"] == rows["c.png"] == IMAGE
    assert rows["bomb.png"] == "the file has 16777216 bytes; an image file may have at most 1048576"
    patched(tmp_path / "in.zip", 1, size=100)
    rows = read(opened(tmp_path / "in.zip")[0])
    assert (
        "the file has" in str(rows["bomb.png"])
        if method == zipfile.ZIP_STORED
        else "checksum" in str(rows["bomb.png"])
    )


def test_lzma_of_what_repeats_far_back_is_read(tmp_path: Path) -> None:
    """The dictionary is as large as the file needs it, whatever the member asks for."""
    content = np.random.default_rng(0).bytes(60_000) * 2
    write_zip(tmp_path / "in.zip", [("a.png", content)], zipfile.ZIP_LZMA)
    data = bytearray((tmp_path / "in.zip").read_bytes())
    at = data.index(b"a.png") + len(b"a.png") + 5  # after version, length, and the byte of lc, lp and pb
    data[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "in.zip").write_bytes(data)
    assert read(opened(tmp_path / "in.zip")[0]) == {"a.png": content}


def test_overlapping_encrypted_and_repeated_members(tmp_path: Path) -> None:
    """Two entries of one content are read twice, an encrypted one is an error, names that lead outside are names."""
    names = ["a.png", "a.png", "/etc/b.png", "../../c.png", "C:\\d.png", "e.png"]
    with pytest.warns(UserWarning, match="Duplicate"):
        write_zip(tmp_path / "in.zip", [(name, IMAGE) for name in names])
    patched(tmp_path / "in.zip", 1, offset=0)
    data = bytearray((tmp_path / "in.zip").read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 8] |= 1
    (tmp_path / "in.zip").write_bytes(data)
    (source,) = opened(tmp_path / "in.zip")
    rows = source.take(0, source.count)
    assert [*rows.rows] == names
    assert rows.read()[:5] == [IMAGE] * 5
    assert "encrypted" in str(rows.read()[5])


def test_members_of_a_tar_that_are_no_plain_files(tmp_path: Path) -> None:
    """Links are read as what they point to; devices, pipes, sparse files and links to nothing have an error."""
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        for name, kind, target in (
            ("d/early.png", tarfile.LNKTYPE, "./d/real.png"),
            ("d", tarfile.DIRTYPE, ""),
            ("d/real.png", tarfile.REGTYPE, ""),
            ("d/hard.png", tarfile.LNKTYPE, "d/real.png"),
            ("e/soft.png", tarfile.SYMTYPE, "../d/real.png"),
            ("e/away.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("e/itself.png", tarfile.SYMTYPE, "itself.png"),
            ("e/pipe.png", tarfile.FIFOTYPE, ""),
            ("e/null.png", tarfile.CHRTYPE, ""),
            ("e/.hidden", tarfile.SYMTYPE, "d"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = len(IMAGE) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(IMAGE))
        info = tarfile.TarInfo("e/sparse.png")
        info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "512", "GNU.sparse.numblocks": "1"}
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    (source,) = opened(tmp_path / "in.tar")
    rows = read(source)
    assert [name for name, content in rows.items() if content == IMAGE] == [
        "d/early.png",
        "d/real.png",
        "d/hard.png",
        "e/soft.png",
    ]
    for name in ("e/away.png", "e/itself.png"):
        assert rows.pop(name) == "the file is a link to something that is not in the archive"
    for name in ("e/pipe.png", "e/null.png"):
        assert rows.pop(name) == "it is not a regular file"
    assert "sparse" in str(rows.pop("e/sparse.png"))
    assert len(rows) == 4
    assert labelled([source])["e/soft.png"] == (None, "e")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress])
def test_a_truncated_tar_is_refused_whole(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Cut anywhere within a member: what is missing is not known."""
    write_tar(tmp_path / "whole.tar", [(f"{number}.png", bytes(5000)) for number in range(3)])
    data = (tmp_path / "whole.tar").read_bytes()[:13000]
    for cut in (data[:700], data[:8000], pack(data)[:-5]):
        (tmp_path / "in.tar").write_bytes(cut)
        with pytest.raises(DataError, match=r"in\.tar"):
            opened(tmp_path / "in.tar")


def test_sizes_in_a_tar_that_lead_back_or_nowhere_end(tmp_path: Path) -> None:
    """A negative size would be read for ever, an enormous one would need all memory."""
    for size in (b"\xff" * 12, b"\xff" * 10 + b"\xf0\x00", b"\x80" + b"\x7f" * 11, b"77777777777\0"):
        for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
            info = tarfile.TarInfo("a.png")
            info.type = kind
            header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
            header[124:136] = size
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            (tmp_path / "in.tar").write_bytes(bytes(header) + bytes(10240))
            with pytest.raises(DataError, match=r"in\.tar"):
                opened(tmp_path / "in.tar")


@pytest.mark.parametrize("name", ["x.tar", "x.zip"])
def test_what_is_no_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    """A named pipe would be waited for without end; a socket and a folder are no archives either."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="in is not a regular file"):
        opened(tmp_path / name)
    (tmp_path / name).unlink()
    before = Path.cwd()
    os.chdir(tmp_path)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
            with pytest.raises(DataError, match="in is not a regular file"):
                opened(tmp_path / name)
    finally:
        os.chdir(before)
    with pytest.raises(DataError, match="not a regular file"):
        (open_zip if name == "x.zip" else open_tar)("in", tmp_path, Options())
    with pytest.raises(DataError, match="No such file"):
        opened(tmp_path / f"none-{name}")


def test_an_archive_without_images_is_an_empty_source(tmp_path: Path) -> None:
    """The caller says that there is no image."""
    for name, write in WRITERS.items():
        write(tmp_path / name, [("README.md", b"nothing")])
        (source,) = opened(tmp_path / name)
        assert source.count == 0
        assert source.labels() is None


MEMBERS = [("a/1.png", IMAGE), ("b/2.png", IMAGE), ("a/1.cls", b"4"), ("l.csv", b"file,label\n1,2\n")]


@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    method=st.sampled_from([0, 8, 12, 14]),
    changes=st.lists(
        st.tuples(st.integers(0, 5000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6
    ),
    zipped=st.booleans(),
)
def test_any_damage_is_a_row_or_a_sentence(
    method: int, changes: list[tuple[int, bytes]], zipped: bool, tmp_path: Path
) -> None:
    """Bytes changed anywhere: rows with contents or errors, or a `DataError`, and nothing else."""
    path = tmp_path / ("in.zip" if zipped else "in.tar")
    if zipped:
        write_zip(path, MEMBERS, method)
    else:
        write_tar(path, MEMBERS)
    data = bytearray(path.read_bytes())
    for place, some in changes:
        at = place % len(data)
        data[at : at + len(some)] = some
    path.write_bytes(data)
    try:
        for source in opened(path):
            assert len(source.take(0, source.count).read()) == source.count
            source.labels()
    except DataError:
        pass
