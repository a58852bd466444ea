"""What `promtool check metrics` finds fault with, for machines that have no promtool.

The rules and the lists of words are those of github.com/prometheus/client_golang,
prometheus/testutil/promlint/validations.
"""

import re
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

NOT_BASE_UNITS = {
    *("minutes", "hours", "days", "weeks", "kelvins", "fahrenheit", "rankine", "inches", "yards"),
    *("miles", "bits", "calories", "pounds", "ounces"),
}
BASE_UNITS = (
    "amperes",
    "bytes",
    "celsius",
    "grams",
    "joules",
    "kelvin",
    "meters",
    "metres",
    "seconds",
    "volts",
)
PREFIXES = (
    *("pico", "nano", "micro", "milli", "centi", "deci", "deca", "hecto", "kilo", "kibi", "mega"),
    *("mibi", "giga", "gibi", "tera", "tebi", "peta", "pebi"),
)
ABBREVIATIONS = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"}
TYPES = {"counter", "gauge", "summary", "histogram"}


def problems(text: str) -> list[str]:
    """Return what is wrong with the names, units, help and labels of an exposition, in words."""
    # The parser gives every counter the ending that it should have, so that is read off the text.
    counters = re.findall(r"^# TYPE (\S+) counter$", text, re.MULTILINE)
    found = [f"{name}: a counter ends in _total" for name in counters if not name.endswith("_total")]
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        if family.type != "counter" and family.name.endswith("_total"):
            found.append(f"{name}: only counters end in _total")
        if family.type == "gauge" and family.name.endswith(("_count", "_sum", "_bucket")):
            found.append(f"{name}: the ending is a histogram's")
        if not family.documentation:
            found.append(f"{name}: no help")
        found += [f"{name}: {problem}" for problem in _of_name(name)]
        for label in {label for sample in family.samples for label in sample.labels}:
            if re.search("[a-z][A-Z]", label):
                found.append(f"{name}: the label {label} is in camel case")
            if label == "quantile" or (label == "le" and family.type != "histogram"):
                found.append(f"{name}: the label {label} is reserved")
    return found


def _of_name(name: str) -> Iterable[str]:
    words = name.lower().split("_")[1:]  # the first is the prefix
    if re.search("[a-z][A-Z]", name):
        yield "camel case"
    if ":" in name:
        yield "colons are for recording rules"
    for word in words:
        if word in NOT_BASE_UNITS or any(word == prefix + unit for prefix in PREFIXES for unit in BASE_UNITS):
            yield f"{word} is no base unit"
        if word in ABBREVIATIONS:
            yield f"{word} is an abbreviated unit"
        if word in TYPES:
            yield f"{word} is a type"
