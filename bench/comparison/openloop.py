"""Open-loop measurement: latency at constant request rates, independent of the responses.

The rates are shares of the server's closed-loop rate, measured directly before, up to 110%. Past saturation latency
grows with the duration of the measurement, so the sweep ends there.
"""

from statistics import median

from bench.comparison.rounds import Cores, Running, Subject, measure

SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1)
CAPACITY_CONNECTIONS = 64
CONNECTIONS = 256
ANSWERED = 0.97
"""Share of due requests that must be answered; below it the server is past saturation."""

Point = dict[str, float]


def sweep(
    server: Running, workload: str, seconds: float, rounds: int, subject: Subject, cores: Cores
) -> list[Point]:
    """Return a point for each rate, ascending, up to the first past saturation; medians over the rounds."""
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
