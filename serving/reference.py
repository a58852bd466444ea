"""Generates the tables of docs/operations.md from the settings, metrics, alerts and errors, and the alerts of k8s/.

python -m serving.reference              writes the tables into docs/operations.md, and the alerts into k8s/components
python -m serving.reference --check      exits 1 if a file would change
python -m serving.reference --rules      prints the alerts as a Prometheus rules file

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the rest of the document is not changed.
"""

import argparse
import re
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic.fields import FieldInfo

from serving import errors
from serving.settings import ENVIRONMENT_PREFIX, ServiceSettings
from serving.telemetry.alerts import ALERTS, prometheus_rule, rules
from serving.telemetry.catalogue import CATALOGUE, Metric
from serving.worker.rpc.status import CODES

DOCUMENT = Path("docs/operations.md")
RULES = {
    Path("k8s/components/alerts/prometheusrule.yaml"): False,
    Path("k8s/components/alerts-gpu/prometheusrule.yaml"): True,
}
"""Manifests of alerts, and whether each has those for GPUs or the others."""
_TABLE = re.compile(r"(<!-- table: ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    """Return a table of the settings: variable, default, values, meaning."""
    rows = (
        (f"`{ENVIRONMENT_PREFIX}{name.upper()}`", _default(field), _values(field), field.description or "")
        for name, field in ServiceSettings.model_fields.items()
    )
    return _table(("variable", "default", "values", "meaning"), rows)


def metrics_table() -> str:
    """Return a table of the metrics: name with labels, kind, meaning."""
    rows = ((_metric_cell(metric), metric.kind, metric.help) for metric in CATALOGUE.values())
    return _table(("metric", "kind", "meaning"), rows)


def alerts_table() -> str:
    """Return a table of the alerts."""
    rows = (
        (
            alert.name,
            f"`{alert.expression}`",
            alert.duration,
            alert.severity,
            f"{alert.summary} {alert.description}",
        )
        for alert in ALERTS
    )
    return _table(("alert", "expression", "for", "severity", "meaning and remedy"), rows)


def problems_table() -> str:
    """Return a table of the kinds of problems that the service answers with."""
    kinds = sorted(errors.problem_classes(), key=lambda kind: (int(kind.status), kind.kind))
    rows = ((str(int(kind.status)), CODES[kind.status][1], f"`{kind.kind}`", kind.title) for kind in kinds)
    return _table(("status", "of gRPC", "type and `reason`", "title"), rows)


TABLES = {
    "settings": settings_table,
    "metrics": metrics_table,
    "alerts": alerts_table,
    "problems": problems_table,
}


def rewritten(text: str) -> str:
    """Return the document with newly generated tables.

    Raises:
        KeyError: the document names a table that does not exist.
    """
    return _TABLE.sub(lambda part: f"{part[1]}\n{TABLES[part[2]]()}\n{part[3]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, check them, or print the rules."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.reference",
        description="Write the tables of docs/operations.md and the alerts of k8s/.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file would change")
    parser.add_argument("--rules", action="store_true", help="print the alerts as a Prometheus rules file")
    options = parser.parse_args(arguments)
    if options.rules:
        print(rules(), end="")
        return 0
    wanted = {DOCUMENT: rewritten(DOCUMENT.read_text())}
    wanted |= {path: prometheus_rule(gpu=gpu) for path, gpu in RULES.items()}
    if options.check:
        return int(any(not path.exists() or path.read_text() != text for path, text in wanted.items()))
    for path, text in wanted.items():
        path.write_text(text)
    return 0


def _metric_cell(metric: Metric) -> str:
    labels = "{" + ", ".join(metric.labels) + "}" if metric.labels else ""
    return f"`{metric.name}{labels}`"


def _default(field: FieldInfo) -> str:
    if field.default is None or field.default == ():
        return "none"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def _values(field: FieldInfo) -> str:
    """Return the allowed values of a setting: its choices, or its type and bounds."""
    kind, metadata, optional = _unwrapped(field.annotation, list(field.metadata))
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    if choices:
        shown = ", ".join(f"`{choice}`" for choice in choices)
    elif typing.get_origin(kind) is tuple:
        shown = "several, with commas"
    else:
        word = {int: "integer", float: "number", bool: "`true`, `false`", Path: "path"}.get(kind, "text")
        above, low, high = (_bound(metadata, name) for name in ("gt", "ge", "le"))
        shown = word
        if low is not None and high is not None:
            shown = f"{word}, {low} to {high}"
        elif low is not None:
            shown = f"{word}, at least {low}"
        elif above is not None and high is not None:
            shown = f"{word}, above {above}, up to {high}"
        elif above is not None:
            shown = f"{word}, above {above}"
    return f"{shown}, `none`" if optional else shown


def _bound(metadata: list[Any], name: str) -> Any:
    """Return the bound with pydantic's name `gt`, `ge` or `le` from a setting's metadata, or None."""
    return next((found for bound in metadata if (found := getattr(bound, name, None)) is not None), None)


def _unwrapped(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any], bool]:
    """Return the type inside `Annotated[...]` and `... | None`, its metadata, and whether None is allowed."""
    if typing.get_origin(annotation) is Annotated:
        inner, *more = typing.get_args(annotation)
        for one in more:
            metadata += one.metadata if isinstance(one, FieldInfo) else [one]
        return _unwrapped(inner, metadata)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = next(one for one in typing.get_args(annotation) if one is not type(None))
        return *_unwrapped(inner, metadata)[:2], True
    return annotation, metadata, False


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; bars within cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
