"""What every answer carries: where its time went, phase by phase."""

import pytest

from serving.predict.exchange import Exchange, Request, Target
from serving.predict.pipeline import server_timing


@pytest.mark.parametrize(
    ("phases", "batch", "expected"),
    [
        (
            {"queue": 0.0012345, "decode": 0.00002, "infer": 0.5, "encode": 0.000001},
            64,
            'queue;dur=1.234, decode;dur=0.020, infer;dur=500.000, encode;dur=0.001, batch;desc="64"',
        ),
        (
            {"encode": 0.001, "infer": 0.002, "decode": 0.003, "queue": 0.004},
            1,
            'queue;dur=4.000, decode;dur=3.000, infer;dur=2.000, encode;dur=1.000, batch;desc="1"',
        ),
        ({"queue": 0.25}, 0, "queue;dur=250.000"),
        ({"queue": 0.001, "decode": 0.002}, 3, 'queue;dur=1.000, decode;dur=2.000, batch;desc="3"'),
    ],
)
def test_each_phase_has_its_own_time(phases: dict[str, float], batch: int, expected: str) -> None:
    """In milliseconds, in the order in which they follow each other; a refused request has those it came to."""
    request = Request(method="POST", path="/predict")
    exchange = Exchange(
        request=request,
        target=Target("/predict"),
        arrived=0.0,
        id="a",
        method="POST",
        path="/predict",
        route="/predict",
        phases=phases,
        batch=batch,
    )
    assert server_timing(exchange) == expected
