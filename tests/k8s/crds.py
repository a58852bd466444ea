"""The custom resources that the manifests use, each against a schema of its own project's.

Prometheus' and KEDA's (cloudcoil's models) and Kubeflow Trainer's (its own package) are pydantic models that
were generated from the CustomResourceDefinitions. They ignore what they do not know, so an object is valid if
it comes back from its model as it was. Of Gateway API's and Kueue's there is no such package, and KServe's needs an
environment of its own (tests/k8s/test_kserve.py): here are the fields that the manifests use and no others, as their
definitions have them.
"""

import copy
from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
from pydantic import BaseModel, ValidationError

from tests.k8s.rendering import Document

POD_VERSION = "1.33"
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
HOST = {
    "type": "string",
    "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
}
QUANTITY = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]+(m|Ki|Mi|Gi)?$"}]}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def many(schema: dict[str, Any], most: int) -> dict[str, Any]:
    """Return the schema of a list of one to `most`."""
    return {"type": "array", "items": schema, "minItems": 1, "maxItems": most}


SPECS: dict[tuple[str, str], dict[str, Any]] = {
    # github.com/kubernetes-sigs/gateway-api, config/crd/standard/gateway.networking.k8s.io_httproutes.yaml
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): closed(
        [],
        parentRefs=many(closed(["name"], name=NAME, namespace=NAME), 32),
        hostnames=many(HOST, 16),
        rules=many(
            closed(
                [],
                backendRefs=many(
                    closed(["name"], name=NAME, port={"type": "integer", "minimum": 1, "maximum": 65535}), 16
                ),
            ),
            16,
        ),
    ),
    # github.com/kserve/kserve, config/crd/full/serving.kserve.io_*.yaml
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): closed(
        ["containers"],
        supportedModelFormats=many(
            closed(["name"], name=NAME, version={"type": "string"}, autoSelect={"type": "boolean"}), 16
        ),
        protocolVersions=many({"enum": ["v1", "v2"]}, 2),
        containers=many({"type": "object", "required": ["name", "image"]}, 1),
    ),
    ("serving.kserve.io/v1beta1", "InferenceService"): closed(
        ["predictor"],
        predictor=closed(
            ["model"],
            labels={"type": "object"},
            minReplicas={"type": "integer", "minimum": 0},
            maxReplicas={"type": "integer", "minimum": 1},
            automountServiceAccountToken={"type": "boolean"},
            enableServiceLinks={"type": "boolean"},
            terminationGracePeriodSeconds={"type": "integer", "minimum": 0},
            securityContext={"type": "object"},
            model=closed(
                ["modelFormat"],
                modelFormat=closed(["name"], name=NAME),
                runtime=NAME,
                protocolVersion={"enum": ["v1", "v2"]},
                storageUri={"type": "string", "pattern": "^(pvc|s3|gs|https?)://"},
            ),
        ),
    ),
    # github.com/kubernetes-sigs/kueue, config/components/crd/bases/kueue.x-k8s.io_*.yaml
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"): closed([]),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"): closed(
        [],
        namespaceSelector=closed(["matchLabels"], matchLabels={"type": "object"}),
        resourceGroups=many(
            closed(
                ["coveredResources", "flavors"],
                coveredResources=many({"type": "string"}, 16),
                flavors=many(
                    closed(
                        ["name", "resources"],
                        name=NAME,
                        resources=many(
                            closed(["name", "nominalQuota"], name={"type": "string"}, nominalQuota=QUANTITY),
                            16,
                        ),
                    ),
                    16,
                ),
            ),
            16,
        ),
    ),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): closed([], clusterQueue=NAME),
}


def _prometheus(kind: str) -> Callable[[], type[BaseModel]]:
    def load() -> type[BaseModel]:
        from cloudcoil.models.prometheus_operator import v1

        model: type[BaseModel] = getattr(v1, kind)
        return model

    return load


def _keda() -> type[BaseModel]:
    from cloudcoil.models.keda import v1alpha1

    model: type[BaseModel] = v1alpha1.ScaledObject
    return model


def _trainer(kind: str) -> Callable[[], type[BaseModel]]:
    def load() -> type[BaseModel]:
        from kubeflow_trainer_api import models

        model: type[BaseModel] = getattr(models, f"TrainerV1alpha1{kind}")
        return model

    return load


MODELS: dict[tuple[str, str], Callable[[], type[BaseModel]]] = {
    ("monitoring.coreos.com/v1", "PodMonitor"): _prometheus("PodMonitor"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _prometheus("ServiceMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _prometheus("PrometheusRule"),
    ("keda.sh/v1alpha1", "ScaledObject"): _keda,
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): _trainer("TrainJob"),
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): _trainer("TrainingRuntime"),
}
CUSTOM = {*SPECS, *MODELS}


def problems(document: Document) -> list[str]:
    """Return what is wrong with a custom resource, in words."""
    key = (document["apiVersion"], document["kind"])
    if document["kind"] == "TrainingRuntime":
        document = _without_pods(document)
    if key in SPECS:
        validator = jsonschema.Draft202012Validator(SPECS[key])
        return [error.message for error in validator.iter_errors(document.get("spec") or {})]
    try:
        model = MODELS[key]().model_validate(document)
    except ValidationError as error:
        return [str(error)]
    return list(_lost(document, model.model_dump(mode="json", by_alias=True, exclude_unset=True), ""))


def _without_pods(document: Document) -> Document:
    """Return a TrainingRuntime with its pod templates reduced to a name.

    The model takes no quantity as it is written (`2Gi`); Kubernetes' own schema, which the pod templates
    are validated by on their own, does.
    """
    document = copy.deepcopy(document)
    jobs = document["spec"].get("template", {}) if isinstance(document["spec"], dict) else {}
    for job in jobs.get("spec", {}).get("replicatedJobs", []):
        template = job["template"]["spec"]["template"]
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "PodTemplate", "template": template}, POD_VERSION, strict=True
        )
        (container,) = template["spec"]["containers"]
        job["template"]["spec"]["template"] = {"spec": {"containers": [{"name": container["name"]}]}}
    return document


def _lost(given: Any, kept: Any, path: str) -> list[str]:
    """Return the places of `given` that a model did not know."""
    if isinstance(given, dict) and isinstance(kept, dict):
        unknown = [f"{path}.{key} is unknown" for key in given if key not in kept]
        return unknown + [
            line for key in given if key in kept for line in _lost(given[key], kept[key], f"{path}.{key}")
        ]
    if isinstance(given, list) and isinstance(kept, list):
        return [line for a, b in zip(given, kept, strict=True) for line in _lost(a, b, f"{path}[]")]
    return []
