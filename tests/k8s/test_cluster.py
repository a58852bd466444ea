"""The manifests on a real cluster: what its API server says of them, and what its controllers make of them.

    GLYPH_TEST_CLUSTER=~/.kube/config .venv/bin/pytest tests/k8s/test_cluster.py

The cluster must not have the namespace `glyph` yet: it is made for these tests, and removed after them.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.k8s.crds import CUSTOM
from tests.k8s.rendering import CASES, K8S, KUBECTL, Document, overlay, pods
from tests.k8s.test_schemas import NEEDS

VARIABLE = "GLYPH_TEST_CLUSTER"
PATIENCE = 60.0

pytestmark = pytest.mark.skipif(
    VARIABLE not in os.environ, reason=f"no cluster: {VARIABLE} may name a kubeconfig of one without Glyph"
)


def kubectl(*words: object, documents: tuple[Document, ...] = ()) -> str:
    """Ask the cluster, and return what is printed; a refusal or a warning is an error."""
    run = subprocess.run(
        [KUBECTL, "--kubeconfig", Path(os.environ[VARIABLE]).expanduser(), *map(str, words)],
        input=yaml.safe_dump_all(documents),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    return run.stdout


@pytest.fixture(scope="module", autouse=True)
def fixture_namespace() -> Iterator[None]:
    """Make the namespace, with the labels that the overlays give it, and the account that pods need."""
    assert not kubectl("get", "namespace", "glyph", "--ignore-not-found"), "this cluster has Glyph already"
    try:
        common = overlay("local", "common")
        kubectl("apply", "-f", "-", documents=(*common.of("Namespace"), *common.of("ServiceAccount")))
        yield
    finally:
        kubectl("delete", "namespace", "glyph", "--wait", "--timeout", "120s")


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_accepts_every_object(case: str) -> None:
    """Defaults, validation and admission, Pod Security's among them; custom resources need their operators."""
    release = re.search(r"Server Version: v(1\.\d+)", kubectl("version"))
    assert release is not None
    if any(case.startswith(name) and release[1] < version for name, version in NEEDS.items()):
        pytest.skip(f"the cluster is of {release[1]}")
    documents = tuple(
        document
        for document in CASES[case]().documents
        if (document["apiVersion"], document["kind"]) not in CUSTOM
    )
    if documents:
        told = kubectl("apply", "--dry-run=server", "-f", "-", documents=documents)
        assert len(told.splitlines()) == len(documents)


def test_the_namespace_refuses_a_pod_that_may_too_much() -> None:
    """So the pods below were not let in because nobody looks."""
    (pod,) = list(pods(overlay("local", "train")))
    for field, value in (("hostNetwork", True), ("securityContext", {"runAsUser": 0})):
        bad = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad", "namespace": "glyph"}}
        with pytest.raises(AssertionError, match="violates PodSecurity"):
            kubectl(
                "apply", "--dry-run=server", "-f", "-", documents=(bad | {"spec": pod.spec | {field: value}},)
            )


@pytest.mark.parametrize("part", ["train", "serve", "score"])
def test_the_controllers_make_the_pods(part: str) -> None:
    """As many as are asked for, each let in under the restricted profile; a Job that is suspended has none yet."""
    rendering = overlay("local", part)
    for one in ("common", part):
        kubectl("apply", "-k", K8S / "overlays" / "local" / one)
    wanted = 0
    for document in rendering.documents:
        spec = document.get("spec") or {}
        if document["kind"] == "Deployment":
            wanted += spec.get("replicas", 1)
        elif document["kind"] == "Job" and not spec.get("suspend"):
            wanted += spec.get("parallelism", 1)
    labels = "app.kubernetes.io/component=" + part
    made: list[str] = []
    end = time.monotonic() + PATIENCE
    while len(made) < wanted and time.monotonic() < end:
        made = kubectl("get", "pods", "--namespace", "glyph", "-l", labels, "-o", "name").split()
        time.sleep(0.2)
    refused = kubectl(
        "get", "events", "--namespace", "glyph", "--field-selector", "reason=FailedCreate", "-o", "name"
    )
    assert (len(made), refused) == (wanted, "")
    kubectl("delete", "-k", K8S / "overlays" / "local" / part, "--wait")
