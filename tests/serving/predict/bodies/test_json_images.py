"""JSON bodies: the forms of an image that clients send, beside those of test_predict.py."""

import base64
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.support.pictures import SAMPLES, Pixels, a_digit, png
from bundle.manifest import Polarity
from serving.errors import (
    BrokenImageError,
    InvalidInstanceError,
    MalformedBodyError,
    ProblemError,
    UnsupportedMediaTypeError,
)
from serving.predict.bodies import json_images

WHITE: Polarity = "white-on-black"


def read(*instances: Any, **members: Any) -> list[Pixels]:
    """Return the images of a body with these instances and other members."""
    body = orjson.dumps({"instances": instances, **members}, option=orjson.OPT_SERIALIZE_NUMPY)
    return [image.pixels for image in json_images.read(body, WHITE, 100)]


def encoded(data: bytes | None = None) -> str:
    """Return a file in base64; of no length by default that needs no padding."""
    return base64.b64encode(png(a_digit()) if data is None else data).decode()


@pytest.mark.parametrize("shape", [(28, 28), (784,), (28, 28, 1), (1, 28, 28)])
def test_an_image_may_have_an_axis_for_its_one_channel(shape: tuple[int, ...]) -> None:
    """As TensorFlow's clients send it, last, and PyTorch's, first."""
    one, two = read(a_digit().reshape(shape).tolist(), a_digit().T.reshape(shape).tolist())
    assert np.array_equal(one, a_digit())
    assert np.array_equal(two, a_digit().T)


def test_a_batch_with_an_axis_of_channels_is_read_in_pieces_too() -> None:
    """A body that is too large for a single pass."""
    found = read(*[a_digit()[..., None].tolist()] * 50)
    assert len(found) == 50
    assert all(np.array_equal(one, a_digit()) for one in found)


@pytest.mark.parametrize(
    "instance",
    [
        np.zeros((28, 28, 3)).tolist(),
        np.zeros((28, 27, 1)).tolist(),
        np.zeros((2, 28, 28)).tolist(),
        np.zeros((1, 1, 28, 28)).tolist(),
        [[[0]] * 28] * 27 + [[0] * 28],
        [[]] * 28,
        [[[]]],
        [[]],
        [],
    ],
)
def test_another_nesting_is_refused(instance: Any) -> None:
    """Of colours, of another size, ragged, empty."""
    with pytest.raises(InvalidInstanceError):
        read(instance)


@given(
    st.recursive(
        st.integers(0, 255),
        lambda inner: st.lists(inner, max_size=3) | inner.map(lambda one: [one] * 28),
        max_leaves=20,
    )
)
def test_any_nesting_gives_an_image_or_a_refusal(instance: Any) -> None:
    """Lists within lists, some of them of 28."""
    try:
        (found,) = read(instance)
    except ProblemError as error:
        assert 400 <= error.status < 500  # noqa: PT017  a property: both ways out are right
    else:
        assert found.shape == (28, 28)


def test_the_signature_that_tensorflow_serving_has_is_allowed() -> None:
    """Its clients name one beside the instances; there is only one here."""
    assert np.array_equal(read(a_digit().tolist(), signature_name="serving_default")[0], a_digit())
    with pytest.raises(InvalidInstanceError, match="'signature_name' is 7"):
        read(a_digit().tolist(), signature_name=7)
    with pytest.raises(InvalidInstanceError, match="unknown member 'signature'"):
        read(a_digit().tolist(), signature="serving_default")


def test_a_byte_order_mark_before_the_json_is_ignored() -> None:
    """Windows' tools write one."""
    body = b"\xef\xbb\xbf" + orjson.dumps({"instances": [a_digit().tolist()]})
    assert np.array_equal(json_images.read(body, WHITE, 1)[0].pixels, a_digit())


@pytest.mark.parametrize("media_type", SAMPLES)
@pytest.mark.parametrize(
    "head",
    [
        "data:{};base64,",
        "data:{};charset=utf-8;base64,",
        "data:{};name=digit.png;base64,",
        "data:{}; charset=utf-8 ; base64,",
        "DATA:{};BASE64,",
        "data:;base64,",
        "data:application/octet-stream;base64,",
        "data:image/*;base64,",
    ],
)
def test_a_data_url_may_have_parameters_or_no_type(head: str, media_type: str) -> None:
    """RFC 2397, section 3; the content decides where nothing is declared."""
    url = head.format(media_type) + encoded(SAMPLES[media_type])
    assert read(url)[0].shape == (28, 28)


@pytest.mark.parametrize(
    "head", ["data:,", "data:image/png,", "data:text/html;base64,", "data:image/png;base64"]
)
def test_a_data_url_of_anything_else_is_refused(head: str) -> None:
    """Of another type, or not in base64."""
    with pytest.raises(UnsupportedMediaTypeError, match="not of an image in base64"):
        read(head + "iVBORw0KGgo=")


def test_a_data_url_of_another_image_than_it_declares_is_refused() -> None:
    """Parameters do not hide the type."""
    with pytest.raises(UnsupportedMediaTypeError, match="declared as image/gif, but it is image/png"):
        read(f"data:image/gif;charset=utf-8;base64,{encoded()}")


@given(
    st.sampled_from(list(SAMPLES)), st.booleans(), st.booleans(), st.integers(1, 100), st.binary(max_size=3)
)
def test_base64_is_read_in_every_usual_form(
    media_type: str, safe: bool, padded: bool, width: int, tail: bytes
) -> None:
    """With line breaks (RFC 2045), in the URL-safe alphabet (RFC 4648, section 5), without padding."""
    data = SAMPLES[media_type] + tail
    text = (base64.urlsafe_b64encode if safe else base64.b64encode)(data).decode()
    text = text if padded else text.rstrip("=")
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    expected = read(encoded(data))[0]
    for written in (text, "\r\n".join(lines), "\n".join(lines) + "\n", {"b64": " ".join(lines)}):
        assert np.array_equal(read(written)[0], expected)


@pytest.mark.parametrize("text", ["no base64!", "ÿ" * 8, "abcde", "iVBORw==0KGgo=", "a", "%69VBOR"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    """Other characters, padding within, a lone character at the end."""
    with pytest.raises(InvalidInstanceError, match="not base64"):
        read(text)


def test_a_file_that_is_cut_is_broken_and_not_called_base64() -> None:
    """Its length no longer needs to be a multiple of four characters."""
    with pytest.raises(BrokenImageError):
        read("iVBORw0KGgo")


def test_another_body_that_is_declared_as_json_is_told_its_type() -> None:
    """JSON with a fault is not."""
    with pytest.raises(MalformedBodyError) as caught:
        json_images.read(png(a_digit()), WHITE, 1)
    assert "Content-Type: image/png" in caught.value.remedy
    with pytest.raises(MalformedBodyError) as caught:
        json_images.read(b'{"instances": [', WHITE, 1)
    assert "RFC 8259" in caught.value.remedy
