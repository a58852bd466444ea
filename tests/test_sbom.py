"""`make sbom`: bills of material that are valid by CycloneDX' own schema and list what the images install."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from bundle import __version__
from lock.sbom import LOCKS
from tests.conftest import ROOT


def written(directory: Path, python: str, *images: str) -> dict[str, dict[str, Any]]:
    """Write bills by the command, and return each by its image."""
    command = [sys.executable, "-m", "lock.sbom", str(directory), python, *images]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [Path(line) for line in done.stdout.splitlines()]
    return dict(zip(images, (json.loads(path.read_bytes()) for path in paths), strict=True))


@pytest.mark.parametrize("image", LOCKS)
def test_a_bill_is_valid_and_lists_the_locks_packages_once(tmp_path: Path, image: str) -> None:
    """By the schema that the library carries; every package has its version and the lock's hashes."""
    bill = written(tmp_path, "3.11", image)[image]
    text = (tmp_path / f"{image}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.from_version(bill["specVersion"])).validate_str(text) is None
    component = bill["metadata"]["component"]
    program, _, device = image.partition("-")
    version = f"{__version__}-{device}" if device else __version__
    assert (component["name"], component["version"]) == (f"glyph-{program}", version)
    packages = {each["name"]: each for each in bill["components"]}
    assert len(packages) == len(bill["components"])
    assert {"numpy", "pydantic"} <= packages.keys()
    assert packages.keys() & {"colorama", "triton"} == set()
    for name, each in packages.items():
        pins = re.findall(rf"(?m)^{re.escape(name)}==([^ ]+)", _locks(image))
        assert each["version"] in pins
        assert each["purl"] == f"pkg:pypi/{name}@{each['version']}"
        [hashes] = [reference["hashes"] for reference in each["externalReferences"]]
        assert all(f"sha256:{one['content']}" in _locks(image) for one in hashes)


def test_a_bill_is_of_the_images_python_and_the_same_each_time(tmp_path: Path) -> None:
    """A newer Python installs another NumPy; nothing in a bill is of the moment."""
    first, second = (written(tmp_path / name, "3.11", "serve-cpu")["serve-cpu"] for name in ("a", "b"))
    newer = written(tmp_path / "c", "3.14", "serve-cpu")["serve-cpu"]
    assert first == second
    numpy = [
        next(c["version"] for c in bill["components"] if c["name"] == "numpy") for bill in (first, newer)
    ]
    assert numpy[0] != numpy[1]


def test_the_bills_are_of_the_images_that_are_built() -> None:
    """The names are docker-bake.hcl's, and the locks those that the Dockerfiles copy."""
    bake = (ROOT / "docker-bake.hcl").read_text()
    programs, devices = (
        re.findall(r'"(\w+)"', re.findall(rf"{word} += \[(.*)\]", bake)[0]) for word in ("program", "device")
    )
    assert LOCKS.keys() == {"train"} | {f"{program}-{device}" for program in programs for device in devices}
    copied = set(
        re.findall(r"COPY lock/(\S+)\.txt", "".join(map(_text, ("Dockerfile.serve", "Dockerfile.train"))))
    )
    assert copied == {"training", "image-scoring", "image-${DEVICE}"}
    assert set().union(*LOCKS.values()) == {"training", "image-scoring", "image-cpu", "image-cuda"}


def _text(name: str) -> str:
    return (ROOT / name).read_text()


def _locks(image: str) -> str:
    return "".join(_text(f"lock/{lock}.txt") for lock in LOCKS[image])
