"""Ask a running service over gRPC by the real clients, and over REST; print what they got as JSON.

Run by the interpreter of the clients' own environment: `python ask_by_clients.py triton|kserve GRPC REST MODEL
images.npy`.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

# One process cannot import both clients: they have the same messages.

NAMES = ("logits", "probabilities")


def values(result: Any) -> dict[str, str]:
    """Return the outputs' bytes in hexadecimal."""
    return {name: result.as_numpy(name).astype("<f4").tobytes().hex() for name in NAMES}


def ask_by_rest(address: str, model: str, images: npt.NDArray[np.uint8]) -> dict[str, str]:
    """Return what REST answers."""
    import tritonclient.http as rest  # type: ignore[import-not-found]

    given = rest.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images)
    return values(rest.InferenceServerClient(address).infer(model, [given]))


def ask_by_triton(address: str, model: str, images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return what tritonclient[grpc] got: health, metadata, inference, and an error."""
    import tritonclient.grpc as triton  # type: ignore[import-not-found]
    from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found]

    client = triton.InferenceServerClient(address)
    given = triton.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images)
    answers = {}
    for coding in (None, "gzip", "deflate"):
        wanted = [triton.InferRequestedOutput(name) for name in NAMES]
        answers[str(coding)] = client.infer(
            model,
            [given],
            "1",
            wanted,
            request_id="the-request",
            compression_algorithm=coding,
            client_timeout=60,
        )
    message = answers["None"].get_response()
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model, "1"),
        "server": client.get_server_metadata(as_json=True)["name"],
        "model": client.get_model_metadata(model, as_json=True),
        "id": message.id,
        "warnings": message.parameters["warnings"].string_param,
        "answers": {coding: values(answer) for coding, answer in answers.items()},
    }
    try:
        client.infer("another", [given])
    except InferenceServerException as error:
        found["error"] = [error.status(), error.message()]
    return found


async def ask_by_kserve(address: str, model: str, images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return what KServe's client got, with raw and with typed contents."""
    from kserve import InferenceGRPCClient, InferInput, InferRequest  # type: ignore[import-not-found]

    found: dict[str, Any] = {"answers": {}}
    async with InferenceGRPCClient(address) as client:
        found["ready"] = await client.is_server_ready()
        found["model_ready"] = await client.is_model_ready(model)
        for raw in (True, False):
            given = InferInput("images", list(images.shape), "UINT8")
            given.set_data_from_numpy(images, binary_data=raw)
            answer = await client.infer(InferRequest(model, [given], "the-request"))
            found["answers"][str(raw)] = {
                one.name: one.as_numpy().astype("<f4").tobytes().hex() for one in answer.outputs
            }
            found["id"] = answer.id
    return found


if __name__ == "__main__":
    address, other, model, path = sys.argv[2:]
    images = np.load(path)
    if sys.argv[1] == "triton":
        print(json.dumps(ask_by_triton(address, model, images) | {"rest": ask_by_rest(other, model, images)}))
    else:
        print(json.dumps(asyncio.run(ask_by_kserve(address, model, images))))
