"""What inference alone allows: `session.run` on the float graph in a loop, on the servers' CPUs, without HTTP.

    python -m bench.comparison.ceiling BUNDLE SECONDS

One process a CPU, with the peers' session and the requests' own images, in the same rounds as the servers. No server
that computes the same graph can be faster, except by larger batches.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from bench.comparison.contender import ROOT
from bench.comparison.rounds import TOLERANCE, Cores, Subject
from bench.load import processes
from bench.load.generator import WARM_SECONDS
from bench.load.statistics import Reading, middle, percentile

NAME = "session-run"
TITLE = "session.run alone"
WORKLOAD = "batch"


def measure(subject: Subject, seconds: float, cores: Cores) -> Reading:
    """Return the calls/s of all CPUs together, and the median of the other figures."""
    command = [sys.executable, "-m", "bench.comparison.ceiling", str(subject.bundle), str(seconds)]
    environment = {**os.environ, "BENCH_MODEL": str(subject.bundle / "model.onnx"), "OMP_NUM_THREADS": "1"}
    children = []
    for cpu in cores.server:
        with processes.pinned([cpu]):
            children.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
            )
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError("session.run alone failed: see its traceback above")
    readings = [Reading(**json.loads(output)) for output in outputs]
    return replace(middle(readings), rate=sum(one.rate for one in readings))


def run(subject: Subject, seconds: float) -> Reading:
    """Call `session.run` for `seconds`, after a warm-up, with a request's images at a time."""
    from bench.comparison.peers import classify

    session, asked = classify.open_session(), subject.requests(WORKLOAD)
    times: list[float] = []
    ended = time.perf_counter()
    measured = ended + WARM_SECONDS
    until, turn, cpu = measured + seconds, 0, 0.0
    while ended < until:
        if ended < measured:
            cpu = time.process_time()
            times.clear()
        started = ended
        classify.run(session, asked[turn % len(asked)][0])
        turn, ended = turn + 1, time.perf_counter()
        times.append(ended - started)
    spent = time.process_time() - cpu
    off = [np.abs(classify.run(session, images) - probabilities).max() for images, probabilities in asked]
    latencies = np.array(times)
    return Reading(
        rate=len(times) / latencies.sum(),
        p50=percentile(latencies, 0.5),
        p99=percentile(latencies, 0.99),
        cpu=spent / len(times),
        rss=0,
        pss=0,
        errors=0,
        wrong=sum(float(one) > TOLERANCE for one in off),
        checked=len(off),
        busy=0.0,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(run(Subject.of(Path(sys.argv[1]).parent), float(sys.argv[2])))))
