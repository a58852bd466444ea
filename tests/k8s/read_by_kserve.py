"""Read objects as JSON from standard input by KServe's own models, and print what they make of them.

Run by the interpreter of the clients' own environment, which has `kserve` and nothing of Glyph.
"""

import json
import sys
from types import SimpleNamespace

import kserve.models  # type: ignore[import-not-found]
import kubernetes.client  # type: ignore[import-not-found]
from kserve.api_client import ApiClient  # type: ignore[import-not-found]

MODELS = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}

# Their models name those of Kubernetes, which KServe's client looks for among its own.
for name in dir(kubernetes.client.models):
    if name.startswith("V1") and not hasattr(kserve.models, name):
        setattr(kserve.models, name, getattr(kubernetes.client.models, name))
client = ApiClient()
read = [
    client.deserialize(SimpleNamespace(data=json.dumps(document)), MODELS[document["kind"]])
    for document in json.load(sys.stdin)
]
print(json.dumps([client.sanitize_for_serialization(one) for one in read]))
