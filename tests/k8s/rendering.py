"""The manifests as kubectl renders them: every overlay, and every component on top of the overlay it is for."""

import functools
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

K8S = ROOT / "k8s"
KUBECTL = Path(sysconfig.get_path("scripts")) / "kubectl"
OVERLAYS = ("cpu", "gpu", "local", "object-store")
PARTS = ("common", "train", "serve", "score")
COMPONENTS = {
    "alerts": "serve",
    "alerts-gpu": "serve",
    "bundle-from-image": "serve",
    "bundle-from-url": "serve",
    "dashboard": "serve",
    "distributed": "train",
    "fetch": "serve",
    "grpc": "serve",
    "hpa-in-flight": "serve",
    "http-route": "serve",
    "ingress": "serve",
    "keda": "serve",
    "kserve": "serve",
    "kueue": "train",
    "nvidia": "train",
    "pod-monitor": "serve",
    "retrain": "train",
    "service-monitor": "serve",
    "tokens": "serve",
    "train-peers": "train",
    "trainer": "train",
    "trusted-keys": "serve",
}
"""Every component, and the part of an overlay that it belongs to."""
PLAIN = {"train": "local"}
"""Of which overlay, if not `cpu`: the one that has no component yet but the images."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Rendering:
    """What one kustomization becomes."""

    name: str
    documents: tuple[Document, ...]

    def of(self, kind: str) -> list[Document]:
        """Return the objects of a kind."""
        return [document for document in self.documents if document["kind"] == kind]

    def one(self, kind: str, name: str) -> Document:
        """Return an object by its kind and its name, the hash at its end left out."""
        (found,) = [d for d in self.of(kind) if name in (d["metadata"]["name"], _unhashed(d))]
        return found


@dataclass(frozen=True)
class Pod:
    """A pod template, wherever it stands in an object."""

    owner: Document
    metadata: Document
    spec: Document

    @property
    def name(self) -> str:
        """Return which object has it."""
        return f"{self.owner['kind']}/{self.owner['metadata']['name']}"

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels that its pods get."""
        labels: dict[str, str] = self.metadata.get("labels", {})
        return labels

    @property
    def containers(self) -> list[Document]:
        """Return the containers, those that run first included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def kustomize(path: Path) -> tuple[Document, ...]:
    """Return what `kubectl kustomize` prints; a warning of it is an error."""
    run = subprocess.run([KUBECTL, "kustomize", path], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    return tuple(document for document in yaml.safe_load_all(run.stdout) if document)


@functools.cache
def overlay(name: str, part: str) -> Rendering:
    """Return an overlay's part; `.` is the whole of it."""
    return Rendering(f"{name}/{part}", kustomize(K8S / "overlays" / name / part))


@functools.cache
def component(*names: str, on: str = "", part: str = "") -> Rendering:
    """Return components, in this order, on top of the part of an overlay that they are for."""
    part = part or COMPONENTS[names[0]]
    on = on or PLAIN.get(part, "cpu")
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "k8s"
        shutil.copytree(K8S, tree)
        (tree / "own").mkdir()
        (tree / "own" / "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    "namespace": "glyph",
                    "resources": [f"../overlays/{on}/{part}"],
                    "components": [f"../components/{name}" for name in names],
                }
            )
        )
        return Rendering(f"{on}/{part}+{'+'.join(names)}", kustomize(tree / "own"))


COMBINATIONS: tuple[dict[str, Any], ...] = (
    {"names": ("distributed", "nvidia")},
    {"names": ("trainer", "nvidia")},
    {"names": ("kueue",), "part": "score"},
    {"names": ("kueue",), "on": "gpu", "part": "score"},
    {"names": ("keda", "bundle-from-url", "ingress", "pod-monitor", "alerts", "alerts-gpu"), "on": "gpu"},
    {"names": ("hpa-in-flight", "bundle-from-image", "http-route", "service-monitor", "dashboard", "grpc")},
    {"names": ("ingress", "bundle-from-url"), "on": "local"},
    {"names": ("ingress", "http-route", "tokens", "bundle-from-url")},
    {"names": ("tokens", "bundle-from-image"), "on": "local"},
    {"names": ("fetch", "tokens", "trusted-keys"), "on": "gpu"},
    {"names": ("trusted-keys", "bundle-from-url")},
)
"""Components together, as somebody may well want them."""


CASES: dict[str, Callable[[], Rendering]] = {
    **{
        f"{name}/{part}": functools.partial(overlay, name, part)
        for name in OVERLAYS
        for part in (".", *PARTS)
    },
    **{name: functools.partial(component, name) for name in COMPONENTS},
    **{
        " ".join([*case["names"], *(str(case[key]) for key in case if key != "names")]): functools.partial(
            component, *case["names"], **{key: case[key] for key in case if key != "names"}
        )
        for case in COMBINATIONS
    },
}
"""Everything that the tests look at, by name; rendered when it is called for."""


def pods(rendering: Rendering) -> Iterator[Pod]:
    """Yield every pod template of a rendering."""
    for document in rendering.documents:
        spec = document.get("spec") or {}
        match document["kind"]:
            case "Deployment" | "Job":
                templates = [spec["template"]]
            case "CronJob":
                templates = [spec["jobTemplate"]["spec"]["template"]]
            case "TrainingRuntime":
                jobs = spec["template"]["spec"]["replicatedJobs"]
                templates = [job["template"]["spec"]["template"] for job in jobs]
            case _:
                continue
        for template in templates:
            yield Pod(document, template.get("metadata", {}), template["spec"])


def complete(rendering: Rendering) -> tuple[Document, ...]:
    """Return a rendering's objects and those of its overlay that it may refer to."""
    on = rendering.name.partition("/")[0]
    others = [d for part in ("common", "train", "serve") for d in overlay(on, part).documents]
    own = {(d["kind"], d["metadata"]["name"]) for d in rendering.documents}
    return (*rendering.documents, *(d for d in others if (d["kind"], d["metadata"]["name"]) not in own))


def in_bytes(quantity: str) -> int:
    """Return what a quantity of memory such as 2Gi means."""
    return int(quantity[:-2]) << {"Mi": 20, "Gi": 30}[quantity[-2:]]


def _unhashed(document: Document) -> str:
    """Return the name that a generated ConfigMap has in its kustomization."""
    name: str = document["metadata"]["name"]
    return name.rpartition("-")[0] if document["kind"] == "ConfigMap" else name
