"""Hostile versions: manifests are sealed anew, so that every hash is right, over content that harms its reader."""

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from bundle.manifest import GOLDEN_FILE, MANIFEST_FILE, MAX_BYTES, ONNX_FILE, TORCHSCRIPT_FILE
from common.atomic_files import sha256_bytes

SECRET = b"a file of somebody else's: neither its content nor its hash is anybody's business\n"


def sealed(document: Mapping[str, Any]) -> bytes:
    """Return a manifest with the right digest, whatever it says."""
    metadata = {name: value for name, value in document.items() if name != "digest"}
    digest = sha256_bytes(_canonical(metadata))
    return _canonical(metadata | {"digest": digest})


def _canonical(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def put(path: Path, data: bytes) -> None:
    """Put a regular file in the place of whatever is there."""
    clear(path)
    path.write_bytes(data)


def clear(path: Path) -> None:
    """Remove what is there, a directory too."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def restate(version: Path, **changes: Any) -> None:
    """Seal the manifest with other fields."""
    document = json.loads((version / MANIFEST_FILE).read_bytes())
    put(version / MANIFEST_FILE, sealed(document | changes))


def relist(version: Path, names: Mapping[str, str | None]) -> None:
    """Seal the manifest with other files: SHA-256 by name, None for one that is left out."""
    files = json.loads((version / MANIFEST_FILE).read_bytes())["files"] | dict(names)
    restate(version, files={name: sha256 for name, sha256 in files.items() if sha256})


def reseal(version: Path, name: str, data: bytes) -> None:
    """Put other content into a file, and seal the manifest over it."""
    put(version / name, data)
    relist(version, {name: sha256_bytes(data)})


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One way to harm a reader."""

    prepare: Callable[[Path, Path], None]
    """Takes a version's directory and somebody else's file, which holds `SECRET`."""
    said: str
    """A pattern of the refusal."""
    web: bool = True
    """Whether a web server can offer the same."""


def _outside(sha256: str) -> Callable[[Path, Path], None]:
    return lambda version, secret: relist(version, {os.path.relpath(secret, version): sha256})


def _link_to_secret(version: Path, secret: Path) -> None:
    clear(version / TORCHSCRIPT_FILE)
    (version / TORCHSCRIPT_FILE).symlink_to(secret)
    relist(version, {TORCHSCRIPT_FILE: sha256_bytes(SECRET)})


def _link(name: str, target: str) -> Callable[[Path, Path], None]:
    def prepare(version: Path, _: Path) -> None:
        clear(version / name)
        (version / name).symlink_to(target)

    return prepare


def _fifo(name: str) -> Callable[[Path, Path], None]:
    def prepare(version: Path, _: Path) -> None:
        clear(version / name)
        os.mkfifo(version / name)

    return prepare


def _directory(version: Path, _: Path) -> None:
    clear(version / ONNX_FILE)
    (version / ONNX_FILE).mkdir()


def _large(name: str) -> Callable[[Path, Path], None]:
    """Make a file one byte larger than is read; it takes no room on the disk."""

    def prepare(version: Path, _: Path) -> None:
        put(version / name, b"")
        os.truncate(version / name, MAX_BYTES[name] + 1)

    return prepare


def _manifest(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    """Change the manifest's text."""

    def prepare(version: Path, _: Path) -> None:
        put(version / MANIFEST_FILE, change((version / MANIFEST_FILE).read_bytes()))

    return prepare


def _graph(change: Callable[[onnx.ModelProto], None]) -> Callable[[Path, Path], None]:
    """Change the served graph, and seal the manifest over it."""

    def prepare(version: Path, _: Path) -> None:
        model = onnx.load_from_string((version / ONNX_FILE).read_bytes())
        change(model)
        reseal(version, ONNX_FILE, model.SerializeToString())

    return prepare


def elsewhere(location: str) -> TensorProto:
    """Return a tensor whose numbers are in another file."""
    tensor = TensorProto(name="elsewhere", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def _external(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(elsewhere("../../../etc/hostname"))


def _external_in_subgraph(model: onnx.ModelProto) -> None:
    """Hide it in a constant, in a branch of an If."""
    constant = helper.make_node("Constant", [], ["hidden"], value=elsewhere("/etc/hostname"))
    value = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [4])
    branch = helper.make_graph([constant], "branch", [], [value])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))


def _custom(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("EPContext", [], ["y"], domain="com.microsoft"))


def _function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("own", "Relu", ["x"], ["y"], [node], opset))


def _ort_format(version: Path, secret: Path) -> None:
    """Put the same graph, as ONNX Runtime saves it for itself, in the place of the ONNX file."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.optimized_model_filepath = str(secret.with_name("model.ort"))
    graph = (version / ONNX_FILE).read_bytes()
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    reseal(version, ONNX_FILE, secret.with_name("model.ort").read_bytes())


def golden_archive(*members: tuple[str, bytes], packed: bool = False) -> bytes:
    """Return a zip file of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def npy(header: str, data: bytes = b"") -> bytes:
    """Return a `.npy` file (NEP 1) with any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def _golden(*members: tuple[str, bytes], packed: bool = False) -> Callable[[Path, Path], None]:
    return lambda version, _: reseal(version, GOLDEN_FILE, golden_archive(*members, packed=packed))


def _npz(**arrays: Any) -> Callable[[Path, Path], None]:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return lambda version, _: reseal(version, GOLDEN_FILE, buffer.getvalue())


def _header(descr: str, shape: str) -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


class Payload:
    """What a pickle does when it is loaded, if anybody loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Fail, so that a test notices."""
        return (exec, ("raise SystemExit('a pickle was loaded')",))


_PICKLED = npy(_header("|O", "(1,)"), pickle.dumps(Payload()))
_DEEP = b'{"a":' * 100_000
_MANY = b"{" + b",".join(b'"%x":1' % number for number in range(90_000)) + b"}"

ATTACKS: dict[str, Attack] = {
    "a name outside": Attack(prepare=_outside(sha256_bytes(SECRET)), said="it lists .*secret"),
    "a name outside, guessed": Attack(prepare=_outside("ab" * 32), said="it lists .*secret"),
    "an absolute name": Attack(
        prepare=lambda version, secret: relist(version, {str(secret): sha256_bytes(SECRET)}),
        said="it lists /.*secret",
    ),
    "a device's name": Attack(
        prepare=lambda version, _: relist(version, {"/dev/zero": "ab" * 32}), said="it lists /dev/zero"
    ),
    "a file that is not listed": Attack(
        prepare=lambda version, _: relist(version, {GOLDEN_FILE: None}), said="it lists MODEL_CARD.md, model"
    ),
    "a link outside": Attack(prepare=_link_to_secret, said=r"model\.pt .* a symbolic link", web=False),
    "a link outside, its hash guessed": Attack(
        prepare=lambda version, secret: _link(TORCHSCRIPT_FILE, str(secret))(version, secret),
        said=r"model\.pt .* a symbolic link",
        web=False,
    ),
    "a link to a device": Attack(
        prepare=_link(TORCHSCRIPT_FILE, "/dev/zero"), said=r"model\.pt .* a symbolic link", web=False
    ),
    "a FIFO": Attack(
        prepare=_fifo(TORCHSCRIPT_FILE), said=r"model\.pt cannot be read: it is not a regular file", web=False
    ),
    "a FIFO for a graph": Attack(
        prepare=_fifo(ONNX_FILE), said=r"model\.onnx cannot be read: it is not a regular file", web=False
    ),
    "a directory": Attack(
        prepare=_directory, said=r"model\.onnx cannot be read: it is not a regular file", web=False
    ),
    "a large graph": Attack(prepare=_large(ONNX_FILE), said=r"model\.onnx .* at most 536,870,912", web=False),
    "a large file that nobody parses": Attack(
        prepare=_large(TORCHSCRIPT_FILE), said=r"model\.pt .* at most 536,870,912", web=False
    ),
    "no manifest but a FIFO": Attack(
        prepare=_fifo(MANIFEST_FILE),
        said=r"manifest\.json cannot be read: it is not a regular file",
        web=False,
    ),
    "no manifest but a device": Attack(
        prepare=_link(MANIFEST_FILE, "/dev/zero"), said=r"manifest\.json .* a symbolic link", web=False
    ),
    "a manifest that is somebody else's": Attack(
        prepare=lambda version, secret: _link(MANIFEST_FILE, str(secret))(version, secret),
        said=r"manifest\.json .* a symbolic link",
        web=False,
    ),
    "a large manifest": Attack(
        prepare=_large(MANIFEST_FILE), said=r"manifest\.json has .*bytes|manifest\.json .* at most|more than"
    ),
    "a deep manifest": Attack(prepare=_manifest(lambda _: _DEEP), said=r"manifest\.json is not JSON"),
    "a manifest of many fields": Attack(
        prepare=_manifest(lambda _: _MANY), said=r"manifest\.json: name: Field required"
    ),
    "a number of 5,000 digits": Attack(
        prepare=_manifest(lambda text: text.replace(b'"split_seed": 0', b'"split_seed": ' + b"9" * 5000)),
        said=r"manifest\.json is not JSON",
    ),
    "a number beyond int64": Attack(
        prepare=lambda version, _: restate(version, golden={"images": 10**40, "tolerance": 1e-4}),
        said=r"manifest\.json: golden\.images: Input should be less than or equal to",
    ),
    "a field given twice": Attack(
        prepare=_manifest(lambda text: text.replace(b'"split_seed": 0', b'"split_seed": 1, "split_seed": 0')),
        said=r"manifest\.json was changed",
    ),
    "NaN": Attack(
        prepare=_manifest(lambda text: text.replace(b'"nll":', b'"nll": NaN, "x":', 1)),
        said=r"manifest\.json: .*nll: Input should be a finite number",
    ),
    "no UTF-8": Attack(
        prepare=_manifest(lambda text: text.replace(b'"created": "', b'"created": "\xff')),
        said=r"manifest\.json is not JSON",
    ),
    "an escape sequence": Attack(
        prepare=lambda version, _: restate(version, created="\x1b[2J\nintact"),
        said=r"manifest\.json: created: String should match",
    ),
    "weights in another file": Attack(prepare=_graph(_external), said="weights in another file"),
    "weights in another file, hidden": Attack(
        prepare=_graph(_external_in_subgraph), said="weights in another file"
    ),
    "an operator that is not ONNX's": Attack(prepare=_graph(_custom), said="the domain 'com.microsoft'"),
    "an operator of its own": Attack(prepare=_graph(_function), said="functions of its own"),
    "ONNX Runtime's format": Attack(prepare=_ort_format, said="ONNX Runtime's own format"),
    "golden examples that unpack to much": Attack(
        prepare=_golden(
            ("images.npy", npy(_header("|u1", "(5, 28, 28)"), bytes(1 << 24))),
            ("probabilities.npy", b""),
            packed=True,
        ),
        said=r"golden\.npz cannot be read: its arrays are compressed",
    ),
    "golden examples that claim much": Attack(
        prepare=_golden(
            ("images.npy", npy(_header("|u1", "(1000000000000, 28, 28)"))), ("probabilities.npy", b"")
        ),
        said=r"golden\.npz cannot be read: images has the header",
    ),
    "golden examples that are pickles": Attack(
        prepare=_golden(("images.npy", _PICKLED), ("probabilities.npy", _PICKLED)),
        said=r"golden\.npz cannot be read: images has the header .*\|O",
    ),
    "golden examples of another type": Attack(
        prepare=_npz(images=np.zeros((5, 28, 28), "V8"), probabilities=np.zeros((5, 10), "f4")),
        said=r"golden\.npz cannot be read: images has the header",
    ),
    "golden examples with a header to evaluate": Attack(
        prepare=_golden(("images.npy", npy("(" * 60_000)), ("probabilities.npy", b"")),
        said=r"golden\.npz cannot be read: images has the header",
    ),
    "golden examples of many members": Attack(
        prepare=_golden(*((f"{number}.npy", b"") for number in range(50_000))),
        said=r"golden\.npz cannot be read: it is not an archive of two arrays",
    ),
}


def write_secret(directory: Path) -> Path:
    """Write a file that is in no bundle, and return where it is."""
    path = directory / "elsewhere" / "secret"
    path.parent.mkdir()
    path.write_bytes(SECRET)
    return path


def no_secret(text: str) -> bool:
    """Tell whether a text says nothing of what the file outside holds."""
    return sha256_bytes(SECRET)[:12] not in text and "somebody else's" not in text
