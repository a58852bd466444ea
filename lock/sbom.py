# ruff: noqa: INP001  the folder has locks, and one module
"""`make sbom`: writes what an image's locks install as a CycloneDX bill of materials, one JSON file for each image.

    python -m lock.sbom DIRECTORY PYTHON train serve-cpu ...

A lock is for every system and Python; a bill lists what that Python on Linux installs, by the markers (PEP 508), and
states the hashes of the lock. It is `cyclonedx-py`'s, with the image in place of the project that it does not know.
Debian's packages in the base image are not in it: BuildKit's attestation has those (docker-bake.hcl).
"""

import json
import subprocess
import sys
from pathlib import Path

from packaging.markers import default_environment
from pip_requirements_parser import RequirementsFile

from bundle import __version__

ROOT = Path(__file__).parent.parent

LOCKS = {
    "train": ("training",),
    "serve-cpu": ("image-cpu",),
    "serve-cuda": ("image-cuda",),
    "score-cpu": ("image-cpu", "image-scoring"),
    "score-cuda": ("image-cuda", "image-scoring"),
}
"""Each image, and what its Dockerfile installs."""
REMOVED = {"train": {"triton"}}
"""What its Dockerfile uninstalls again."""


def requirements(image: str, python: str) -> dict[str, str]:
    """Return the name and the pinned requirement, with its hashes, of each package of an image."""
    target = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
    }
    system = default_environment() | target
    found = {}
    for lock in LOCKS[image]:
        for one in RequirementsFile.from_file(str(ROOT / "lock" / f"{lock}.txt")).requirements:
            if one.marker is None or one.marker.evaluate(system):
                found[one.name] = " ".join(
                    [f"{one.name}{one.specifier}", *(f"--hash={digest}" for digest in one.hash_options)]
                )
    return {name: text for name, text in sorted(found.items()) if name not in REMOVED.get(image, ())}


def write(directory: Path, python: str, image: str) -> Path:
    """Write the bill of an image, and return its path."""
    tool = [str(Path(sys.executable).with_name("cyclonedx-py")), "requirements", "--output-reproducible", "-"]
    lines = "\n".join(requirements(image, python).values())
    done = subprocess.run(tool, input=lines, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    program, _, device = image.partition("-")
    document["metadata"]["component"] = {
        "bom-ref": f"glyph-{image}",
        "type": "container",
        "name": f"glyph-{program}",
        "version": f"{__version__}-{device}" if device else __version__,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    path = directory / f"{image}.cdx.json"
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    place, version, *images = sys.argv[1:]
    Path(place).mkdir(parents=True, exist_ok=True)
    for each in images:
        print(write(Path(place), version, each))
