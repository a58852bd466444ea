"""Ask a running service by the real clients, and print what they got as JSON.

Run by the interpreter of the clients' own environment, which has `tritonclient[http]` and `kserve`
and nothing of Glyph: `python ask_by_clients.py HOST:PORT MODEL images.npy`.
"""

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import tritonclient.http as triton  # type: ignore[import-not-found]
from kserve import (  # type: ignore[import-not-found]
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found]

COMPRESSIONS = (None, "gzip", "deflate")


def ask_by_triton(address: str, model: str, images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return what tritonclient[http] got: metadata, health, and inference in each of its forms."""
    client = triton.InferenceServerClient(address)
    found: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "version_ready": client.is_model_ready(model, "1"),
        "other_ready": client.is_model_ready("another"),
        "server": client.get_server_metadata(),
        "model": client.get_model_metadata(model, "1"),
        "config": client.get_model_config(model, "1"),
        "index": client.get_model_repository_index(),
        "before": client.get_inference_statistics(model),
        "refused": [refused(client.load_model, model), refused(client.unload_model, model)],
        "answers": {},
    }
    for binary_input in (False, True):
        for binary_output in (False, True):
            for compression in COMPRESSIONS:
                given = triton.InferInput("images", list(images.shape), "UINT8")
                given.set_data_from_numpy(images, binary_data=binary_input)
                result = client.infer(
                    model,
                    [given],
                    model_version="1",
                    request_id="the-request",
                    outputs=[
                        triton.InferRequestedOutput("probabilities", binary_data=binary_output),
                        triton.InferRequestedOutput("logits", binary_data=not binary_output),
                    ],
                    request_compression_algorithm=compression,
                    response_compression_algorithm=compression,
                )
                found["answers"][f"{binary_input}, {binary_output}, {compression}"] = {
                    "id": result.get_response()["id"],
                    "probabilities": result.as_numpy("probabilities").tolist(),
                    "logits": result.as_numpy("logits").tolist(),
                }
    given = triton.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images)
    result = client.infer(
        model, [given]
    )  # no version, no outputs named: all of them, binary by the client's wish
    found["plain"] = {name: result.as_numpy(name).tolist() for name in ("probabilities", "logits")}
    try:
        client.infer("another", [given])
    except InferenceServerException as error:
        found["error"] = [error.status(), error.message()]
    scaled = triton.InferInput("images", list(images.shape), "FP32")
    scaled.set_data_from_numpy((images / 255).astype(np.float32))
    try:
        client.infer(model, [scaled])
    except InferenceServerException as error:
        found["of_floats"] = [error.status(), error.message()]
    found["after"] = client.get_inference_statistics(model, "1")
    found["of_all"] = client.get_inference_statistics()
    client.close()
    return found


def refused(call: Any, *arguments: Any) -> list[str]:
    """Return status and message of the exception that a call raises."""
    try:
        call(*arguments)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return []


async def ask_by_kserve_v1(address: str, model: str, images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return what KServe's REST client got by its V1 protocol."""
    base = f"http://{address}"
    client = InferenceRESTClient(RESTConfig(protocol="v1", retries=0))
    found: dict[str, Any] = {
        "model_ready": await client.is_model_ready(base, model),
        "predictions": (await client.infer(base, {"instances": images.tolist()}, model_name=model))[
            "predictions"
        ],
        "outputs": (await client.infer(base, {"inputs": images.tolist()}, model_name=model))["outputs"],
    }
    try:
        await client.is_model_ready(base, "another")
    except httpx.HTTPStatusError as error:
        found["error"] = str(error)
    await client.close()
    return found


async def ask_by_kserve(address: str, model: str, images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return what KServe's REST client got."""
    base = f"http://{address}"
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    found: dict[str, Any] = {
        "live": await client.is_server_live(base),
        "ready": await client.is_server_ready(base),
        "model_ready": await client.is_model_ready(base, model),
        "other_ready": await client.is_model_ready(base, "another"),
        "answers": {},
    }
    for binary in (False, True):
        given = InferInput("images", list(images.shape), "UINT8")
        given.set_data_from_numpy(images, binary_data=binary)
        request = InferRequest(
            model, [given], request_id="the-request", parameters={"binary_data_output": binary}
        )
        answer = await client.infer(base, request, model_name=model)
        found["answers"][str(binary)] = {
            "id": answer.id,
            "model": answer.model_name,
            "probabilities": answer.get_output_by_name("probabilities").as_numpy().tolist(),
            "logits": answer.get_output_by_name("logits").as_numpy().tolist(),
        }
    given = InferInput("image", list(images.shape), "UINT8")
    given.set_data_from_numpy(images, binary_data=False)
    try:
        await client.infer(base, InferRequest(model, [given]), model_name=model)
    except httpx.HTTPStatusError as error:
        found["error"] = str(error)
    await client.close()
    return found


def main() -> None:
    """Print what both clients got."""
    address, model, path = sys.argv[1:]
    images = np.load(path)
    found = {
        "triton": ask_by_triton(address, model, images),
        "kserve": asyncio.run(ask_by_kserve(address, model, images)),
        "kserve_v1": asyncio.run(ask_by_kserve_v1(address, model, images)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
