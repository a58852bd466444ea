"""The queries of the dashboard, the alerts and KEDA, parsed by another's parser, against a service's real metrics."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.support.management import managed
from bench.support.models import publish_synthetic
from bench.support.pictures import a_digit, png
from bundle.repository import Bundle
from serving.telemetry.alerts import ALERTS
from tests.k8s.rendering import K8S, component

ADDED = {"job", "instance"}
"""Labels that Prometheus gives to whatever it scrapes."""
NOT_OURS = {"up"}
"""Prometheus's own metric of a target."""
DASHBOARD = json.loads((K8S / "components" / "dashboard" / "glyph.json").read_text())


@dataclass
class Asked:
    """What a query asks for: metrics, the labels it chooses them by, the labels it sums them by."""

    metrics: set[str] = field(default_factory=set)
    matched: set[tuple[str, str, str]] = field(default_factory=set)
    """Metric, label, value; only of matchers by equality."""
    grouped: set[str] = field(default_factory=set)


def queries() -> Iterator[tuple[str, str]]:
    """Yield every query with a name for it, Grafana's variables filled in."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "1m").replace("$job", "glyph")
            yield f"{panel['title']} {target['refId']}", query
    yield from ((alert.name, alert.expression) for alert in ALERTS)
    for number, trigger in enumerate(component("keda").one("ScaledObject", "glyph")["spec"]["triggers"]):
        yield f"keda {number}", trigger["metadata"]["query"]


def asked(query: str) -> Asked:
    """Return what a query asks for, by its syntax tree."""
    found = Asked()
    waiting: list[Any] = [promql_parser.parse(query)]
    while waiting:
        node = waiting.pop()
        match type(node).__name__:
            case "VectorSelector":
                found.metrics.add(node.name)
                for matcher in node.matchers.matchers:
                    if matcher.op == promql_parser.MatchOp.Equal:
                        found.matched.add((node.name, matcher.name, matcher.value))
            case "MatrixSelector":
                waiting.append(node.vector_selector)
            case "AggregateExpr":
                found.grouped |= _by(node)
                waiting.append(node.expr)
            case "BinaryExpr":
                waiting += [node.lhs, node.rhs]
            case "Call":
                waiting += node.args
            case "ParenExpr" | "UnaryExpr" | "SubqueryExpr":
                waiting.append(node.expr)
            case other:
                assert other == "NumberLiteral", f"{query}: {other} is not looked into"
    return found


def _by(node: promql_parser.AggregateExpr) -> set[str]:
    if node.modifier is None:
        return set()
    assert node.modifier.type == promql_parser.AggModifierType.By
    return set(node.modifier.labels)


Samples = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Return the labels of every sample of a service that has answered, refused and classified, by its name."""
    directory = tmp_path_factory.mktemp("service")
    bundle: Bundle = publish_synthetic(directory)
    with managed(directory, model=bundle.path.parent) as pod:
        for _ in range(3):
            assert pod.service.post(png(a_digit())).status == 200
        assert pod.service.post(b"no image").status == 415
        pod.await_value(3, "glyph_prediction_confidence_count")
        text = pod.ask("/metrics").body.decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.parametrize(("name", "query"), [pytest.param(*pair, id=pair[0]) for pair in queries()])
def test_a_query_finds_what_it_asks_for(name: str, query: str, samples: Samples) -> None:
    """Its metrics are exposed, with the labels that it matches and groups by."""
    wanted = asked(query)
    assert wanted.metrics
    assert wanted.metrics - NOT_OURS <= samples.keys(), name
    for metric, label, value in wanted.matched:
        if label in ADDED:
            assert (label, value) == ("job", "glyph")
        elif label not in ("reason", "status", "provider"):  # what has not happened has no sample
            assert value in {labels.get(label) for labels in samples[metric]}, f"{name}: {label}={value}"
        else:
            assert any(label in labels for labels in samples[metric])
    exposed = {
        label for metric in wanted.metrics & samples.keys() for labels in samples[metric] for label in labels
    }
    assert wanted.grouped <= exposed | ADDED, name


def test_a_query_of_what_is_not_there_is_found(samples: Samples) -> None:
    """The test above sees a metric that nobody has, and a label."""
    wanted = asked('sum by (colour) (rate(glyph_nothing_total{route="/predict"}[5m]))')
    assert wanted.metrics - samples.keys() == {"glyph_nothing_total"}
    assert wanted.grouped == {"colour"}
    assert wanted.matched == {("glyph_nothing_total", "route", "/predict")}
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql_parser.parse("sum(rate(glyph_workers[5m])")


def test_the_dashboards_panels_are_ready_to_show() -> None:
    """Numbers and places are unique, units are set, the data source and the job can be chosen."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(0 <= x < 24 for x, _ in cells)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "job"}
    for panel in panels:
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all('job="$job"' in target["expr"] for target in panel["targets"])
