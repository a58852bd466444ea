"""`python -m bench NAME [options]`: run one measurement; without a name, list them."""

import sys
from importlib import import_module

BENCHES = {
    "presets": ("training.presets", "test error of each preset over seeds, with its time"),
    "speedrun": ("training.speedrun", "seconds of training to 98%, 98.5% and 99% of MNIST's test set"),
    "committee": ("training.committee", "test error of a committee, and of one network distilled from it"),
    "sizes": (
        "training.sizes",
        "test error against CPU time of a request, of distilled networks of several sizes",
    ),
    "training": ("training.loop", "images/s of the training loop, against the course's DataLoader loop"),
    "serving": ("comparison.command", "requests/s, latency, CPU and memory, beside other model servers"),
    "grpc": ("serving.rpc", "requests/s and CPU time of the Open Inference Protocol, over gRPC beside REST"),
    "budget": ("serving.budget", "CPU time of each phase of a prediction, beside the limits of the hardware"),
    "metrics": ("serving.metrics", "counting in shared memory, beside prometheus-client's multiprocess mode"),
    "arithmetic": (
        "serving.arithmetic",
        "inference in float32 and with the first layer in 8-bit integers, by batch size",
    ),
    "decoding": ("serving.decoding", "microseconds per PNG of alternative decoders"),
    "gpu": ("gpu.command", "latency and throughput by batch size and of the service, on CUDA beside the CPU"),
    "kills": (
        "training.kills",
        "a training run killed repeatedly ends with the weights of an uninterrupted run",
    ),
    "probes": ("serving.probes", "latency of probes under twice the service's capacity"),
    "fuzz": (
        "fuzzing.fuzz",
        "damaged images and requests: each is rejected or answered, none causes a failure",
    ),
    "http11": ("http11.command", "HTTP/1.1 compliance, beside Gunicorn, Uvicorn and nginx"),
    "memory": ("memory.service", "memory growth of a service over 200,000 mixed requests"),
    "held": ("memory.held", "memory of a worker when thousands of clients fill its buffers"),
    "idle": ("memory.idle", "memory of idle connections, and their cost for active ones"),
    "start": ("serving.start", "time from the command to the first 200 of /readyz"),
    "reload": ("serving.reload", "failed requests while good and bad versions are published"),
    "overload": ("serving.overload", "throughput at three times the capacity, and right after"),
    "bodies": (
        "serving.bodies",
        "time of request bodies by format and size, and of the most expensive image files",
    ),
    "footprint": ("memory.footprint", "memory of each kind of pod, and how long training takes to stop"),
    "lifecycle": ("serving.lifecycle", "requests that are lost while services restart under load"),
    "scoring": (
        "scoring.throughput",
        "images/s of the batch scorer, against session.run, decoding, PyTorch and Ray Data",
    ),
    "decoders": (
        "scoring.decoders",
        "the batch scorer's decoder pool, beside ProcessPoolExecutor",
    ),
    "scoring-stages": (
        "scoring.stages",
        "CPU time of an image of a scoring run over PNG files, by what it is spent on",
    ),
    "scoring-kills": (
        "scoring.kills",
        "a scoring run killed repeatedly ends with the bytes of an uninterrupted run",
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
        usage.insert(0, f"error: unknown bench '{arguments[0]}'")
    print("\n".join(usage), file=sys.stdout if wanted_help else sys.stderr)
    return 0 if wanted_help else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
