"""The service's port of gRPC, by real clients over sockets."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from bench.support.processes import START_SECONDS, Service, free_port, running
from bundle.repository import Bundle
from serving.worker.rpc.messages import message_class
from tests.conftest import ROOT
from tests.serving.certificates import write_certificate
from tests.serving.worker.rpc.peer import INFER, a_request
from tests.serving.worker.test_lifecycle import until

CLIENTS = Path(os.environ.get("CLIENTS_PYTHON", ROOT / ".venv-clients/bin/python"))
PATIENCE = 300.0
WATCH = "/grpc.health.v1.Health/Watch"
HealthResponse = message_class("grpc.health.v1.HealthCheckResponse")
SERVING, NOT_SERVING = 1, 2


@pytest.fixture
def start(bundle: Bundle, tmp_path: Path) -> Iterator[Callable[..., tuple[Service, int]]]:
    """Return what starts a service, and gives it and its port of gRPC; each ends with the test, and well."""
    with ExitStack() as stack:

        def begin(**settings: object) -> tuple[Service, int]:
            port = free_port()
            common: dict[str, Any] = {"until": "/readyz", "model": bundle.path.parent, "grpc_port": port}
            service = stack.enter_context(running(tmp_path, **(common | settings)))
            workers = settings.get("workers", 1)
            until(lambda: service.log().count("ready: ") == workers)
            return service, port

        yield begin


@pytest.fixture
def images() -> npt.NDArray[np.uint8]:
    """Return a few images."""
    return np.random.default_rng(23).integers(0, 256, (5, 28, 28), dtype=np.uint8)


@contextlib.contextmanager
def asking(port: int, clients: int, request: bytes) -> Iterator[Callable[[], dict[str, int]]]:
    """Ask without a pause from another process; yield what ends it and returns what the calls ended with."""
    script = Path(__file__).with_name("ask_without_pause.py")
    process = subprocess.Popen(
        [sys.executable, script, str(port), str(clients)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"GRPC_VERBOSITY": "NONE"},
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def end() -> dict[str, int]:
        out, _ = process.communicate(timeout=PATIENCE)
        found: dict[str, int] = json.loads(out.splitlines()[-1])
        return found

    try:
        process.stdin.write(request.hex() + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "begun\n"
        yield end
    finally:
        process.kill()
        process.wait()


def by(client: str, port: int, service: Service, images: npt.NDArray[np.uint8], directory: Path) -> Any:
    """Return what a client of the clients' environment got."""
    np.save(directory / "images.npy", images)
    script = Path(__file__).with_name("ask_by_clients.py")
    done = subprocess.run(
        [
            *(CLIENTS, script, client, f"127.0.0.1:{port}"),
            *(f"127.0.0.1:{service.port}", "synthetic", directory / "images.npy"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not CLIENTS.exists(), reason=f"{CLIENTS} is missing: 'make clients' makes it")
def test_both_clients_get_the_bytes_that_rest_answers(
    start: Callable[..., tuple[Service, int]], images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    """tritonclient[grpc] and KServe's, unmodified: raw, typed and compressed, with the request's id."""
    service, port = start()
    triton = by("triton", port, service, images, tmp_path)
    kserve = by("kserve", port, service, images, tmp_path)
    wanted = triton["rest"]
    assert triton["answers"] == {"None": wanted, "gzip": wanted, "deflate": wanted}
    assert kserve["answers"] == {"True": wanted, "False": wanted}
    assert (triton["live"], triton["ready"], triton["model_ready"]) == (True, True, True)
    assert (kserve["ready"], kserve["model_ready"]) == (True, True)
    assert (triton["server"], triton["model"]["name"]) == ("glyph", "synthetic")
    assert triton["id"] == kserve["id"] == "the-request"
    assert "looks inverted" in triton["warnings"]
    status, message = triton["error"]
    assert "NOT_FOUND" in status
    assert "there is no model 'another'" in message


def test_sigterm_under_load_loses_no_call(
    start: Callable[..., tuple[Service, int]], images: npt.NDArray[np.uint8]
) -> None:
    """Each is answered, or was not accepted: as many answers were sent as have come, and the rest is UNAVAILABLE."""
    service, port = start(workers=2, access_log=True)
    with asking(port, 16, a_request(images).SerializeToString()) as end:
        service.process.terminate()
        assert service.process.wait(START_SECONDS) == 0
        found = end()
    answered = found.pop("OK")
    assert answered == service.log().count(f"POST {INFER} 200") >= 16
    assert {name.split(":")[0] for name in found} <= {"UNAVAILABLE"}, found


def test_a_hup_under_load_loses_no_call(
    start: Callable[..., tuple[Service, int]], images: npt.NDArray[np.uint8]
) -> None:
    """The clients take their calls from the workers that end to those that follow, and notice nothing."""
    service, port = start(workers=2)
    with asking(port, 16, a_request(images).SerializeToString()) as end:
        for generation in (2, 3):
            service.process.send_signal(signal.SIGHUP)
            until(lambda wanted=2 * generation: service.log().count("ready: ") == wanted)  # type: ignore[misc]
            until(lambda wanted=2 * generation - 2: service.log().count("Worker exiting") == wanted)  # type: ignore[misc]
        found = end()
    assert set(found) == {"OK"}, found


def test_max_requests_replaces_a_process_and_loses_no_call(
    start: Callable[..., tuple[Service, int]], images: npt.NDArray[np.uint8]
) -> None:
    """Calls count as requests do."""
    service, port = start(workers=2, max_requests=300)
    with asking(port, 8, a_request(images).SerializeToString()) as end:
        until(lambda: service.log().count("Worker exiting") >= 3)
        found = end()
    assert set(found) == {"OK"}, found


def test_health_is_watched_until_the_service_ends(start: Callable[..., tuple[Service, int]]) -> None:
    """SERVING, then NOT_SERVING, then the stream ends, and holds up no process."""
    service, port = start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        watching = channel.unary_stream(WATCH)(b"", timeout=PATIENCE)
        assert HealthResponse.FromString(next(watching)).status == SERVING
        service.process.terminate()
        assert HealthResponse.FromString(next(watching)).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as ended:
            next(watching)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
    assert service.process.wait(START_SECONDS) == 0


def test_grpc_has_the_certificate_and_the_tokens_of_http(
    start: Callable[..., tuple[Service, int]], images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    """A client checks the one, and sends the other as metadata; plain gRPC is not answered."""
    certificate, key = write_certificate(tmp_path)
    tokens = tmp_path / "tokens"
    tokens.write_text("# nobody\n")
    service, port = start(
        until=None, tls_certificate=certificate, tls_key=key, tokens_file=tokens, access_log=True
    )
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    request = a_request(images).SerializeToString()
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        assert channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", wait_for_ready=True)
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(INFER)(request)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as plain:
        channel.unary_unary(INFER)(request, timeout=10)
    assert plain.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert f"POST {INFER} 401" in service.log()
