"""Writes docs/benchmarks.md from the measurements: medians with their spread, each with its ratio to naive Flask."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan
from statistics import median
from typing import Any

from bench.comparison import ceiling
from bench.comparison.contender import BASELINE, CONSTANT, FLOAT32, GLYPH, IMAGES, WORKLOADS
from bench.comparison.contenders import CONTENDERS
from bench.load.statistics import Reading, middle, ratio, spread

Document = dict[str, Any]
MIB = 1 << 20

HOW = """\
Written by `python -m bench serving`; do not edit. Figures depend on the machine; ratios depend on it
less. [An older run](benchmarks-intel.md) is of an Intel Xeon with AMX.

    pip install uv
    python -m bench serving --model models/mnist --json results.json --markdown docs/benchmarks.md --readme README.md
"""

METHOD = """\
Every server runs the same network with ONNX Runtime on the CPU, in its own environment with pinned packages
(`bench/comparison/peers/locks`), from one small file (`bench/comparison/peers`), with the settings that its
documentation recommends for throughput. All decode with Pillow, `Image.open(file).convert("L")`, as Python services
commonly do, and open the session with the same options; Glyph has its own decoder for plain PNGs. *Mosec, Glyph's
decoder* is Mosec with that decoder: it shows the decoder's share, and does not count as a peer.

The peers run the bundle's float graph, `model.onnx`. *Glyph* runs as it comes: where the processor multiplies bytes
exactly it takes the bundle's second graph, the same network with its first layer in integers, whose weights are the
same numbers. *Glyph, float32* runs the float graph too, so its row beside the peers' compares servers on equal
arithmetic. *session.run alone* calls the float graph in a loop in one process, with the peers' session, on the servers'
core and in the same rounds, and does nothing else: what it computes is the ceiling for every server of that graph which
runs a request at a time.

The servers share {server}, with {workers}; the load generator has {client} for itself. All servers run at the same
time, and are measured in turns: each round measures every server once, in a random order.
{idle} A figure is the median over {rounds} rounds of {seconds:g} s, after a warm-up of 0.3 s. *± %* is the spread of
requests/s (images/s): how far the round that is farthest from the median is from it, in percent of the median, so that
every round lies within; the JSON file has it for p50, p99 and CPU too, and each round's figures. A ratio of two figures
whose spreads overlap says little. Thirty distinct images are sent in turns over keep-alive connections; twenty
responses of each round are compared with the graph's own probabilities.

CPU is the time of all of a server's processes for each response, including the kernel, whether the server was
saturated or not. Memory is the proportional set size of all its processes after the last round. A cold start is the
time from the command to the first correct response, with files cached.
"""

NOT_MEASURED = """\
Triton's ONNX Runtime backend: it comes in Triton's container images, and no package that can be installed has it.
PyPI's `tritonserver` has bindings without the server; PyTriton's package, `nvidia-pytriton`, has Triton's own server,
but only its Python backend. So *Triton, Python backend* is that server with a model in Python, which decodes and calls
ONNX Runtime as the other peers do: HTTP and batching are Triton's, and each batch passes through shared memory to the
model's process.
"""


def markdown(document: Document, chart: str | None = None, load_chart: str | None = None) -> str:
    """Return the report of all measurements."""
    about = document["about"]
    parts = ["# Glyph beside other model servers\n", HOW]
    code = f", commit {about['code']}" if about.get("code") else ""
    parts.append(
        f"{processor(document)}, {about['machine']['cores']} cores; Linux {about['machine']['kernel']}, "
        f"Python {about['machine']['python']}; {about['date']}{code}. Model: {about['model']}.\n"
    )
    if chart is not None:
        parts.append(f"![Requests/s of one PNG each, by server]({chart})\n")
    for workload, text in WORKLOADS.items():
        pieces = readings_of(document, workload)
        if pieces:
            parts.append(f"## {text[0].upper()}{text[1:]} a request\n")
        for connections, readings in pieces:
            parts.append(f"### {connections} connection{'s' if connections > 1 else ''}\n")
            parts.append(piece_table(workload, readings))
    parts += ["## Targets\n", aims_table(document), FLOORS]
    if document.get("open"):
        parts.append("## Latency against load\n")
        parts.append(OPEN)
        if load_chart is not None:
            parts.append(f"![p99 against load, by server]({load_chart})\n")
        parts += [load_table(workload, sweeps) for workload, sweeps in document["open"].items()]
    parts += [
        "## Start and memory\n",
        start_table(document),
        "## How it is measured\n",
        METHOD.format(**about["how"] | {"rounds": _rounds(document)}),
    ]
    parts += ["Settings:\n", settings_list(document), "## Not measured\n", NOT_MEASURED]
    return "\n".join(parts)


FLOORS = """\
The floors return a constant. *Constant Glyph* reads and writes HTTP without decoding or inference, so it is the cost of
the protocol in Glyph's worker and an upper bound for its rate. Where *busy* is above 90%, the load generator was the
bottleneck, and the figure is a lower bound.
"""

OPEN = """\
Requests are sent at a constant rate, independent of the responses (open loop); latency is measured from the time at
which a request was due, so that a stall delays all requests of that time (no coordinated omission). The rates are
shares of the server's closed-loop rate with 64 connections, measured directly before; a server's rows end at the first
rate at which fewer than 97% of the requests were answered, where the queue grows without limit. *Generator late* is the
longest that the load generator delayed a due request although a connection was free: where it is large, latencies may
be overstated.
"""


def processor(document: Document) -> str:
    """Return the processor's name, with what it multiplies fast."""
    machine = document["about"]["machine"]
    known = ", ".join(machine.get("instructions", ()))
    return f"{machine['cpu']} ({known})" if known else str(machine["cpu"])


def piece_table(workload: str, readings: Mapping[str, Sequence[Reading]]) -> str:
    """Return the table of a workload and a number of connections, fastest server first."""
    medians = {name: middle(rounds) for name, rounds in readings.items()}
    base = medians.get(BASELINE)
    unit = "images/s" if IMAGES[workload] > 1 else "requests/s"
    head = (
        "server",
        unit,
        "± %",
        "x",
        "p50 ms",
        "x",
        "p99 ms",
        "x",
        "CPU µs",
        "x",
        "MiB",
        "errors",
        "wrong",
        "busy",
    )
    rows = []
    for name, one in sorted(medians.items(), key=lambda item: -item[1].rate):
        figures = (
            (f"{one.rate * IMAGES[workload]:,.0f}", one.rate, base and base.rate),
            (f"{one.p50 * 1e3:.2f}", one.p50, base and base.p50),
            (f"{one.p99 * 1e3:.2f}", one.p99, base and base.p99),
            (f"{one.cpu * 1e6:.0f}", one.cpu, base and base.cpu),
        )
        cells = [title(name)]
        for text, value, of in figures:
            cells += [text, times(ratio(value, of or 0.0))]
        cells.insert(2, percent(spread(readings[name], "rate")))
        memory = f"{one.pss / MIB:.0f}" if one.pss else "-"
        wrong = "-" if not one.checked else f"{one.wrong}/{one.checked}"
        rows.append([*cells, memory, str(one.errors), wrong, f"{one.busy:.0%}"])
    return table(head, rows)


def aims_table(document: Document) -> str:
    """Return the table of targets with what was measured, for the workloads that were measured."""
    rates: dict[tuple[str, int], dict[str, Reading]] = {}
    for workload in WORKLOADS:
        for connections, readings in readings_of(document, workload):
            rates[workload, connections] = {name: middle(rounds) for name, rounds in readings.items()}
    rows = []
    for (workload, connections), of in rates.items():
        if GLYPH not in of:
            continue
        png = rates.get(("png", connections), {}).get(GLYPH)
        for what, found, aim, below in _aims(workload, connections, of, png):
            if not isnan(found):
                met = found <= aim if below else found >= aim
                target = f"{'at most' if below else 'at least'} {aim:g}"
                where = (
                    f"{WORKLOADS[workload]}, {connections} connection{'s' if connections > 1 else ''}: {what}"
                )
                rows.append((where, f"{found:.2f}", target, "yes" if met else "no"))
    return table(("Glyph's figure", "measured", "target", "met"), rows)


def _aims(
    workload: str, connections: int, of: Mapping[str, Reading], png: Reading | None
) -> Iterator[tuple[str, float, float, bool]]:
    """Yield the figure, what was measured, the target, and whether lower is better."""
    own, peers = of[GLYPH], [one for name, one in of.items() if name in PEER_NAMES]
    best = max((one.rate for one in peers), default=float("nan"))
    if workload == "batch":
        yield "images/s, as a multiple of the best peer's", ratio(own.rate, best), 1.5, False
        if (
            FLOAT32 in of and ceiling.NAME in of and connections > 1
        ):  # one alone waits for HTTP and client in turn
            share = ratio(of[FLOAT32].rate, of[ceiling.NAME].rate)
            yield "images/s on the float graph, as a share of session.run alone", share, 0.95, False
    elif workload == "raw":
        yield "requests/s, as a multiple of PNGs", ratio(own.rate, png.rate if png else 0.0), 1.2, False
    else:
        if connections in MOSECS and "mosec" in of:
            yield (
                "requests/s, as a multiple of Mosec's",
                ratio(own.rate, of["mosec"].rate),
                MOSECS[connections],
                False,
            )
        if connections in CPU_MICROSECONDS:
            yield "CPU µs", own.cpu * 1e6, CPU_MICROSECONDS[connections], True
        if connections == 1:
            yield "p50 ms", own.p50 * 1e3, 0.22, True
        for figure in ("p50", "p99"):
            lowest = min((getattr(one, figure) for one in peers), default=0.0)
            yield (
                f"{figure}, as a multiple of the lowest peer's",
                ratio(getattr(own, figure), lowest),
                1,
                True,
            )
        if CONSTANT in of and connections > 1:
            yield "requests/s, as a share of constant Glyph", ratio(own.rate, of[CONSTANT].rate), 0.7, False


MOSECS = {16: 4.0, 64: 2.2}
CPU_MICROSECONDS = {16: 55.0, 64: 44.0}
"""Targets of one PNG a request, by the number of connections."""
TITLES = {one.name: one.title for one in CONTENDERS} | {ceiling.NAME: ceiling.TITLE}
PEER_NAMES = {one.name for one in CONTENDERS if one.is_peer}


def load_table(workload: str, sweeps: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return latency against load for each server."""
    head = (
        "server",
        "share of its capacity",
        "requests/s due",
        "answers",
        "p50 ms",
        "p99 ms",
        "generator late ms",
    )
    rows = [
        (
            title(name),
            f"{point['share']:.0%}",
            f"{point['offered']:,.0f}",
            f"{point['answered']:.1%}",
            f"{point['p50'] * 1e3:.2f}",
            f"{point['p99'] * 1e3:.2f}",
            f"{point['late'] * 1e3:.2f}",
        )
        for name, points in sweeps.items()
        for point in points
    ]
    return f"{WORKLOADS[workload]} a request:\n\n" + table(head, rows)


def start_table(document: Document) -> str:
    """Return the table of cold starts and memory, with the reason for each server that is missing."""
    base = document["servers"].get(BASELINE, {}).get("cold_starts")
    rows = []
    for name, server in document["servers"].items():
        if server.get("missing"):
            rows.append((title(name), server["version"], "-", "-", "-", "-", server["missing"]))
            continue
        seconds = median(server["cold_starts"])
        against = times(ratio(seconds, median(base) if base else 0.0))
        memory = [one for readings in document["closed"].values() for one in readings.get(name, ())]
        pss, rss = (max((one[key] for one in memory), default=0) / MIB for key in ("pss", "rss"))
        rows.append(
            (title(name), server["version"], f"{seconds:.2f}", against, f"{pss:.0f}", f"{rss:.0f}", "")
        )
    return table(
        ("server", "version", "cold start s", "x", "PSS MiB", "RSS MiB", "not measured, because"), rows
    )


def settings_list(document: Document) -> str:
    """Return each server's settings."""
    return "".join(
        f"- {one.title}: {one.settings}\n" for one in CONTENDERS if one.name in document["servers"]
    )


def readings_of(document: Document, workload: str) -> list[tuple[int, dict[str, list[Reading]]]]:
    """Return the rounds of each server, by number of connections, ascending."""
    found = []
    for key, readings in document["closed"].items():
        name, _, connections = key.partition("/")
        if name == workload:
            rounds = {server: [Reading(**one) for one in of] for server, of in readings.items()}
            found.append((int(connections), rounds))
    return sorted(found, key=lambda piece: piece[0])


def title(name: str) -> str:
    """Return a row's name, Glyph's in bold."""
    return f"**{TITLES[name]}**" if name == GLYPH else TITLES.get(name, name)


def times(value: float) -> str:
    """Return a ratio with three digits."""
    return "-" if isnan(value) else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def percent(value: float) -> str:
    """Return a share in percent."""
    return "-" if isnan(value) else f"{value * 100:.0f}" if value >= 0.0995 else f"{value * 100:.1f}"


def table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, the first column to the left."""
    names = list(head)
    lines: list[Sequence[str]] = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rounds(document: Mapping[str, Any]) -> str:
    """Return the number of closed-loop rounds, a range if runs differ."""
    counts = {
        len(rounds) for readings in document["closed"].values() for rounds in readings.values() if rounds
    }
    least, most = min(counts, default=0), max(counts, default=0)
    return str(least) if least == most else f"{least} to {most}"
