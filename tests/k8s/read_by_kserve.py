"""Read objects as JSON from standard input by KServe's own models, and print what they make of them.

Run by the interpreter of the clients' own environment, which has `kserve` and nothing of Glyph.
"""

import json
import re
import sys
from types import SimpleNamespace

import kserve.models  # type: ignore[import-not-found]
import kubernetes.client  # type: ignore[import-not-found]
from kserve.api_client import ApiClient  # type: ignore[import-not-found]

MODELS = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}

# Their models name those of Kubernetes, which KServe's client looks for among its own, with types as it writes them.
for name in dir(kubernetes.client.models):
    model = getattr(kubernetes.client.models, name)
    if hasattr(model, "openapi_types") and not hasattr(kserve.models, name):
        model.openapi_types = {
            field: re.sub(r"Dict\[(.*)\]$", r"dict(\1)", kind).replace("List[", "list[")
            for field, kind in model.openapi_types.items()
        }
        setattr(kserve.models, name, model)
client = ApiClient()
read = [
    client.deserialize(SimpleNamespace(data=json.dumps(document)), MODELS[document["kind"]])
    for document in json.load(sys.stdin)
]
print(json.dumps([client.sanitize_for_serialization(one) for one in read]))
