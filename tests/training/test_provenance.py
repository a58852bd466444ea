"""What provenance records about the driver, with fakes of its libraries."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.support.processes import ROOT

DRIVER = """
int cuInit(unsigned flags) { return STATUS; }
int cuDriverGetVersion(int *version) { *version = 13020; return STATUS; }
"""
MANAGEMENT = """
#include <string.h>
int nvmlInit_v2(void) { return STATUS; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *version, unsigned length) { strncpy(version, "580.95.05", length); return 0; }
"""
LIBRARIES = {"libcuda.so.1": DRIVER, "libnvidia-ml.so.1": MANAGEMENT}


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize(
    ("libraries", "said"),
    [
        ({"libcuda.so.1": 0, "libnvidia-ml.so.1": 0}, "580.95.05 (CUDA 13.2)"),
        ({"libcuda.so.1": 0, "libnvidia-ml.so.1": 999}, "CUDA 13.2"),
        ({"libcuda.so.1": 100, "libnvidia-ml.so.1": 0}, "580.95.05"),
        ({"libcuda.so.1": 100, "libnvidia-ml.so.1": 999}, ""),
    ],
    ids=["both", "driver", "management", "neither"],
)
def test_the_driver_is_asked_itself(tmp_path: Path, libraries: dict[str, int], said: str) -> None:
    """Its libraries say which release it is, and which CUDA it runs; one that fails says nothing."""
    for name, status in libraries.items():
        compile_ = [
            "cc",
            "-shared",
            "-fPIC",
            f"-DSTATUS={status}",
            "-x",
            "c",
            "-o",
            str(tmp_path / name),
            "-",
        ]
        subprocess.run(compile_, input=LIBRARIES[name].encode(), check=True)
    program = "from training.provenance import describe_driver; print(describe_driver())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{said}\n"
