"""The door: which requests would hold the loop up, by what their decoding takes."""

import pytest

from serving.inference.door import LARGE_BODY, LARGE_PIXELS, takes_long
from serving.messages import Request

OCTETS = {"content-type": "application/octet-stream"}
NPY = {"content-type": "application/x-npy"}
INFER = "/v2/models/mnist/infer"
LENGTH = "inference-header-content-length"


@pytest.mark.parametrize(
    ("path", "headers", "size", "expected"),
    [
        ("/predict", {"content-type": "image/png"}, LARGE_BODY, False),
        ("/predict", {"content-type": "image/png"}, LARGE_BODY + 1, True),
        ("/predict", {"content-type": "application/json"}, LARGE_BODY + 1, True),
        ("/predict", {}, LARGE_BODY + 1, True),
        ("/predict", OCTETS, LARGE_BODY + 1, False),
        ("/predict", NPY, LARGE_PIXELS, False),
        ("/predict", OCTETS, LARGE_PIXELS + 1, True),
        ("/predict", OCTETS | {"content-encoding": "gzip"}, 1, True),
        (INFER, OCTETS | {LENGTH: "0"}, LARGE_PIXELS, False),
        (INFER, OCTETS | {LENGTH: "120"}, LARGE_PIXELS, False),
        (INFER, OCTETS | {LENGTH: str(LARGE_BODY + 1)}, LARGE_PIXELS, True),  # most of it is JSON
        (INFER, OCTETS | {LENGTH: "0" * 20 + "9" * 9}, LARGE_PIXELS, True),
        (INFER, OCTETS | {LENGTH: "-1"}, LARGE_PIXELS, True),
        (INFER, OCTETS, LARGE_BODY + 1, True),  # without the field all of it is JSON, whatever it is called
        (INFER, {LENGTH: "120"}, LARGE_BODY + 1, True),
    ],
)
def test_pixels_may_be_more_than_what_has_to_be_decoded(
    path: str, headers: dict[str, str], size: int, expected: bool
) -> None:
    """Files, forms, JSON and compressed bodies go to a thread where four times as many pixels do not."""
    request = Request(method="POST", path=path, headers=headers, body=bytes(size))
    assert takes_long(request) is expected
