"""Ask a running service over gRPC without a pause, until standard input ends; print what came back as JSON.

`python ask_without_pause.py PORT CLIENTS`, by grpcio. A line is printed as soon as every client has an answer. A failed
call is not tried again here; what gRPC's library itself repeats, it may: calls that the service has not processed.
"""

import asyncio
import json
import sys
from collections import Counter

import grpc.aio

PATIENCE = 240
METHOD = "/inference.GRPCInferenceService/ModelInfer"


async def ask(port: int, clients: int, request: bytes) -> Counter[str]:
    """Return how many calls ended in which way."""
    found: Counter[str] = Counter()
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    answered: set[int] = set()

    async def one(number: int) -> None:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            # How long a connection may wait to be accepted, which is while workers load their model; 20 s by default.
            ("grpc.min_reconnect_backoff_ms", 1000 * PATIENCE),
        ]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            call = channel.unary_unary(METHOD)
            while not ended.done():
                try:
                    await call(request, timeout=PATIENCE)
                    found["OK"] += 1
                    if number not in answered:
                        answered.add(number)
                        if len(answered) == clients:
                            print("begun", flush=True)
                except grpc.aio.AioRpcError as error:
                    found[f"{error.code().name}: {error.details()}"] += 1
                    await asyncio.sleep(0.05)

    await asyncio.gather(*(one(number) for number in range(clients)))
    return found


if __name__ == "__main__":
    request = bytes.fromhex(sys.stdin.readline())
    print(json.dumps(asyncio.run(ask(int(sys.argv[1]), int(sys.argv[2]), request))))
