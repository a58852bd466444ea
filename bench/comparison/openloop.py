"""Latency against load: requests that come at a constant rate, whether the earlier ones are answered or not.

The rates are shares of what the server answered in a closed loop just before, up to beyond it. Past
saturation latency grows for as long as one measures, so there a figure only says that it is past.
"""

from statistics import median

from bench.comparison.rounds import Cores, Running, Subject, measure

SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1)
CAPACITY_CONNECTIONS = 64
CONNECTIONS = 256
ANSWERED = 0.97
"""Answers while a rate is kept up, as a share of the requests that are due; with fewer, it is past saturation."""

Point = dict[str, float]


def sweep(
    server: Running, workload: str, seconds: float, rounds: int, subject: Subject, cores: Cores
) -> list[Point]:
    """Return what came of each rate, medians over the rounds, the lowest first, to the first past saturation."""
    capacity, _ = measure(server, workload, CAPACITY_CONNECTIONS, seconds, subject, cores)
    points: list[Point] = []
    for share in SHARES:
        rate = share * capacity.rate
        tries: list[Point] = []
        for _ in range(rounds):
            reading, result = measure(server, workload, CONNECTIONS, seconds, subject, cores, rate=rate)
            tries.append(
                {
                    "share": share,
                    "offered": rate,
                    "answered": result.completed / (rate * seconds),
                    "p50": reading.p50,
                    "p99": reading.p99,
                    "errors": float(reading.errors),
                    "late": result.late,
                }
            )
        points.append({name: median(one[name] for one in tries) for name in tries[0]})
        if points[-1]["answered"] < ANSWERED:
            break
    return points
