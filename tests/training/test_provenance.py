"""What provenance records about the driver, with fakes of its libraries."""

import shutil
import subprocess
from pathlib import Path

import pytest

from training import provenance

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
def test_the_driver_is_asked_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, libraries: dict[str, int], said: str
) -> None:
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
    for asked in ("DRIVER_LIBRARY", "MANAGEMENT_LIBRARY"):
        monkeypatch.setattr(provenance, asked, str(tmp_path / getattr(provenance, asked)))
    assert provenance.describe_driver() == said
