"""What `/metrics` says, against NumPy, against Prometheus's own parsers and rules, and against the document."""

import math
import re
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import orjson
import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from bench.support.management import Managed, await_, managed
from bench.support.models import CLASSES, Linear
from bench.support.pictures import a_digit, png
from bench.support.processes import ANSWER_SECONDS, ROOT, Part, form
from bundle.repository import Bundle
from serving import reference
from serving.predict.pipeline import PHASES
from serving.security.tokens import digest_of
from serving.system.cpus import multiplies_bytes
from serving.telemetry import shared_memory
from serving.telemetry.alerts import ALERTS, rules
from serving.telemetry.catalogue import CATALOGUE, NATS, PROBABILITY, SECONDS
from serving.telemetry.metrics import Metrics
from serving.telemetry.request_record import RequestRecord
from serving.telemetry.shared_memory import SharedCounters
from tests.serving.management.test_management import workers_of
from tests.serving.telemetry.promlint import problems

PRIVATE = {"heartbeat", "state", "drift"}
"""Runs of numbers that are not metrics themselves but what some are computed from."""


@pytest.fixture(scope="session")
def busy(pod: Managed) -> Managed:
    """Return the service after one request of each sort that a labelled metric waits for."""
    assert pod.service.post(png(a_digit())).status == 200
    assert pod.service.post(b"no image").status == 415
    assert pod.service.ask("GET", "/nothing").status == 404
    before = pod.value("glyph_http_requests_total", route="/predict", status="200")
    pod.await_value(before, "glyph_predictions_total")
    return pod


def families(pod: Managed) -> dict[str, Metric]:
    """Return what is exposed, by the name that the catalogue has."""
    text = pod.ask("/metrics").body.decode()
    return {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(text)
    }


def test_statistics_of_predictions_agree_with_numpy(
    bundle: Bundle, linear: Linear, tmp_path: Path, worker_class: str
) -> None:
    """Classes, confidence, entropy and drift of 150 images that were asked for in forms and one by one."""
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (150, 28, 28), dtype=np.uint8) // random.integers(
        1, 8, (150, 1, 1), dtype=np.uint8
    )
    with managed(tmp_path, worker=worker_class, model=bundle.path.parent) as pod:
        for start in range(0, 140, 70):
            body, media_type = form(*(Part(png(image)) for image in images[start : start + 70]))
            assert pod.service.post(body, media_type).status == 200
        for image in images[140:]:
            assert pod.service.post(png(image)).status == 200
        pod.await_value(150, "glyph_prediction_confidence_count")
        samples = pod.samples()
    probabilities = linear.probabilities(images).astype(np.float64)

    def value(name: str, **labels: str) -> float:
        return samples[name, frozenset(labels.items())]

    counts = np.bincount(probabilities.argmax(axis=1), minlength=10)
    for label, count in zip(CLASSES, counts, strict=True):
        assert value("glyph_predictions_total", version="1", **{"class": label}) == count
    confidence = probabilities.max(axis=1)
    entropy = -(probabilities * np.log(probabilities)).sum(axis=1)
    for name, values, bounds in (
        ("glyph_prediction_confidence", confidence, PROBABILITY),
        ("glyph_prediction_entropy_nats", entropy, NATS),
    ):
        assert value(f"{name}_sum") == pytest.approx(values.sum(), rel=1e-3)
        for bound in bounds:
            # float32 and float64 may stand on different sides of a bound.
            nearest = (values <= bound - 1e-4).sum(), (values <= bound + 1e-4).sum()
            assert nearest[0] <= value(f"{name}_bucket", le=str(bound)) <= nearest[1]
    # The published reference is two bins of five images, and one prediction of each class.
    ink = np.array([(images.mean(axis=(1, 2)) < 128).sum(), (images.mean(axis=(1, 2)) >= 128).sum()])
    for feature, observed, expected in (
        ("mean_ink", ink, np.array([5, 5])),
        ("class", counts, np.ones(10)),
    ):
        p = (observed + 0.5) / (observed + 0.5).sum()
        q = (expected + 0.5) / (expected + 0.5).sum()
        index = sum((p - q) * np.log(p / q))
        assert value("glyph_drift_psi", feature=feature, version="1") == pytest.approx(index, rel=1e-6)
    assert value("glyph_drift_window_images", version="1") == 150
    assert value("glyph_batch_images_sum") == 150


@pytest.mark.parametrize("count", [1, 7, 8, 64])
def test_a_batch_is_counted_as_its_requests_one_by_one(count: int) -> None:
    """Whatever its size, with routes of both protocols, and with times on and beyond the edges of the buckets."""
    random = np.random.default_rng(count)
    edges = [*SECONDS, 0.0, 60.0]
    records = [
        RequestRecord(
            id="a",
            method="POST",
            path="/",
            route=("/predict", "/v2/models/{model}/infer")[place % 8 == 0],
            status=200,
            seconds=float(random.choice(edges)),
            phases={phase: float(random.choice(edges)) for phase in PHASES},
            batch=count,
        )
        for place in range(count)
    ]
    alone, together = SharedCounters.anonymous(), SharedCounters.anonymous()
    metrics = Metrics(alone)
    for record in records:
        metrics.observe(record)
    Metrics(together).observe_batch(records)
    np.testing.assert_allclose(together.array, alone.array, rtol=1e-12)
    assert alone.array.sum() > 0


def test_every_documented_metric_is_emitted_and_no_other(busy: Managed) -> None:
    """The catalogue, the document's table and a service that works name the same metrics."""
    exposed = families(busy)
    assert set(exposed) == set(CATALOGUE)
    for name, family in exposed.items():
        assert family.samples, f"{name} is never emitted"
        assert family.type == CATALOGUE[name].kind
        assert family.documentation == CATALOGUE[name].help
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels == set(CATALOGUE[name].labels)
    table = (
        (ROOT / reference.DOCUMENT).read_text().split("<!-- table: metrics -->")[1].split("<!-- end -->")[0]
    )
    documented = re.findall(r"^\| `([a-z_]+)", table, re.MULTILINE)
    assert documented == list(CATALOGUE)


def test_nothing_is_counted_that_the_catalogue_does_not_know(busy: Managed) -> None:
    """What a worker wrote under another name would be read by nobody."""
    for worker in workers_of(busy.service.process.pid):
        maps = Path(f"/proc/{worker}/maps").read_text().splitlines()
        (path,) = {line.split()[-1] for line in maps if line.endswith(".counters")}
        found = shared_memory.read(Path(path))
        assert found
        assert {orjson.loads(key)[0] for key in found} <= set(CATALOGUE) | PRIVATE


def test_names_and_units_follow_the_conventions(busy: Managed) -> None:
    """By Prometheus's own rules, and by promtool itself where there is one."""
    text = busy.ask("/metrics").body
    assert problems(text.decode()) == []
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "metrics"], input=text, check=True)


def test_the_rules_find_what_they_are_for() -> None:
    """A lint that finds nothing anywhere proves nothing."""
    bad = """\
# TYPE glyph_wait_milliseconds gauge
glyph_wait_milliseconds{userName="a"} 1
# HELP glyph_size_kb Size
# TYPE glyph_size_kb counter
glyph_size_kb 1
# HELP glyph_gauge_total A gauge
# TYPE glyph_gauge_total gauge
glyph_gauge_total 1
"""
    found = "\n".join(problems(bad))
    for words in (
        "no base unit",
        "no help",
        "camel case",
        "ends in _total",
        "only counters",
        "abbreviated",
        "a type",
    ):
        assert words in found


def test_open_metrics_is_spoken_where_it_is_asked_for(busy: Managed) -> None:
    """Its parser is strict: order, suffixes, escapes, and the end mark."""
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = busy.ask("/metrics", Accept=accept)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in open_metrics(answer.body.decode())
    }
    assert names == set(CATALOGUE)
    plain = busy.ask("/metrics")
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_an_operator_sees_where_and_what_is_served(busy: Managed, bundle: Bundle) -> None:
    """Model, digest, provider, device, workers and their processes."""
    assert busy.value("glyph_model_info", name="synthetic", version="1", digest=bundle.manifest.digest) == 1
    where = {
        "provider": "cpu",
        "device": "cpu",
        "arithmetic": "integer" if multiplies_bytes() else "float32",
    }
    assert busy.value("glyph_execution_provider_info", **where) == 1
    busy.await_value(2, "glyph_model_workers", version="1")
    busy.await_value(2, "glyph_workers", state="ready")
    assert busy.value("glyph_golden_check_passed") == 1
    assert busy.value("glyph_model_loads_total", outcome="loaded") == 2
    assert math.isnan(busy.value("glyph_drift_psi", feature="class"))
    workers = workers_of(busy.service.process.pid)

    def resident() -> int:
        statuses = [Path(f"/proc/{worker}/status").read_text() for worker in workers]
        return 1024 * sum(int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) for status in statuses)

    # The kernel may take pages back between the two looks.
    await_(
        lambda: (
            busy.value("process_resident_memory_bytes", process="worker")
            == pytest.approx(resident(), rel=0.05)
        )
    )
    for kind in ("worker", "arbiter", "management"):
        assert busy.value("process_cpu_seconds_total", process=kind) > 0
        assert busy.value("process_open_fds", process=kind) > 0


def test_a_route_is_counted_as_it_is_written_and_a_made_up_one_as_other(busy: Managed) -> None:
    """A client must not be able to make labels: not by paths, and not by methods."""
    for path, route in (("/v2/models/synthetic", "/v2/models/{model}"), ("/a/b/c", "other")):
        before = busy.value("glyph_http_requests_total", route=route)
        busy.service.ask("GET", path)
        assert busy.value("glyph_http_requests_total", route=route) == before + 1
    busy.service.ask("BREW", "/a")
    methods = {
        dict(labels)["method"] for name, labels in busy.samples() if name == "glyph_http_requests_total"
    }
    assert methods <= {"GET", "POST", "other"}


def test_metrics_ask_for_a_token_where_they_are_told_to(bundle: Bundle, tmp_path: Path) -> None:
    """Probes stay open; the holder of a token gets the metrics."""
    file = tmp_path / "tokens"
    file.write_text(f"scraper sha256:{digest_of('a-token').hex()}\n")
    with managed(
        tmp_path, model=bundle.path.parent, tokens_file=file, metrics_token=True, until="/livez"
    ) as pod:
        assert pod.ask("/readyz").status in (200, 503)
        refused = pod.ask("/metrics")
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert pod.ask("/metrics", Authorization="Bearer another").status == 401
        assert pod.ask("/metrics", Authorization="Bearer a-token").status == 200


def test_the_document_is_what_the_code_prints() -> None:
    """Settings, metrics, alerts and errors: `python -m serving.reference` writes them."""
    text = (ROOT / reference.DOCUMENT).read_text()
    assert reference.rewritten(text) == text, "run python -m serving.reference"
    assert re.findall(r"<!-- table: ([a-z]+) -->", text) == list(reference.TABLES)


def test_alerts_name_metrics_and_labels_that_there_are() -> None:
    """An alert on a metric that nobody emits never fires."""
    assert {rule["alert"] for rule in yaml.safe_load(rules())["groups"][0]["rules"]} == {
        a.name for a in ALERTS
    }
    for alert in ALERTS:
        selectors = re.findall(r"((?:glyph|process)_[a-z_]+)(?:\{([^}]*)\})?", alert.expression)
        assert selectors or alert.name == "GlyphDown"
        for name, matchers in selectors:
            metric = CATALOGUE.get(name) or CATALOGUE[re.sub("_(bucket|count|sum)$", "", name)]
            for label, value in re.findall(r'([a-z_]+)="([^"]*)"', matchers):
                assert label in (*metric.labels, "le")
                if label == "le":
                    assert float(value) in metric.buckets
                elif label == "reason":
                    assert f"`{value}`" in reference.problems_table()
                elif metric.label_values:
                    assert value in metric.label_values


def test_what_never_became_a_request_is_counted_by_its_reason(bundle: Bundle, tmp_path: Path) -> None:
    """Bytes that no parser takes are refused before there is a route or a status to count; gthread tells nobody."""
    with managed(tmp_path, model=bundle.path.parent) as pod:
        with socket.create_connection(("127.0.0.1", pod.service.port), timeout=ANSWER_SECONDS) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
            assert b" 400 " in connection.makefile("rb").readline()
        pod.await_value(1, "glyph_refusals_total", reason="malformed-request")


def test_a_head_that_never_comes_is_one_refusal(bundle: Bundle, tmp_path: Path) -> None:
    """Who begins a request and does not go on is told 408, and is counted once."""
    with managed(tmp_path, model=bundle.path.parent, header_timeout_seconds=1) as pod:
        before = pod.value(
            "glyph_refusals_total", reason="request-timeout"
        )  # of who asked whether it is ready
        for count in (1, 2):
            with socket.create_connection(
                ("127.0.0.1", pod.service.port), timeout=ANSWER_SECONDS
            ) as connection:
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost")
                assert b" 408 " in connection.makefile("rb").readline()
            pod.await_value(before + count, "glyph_refusals_total", reason="request-timeout")
