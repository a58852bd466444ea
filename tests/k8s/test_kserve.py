"""The component `kserve`: the pod that KServe makes of its two objects, and the objects by KServe's own models."""

import json
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from common.configuration import build
from serving import __main__ as serving_command
from serving.settings import ServiceSettings, environment_layer
from tests.k8s.rendering import Document, Pod, component, overlay, pods
from tests.k8s.test_code import image_environment, program_of
from tests.k8s.test_schemas import NEWEST, OLDEST
from tests.k8s.test_security import violations
from tests.serving.predict.test_clients import CLIENTS

OWN = {"model", "minReplicas", "maxReplicas", "labels"}
"""Fields of a predictor that are no pod's."""


def objects() -> list[Document]:
    """Return the ServingRuntime and the InferenceService."""
    rendering = component("kserve")
    return [rendering.one("ServingRuntime", "glyph"), rendering.one("InferenceService", "glyph")]


def pod() -> Pod:
    """Return the pod that KServe makes: the predictor's fields and the runtime's container."""
    runtime, service = objects()
    predictor = service["spec"]["predictor"]
    fields = {name: value for name, value in predictor.items() if name not in OWN}
    return Pod(
        service, {"labels": predictor["labels"]}, fields | {"containers": runtime["spec"]["containers"]}
    )


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_pod_is_valid_and_restricted(version: str) -> None:
    """As every other pod of the manifests."""
    template = {"apiVersion": "v1", "kind": "PodTemplate", "template": {"spec": pod().spec}}
    kubernetes_validate.validate(template, version, strict=True)
    assert list(violations(pod().spec)) == []
    assert pod().spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_it_is_the_deployments_pod_under_kserves_names() -> None:
    """Image, resources and settings are the same; what KServe has itself is gone."""
    (deployed,) = pods(overlay("cpu", "serve"))
    (theirs,), (ours,) = deployed.containers, pod().containers
    for same in ("image", "resources", "securityContext"):
        assert ours[same] == theirs[same]
    assert ours["name"] == "kserve-container"
    (settings,) = overlay("cpu", "serve").of("ConfigMap")
    variables = {each["name"]: each["value"] for each in ours["env"]}
    assert variables == settings["data"] | {"GLYPH_MODEL": "/mnt/models"}
    kinds = {document["kind"] for document in component("kserve").documents}
    assert kinds == {"ConfigMap", "InferenceService", "NetworkPolicy", "ServingRuntime"}
    (policy,) = component("kserve").of("NetworkPolicy")
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod().labels.items()


def test_its_arguments_and_variables_are_settings_of_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    """The command line parses once KServe has put the name in; the port is the one that it asks."""
    (container,) = pod().containers
    variables = image_environment(program_of(pod())) | {
        each["name"]: each["value"] for each in container["env"]
    }
    arguments = [argument.replace("{{.Name}}", "glyph") for argument in container["args"]]
    options = dict(argument.removeprefix("--").split("=") for argument in arguments)
    values = {name.replace("-", "_"): value for name, value in options.items()}
    settings = build(ServiceSettings, [environment_layer(variables)]).model_copy(update=values)
    assert settings.served_name == "glyph"
    assert settings.model == Path("/mnt/models")
    assert settings.host == "0.0.0.0"
    assert [port["containerPort"] for port in container["ports"]] == [settings.port]
    assert (
        serving_command.main([*arguments, "--port", "0", "--check-address"]) == 2
    )  # the port alone is refused
    assert "--port" in capsys.readouterr().err
    assert pod().spec["terminationGracePeriodSeconds"] >= settings.graceful_timeout_seconds + 5


@pytest.mark.skipif(not CLIENTS.exists(), reason=f"{CLIENTS} is missing: 'make clients' makes it")
def test_kserves_own_models_know_every_field() -> None:
    """An object that comes back from its model as it was has no field that KServe lacks; a misspelt one is lost."""
    script = Path(__file__).with_name("read_by_kserve.py")
    broken: list[Any] = json.loads(json.dumps(objects()))
    broken[0]["spec"]["protocolVersion"] = ["v2"]
    broken[1]["spec"]["predictor"]["model"]["storageURI"] = "pvc://glyph"
    for documents, same in ((objects(), True), (broken, False)):
        done = subprocess.run(
            [CLIENTS, script], input=json.dumps(documents), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        read = json.loads(done.stdout)
        assert (
            read[1]["spec"]["predictor"]["model"].pop("name") == ""
        )  # a model is a container, which has one
        assert [one == other for one, other in zip(read, documents, strict=True)] == [same, same]
