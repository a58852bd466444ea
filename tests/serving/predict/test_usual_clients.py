"""`POST /predict` by curl and urllib3, as people use them: what they send is read, or they are told what to send."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import urllib3

from bench.support.models import Linear
from bench.support.pictures import png
from bench.support.processes import Service

Pixels = npt.NDArray[np.uint8]

curl_only = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def folder(tmp_path: Path, digit: Pixels) -> Path:
    """Return a folder with one digit in several kinds of file, one of them with a name in Latin-1."""
    (tmp_path / "digit.png").write_bytes(png(digit))
    (tmp_path / os.fsdecode("größe.png".encode("latin-1"))).write_bytes(png(digit))
    (tmp_path / "nothing").write_bytes(b"")
    np.save(tmp_path / "floats.npy", (digit / 255).astype(np.float32))
    (tmp_path / "floats.raw").write_bytes((digit / 255).astype(np.float32).tobytes())
    (tmp_path / "body.json").write_text(json.dumps({"instances": [digit.tolist()]}))
    return tmp_path


def curl(service: Service, folder: Path, *options: str | bytes) -> dict[str, Any]:
    """Return curl's answer."""
    command = ["curl", "--silent", "--show-error", *options, f"http://127.0.0.1:{service.port}/predict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=240)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def assert_is(answer: dict[str, Any], digit: Pixels, linear: Linear) -> None:
    """Check that one image was read, and that it is the digit."""
    (prediction,) = answer["predictions"]
    expected = linear.probabilities(digit[None])
    assert np.allclose(list(prediction["probabilities"].values()), expected, atol=1e-5)


@curl_only
@pytest.mark.parametrize(
    "options",
    [
        ("-F", "image=@digit.png;type=multipart/form-data"),
        ("-F", "image=@digit.png;type=image/*"),
        ("-F", "image=@digit.png;type=application/octet-stream"),
        ("-F", "image=<digit.png;type=application/octet-stream"),
        ("-F", "image=@größe.png".encode("latin-1")),
        ("-F", b"image=@digit.png;filename=\xff\xfe\x80.png"),
        ("-F", "one=@digit.png", "-F", "two=@nothing;filename="),
        ("-H", "Content-Type: image/*", "--data-binary", "@digit.png"),
        ("-H", "Content-Type: application/json", "-d", "@body.json"),
        ("-H", "Content-Type: application/x-npy", "--data-binary", "@floats.npy"),
    ],
)
def test_what_curl_sends_is_read(
    service: Service, folder: Path, digit: Pixels, linear: Linear, options: tuple[str | bytes, ...]
) -> None:
    """Forms with types and names of all kinds, an input without a file, an array of floats."""
    assert_is(curl(service, folder, *options), digit, linear)


@curl_only
@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (("-d", '{"instances": []}'), "-H 'Content-Type: application/json'"),
        (("-d", "@body.json"), "-H 'Content-Type: application/json'"),
        (("-d", "@digit.png"), "-H 'Content-Type: image/png' --data-binary @FILE"),
        (("--data-binary", "@digit.png"), "-H 'Content-Type: image/png' --data-binary @FILE"),
        (("-H", "Content-Type: image/png", "-d", "@digit.png"), "--data-binary @FILE"),
        (("--data-binary", "@floats.npy"), "-H 'Content-Type: application/x-npy' --data-binary @FILE"),
        (("-H", "Content-Type: image/png", "-d", "@body.json"), "-H 'Content-Type: application/json'"),
        (("-H", "Content-Type: application/octet-stream", "-d", "@body.json"), "application/json"),
        (
            ("-H", "Content-Type: application/octet-stream", "--data-binary", "@floats.raw"),
            "application/x-npy",
        ),
        (("-H", "Content-Type: text/plain", "-d", "7"), "application/json, application/x-npy"),
    ],
)
def test_curl_is_told_what_to_send(
    service: Service, folder: Path, options: tuple[str, ...], remedy: str
) -> None:
    """The remedy is of the body that was sent, not of the one that most send."""
    assert remedy in curl(service, folder, *options)["remedy"]


def test_what_urllib3_sends_is_read(service: Service, folder: Path, digit: Pixels, linear: Linear) -> None:
    """A form of its own making, and JSON with base64 that was broken into lines or meant for a URL."""
    address = f"http://127.0.0.1:{service.port}/predict"
    image = (folder / "digit.png").read_bytes()
    with urllib3.PoolManager() as pool:
        form = pool.request("POST", address, fields={"image": ("größe.png", image, "multipart/form-data")})
        assert_is(form.json(), digit, linear)
        for text in (
            base64.encodebytes(image).decode(),
            base64.urlsafe_b64encode(image).decode().rstrip("="),
            f"data:image/png;name=digit.png;base64,{base64.b64encode(image).decode()}",
        ):
            body = {"signature_name": "serving_default", "instances": [{"b64": text}]}
            assert_is(pool.request("POST", address, json=body).json(), digit, linear)
        rows = digit[..., None].tolist()
        assert_is(pool.request("POST", address, json={"instances": [rows]}).json(), digit, linear)
