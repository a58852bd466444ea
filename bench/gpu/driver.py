"""Prints GPU, driver, CUDA and library versions; exits with 3 if CUDA does not work."""

import sys
from importlib import metadata

from serving.model import cuda

PACKAGES = (
    "torch",
    "torchvision",
    "onnxruntime-gpu",
    "onnx",
    "onnxscript",
    "numpy",
    "pydantic",
    "pyyaml",
    "flask",
    "click",
    "gunicorn",
)


def main() -> int:
    """Print the versions and return the exit code."""
    print(f"Python {sys.version.split()[0]}")
    for name in PACKAGES:
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} is not installed")
    import torch

    print(f"torch is built for CUDA {torch.version.cuda}")
    for device in range(torch.cuda.device_count()):
        print(f"GPU {device}: {torch.cuda.get_device_properties(device)}")
    reason = cuda.missing(0)
    print(f"There is no GPU to run on: {reason}." if reason else "CUDA works for ONNX Runtime.")
    return 3 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
