"""`python -m bench NAME [options]`: run one measurement; without a name, list them."""

import sys
from importlib import import_module

BENCHES = {
    "presets": ("training.presets", "test error of each preset over seeds, with its time"),
    "committee": ("training.committee", "test error of a committee, and of one network distilled from it"),
    "training": ("training.loop", "images/s of the training loop, against the course's DataLoader loop"),
    "serving": ("comparison.command", "requests/s, latency, CPU and memory, beside other model servers"),
    "budget": ("serving.budget", "where the microseconds of a prediction go, beside what the core could do"),
    "metrics": ("serving.metrics", "counting in shared memory, beside prometheus-client's multiprocess mode"),
    "arithmetic": (
        "serving.arithmetic",
        "inference in float32 and with the first layer in integers, by batch size",
    ),
    "decoding": ("serving.decoding", "microseconds of a PNG, by each way of decoding that was looked at"),
    "gpu": ("gpu.command", "latency and throughput by batch size and of the service, on CUDA beside the CPU"),
    "kills": ("training.kills", "a run killed again and again ends at the uninterrupted run's weights"),
    "probes": ("serving.probes", "probes of the management port, at twice the data port's capacity"),
    "fuzz": ("fuzzing.fuzz", "damaged images and requests: every one is refused or answered, none fails"),
    "http11": ("http11.command", "how strictly HTTP/1.1 is read, beside Gunicorn, Uvicorn and nginx"),
    "memory": ("memory.service", "the memory of a service that answers 200,000 mixed requests"),
    "held": ("memory.held", "the memory of a worker when thousands of clients have it hold what they can"),
    "idle": ("memory.idle", "memory of idle connections, and what 10,000 of them cost those that ask"),
    "start": ("serving.start", "time from the command to the first 200 of /readyz"),
    "reload": ("serving.reload", "requests that fail while versions are published, good and bad ones"),
    "overload": ("serving.overload", "what is answered at three times the capacity, and right after"),
    "bodies": (
        "serving.bodies",
        "time of bodies of each kind and size, of a thread, and of the worst image files",
    ),
    "footprint": ("memory.footprint", "memory of each kind of pod, and how long training takes to stop"),
    "lifecycle": ("serving.lifecycle", "requests that are lost while services are restarted under load"),
    "scoring": (
        "scoring.throughput",
        "images/s of the batch scorer, against session.run, decoding, PyTorch and Ray Data",
    ),
    "decoders": (
        "scoring.decoders",
        "the batch scorer's decoding processes, beside the standard library's pool",
    ),
    "scoring-kills": (
        "scoring.kills",
        "a batch scoring run killed again and again ends at the undisturbed run's bytes",
    ),
    "augmentation": ("training.augmentation", "affine + elastic images/s, against torchvision's pipelines"),
}
"""Name: the module, whose `main(arguments) -> int` runs it, and one line of help."""


def main(arguments: list[str]) -> int:
    """Run the named measurement with the rest of the arguments and return its exit code."""
    if arguments and arguments[0] in BENCHES:
        run = import_module(f"bench.{BENCHES[arguments[0]][0]}").main
        return int(run(arguments[1:]))
    width = max(map(len, BENCHES))
    usage = ["usage: python -m bench NAME [options]", ""]
    usage += [f"  {name:{width}}  {text}" for name, (_, text) in BENCHES.items()]
    wanted_help = not arguments or arguments[0] in ("-h", "--help")
    if not wanted_help:
        usage.insert(0, f"error: there is no bench '{arguments[0]}'")
    print("\n".join(usage), file=sys.stdout if wanted_help else sys.stderr)
    return 0 if wanted_help else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
