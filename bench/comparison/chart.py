"""The report's SVG charts, for light and dark pages: bars of rates, lines of latency against load."""

from collections.abc import Mapping, Sequence
from html import escape
from math import log10

from bench.comparison.contender import BASELINE, GLYPH

WIDTH, LEFT, BAR = 760, 190, 18
COLOURS = {1: "#9ecae1", 16: "#4292c6", 64: "#084594"}
LINES = ("#084594", "#d94801", "#238b45", "#6a51a3", "#a50f15", "#525252", "#8c6d31", "#c51b8a")
STYLE = """\
<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.grid { stroke: #8c959f; stroke-width: .5; opacity: .5 }
@media (prefers-color-scheme: dark) { text { fill: #c9d1d9 } }
</style>
"""


def bars(rates: Mapping[str, Mapping[int, float]], titles: Mapping[str, str], caption: str) -> str:
    """Return a bar chart of requests/s: a group for each server, a bar for each number of connections."""
    order = sorted(rates, key=lambda name: -max(rates[name].values()))
    longest = max((rate for of in rates.values() for rate in of.values()), default=1.0)
    body, y = "", 48
    for name in order:
        top = y
        for connections, rate in sorted(rates[name].items()):
            width = max((WIDTH - LEFT - 150) * rate / longest, 1)
            base = rates.get(BASELINE, {}).get(connections, 0.0)
            note = f"{rate:,.0f}" + (f" · {rate / base:.1f}x" if base else "")
            colour = COLOURS.get(connections, "#4292c6")
            body += f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 4}" fill="{colour}"/>\n'
            body += f'<text x="{LEFT + width + 6:.1f}" y="{y + 12}">{note}</text>\n'
            y += BAR
        weight = ' font-weight="bold"' if name == GLYPH else ""
        middle = (top + y) / 2 + 3
        label = escape(titles.get(name, name))
        body += f'<text x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end"{weight}>{label}</text>\n'
        y += 10
    legend, x = "", LEFT
    for connections in sorted({count for of in rates.values() for count in of}):
        legend += (
            f'<rect x="{x}" y="28" width="12" height="12" fill="{COLOURS.get(connections, "#4292c6")}"/>'
        )
        legend += (
            f'<text x="{x + 16}" y="39">{connections} connection{"s" if connections > 1 else ""}</text>\n'
        )
        x += 130
    return _svg(WIDTH, y + 8, caption, legend + body)


def lines(
    sweeps: Mapping[str, Sequence[Mapping[str, float]]], titles: Mapping[str, str], caption: str
) -> str:
    """Return a line chart of p99 against the offered rate; both axes are logarithmic."""
    height, bottom, right = 420, 380, 560
    points = [point for of in sweeps.values() for point in of if point["p99"] > 0 and point["offered"] > 0]
    if not points:
        return _svg(WIDTH, height, caption, "")
    x_low, x_high = _decades([point["offered"] for point in points])
    y_low, y_high = _decades([point["p99"] * 1e3 for point in points])

    def x_of(rate: float) -> float:
        return 60 + (right - 60) * (log10(rate) - x_low) / (x_high - x_low)

    def y_of(milliseconds: float) -> float:
        return bottom - (bottom - 48) * (log10(milliseconds) - y_low) / (y_high - y_low)

    body = ""
    for decade in range(x_low, x_high + 1):
        x = x_of(10.0**decade)
        body += f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="48" y2="{bottom}"/>\n'
        body += f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{10**decade:,}/s</text>\n'
    for decade in range(y_low, y_high + 1):
        y = y_of(10.0**decade)
        body += f'<line class="grid" x1="60" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>\n'
        body += f'<text x="54" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:g} ms</text>\n'
    for place, (name, of) in enumerate(sweeps.items()):
        colour = LINES[place % len(LINES)]
        path = " ".join(f"{x_of(point['offered']):.1f},{y_of(point['p99'] * 1e3):.1f}" for point in of)
        width = 3 if name == GLYPH else 1.5
        body += f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>\n'
        y = 60 + 20 * place
        line = f'x1="{right + 16}" x2="{right + 36}" y1="{y}" y2="{y}"'
        body += f'<line {line} stroke="{colour}" stroke-width="{width}"/>\n'
        body += f'<text x="{right + 42}" y="{y + 4}">{escape(titles.get(name, name))}</text>\n'
    return _svg(WIDTH, height, caption, body)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the exponents of the powers of ten that enclose all values, at least one apart."""
    low = int(log10(min(values)) // 1)
    return low, max(int(-(-log10(max(values)) // 1)), low + 1)


def _svg(width: int, height: float, caption: str, body: str) -> str:
    title = f'<text x="8" y="18" font-weight="bold">{escape(caption)}</text>\n'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{escape(caption)}">\n{STYLE}{title}{body}</svg>\n'
    )
