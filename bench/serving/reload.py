"""Publishing versions under load: the number of failed requests.

    python -m bench reload --versions 20

Starts a service with a synthetic model under closed-loop load, and publishes versions; every other one is bad (its
golden examples do not match). Waits each time until all workers serve the good version or have rejected the bad one.
Exits 1 if the status of any request was not 200.
"""

import tempfile
import time
from pathlib import Path

from bench.serving.probes import finish, loading
from bench.support.options import bench_parser


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from bench.support.management import managed
    from bench.support.models import publish_synthetic
    from bench.support.pictures import a_digit, png

    parser = bench_parser("reload", __doc__)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    good = True
    for worker in ("inference", "gthread"):
        with tempfile.TemporaryDirectory() as name:
            models = Path(name)
            first = publish_synthetic(models)
            with (
                managed(
                    models,
                    model=first.path.parent,
                    worker=worker,
                    workers=options.workers,
                    reload_seconds=0.2,
                ) as pod,
                loading(pod.service.port, png(a_digit()), seconds=3600) as load,
            ):
                started = time.perf_counter()
                for number in range(options.versions):
                    bad = number % 2 == 1
                    bundle = publish_synthetic(models, golden_shift=0.001 if bad else 0)
                    if bad:
                        refusals = options.workers * (number + 1) / 2
                        pod.await_value(refusals, "glyph_model_loads_total", outcome="refused")
                    else:
                        pod.await_value(options.workers, "glyph_model_workers", version=str(bundle.version))
                seconds = time.perf_counter() - started
                result = finish(load, now=True)
        answers = {int(status): count for status, count in result["answers"].items()}
        failed = sum(count for status, count in answers.items() if status != 200) + result["broken"]
        print(
            f"{worker:10} {options.versions} versions in {seconds:.1f} s under {result['rate']:.0f} requests/s: "
            f"{answers.get(200, 0)} answered, {failed} failed"
        )
        good = good and not failed
    return 0 if good else 1
