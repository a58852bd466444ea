"""Every object that kubectl renders, against the schemas of Kubernetes and of the custom resources."""

import copy
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.k8s.crds import CUSTOM, problems
from tests.k8s.rendering import CASES, COMPONENTS, K8S, OVERLAYS, PARTS, Document, overlay

OLDEST, NEWEST = "1.33", "1.37"
"""The releases that the manifests are for; docs/kubernetes.md says why not an older one."""
NEEDS = {"bundle-from-image": "1.35"}


def check(document: Document, version: str) -> None:
    """Validate an object strictly; what no schema knows is an error as well."""
    if (document["apiVersion"], document["kind"]) in CUSTOM:
        assert problems(document) == []
    else:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("case", CASES)
def test_every_object_is_valid(case: str, version: str) -> None:
    """By the schemas of the oldest and of the newest release."""
    documents = CASES[case]().documents
    assert documents
    for document in documents:
        check(document, version)


def test_the_document_names_the_same_releases() -> None:
    """What the reader is told is what is tested."""
    text = (K8S.parent / "docs" / "kubernetes.md").read_text()
    assert f"Kubernetes {OLDEST} to {NEWEST}" in text
    for component, version in NEEDS.items():
        assert f"Kubernetes {version}" in (K8S / "components" / component / "kustomization.yaml").read_text()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "minReadySecond"), 10),
        (("spec", "template", "spec", "containers", 0, "readOnlyRootFilesystem"), True),
        (("spec", "template", "spec", "containers", 0, "resources", "limits", "cpu"), [2]),
        (("apiVersion",), "apps/v2"),
    ],
)
def test_a_mistake_is_found(path: tuple[str | int, ...], value: object) -> None:
    """A misspelt field, one in the wrong place, a value of the wrong type, a version that there is none of."""
    document = copy.deepcopy(overlay("cpu", "serve").one("Deployment", "glyph"))
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises((kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)):
        check(document, NEWEST)


@pytest.mark.parametrize("kind", sorted({kind for _, kind in CUSTOM}))
def test_a_mistake_in_a_custom_resource_is_found(kind: str) -> None:
    """An unknown field in its specification, or a list where there must be none."""
    document = next(d for case in CASES.values() for d in case().documents if d["kind"] == kind)
    for broken in ({"misspelt": 1}, ["a list"]):
        changed = copy.deepcopy(document)
        changed["spec"] = broken if isinstance(broken, list) else (changed.get("spec") or {}) | broken
        assert problems(changed)


def test_everything_in_the_folder_is_rendered() -> None:
    """No overlay, part or component is left out here."""
    assert {path.name for path in (K8S / "components").iterdir()} == set(COMPONENTS)
    assert {path.name for path in (K8S / "overlays").iterdir()} == set(OVERLAYS)
    for name in OVERLAYS:
        parts = {path.name for path in (K8S / "overlays" / name).iterdir() if path.is_dir()}
        assert parts == {*PARTS, "images", *(["store"] if name == "object-store" else [])}
    for path in K8S.rglob("*.yaml"):
        folder = path.parent
        text = (folder / "kustomization.yaml").read_text()
        assert path.name == "kustomization.yaml" or path.name in text, f"{path} is used by nobody"
        assert list(yaml.safe_load_all(path.read_text()))
