"""What a proxy in front of the service says of its clients: the PROXY protocol, and what Gunicorn is asked for."""

import subprocess

import pytest

from bundle.repository import Bundle
from tests.serving.processes import ROOT, START_SECONDS, environment, free_port, serving_command


@pytest.mark.parametrize("worker", ["inference", "gthread"])
def test_the_proxy_protocol_is_refused_at_the_start(bundle: Bundle, worker: str) -> None:
    """With the exit code of a wrong setting and a sentence, not by taking the proxy for the client.

    Gunicorn's gthread takes the client from it for the first request of a connection only.
    """
    variables = environment(model=bundle.path.parent, port=free_port(), worker=worker)
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
    for word in ("error: ", "PROXY protocol", "plain HTTP"):
        assert word in ended.stderr
