"""Admission: which files are in a body, and what is said of a body that is not right."""

import base64
import io

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.support.pictures import a_digit, png
from bench.support.processes import Part, form
from serving.errors import (
    EmptyBodyError,
    MalformedBodyError,
    NoFileError,
    NotAFileError,
    ProblemError,
    TooManyFilesError,
    UnsupportedMediaTypeError,
)
from serving.predict.bodies import multipart
from serving.predict.bodies.media_types import ACCEPTED
from serving.predict.bodies.multipart import CHUNK_BYTES, MAX_PART_HEADER_BYTES, Upload, read_files
from tests.conftest import ROOT


def admitted(*parts: Part, max_files: int = 256) -> list[Upload]:
    """Admit a form of these parts."""
    body, content_type = form(*parts)
    return read_files(content_type, body, max_files=max_files)


def test_a_raw_image_is_one_upload_of_its_declared_type() -> None:
    """Parameters and case of the content type do not matter, and common misnomers are known."""
    for declared in ("image/jpeg", "IMAGE/JPEG; q=1", "image/jpg"):
        (upload,) = read_files(declared, b"data", max_files=1)
        assert upload == Upload(filename=None, media_type="image/jpeg", data=b"data")


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6))
def test_every_file_of_a_form_comes_back_in_order_and_bit_for_bit(contents: list[bytes]) -> None:
    """Whatever the bytes, also line breaks and dashes, a form gives back what was put in."""
    parts = [Part(data, filename=f"{index}.png") for index, data in enumerate(contents)]
    uploads = admitted(*parts)
    assert [upload.data for upload in uploads] == contents
    assert [upload.filename for upload in uploads] == [part.filename for part in parts]


@pytest.mark.parametrize("size", [CHUNK_BYTES - 200, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_files_across_the_decoders_chunks_stay_whole(size: int) -> None:
    """A file larger than one chunk, full of line breaks, and the file behind it are exact."""
    data = (b"\r\n--front\r\n-" * size)[:size]
    assert [upload.data for upload in admitted(Part(data), Part(b"next"))] == [data, b"next"]


@pytest.mark.parametrize("tail", [b"", b"\r", b"\n", b"\r\n", b"\r\r", b"-", b"\r\n--", b"\r\n\r\n"])
def test_files_are_exact_wherever_the_decoders_chunks_end(
    monkeypatch: pytest.MonkeyPatch, tail: bytes
) -> None:
    """Within a boundary's line too, where Werkzeug's decoder would add a CR to the file before it."""
    files = [b"data" + tail, b"next" + tail]
    body, content_type = form(*map(Part, files))
    for size in range(1, len(body) + 1):
        monkeypatch.setattr(multipart, "CHUNK_BYTES", size)
        assert [upload.data for upload in read_files(content_type, body, max_files=2)] == files


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/octet-stream",
        "binary/octet-stream",
        "multipart/form-data",
        "Multipart/Form-Data; boundary=x",
        "image/*",
        "*/*",
    ],
)
def test_a_part_that_declares_nothing_is_left_to_its_content(content_type: str | None) -> None:
    """Clients that do not know the type say octet-stream, the form's own type, any image, or nothing."""
    assert admitted(Part(b"data", content_type=content_type))[0].media_type is None


def test_a_body_of_any_image_type_is_left_to_its_content() -> None:
    """As a part is."""
    assert read_files("image/*", b"data", max_files=1)[0].media_type is None


@pytest.mark.parametrize("content_type", ["image/png", "image/*", "application/octet-stream"])
def test_a_part_without_a_filename_is_a_file_unless_it_is_text(content_type: str) -> None:
    """Clients that send bytes from memory have no name for them."""
    assert admitted(Part(b"data", filename=None, content_type=content_type))[0].data == b"data"
    for text in (None, "text/plain", "text/plain; charset=utf-8"):
        with pytest.raises(NotAFileError):
            admitted(Part(b"data", filename=None, content_type=text))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("größe.png".encode(), "größe.png"),
        ("größe.png".encode("latin-1"), "größe.png"),
        (b"\xff\xfe\x80.png", "\xff\xfe\x80.png"),
        ("数字.png".encode("gb18030"), "\xca\xfd\xd7\xd6.png"),
    ],
)
def test_a_name_in_another_encoding_is_read_as_latin_1(name: bytes, expected: str) -> None:
    """The file is what counts; a name in UTF-8 stays what it is."""
    body, content_type = form(Part(b"one", filename="NAME"), Part(b"two", filename="ü.png"))
    first, second = read_files(content_type, body.replace(b"NAME", name), max_files=2)
    assert (first.filename, first.data) == (expected, b"one")
    assert (second.filename, second.data) == ("ü.png", b"two")


@pytest.mark.parametrize("content_type", ["application/octet-stream", "image/png", None])
def test_an_input_of_a_form_without_a_chosen_file_is_no_file(content_type: str | None) -> None:
    """A browser sends it with an empty name and no data."""
    unset = Part(b"", filename="", content_type=content_type)
    (upload,) = admitted(unset, Part(b"data"), unset)
    assert (upload.filename, upload.data) == ("digit.png", b"data")
    with pytest.raises(NoFileError, match="no file is chosen"):
        admitted(unset, unset)
    assert [
        upload.data for upload in admitted(Part(b"", filename="empty.png"), Part(b"data", filename=""))
    ] == [
        b"",
        b"data",
    ]


def test_an_empty_body_is_refused_whatever_its_type() -> None:
    """There is no file to read."""
    for content_type in (None, "image/png", "multipart/form-data; boundary=x"):
        with pytest.raises(EmptyBodyError):
            read_files(content_type, b"", max_files=1)


def test_curls_default_type_is_refused_with_the_header_to_add() -> None:
    """The remedy is the option as it must be typed, for the type that the bytes have."""
    with pytest.raises(UnsupportedMediaTypeError, match="the default of curl") as caught:
        read_files("application/x-www-form-urlencoded", b"GIF89a...", max_files=1)
    assert "-H 'Content-Type: image/gif' --data-binary" in caught.value.remedy


def npy() -> bytes:
    """Return an array as NumPy saves it."""
    buffer = io.BytesIO()
    np.save(buffer, a_digit())
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content_type", [None, "application/x-www-form-urlencoded", "text/plain", "application/pdf"]
)
@pytest.mark.parametrize(
    ("body", "remedy"),
    [
        (b'{"instances": [[0]]}', "-H 'Content-Type: application/json'"),
        (b'\xef\xbb\xbf\r\n{"instances": [[0]]}', "-H 'Content-Type: application/json'"),
        (npy(), "-H 'Content-Type: application/x-npy' --data-binary @FILE"),
        (png(a_digit()), "-H 'Content-Type: image/png' --data-binary @FILE"),
        (png(a_digit()).translate(None, b"\r\n\0"), "-H 'Content-Type: image/png' --data-binary @FILE"),
        (form(Part(b"data"))[0], "use -F without -H"),
        (b"data:image/png;base64,iVBORw0KGgo=", "application/json"),
        (base64.b64encode(png(a_digit())), '{"instances": ["..."]}'),
    ],
)
def test_the_remedy_looks_at_the_body(content_type: str | None, body: bytes, remedy: str) -> None:
    """JSON is not told to be an image; a PNG that curl's -d has stripped of its line breaks is known."""
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        read_files(content_type, body, max_files=1)
    assert remedy in caught.value.remedy


def test_the_remedy_has_all_types_that_are_accepted() -> None:
    """As the API's description lists them."""
    description = yaml.safe_load((ROOT / "serving/web/api_docs/openapi.yaml").read_text())
    listed = description["paths"]["/predict"]["post"]["requestBody"]["content"]
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        read_files("text/plain", b"data", max_files=1)
    assert caught.value.remedy.endswith(f"The supported types are {ACCEPTED}.")
    assert sorted(ACCEPTED.split(", ")) == sorted(listed)


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/pdf", "image/svg+xml", "x" * 5000])
def test_other_types_are_refused_with_the_list_of_those_that_are_read(content_type: str | None) -> None:
    """The remedy names what is supported, and a long type is not repeated whole."""
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        read_files(content_type, b"data", max_files=1)
    assert "image/webp" in caught.value.remedy
    assert len(caught.value.detail) < 300


def test_a_part_of_an_unsupported_type_is_refused_by_its_place() -> None:
    """The refusal says which of the files it was."""
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        admitted(Part(b"a"), Part(b"b", filename="notes.txt", content_type="text/plain"))
    assert caught.value.document()["upload"] == 1
    assert caught.value.document()["filename"] == "notes.txt"


def test_a_text_field_in_place_of_a_file_is_refused_by_its_name() -> None:
    """The refusal names the field, and the remedy shows how a file is sent."""
    with pytest.raises(NotAFileError, match="'picture'") as caught:
        admitted(Part(b"digit.png", name="picture", filename=None, content_type=None))
    assert "@" in caught.value.remedy


def test_a_form_without_parts_is_refused() -> None:
    """A form that is well formed and empty has no file."""
    with pytest.raises(NoFileError):
        admitted()


def test_as_many_files_as_allowed_are_admitted_and_not_one_more() -> None:
    """The limit is exact."""
    assert len(admitted(*[Part(b"x")] * 3, max_files=3)) == 3
    with pytest.raises(TooManyFilesError, match="more than 3"):
        admitted(*[Part(b"x")] * 4, max_files=3)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=" + "x" * 71, b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"no boundary at all"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="i"'),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Type: image/png\r\n\r\ndata\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="i"; filename="f"\r\n\r\ncut',
        ),
    ],
)
def test_a_malformed_form_is_refused(content_type: str, body: bytes) -> None:
    """No boundary, an absurd one, another one, cut headers, no disposition, no end."""
    with pytest.raises(MalformedBodyError):
        read_files(content_type, body, max_files=1)


def test_part_headers_cannot_grow_without_bound() -> None:
    """Megabytes of headers are refused long before they are all parsed."""
    body = b"--x\r\n" + b"a: b\r\n" * (1 << 18)
    with pytest.raises(MalformedBodyError, match=str(MAX_PART_HEADER_BYTES)):
        read_files("multipart/form-data; boundary=x", body, max_files=1)


PIECES = [
    *(b"--x", b"--", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b" ", b":", b"data", b"\xff", b'"'),
    *(b"Content-Disposition: form-data", b'; name="i"', b'; filename="f"', b"; filename*=utf-8''%ff"),
    *(
        b"Content-Type: image/png",
        b"Content-Type: image/*",
        b'; filename=""',
        b"\r\n--x\r\n",
        b"\r\n--x--\r\n",
    ),
]


@given(
    pieces=st.lists(
        st.sampled_from(PIECES),
        min_size=1,
        max_size=30,
    )
)
def test_any_body_gives_uploads_or_a_refusal(pieces: list[bytes]) -> None:
    """However the pieces of a form are jumbled, admission answers or refuses."""
    try:
        uploads = read_files("multipart/form-data; boundary=x", b"".join(pieces), max_files=4)
    except ProblemError as error:
        refusal = error
    else:
        assert uploads
        return
    assert 400 <= refusal.status < 500
