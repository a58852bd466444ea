"""Hostile versions: rejected by `bundle verify`, `list` and `fetch`, at once, without a word of what is outside."""

import os
import re
import shutil
import socket
from pathlib import Path

import pytest
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from bench.support.models import a_linear, publish_synthetic
from bundle.__main__ import main
from bundle.errors import BundleError, PublishError
from bundle.fetch import fetch
from bundle.graph import unsafe_reason
from bundle.manifest import GOLDEN_FILE, MANIFEST_FILE, ONNX_FILE, Manifest
from bundle.repository import Bundle, publish, staging, versions
from bundle.verify import problems
from common.atomic_files import read_regular, sha256_bytes, sha256_regular
from common.errors import one_line
from tests.bundle.hostile import ATTACKS, Attack, elsewhere, no_secret, reseal, write_secret
from tests.bundle.making import A_GRAPH, fill, publish_one, some_metadata
from tests.bundle.serving_files import serving


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return a file that is in no bundle."""
    return write_secret(tmp_path)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_prepared_version_is_not_intact(
    tmp_path: Path, secret: Path, attack: Attack, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bundle verify` says in one short sentence why, and `bundle list` and `show` end too."""
    bundle = publish_synthetic(tmp_path / "models")
    attack.prepare(bundle.path, secret)
    (sentence,) = problems(bundle.path)
    assert len(sentence) < 1000
    assert sentence.isprintable()
    assert no_secret(sentence)
    assert re.search(attack.said, sentence)
    assert main(["verify", str(bundle.path)]) == 1
    main(["list", str(bundle.path.parent)])
    assert no_secret("".join(capsys.readouterr()))
    main(["show", str(bundle.path)])
    assert no_secret(capsys.readouterr().err)  # what the manifest itself says is shown as it is


WEB = {name: attack for name, attack in ATTACKS.items() if attack.web}


@pytest.mark.parametrize("attack", WEB.values(), ids=WEB)
def test_a_prepared_version_is_not_fetched(
    tmp_path: Path, secret: Path, attack: Attack, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even by its right digest, it is rejected with a sentence, and nothing of it counts."""
    bundle = publish_synthetic(tmp_path / "www")
    attack.prepare(bundle.path, secret)
    try:
        digest = Manifest.from_bytes((bundle.path / MANIFEST_FILE).read_bytes()).digest
    except BundleError:
        digest = "ab" * 32
    models = tmp_path / "models"
    with serving(tmp_path / "www") as url:
        assert main(["fetch", f"{url}/synthetic/1", "--digest", digest, "--models", str(models)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert re.search(attack.said, told)
    assert no_secret(told)
    assert versions(models / "synthetic") == []
    assert not list(models.glob("*/.staging-*"))


def test_what_was_fetched_and_changed_since_is_not_taken_for_good(tmp_path: Path) -> None:
    """A container that starts again proves what it has."""
    bundle = publish_one(tmp_path / "www")
    with serving(tmp_path / "www") as url:
        found = fetch(f"{url}/shapes/1", bundle.manifest.digest, tmp_path / "models")
        (found.path / ONNX_FILE).chmod(0o644)
        (found.path / ONNX_FILE).write_bytes(b"")
        with pytest.raises(BundleError, match=r"model\.onnx was changed"):
            fetch(f"{url}/shapes/1", bundle.manifest.digest, tmp_path / "models")


def test_what_no_reader_would_take_is_not_published(tmp_path: Path) -> None:
    """The publisher asks what readers ask, and leaves nothing."""

    def published(name: str, content: bytes) -> None:
        with staging(tmp_path, "shapes") as directory:
            fill(directory)
            (directory / name).write_bytes(content)
            publish(directory, some_metadata())

    for name, content in ((ONNX_FILE, b"no graph"), (GOLDEN_FILE, b"no examples")):
        with pytest.raises(PublishError, match=f"this version of 'shapes' failed verification: {name}"):
            published(name, content)
    with staging(tmp_path, "shapes") as directory:
        fill(directory)
        (directory / ONNX_FILE).unlink()
        (directory / ONNX_FILE).symlink_to("/dev/zero")
        with pytest.raises(PublishError, match="symbolic link"):
            publish(directory, some_metadata())
    assert list((tmp_path / "shapes").iterdir()) == []


def test_a_configuration_that_never_ends_stops_nobody(tmp_path: Path) -> None:
    """Triton's file is read with the same care; what stands in its place is rejected, and not waited for."""
    config = publish_one(tmp_path).path.parent / "config.pbtxt"
    config.unlink()
    os.mkfifo(config)
    assert "config.pbtxt" in problems(tmp_path / "shapes" / "1")[0]
    with pytest.raises(PublishError, match="was not written by Glyph"):
        publish_one(tmp_path)


def test_a_number_that_no_reader_of_json_holds_is_no_version(tmp_path: Path) -> None:
    """Nineteen digits and more are another directory; and after the last number nothing is published."""
    bundle = publish_one(tmp_path)
    for name in ("9" * 19, "1" + "0" * 200):
        shutil.copytree(bundle.path, bundle.path.with_name(name))
    assert versions(bundle.path.parent) == [1]
    shutil.copytree(bundle.path, bundle.path.with_name("9" * 18))
    with pytest.raises(PublishError, match="the largest possible number"):
        publish_one(tmp_path)


def test_only_regular_files_are_read_and_at_once(tmp_path: Path) -> None:
    """A device, a socket, a link and a directory are named; a file at its limit is read, beyond it is not."""
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "linked").symlink_to(".")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path in (Path("/dev/zero"), tmp_path / "socket", tmp_path / "link", tmp_path):
            for read in (read_regular, sha256_regular):
                with pytest.raises(OSError, match=r"regular file|No such device"):
                    read(path, 100)
    assert read_regular(tmp_path / "file", 5) == b"12345"
    assert read_regular(tmp_path / "linked" / "file", 5) == b"12345"
    assert sha256_regular(tmp_path / "file", 5) == sha256_bytes(b"12345")
    for read in (read_regular, sha256_regular):
        with pytest.raises(OSError, match="5 bytes; at most 4 are read"):
            read(tmp_path / "file", 4)
        with pytest.raises(OSError, match="changed while it was being read"):
            read(Path("/proc/self/status"), 1 << 20)  # a regular file of no bytes, with content


def test_a_graph_is_walked_into_every_corner() -> None:
    """Wherever a tensor or a node can be in a model, one that must not be there is found."""
    tensor, operator = elsewhere("x"), helper.make_node("Own", [], ["y"], domain="own")
    inner = GraphProto(node=[operator])
    attributes = [
        AttributeProto(name="t", t=tensor),
        AttributeProto(name="ts", tensors=[TensorProto(), tensor]),
        AttributeProto(name="g", g=inner),
        AttributeProto(name="gs", graphs=[GraphProto(), inner]),
    ]
    sparse = AttributeProto(name="s")
    sparse.sparse_tensor.values.CopyFrom(tensor)
    several = AttributeProto(name="ss")
    several.sparse_tensors.add().indices.CopyFrom(tensor)
    graphs = [
        GraphProto(node=[NodeProto(attribute=[attribute])]) for attribute in (*attributes, sparse, several)
    ]
    direct = GraphProto()
    direct.sparse_initializer.add().values.CopyFrom(tensor)
    for built in (*graphs, direct, inner, GraphProto(initializer=[tensor])):
        assert unsafe_reason(ModelProto(graph=built).SerializeToString())
    trained = ModelProto()
    trained.training_info.add()
    assert unsafe_reason(trained.SerializeToString())
    assert unsafe_reason(a_linear().graph()) is None
    assert unsafe_reason(A_GRAPH) is None


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it."""
    groups = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])


def message(number: int, content: bytes) -> bytes:
    """Return a field that is a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def in_a_tensor(field: bytes) -> bytes:
    """Return a model of one tensor with this field."""
    return message(7, message(5, field))


def test_a_graph_whose_bytes_parsers_read_differently_is_rejected() -> None:
    """Numbers that one parser cuts and another does not, fields of another type, groups, and what is cut off."""
    location = varint(14 << 3)
    assert unsafe_reason(in_a_tensor(location + varint(0))) is None
    said = "it has external data, that is weights in another file"
    for number in (1, 2, 1 << 32 | 1, 1 << 63):  # protobuf keeps 32 bits of an enum's number
        assert unsafe_reason(in_a_tensor(location + varint(number))) == said
    for other in (message(14, b""), message(13, b""), varint(13 << 3) + b"\0"):
        assert unsafe_reason(in_a_tensor(other)) == said
    hidden = varint(1 << 32 | 14 << 3) + varint(1)  # a tag of which protobuf keeps 32 bits
    for data in (
        in_a_tensor(hidden),
        b"\x3a",
        b"\x3a\x05\x01",
        b"\x00\x00",
        b"\x0b\x0c",
        b"\x09\x00",
        b"\xff" * 11,
        message(7, b"\x2a\xff\xff\xff\xff\x0f"),
    ):
        assert unsafe_reason(data) == "it is not an ONNX file"


def test_walking_a_graph_ends() -> None:
    """A graph of a million fields, and one nested a thousand deep, are rejected before they are walked whole."""
    assert unsafe_reason(b"\x08\x01" * 1_000_000) == "it has more than 100000 fields"
    nested = b""
    for _ in range(1000):
        nested = message(1, message(5, message(6, nested)))  # a node's attribute is a graph
    assert unsafe_reason(message(7, nested)) == "its messages are nested more than 20 deep"


def test_a_sentence_about_a_file_is_one_line() -> None:
    """Escape sequences, line ends and a million characters become something short that can be printed."""
    assert one_line("a\n\tb\x1b[2Jc\u202e") == "a b\\u001b[2Jc\\u202e"
    assert len(one_line("x" * 1_000_000)) == 300


def test_an_intact_version_is_read_as_before(tmp_path: Path) -> None:
    """What was published is proven whole, and given as asked."""
    bundle = publish_synthetic(tmp_path)
    assert bundle.prove(ONNX_FILE) == {ONNX_FILE: a_linear().graph()}
    reseal(bundle.path, ONNX_FILE, a_linear().graph())
    assert Bundle.open(bundle.path).prove() == {}
