"""Podman in place of a cluster: the manifests that it plays, and the part of a cluster that tests play themselves."""

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from tests.containers.docker import Ended
from tests.containers.podman import Document, Playing, Podman
from tests.k8s.rendering import overlay

OVERLAY = "local"
SHORT = {
    "GLYPH_TRAIN_EPOCHS": "15",
    "GLYPH_TRAIN_HIDDEN": "32",
    "GLYPH_TRAIN_THREADS": "1",
    "GLYPH_TRAIN_SEED": "5",
}
"""A training that takes seconds."""


@dataclass(frozen=True)
class Cluster:
    """Podman with a volume, in place of a cluster."""

    podman: Podman
    volume: Path
    user: int

    def give(self) -> None:
        """Let the volume belong to the group, as fsGroup does."""
        for path in self.volume.rglob("*"):
            shutil.chown(path, self.user, self.user)


def manifest(part: str, kind: str, name: str) -> Document:
    """Return an object of the overlay."""
    return overlay(OVERLAY, part).one(kind, name)


def pod_of(document: Document) -> dict[str, Any]:
    """Return the specification of its pods."""
    spec: dict[str, Any] = document["spec"]["template"]["spec"]
    return spec


@dataclass(frozen=True)
class Runs:
    """How three pods of the training Job ended."""

    wrong: Ended
    evicted: Ended
    second: Ended


def ask_probe(pod: Playing, name: str) -> int:
    """Ask what a probe of the Deployment asks, at the port that it names; return the status."""
    (container,) = pod_of(manifest("serve", "Deployment", "glyph"))["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    asked = container[name]["httpGet"]
    return pod.ask(ports[asked["port"]], asked["path"])[0]


def png(image: np.ndarray[Any, Any]) -> bytes:
    """Return a picture as a file."""
    file = io.BytesIO()
    Pillow.fromarray(image).save(file, format="PNG")
    return file.getvalue()
