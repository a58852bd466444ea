"""The service as clients meet it: a real process, real sockets, every answer and every refusal."""

import http.client
import shlex
import shutil
import socket
import subprocess
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bench.support.models import CLASSES, Linear
from bench.support.pictures import encoded, png
from bench.support.processes import PNG, ROOT, START_SECONDS, Answer, Part, Service, form
from bundle.manifest import SAMPLE_FILE
from bundle.repository import Bundle

Pixels = npt.NDArray[np.uint8]


def assert_problem(answer: Answer, status: int, *words: str) -> dict[str, Any]:
    """Check that an answer is a problem document (RFC 9457) whose text has these words."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["type"].startswith("urn:glyph:problem:")
    assert document["title"]
    assert document["remedy"]
    for word in words:
        assert word in document["detail"] + " " + document["remedy"]
    return document


def only(answer: Answer) -> dict[str, Any]:
    """Return the one prediction of an answer."""
    assert answer.status == 200, answer.body
    (prediction,) = answer.json()["predictions"]
    return dict(prediction)


def test_a_png_is_answered_with_what_the_model_gives_it(
    service: Service, bundle: Bundle, linear: Linear, digit: Pixels
) -> None:
    """Label, index, probability and all probabilities agree with NumPy, and the model is named."""
    answer = service.post(png(digit))
    prediction = only(answer)
    expected = linear.probabilities(digit[None])[0]
    assert list(prediction["probabilities"]) == list(CLASSES)
    assert np.allclose(list(prediction["probabilities"].values()), expected, atol=1e-5)
    assert prediction["index"] == int(expected.argmax())
    assert prediction["label"] == CLASSES[prediction["index"]]
    assert prediction["probability"] == prediction["probabilities"][prediction["label"]]
    assert prediction["warnings"] == []
    assert "filename" not in prediction
    assert answer.json()["model"] == {
        "name": "synthetic",
        "version": bundle.version,
        "digest": bundle.manifest.digest,
    }


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_every_promised_format_is_answered(
    service: Service, file_format: str, linear: Linear, digit: Pixels
) -> None:
    """Each format is posted by its own content type and labelled as its pixels are."""
    data = encoded(Image.fromarray(digit), file_format, **({"quality": 100} if file_format == "JPEG" else {}))
    prediction = only(service.post(data, f"image/{file_format.lower()}"))
    assert prediction["index"] == int(linear.probabilities(digit[None])[0].argmax())


def test_a_colour_image_is_converted(service: Service, digit: Pixels) -> None:
    """RGB of 28x28 gets the answer of its gray."""
    colour = encoded(Image.fromarray(digit).convert("RGB"), "PNG")
    assert only(service.post(colour)) == only(service.post(png(digit)))


def test_an_inverted_image_is_answered_with_a_warning(service: Service, digit: Pixels) -> None:
    """The answer is of the image as it was sent, and says what looks wrong with it."""
    prediction = only(service.post(png(255 - digit)))
    (warning,) = prediction["warnings"]
    assert warning.startswith("looks inverted")


def test_the_files_of_a_form_are_answered_in_their_order(
    service: Service, linear: Linear, digit: Pixels
) -> None:
    """Each prediction stands where its file stood, under its name, whatever was declared of it."""
    turned = [np.rot90(digit, turn) for turn in range(4)]
    types = [PNG, "application/octet-stream", None, PNG]
    parts = [
        Part(png(pixels), filename=f"turned-{turn}.png", content_type=types[turn])
        for turn, pixels in enumerate(turned)
    ]
    answer = service.post(*form(*parts))
    assert answer.status == 200
    predictions = answer.json()["predictions"]
    assert [prediction["filename"] for prediction in predictions] == [part.filename for part in parts]
    found = [list(prediction["probabilities"].values()) for prediction in predictions]
    assert np.allclose(found, linear.probabilities(np.stack(turned)), atol=1e-5)


def test_a_chunked_body_is_answered(service: Service, digit: Pixels) -> None:
    """A client that does not know the length in advance gets the same answer."""
    data = png(digit)
    assert only(service.post([data[:20], data[20:]], chunked=True)) == only(service.post(data))


def test_an_empty_body_is_400(service: Service) -> None:
    """Nothing was sent, and the remedy shows how to send something."""
    assert_problem(service.post(b""), 400, "no body", "curl")


def test_a_truncated_png_is_422(service: Service, digit: Pixels) -> None:
    """A cut file is refused, with the usual cause in the remedy."""
    assert_problem(service.post(png(digit)[:-40]), 422, "truncated", "--data-binary")


def test_a_bomb_is_422_and_names_the_size_it_claims(service: Service, digit: Pixels) -> None:
    """A header that claims 50000x50000 is enough for the refusal."""
    data = bytearray(png(digit))
    data[16:24] = (50000).to_bytes(4, "big") * 2
    fixed = bytes(data[:29]) + __import__("zlib").crc32(data[12:29]).to_bytes(4, "big") + bytes(data[33:])
    assert_problem(service.post(fixed), 422, "50000x50000", "28x28")


def test_another_size_is_422_and_names_it(service: Service) -> None:
    """64x64 is not scaled behind the client's back."""
    assert_problem(service.post(png(np.zeros((64, 64), np.uint8))), 422, "64x64", "28x28")


def test_a_pdf_named_png_is_415(service: Service) -> None:
    """Neither the name nor the declared type makes a PDF an image."""
    pdf = b"%PDF-1.7\n1 0 obj\n"
    assert_problem(service.post(pdf), 415, "PDF")
    document = assert_problem(service.post(*form(Part(pdf, filename="digit.png"))), 415, "PDF")
    assert document["filename"] == "digit.png"


def test_a_png_sent_by_the_wrong_option_of_curl_is_415_and_told_the_right_one(
    service: Service, digit: Pixels
) -> None:
    """`-d @file` strips line breaks, and a PNG's signature is made to show it."""
    stripped = png(digit).replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")
    document = assert_problem(service.post(stripped), 415, "--data-binary")
    assert "upload" not in document  # a raw body is not one of several


def test_a_declared_type_that_contradicts_the_content_is_415(service: Service, digit: Pixels) -> None:
    """The remedy is the type that the content has."""
    data = encoded(Image.fromarray(digit), "BMP")
    assert_problem(service.post(data), 415, "image/bmp", "Content-Type: image/bmp")


def test_curl_without_a_header_is_415_and_told_which_one(service: Service, digit: Pixels) -> None:
    """The commonest mistake is answered with the option to add."""
    answer = service.post(png(digit), "application/x-www-form-urlencoded")
    assert_problem(answer, 415, "-H 'Content-Type: image/png'")


def test_a_text_field_in_place_of_a_file_is_422(service: Service) -> None:
    """A form field that names a file is not the file."""
    assert_problem(
        service.post(*form(Part(b"digit.png", filename=None, content_type=None))), 422, "text field"
    )


def test_the_broken_file_of_several_is_named(service: Service, digit: Pixels) -> None:
    """One bad file refuses the form, and the answer says which one it was."""
    body, content_type = form(Part(png(digit)), Part(png(digit)[:-30], filename="cut.png"))
    document = assert_problem(service.post(body, content_type), 422)
    assert (document["upload"], document["filename"]) == (1, "cut.png")


def test_a_form_that_is_cut_is_400(service: Service, digit: Pixels) -> None:
    """A form without its last boundary did not arrive whole."""
    body, content_type = form(Part(png(digit)))
    assert_problem(service.post(body[:-20], content_type), 400, "form")


def test_ten_megabytes_of_zeros_are_413(service: Service) -> None:
    """Beyond the limit a client that sends everything first still gets the answer, chunked or not."""
    for body, chunked in ((bytes(10_000_000), False), ([bytes(100_000)] * 100, True)):
        assert_problem(service.post(body, chunked=chunked), 413, "8388608", "GLYPH_MAX_BODY_BYTES")


def test_a_content_length_beyond_the_limit_is_413_before_the_body_is_sent(service: Service) -> None:
    """The announcement alone is refused; nothing has to be read for it."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Content-Length: 1000000000000\r\nConnection: close\r\n\r\n"
        )
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 413


def test_two_thousand_files_in_one_form_are_413(service: Service, digit: Pixels) -> None:
    """More files than the limit are refused as such."""
    body, content_type = form(*[Part(png(digit))] * 2000)
    assert_problem(service.post(body, content_type), 413, "256 files", "GLYPH_MAX_FILES")


def test_as_many_files_as_allowed_are_answered(service: Service, digit: Pixels) -> None:
    """The documented limit can be used whole."""
    answer = service.post(*form(*[Part(png(digit))] * 256))
    assert answer.status == 200
    assert len(answer.json()["predictions"]) == 256


def test_a_malformed_chunk_is_400(service: Service) -> None:
    """Broken framing is the client's error, not the service's."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nnot a number\r\n"
        )
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 400


def test_a_content_coding_that_is_not_undone_is_415(service: Service, digit: Pixels) -> None:
    """It is named, and which are undone (RFC 9110, section 15.5.16)."""
    answer = service.ask("POST", "/predict", png(digit), Content_Type=PNG, Content_Encoding="br")
    assert_problem(answer, 415, "br", "gzip")
    assert answer.headers["Accept-Encoding"] == "gzip, deflate"


def test_a_wrong_method_is_405_and_says_which_are_right(service: Service) -> None:
    """The Allow field is there (RFC 9110, section 15.5.6)."""
    answer = service.ask("GET", "/predict")
    assert_problem(answer, 405, "GET")
    assert answer.headers["Allow"] == "OPTIONS, POST"


def test_an_unknown_path_is_404_and_says_what_there_is(service: Service, digit: Pixels) -> None:
    """Also for a POST with a large body, which is answered and not reset."""
    assert_problem(service.ask("GET", "/nowhere"), 404, "/nowhere", "/predict")
    assert_problem(service.ask("POST", "/nowhere", bytes(2_000_000)), 404)


def test_a_refused_body_does_not_spoil_the_next_request_on_the_connection(
    service: Service, digit: Pixels
) -> None:
    """After a refusal the connection is kept and understood."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("POST", "/predict", bytes(9_000_000), {"Content-Type": PNG})
    response = connection.getresponse()
    assert response.status == 413
    response.read()
    connection.request("POST", "/predict", png(digit), {"Content-Type": PNG})
    response = connection.getresponse()
    assert response.status == 200
    response.read()
    connection.close()


def test_the_probes_answer_by_state(service: Service, bundle: Bundle) -> None:
    """Live, ready and healthy, with the model and the provider that were proven."""
    assert service.ask("GET", "/livez").json() == {"live": True}
    for path in ("/readyz", "/healthz"):
        ready = service.ask("GET", path)
        assert ready.status == 200
        assert ready.json()["ready"] is True
        assert ready.json()["provider"] == "cpu"
        assert ready.json()["model"]["digest"] == bundle.manifest.digest


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_printed_curl_line_works_as_printed(service: Service, bundle: Bundle) -> None:
    """What the service prints when it is ready is a command whose answer has the promised label."""
    (line,) = [line for line in service.log().splitlines() if line.strip().startswith("curl ")]
    assert str(bundle.path / SAMPLE_FILE) in line
    answer = subprocess.run(
        shlex.split(line), cwd=ROOT, capture_output=True, text=True, check=True, timeout=START_SECONDS
    )
    assert f'"label":"{bundle.manifest.sample_label}"' in answer.stdout
    assert f"should be {bundle.manifest.sample_label!r}" in service.log()


def test_requests_are_not_logged_unless_asked_for(service: Service) -> None:
    """The access log is off by default."""
    service.ask("GET", "/livez")
    assert "GET /livez" not in service.log()
