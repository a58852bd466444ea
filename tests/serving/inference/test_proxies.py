"""What a proxy in front of the service says of its clients: the PROXY protocol, and what Gunicorn is asked for."""

import json
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bundle.repository import Bundle
from tests.pictures import png
from tests.serving.inference.wire import connected, post, read_answer
from tests.serving.processes import ROOT, START_SECONDS, environment, free_port, running, serving_command


def test_the_proxy_protocol_is_refused_at_the_start_where_it_is_not_spoken(bundle: Bundle) -> None:
    """With the exit code of a wrong setting and a sentence, not by taking the proxy for the client."""
    variables = environment(model=bundle.path.parent, port=free_port())
    ended = subprocess.run(
        serving_command(),
        env=variables | {"GUNICORN_CMD_ARGS": "--proxy-protocol auto"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    for word in ("error: ", "PROXY protocol", "GLYPH_WORKER=gthread"):
        assert word in ended.stderr


def test_gthread_takes_the_client_of_every_request_from_the_proxy_protocol(
    bundle: Bundle, tmp_path: Path, digit: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent once, before the first request of a connection (haproxy.org's proxy-protocol.txt, 2.1)."""
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--proxy-protocol v1")
    settings = {"model": bundle.path.parent, "worker": "gthread", "access_log": True, "log_format": "json"}
    with (
        running(tmp_path, until="/readyz", **settings) as service,  # type: ignore[arg-type]
        connected(service.port) as connection,
        connection.makefile("rb") as stream,
    ):
        connection.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\n")
        for _ in range(2):
            connection.sendall(post(png(digit)))
            assert read_answer(stream)[0] == 200
        lines = [json.loads(line) for line in service.log().splitlines() if line.startswith("{")]
    clients = [line["client"] for line in lines if line.get("path") == "/predict"]
    assert clients == ["192.0.2.7", "192.0.2.7"]
