"""Writes the part of README.md with figures of `bench serving`, between its markers: nobody copies them by hand."""

from pathlib import Path
from textwrap import fill

from bench.comparison import ceiling
from bench.comparison.contender import BASELINE, FLOAT32, GLYPH
from bench.comparison.report import (
    PEER_NAMES,
    TITLES,
    Document,
    percent,
    processor,
    readings_of,
    table,
    times,
    title,
)
from bench.load.statistics import Reading, middle, ratio, spread

BEGIN, END = "<!-- bench serving -->\n", "<!-- end of bench serving -->\n"
CONNECTIONS = 64
WIDTH = 115


def write(path: Path, document: Document) -> None:
    """Replace what stands between the markers.

    Raises:
        OSError: there is no such file.
        ValueError: it has not each marker once, or the figures that it is to have were not measured.
    """
    before, after = around(path)
    path.write_text(before + BEGIN + part(document) + END + after)


def around(path: Path) -> tuple[str, str]:
    """Return what stands before the markers and after them, which is left as it is.

    Raises:
        OSError: there is no such file.
        ValueError: it has not each marker once.
    """
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end or text.count(BEGIN) != 1 or text.count(END) != 1:
        markers = f"{BEGIN.strip()} and {END.strip()}"
        raise ValueError(f"{path} needs the lines {markers}, each once, in this order")
    return before, after


def part(document: Document) -> str:
    """Return the table of one PNG a request at 64 connections, and sentences of the other figures.

    Raises:
        ValueError: no PNGs were measured at 64 connections.
    """
    pngs = dict(readings_of(document, "png"))
    if CONNECTIONS not in pngs:
        raise ValueError(f"README's table needs one PNG a request at {CONNECTIONS} connections")
    readings = pngs[CONNECTIONS]
    medians = {name: middle(rounds) for name, rounds in readings.items()}
    rows = [
        (
            title(name),
            f"{one.rate:,.0f}",
            percent(spread(readings[name], "rate")),
            times(ratio(one.rate, medians[BASELINE].rate if BASELINE in medians else 0.0)),
            f"{one.p99 * 1e3:.2f}",
        )
        for name, one in sorted(medians.items(), key=lambda item: -item[1].rate)
        if name in PEER_NAMES | {GLYPH, FLOAT32}
    ]
    head = (
        f"One PNG of 28x28 a request, {CONNECTIONS} connections, the same network behind every server; one core of an "
        f"{processor(document)} for the servers and one for the load generator, {document['about']['date']}, as "
        "`python -m bench serving` prints it. ± is how far the farthest round is from the median:"
    )
    drawn = table(("server", "requests/s", "± %", "times naive Flask", "p99 ms"), rows)
    return f"{fill(head, WIDTH)}\n\n{drawn}\n{fill(' '.join(_sentences(document, pngs)), WIDTH)}\n"


def _sentences(document: Document, pngs: dict[int, dict[str, list[Reading]]]) -> list[str]:
    said = []
    for connections in sorted(set(pngs) - {CONNECTIONS}, reverse=True):
        rates = {name: middle(rounds).rate for name, rounds in pngs[connections].items()}
        peer = max(PEER_NAMES & set(rates), key=lambda name: rates[name], default=None)
        if GLYPH in rates and peer is not None:
            at = f"At {connections} connections" if connections > 1 else "At one connection"
            best = f"the best peer, {TITLES[peer]}, {rates[peer]:,.0f}"
            said.append(f"{at} Glyph answers {rates[GLYPH]:,.0f}, {best}.")
    if "mosec-decoder" in pngs[CONNECTIONS]:
        rate = middle(pngs[CONNECTIONS]["mosec-decoder"]).rate
        said.append("The peers decode with Pillow; given Glyph's own decoder, Mosec answers")
        said.append(f"{rate:,.0f} at {CONNECTIONS} connections.")
    batches = dict(readings_of(document, "batch")).get(CONNECTIONS, {})
    rates = {name: middle(rounds).rate * 64 for name, rounds in batches.items()}
    wanted = [name for name in (GLYPH, FLOAT32, ceiling.NAME) if name in rates]
    wanted += sorted(PEER_NAMES & set(rates), key=lambda name: -rates[name])[:1]
    if GLYPH in rates:
        figures = ", ".join(f"{TITLES[name]} {rates[name]:,.0f}" for name in wanted)
        said.append(f"Of 64 raw images a request, {CONNECTIONS} connections, images/s: {figures}.")
    return said
