"""Hostile inputs, a few of the million that `python -m bench fuzz` feeds, and the benches that feed them."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.fuzzing import fuzz, hostile
from bench.fuzzing.fuzz import (
    BadlyTakenError,
    a_pipeline,
    feed_decoder,
    judge,
    through_pipeline,
    through_service,
)
from bench.memory import resident
from bench.memory.resident import MIB, Growth
from bench.memory.service import Client, a_pool, ask_all, framed
from bench.support.processes import Service, running
from bundle.repository import Bundle
from serving.predict.exchange import Request
from serving.predict.pipeline import Pipeline

FEW = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
chance = st.randoms(use_true_random=True)


def seeded(seed: int) -> Random:
    """Return the same chance for the same seed."""
    return Random(seed)  # noqa: S311  no secret


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Return a pipeline of this process."""
    with a_pipeline(tmp_path_factory.mktemp("fuzz")) as made:
        yield made


@FEW
@given(random=chance)
def test_a_damaged_file_is_decoded_or_refused(random: Random) -> None:
    """Never anything else, whatever is wrong with it."""
    feed_decoder(random)


def test_a_hostile_request_is_answered_or_refused(pipeline: Pipeline) -> None:
    """Never 5xx, and never without a remedy."""
    feed = through_pipeline(pipeline)

    @FEW
    @given(random=chance)
    def some(random: Random) -> None:
        assert int(feed(random)) < 500

    some()


def test_a_hostile_request_to_a_live_service_is_answered_or_refused(service: Service) -> None:
    """Under both worker classes; the service is there afterwards, in the same process."""
    workers = resident.children(service.process.pid)
    with through_service(service) as feed:

        @settings(FEW, max_examples=150)
        @given(random=chance)
        def some(random: Random) -> None:
            assert int(feed(random)) < 500

        some()
    assert service.ask("GET", "/readyz").status == 200
    assert resident.children(service.process.pid) == workers


def test_hostile_inputs_reach_all_that_they_are_made_for(pipeline: Pipeline) -> None:
    """Files of every fault and whole ones; requests that are answered, and refused in every way."""
    random = seeded(3)
    assert {feed_decoder(random) for _ in range(2000)} >= {"decoded", "damaged", "size", "animated", "format"}
    feed = through_pipeline(pipeline)
    assert {feed(random) for _ in range(1500)} >= {"200", "400", "404", "413", "415", "422"}


@pytest.mark.parametrize(
    ("status", "media_type", "body"),
    [
        (500, "application/problem+json", b'{"remedy": "x"}'),
        (200, "application/json", b"{"),
        (400, "application/problem+json", b'{"detail": "x"}'),
        (200, "application/json", b'{"predictions": [{"probabilities": {"a": 0.5, "b": 0.6}}]}'),
    ],
)
def test_a_bad_answer_would_be_noticed(status: int, media_type: str, body: bytes) -> None:
    """The judge of the fuzz run judges, and keeps what it was about."""
    with pytest.raises(BadlyTakenError, match="the input is in") as caught:
        judge(Request(method="POST", path="/predict", body=b"marked"), status, media_type, body)
    file = Path(str(caught.value).rpartition(" ")[2])
    assert b"marked" in file.read_bytes()
    file.unlink()


def test_an_error_of_another_kind_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the decoder must never raise fails the run."""

    def fail(_: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(fuzz, "decode", fail)
    with pytest.raises(BadlyTakenError, match="MemoryError") as caught:
        feed_decoder(seeded(1))
    file = Path(str(caught.value).rpartition(" ")[2])
    assert file.read_bytes() == hostile.file(seeded(1))
    file.unlink()


def test_growth_is_told_from_a_warm_up_and_from_a_moment() -> None:
    """A leak shows; a start and a single large request do not."""

    def grown(samples: list[int]) -> float:
        growth = Growth()
        growth.samples = [MIB * sample for sample in samples]
        return growth.mebibytes()

    assert grown([*range(0, 100, 2), *[100] * 50]) == 0
    assert grown([*[100] * 60, 900, *[100] * 39]) == 0
    assert grown(list(range(100))) == pytest.approx(38, abs=1)


def test_the_memory_of_this_process_is_what_it_holds() -> None:
    """Sixty-four mebibytes more are sixty-four mebibytes more."""
    growth = Growth()
    growth.sample()
    held = bytearray(b"x") * (64 * MIB)
    growth.sample()
    assert growth.samples[1] - growth.samples[0] == pytest.approx(len(held), abs=4 * MIB)


@pytest.mark.parametrize("worker", ["inference", "gthread"])
def test_memory_stays_flat_over_mixed_requests(bundle: Bundle, tmp_path: Path, worker: str) -> None:
    """A hundredth of what `python -m bench memory` asks; no answer of 5xx, no client without one."""
    pool = a_pool(seeded(0))
    with running(tmp_path, until="/readyz", model=bundle.path.parent, worker=worker) as service:
        asked = ask_all(service, pool, 2500, seed=0)
    assert asked.growth.mebibytes() < 8
    assert sum(asked.statuses.values()) > 2400
    assert set(asked.statuses) >= {200, 400, 404, 415, 422}
    assert max(asked.statuses) < 500


def test_the_benchs_client_reads_what_is_sent(service: Service) -> None:
    """Bodies, no bodies and refusals on one connection, one behind the other."""
    client = Client(service.port)
    try:
        statuses = [
            client.ask(framed(method, path, {"content-type": "image/png"}, b"x" if method == "POST" else b""))
            for method, path in (
                ("GET", "/livez"),
                ("HEAD", "/livez"),
                ("POST", "/predict"),
                ("GET", "/none"),
            )
        ]
    finally:
        client.close()
    assert statuses == [200, 200, 415, 404]
