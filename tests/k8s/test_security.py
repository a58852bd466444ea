"""Every pod against the restricted profile of the Pod Security Standards, and what is promised beyond it."""

import copy
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.k8s.rendering import CASES, OVERLAYS, Pod, overlay, pods

VOLUMES = {
    *(
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ),
    "image",  # let in from 1.33 on: kubernetes/kubernetes pull request 130394
}
SECCOMP = ("RuntimeDefault", "Localhost")


def violations(spec: dict[str, Any]) -> Iterator[str]:
    """Yield what the restricted profile forbids in a pod's specification.

    Source: kubernetes.io/docs/concepts/security/pod-security-standards, Baseline and Restricted.
    """
    pod = spec.get("securityContext", {})
    yield from (f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))
    if "sysctls" in pod:
        yield "sysctls are set"
    for volume in spec.get("volumes", []):
        if not volume.keys() - {"name"} <= VOLUMES:
            yield f"volume {volume['name']} is of a kind that is not allowed"
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        found = [*_of_privileges(container), *_of_user(container, pod), *_of_host(container)]
        yield from (f"{container['name']} {violation}" for violation in found)


def _of_privileges(container: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    capabilities = own.get("capabilities", {})
    if own.get("privileged"):
        yield "is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if "ALL" not in capabilities.get("drop", []):
        yield "keeps capabilities"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "adds capabilities"


def _of_user(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    """What a container does not say for itself is the pod's."""
    both = pod | container.get("securityContext", {})
    if both.get("runAsNonRoot") is not True:
        yield "may run as root"
    if both.get("runAsUser") == 0:
        yield "runs as root"
    if both.get("seccompProfile", {}).get("type") not in SECCOMP:
        yield "has no seccomp profile"
    yield from (
        f"sets {key}"
        for key in ("seLinuxOptions", "procMount", "appArmorProfile", "windowsOptions")
        if key in both
    )


def _of_host(container: dict[str, Any]) -> Iterator[str]:
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "takes a port of its node"
    handlers = [container.get(key, {}) for key in ("startupProbe", "readinessProbe", "livenessProbe")]
    handlers += [container.get("lifecycle", {}).get(key, {}) for key in ("preStop", "postStart")]
    if any("host" in handler.get(kind, {}) for handler in handlers for kind in ("httpGet", "tcpSocket")):
        yield "asks another host"


@pytest.mark.parametrize("case", CASES)
def test_every_pod_keeps_to_the_restricted_profile(case: str) -> None:
    """Whatever the overlay, whatever the component."""
    for pod in pods(CASES[case]()):
        assert list(violations(pod.spec)) == [], pod.name


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_confined_further(case: str) -> None:
    """Its root is read-only, it has no token and no Service's variables, its user is a number, its use has limits."""
    for pod in pods(CASES[case]()):
        spec = pod.spec
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["runAsGroup"] > 0
        for container in pod.containers:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys()
            assert {"cpu", "memory"} <= resources["limits"].keys()


def test_the_namespace_enforces_the_profile() -> None:
    """A pod that somebody adds is held to the same."""
    for name in OVERLAYS:
        labels = overlay(name, "common").one("Namespace", "glyph")["metadata"]["labels"]
        modes = {key: value for key, value in labels.items() if key.startswith("pod-security.")}
        assert modes == {
            f"pod-security.kubernetes.io/{m}": "restricted" for m in ("enforce", "warn", "audit")
        }


def test_the_service_can_write_nothing_on_the_volume() -> None:
    """Who answers requests cannot change what is answered with."""
    (pod,) = pods(overlay("cpu", "serve"))
    assert all(mount["readOnly"] for mount in pod.containers[0]["volumeMounts"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_scorer_can_write_nothing_but_its_output(name: str) -> None:
    """Neither models nor input nor checkpoints; the place of the output is one folder of the volume."""
    rendering = overlay(name, "score")
    output = PurePosixPath(rendering.one("ConfigMap", "glyph-score")["data"]["GLYPH_SCORE_OUTPUT"])
    found = list(pods(rendering))
    assert len(found) == 2
    for pod in found:
        (container,) = pod.containers
        writable = [mount for mount in container["volumeMounts"] if not mount.get("readOnly")]
        assert [mount["mountPath"] for mount in writable] == [str(output)]
        assert [mount["subPath"] for mount in writable] == [output.name]


def _change(pod: Pod, *path: str | int, value: Any) -> dict[str, Any]:
    spec = copy.deepcopy(pod.spec)
    place: Any = spec
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return spec


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("hostNetwork",), True, "hostNetwork is set"),
        (("securityContext", "runAsNonRoot"), False, "may run as root"),
        (("securityContext", "runAsUser"), 0, "runs as root"),
        (("securityContext", "seccompProfile"), {"type": "Unconfined"}, "no seccomp profile"),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True, "may gain privileges"),
        (("containers", 0, "securityContext", "capabilities"), {"drop": ["NET_RAW"]}, "keeps capabilities"),
        (("containers", 0, "securityContext", "privileged"), True, "is privileged"),
        (("volumes", 0), {"name": "glyph", "hostPath": {"path": "/"}}, "kind that is not allowed"),
        (("containers", 0, "ports", 0, "hostPort"), 80, "port of its node"),
    ],
)
def test_a_pod_that_is_less_confined_is_found(path: tuple[str | int, ...], value: Any, said: str) -> None:
    """The rules see what they are for."""
    (pod,) = pods(overlay("cpu", "serve"))
    assert any(said in violation for violation in violations(_change(pod, *path, value=value)))
