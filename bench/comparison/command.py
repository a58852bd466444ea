"""Glyph beside other model servers: requests/s, p50, p99, CPU, memory and cold start, with ratios to naive Flask.

    python -m bench serving --model models/mnist --json results.json --markdown docs/benchmarks.md --readme README.md
    python -m bench serving --quick                                  a smoke test of a minute
    python -m bench serving --workload png --connections 64 --json results.json
    python -m bench serving --open-loop --only glyph,mosec,flask --json results.json
    python -m bench serving --only glyph --python /opt/venv3.13/bin/python --python /opt/venv3.14/bin/python
    python -m bench serving --report --json results.json --markdown docs/benchmarks.md

Measurements are added to the JSON file and replace those of the same workload and connections; `spreads` there has
how far the rounds of each figure are from their median. `--readme` writes the part of a file between its markers.
Peers are installed once by uv, outside the repository. Servers and load generator are pinned to different cores: with
two cores, one each.
Exits 1 if Glyph did not start or a response was wrong.
"""

import argparse
import datetime as dt
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.comparison import ceiling, chart, readme, report
from bench.comparison.contender import GLYPH, ROOT, WORKLOADS, Contender
from bench.comparison.contenders import CONTENDERS, with_python
from bench.comparison.environments import version_of
from bench.comparison.openloop import sweep
from bench.comparison.rounds import Cores, Subject, awake, interleaved, machine, resting, running
from bench.load.statistics import Reading, spread
from bench.support.options import bench_parser, model_missing
from bundle.errors import BundleError
from common.atomic_files import write_whole

QUICK = ("glyph", "glyph-gthread", "flask", "fastapi", "mosec", "glyph-constant")
OPEN_LOOP = ("glyph", "glyph-gthread", "mosec", "fastapi", "flask", "bentoml", "litserve", "kserve")


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    options = _options(arguments)
    for file in (options.json, options.markdown):
        if file is not None:  # fail before measuring, not after
            file.parent.mkdir(parents=True, exist_ok=True)
    document = _existing(options.json)
    if not options.report:
        try:
            subject = Subject.of(options.model)
        except (BundleError, OSError) as error:
            return model_missing(error)
        signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # stops the servers too
        good = _measure(options, subject, document)
        if options.json:
            write_whole(
                options.json, json.dumps(document, indent=1).encode() + b"\n"
            )  # includes earlier runs
    else:
        good = True
    if not document["closed"] and not document["open"]:
        print("error: there are no measurements; give the file of an earlier run by --json", file=sys.stderr)
        return 2
    print(_write(options, document))
    if options.readme is not None:
        try:
            readme.write(options.readme, document)
        except ValueError as error:  # its table needs what was not measured
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0 if good else 1


def _options(arguments: list[str]) -> argparse.Namespace:
    names = [*(contender.name for contender in CONTENDERS), ceiling.NAME]
    parser = bench_parser("serving", __doc__, model=True)
    cores = Cores.halves()
    parser.add_argument("--only", help=f"comma-separated servers; default: {','.join(names)}")
    parser.add_argument(
        "--python", action="append", default=[], help="Glyph with this Python as well, of the same packages"
    )
    parser.add_argument("--workload", action="append", choices=tuple(WORKLOADS), help="default: all")
    parser.add_argument("--connections", action="append", type=int, help="default: 1, 16 and 64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="duration of each measurement")
    parser.add_argument(
        "--quick", action="store_true", help=f"2 rounds of 0.5 s, one workload, {','.join(QUICK)}"
    )
    parser.add_argument(
        "--open-loop", action="store_true", help="measure latency against load, at constant rates"
    )
    parser.add_argument(
        "--report", action="store_true", help="measure nothing; write the report of the JSON file"
    )
    parser.add_argument("--json", type=Path, help="file to add the measurements to")
    parser.add_argument("--markdown", type=Path, help="file for the report; charts are written beside it")
    parser.add_argument("--readme", type=_marked, help="file whose part between the markers is written")
    parser.add_argument(
        "--server-cpus", type=_cores, default=cores.server, help="CPUs of the servers, such as 0,1"
    )
    parser.add_argument(
        "--client-cpus", type=_cores, default=cores.client, help="CPUs of the load generator, such as 2,3"
    )
    options = parser.parse_args(arguments)
    if options.python and options.markdown:
        parser.error("--markdown writes the report of the servers alone: leave out --python")
    if options.quick:
        options.rounds, options.seconds = 2, 0.5
        options.workload = options.workload or ["png"]
        options.connections = options.connections or [16]
    default = OPEN_LOOP if options.open_loop else QUICK if options.quick else names
    options.only = options.only.split(",") if options.only else list(default)
    if unknown := set(options.only) - set(names):
        parser.error(f"unknown server {min(unknown)!r}; choose from {', '.join(names)}")
    return options


def _marked(text: str) -> Path:
    """Return the file if it has the markers, so that a run does not fail at its end."""
    try:
        readme.around(Path(text))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


def _cores(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _existing(path: Path | None) -> dict[str, Any]:
    if path is not None and path.is_file():
        document: dict[str, Any] = json.loads(path.read_text())
        return document
    return {"about": {}, "servers": {}, "closed": {}, "open": {}}


def _measure(options: argparse.Namespace, subject: Subject, document: dict[str, Any]) -> bool:
    """Run the measurements, add them to the document, and return whether every response was right."""
    cores = Cores(server=options.server_cpus, client=options.client_cpus)
    document["about"] = _about(options, subject, cores)
    wanted = [contender for contender in CONTENDERS if contender.name in options.only]
    wanted += map(with_python, options.python)
    with running(wanted, subject, cores, _say) as (up, missing):
        for contender in wanted:
            known = document["servers"].setdefault(contender.name, {"cold_starts": []})
            known["version"], known["missing"] = _version(contender), missing.get(contender.name, "")
            if contender.name in up:
                known["cold_starts"].append(up[contender.name].cold_start)
        if options.open_loop:
            with resting(up) as restless:
                for workload in options.workload or ["png"]:
                    sweeps = document["open"].setdefault(workload, {})
                    for name, server in up.items():
                        _say(f"open loop, {WORKLOADS[workload]}: {server.contender.title}")
                        with awake(server, restless):
                            sweeps[name] = sweep(
                                server, workload, options.seconds, options.rounds, subject, cores
                            )
            return GLYPH not in missing
        good = GLYPH not in missing
        for workload in options.workload or WORKLOADS:
            others = {}
            if workload == ceiling.WORKLOAD and ceiling.NAME in options.only:
                others[ceiling.NAME] = partial(ceiling.measure, subject, options.seconds, cores)
            for connections in options.connections or (1, 16, 64):
                _say(f"{WORKLOADS[workload]}, {connections} connections: {options.rounds} rounds")
                readings = interleaved(
                    up,
                    workload,
                    connections,
                    rounds=options.rounds,
                    seconds=options.seconds,
                    subject=subject,
                    cores=cores,
                    others=others,
                )
                piece = f"{workload}/{connections}"
                found = {name: [asdict(reading) for reading in rounds] for name, rounds in readings.items()}
                document["closed"].setdefault(piece, {}).update(found)
                document.setdefault("spreads", {}).setdefault(piece, {}).update(_spreads(readings))
                print(f"\n{WORKLOADS[workload]}, {connections} connections\n")
                print(report.piece_table(workload, readings), flush=True)
                good = good and not any(one.wrong for rounds in readings.values() for one in rounds)
    return good


def _spreads(readings: Mapping[str, Sequence[Reading]]) -> dict[str, dict[str, float]]:
    figures = ("rate", "p50", "p99", "cpu")
    return {name: {one: spread(rounds, one) for one in figures} for name, rounds in readings.items()}


def _about(options: argparse.Namespace, subject: Subject, cores: Cores) -> dict[str, Any]:
    def said(which: Sequence[int]) -> str:
        return f"core {which[0]}" if len(which) == 1 else f"cores {', '.join(map(str, which))}"

    workers = "one worker each" if len(cores.server) == 1 else f"{len(cores.server)} workers each"
    hidden = json.loads((subject.bundle / "manifest.json").read_text())["hyperparameters"].get("hidden", "?")
    return {
        "machine": machine(),
        "code": _code(),
        "date": dt.datetime.now(dt.UTC).strftime("%-d %B %Y"),
        "model": f"{subject.name}, hidden layers {hidden}",
        "how": {
            "server": said(cores.server),
            "client": said(cores.client),
            "workers": workers,
            "idle": "Servers that use more than 0.5% of a core when idle are stopped (SIGSTOP) until it is their turn.",
            "rounds": options.rounds,
            "seconds": options.seconds,
        },
    }


def _code() -> str:
    """Return the commit, with `+changes` if files differ from it; nothing outside a checkout."""
    described = ["git", "describe", "--always", "--exclude=*", "--dirty=+changes"]
    try:
        return subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(contender: Contender) -> str:
    if contender.lock is None:
        return ""
    return version_of(contender.lock, contender.package or contender.lock)


def _write(options: argparse.Namespace, document: dict[str, Any]) -> str:
    """Write the report with its charts if `--markdown` is given; return the text to print."""
    if options.markdown is None:
        return report.aims_table(document) + "\n" + report.start_table(document)
    titles = {contender.name: contender.title for contender in CONTENDERS}
    names: dict[str, str | None] = {"bars": None, "lines": None}
    rates: dict[str, dict[int, float]] = {}
    for key, readings in document["closed"].items():
        workload, _, connections = key.partition("/")
        if workload == "png":
            for name, rounds in readings.items():
                rates.setdefault(name, {})[int(connections)] = float(
                    np.median([one["rate"] for one in rounds])
                )
    if rates:
        names["bars"] = f"{options.markdown.stem}.svg"
        text = chart.bars(
            rates, titles, "Requests/s, one PNG of 28x28 each; and as a multiple of naive Flask"
        )
        (options.markdown.parent / names["bars"]).write_text(text)
    if sweeps := document["open"].get("png"):
        names["lines"] = f"{options.markdown.stem}-load.svg"
        text = chart.lines(sweeps, titles, "p99 against the rate at which requests are due, one PNG each")
        (options.markdown.parent / names["lines"]).write_text(text)
    options.markdown.write_text(report.markdown(document, names["bars"], names["lines"]))
    return f"written: {options.markdown}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
