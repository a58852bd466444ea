"""How the service starts, refuses to start, and stays up without a model."""

import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.support.management import await_
from bench.support.models import NO_GRAPH, a_linear, publish_synthetic
from bench.support.pictures import a_digit, png
from bench.support.processes import (
    ROOT,
    START_SECONDS,
    Service,
    await_ok,
    environment,
    free_port,
    running,
    serving_command,
)
from bundle.manifest import MANIFEST_FILE, ONNX_FILE
from bundle.repository import Bundle
from serving.model import cuda


def start_and_end(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run the service until it ends by itself."""
    return subprocess.run(
        serving_command(*arguments),
        env=environment(**settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


def assert_up_but_not_ready(service: Service, *words: str) -> None:
    """Check liveness, and that log, `/readyz` and `/predict` all give the reason."""
    assert service.ask("GET", "/livez").status == 200
    for answer in (
        service.ask("GET", "/readyz"),
        service.ask("GET", "/healthz"),
        service.post(png(a_digit())),
    ):
        assert answer.status == 503
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert int(answer.headers["Retry-After"]) > 0
        for word in words:
            assert word in answer.json()["detail"]
    for word in ("not ready", *words):
        assert word in service.log()
    assert "curl" not in service.log()
    assert "Traceback" not in service.log()


def damaged(bundle: Bundle, directory: Path, name: str) -> Path:
    """Copy a model, flip one bit in the middle of one of its files, and return its directory."""
    model = Path(shutil.copytree(bundle.path.parent, directory / bundle.manifest.name))
    path = model / str(bundle.version) / name
    path.chmod(path.stat().st_mode | stat.S_IWUSR)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return model


@pytest.mark.parametrize("name", [ONNX_FILE, "model.pt", MANIFEST_FILE])
def test_one_flipped_bit_keeps_the_service_from_becoming_ready(
    bundle: Bundle, tmp_path: Path, name: str
) -> None:
    """Whichever file it is in, the reason names the file."""
    with running(tmp_path, model=damaged(bundle, tmp_path, name)) as service:
        assert_up_but_not_ready(service, name)


def test_a_wrong_golden_answer_keeps_the_service_from_becoming_ready(tmp_path: Path) -> None:
    """A model that is intact and does not do what was recorded is not served."""
    bad = publish_synthetic(tmp_path, golden_shift=0.001)
    with running(tmp_path, model=bad.path.parent) as service:
        assert_up_but_not_ready(service, "golden", "0.001")


def test_a_missing_model_keeps_the_service_up_and_says_how_to_get_one(tmp_path: Path) -> None:
    """Nothing published is a reason, not a crash."""
    with running(tmp_path, model=tmp_path / "nothing") as service:
        assert_up_but_not_ready(service, "no version is published")
        text = service.ask("GET", "/readyz").body.decode()
        assert text.count("training fit") == 1
        assert "give another directory" not in text  # the remedy is said once


def test_a_version_published_later_is_served_after_a_hangup(tmp_path: Path) -> None:
    """The remedy that the refusal gives works: SIGHUP replaces the workers, and they look again."""
    with running(tmp_path, model=tmp_path / "synthetic") as service:
        assert service.ask("GET", "/readyz").status == 503
        publish_synthetic(tmp_path)
        service.process.send_signal(signal.SIGHUP)
        # The next answer may be of an old worker, which has no model, until it has ended.
        assert await_ok(service, "/readyz").json()["model"]["version"] == 1


def test_control_c_ends_the_service_with_success(bundle: Bundle, tmp_path: Path) -> None:
    """SIGINT is how a person stops it; that is no failure."""
    with running(tmp_path, until="/readyz", model=bundle.path.parent) as service:
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(START_SECONDS) == 0


def test_a_fixed_batch_axis_is_refused(tmp_path: Path) -> None:
    """A graph for one image at a time is not what the contract says."""
    bad = publish_synthetic(tmp_path, graph=a_linear().graph(batch=1))
    with running(tmp_path, model=bad.path.parent) as service:
        assert_up_but_not_ready(service, "fixed batch axis")


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    """A file that was published faithfully and has no graph in it is named."""
    bad = publish_synthetic(tmp_path, graph=NO_GRAPH)
    with running(tmp_path, model=bad.path.parent, arithmetic="float32") as service:
        assert_up_but_not_ready(service, ONNX_FILE, "cannot be loaded")


def test_a_version_can_be_pinned_and_the_newest_is_the_default(tmp_path: Path) -> None:
    """With two versions published, each is served when it is asked for."""
    first = publish_synthetic(tmp_path)
    publish_synthetic(tmp_path)
    cases: tuple[tuple[dict[str, Any], int], ...] = (({}, 2), ({"version": 1}, 1))
    for settings, version in cases:
        with running(tmp_path, until="/readyz", model=first.path.parent, **settings) as service:
            assert service.ask("GET", "/readyz").json()["model"]["version"] == version


def test_several_workers_announce_the_service_once(bundle: Bundle, tmp_path: Path) -> None:
    """The curl line is for a person, and a person needs it once."""
    with running(tmp_path, until="/readyz", model=bundle.path.parent, workers=2) as service:
        await_(lambda: service.log().count("ready: synthetic version 1") == 2)
        # The first worker prints it after that line, and does not if it is told to end in between.
        await_(lambda: "curl --data-binary" in service.log(), service.log)
        service.process.terminate()
        service.process.wait(START_SECONDS)
        assert service.log().count("curl --data-binary") == 1


def test_cuda_where_there_is_none_ends_the_service_with_a_sentence(bundle: Bundle) -> None:
    """The exit code is not zero, the sentence says what is missing, and there is no traceback."""
    if cuda.missing_device_by_child(0) is None:
        pytest.skip("this machine has CUDA")
    ended = start_and_end(provider="cuda", model=bundle.path.parent, port=free_port())
    assert ended.returncode == 4
    (sentence,) = [line for line in ended.stderr.splitlines() if "CUDA" in line]
    assert "does not work here: no NVIDIA" in sentence or "the NVIDIA driver" in sentence
    assert "Traceback" not in ended.stderr + ended.stdout


def test_auto_where_there_is_no_cuda_serves_on_the_cpu_and_says_so(bundle: Bundle, tmp_path: Path) -> None:
    """The choice is in the log with its reason, and in `/readyz`."""
    if cuda.missing_device_by_child(0) is None:
        pytest.skip("this machine has CUDA")
    with running(tmp_path, until="/readyz", model=bundle.path.parent, provider="auto") as service:
        assert service.ask("GET", "/readyz").json()["provider"] == "cpu"
        assert "execution provider: CPU (auto, because " in service.log()


def test_an_unknown_setting_ends_the_service_and_names_the_nearest() -> None:
    """A typing error in the environment is found before anything is started."""
    ended = start_and_end(max_boddy_bytes=1)
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: unknown environment variable GLYPH_MAX_BODDY_BYTES; did you mean 'GLYPH_MAX_BODY_BYTES'?\n"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"port": "eighty"}, ("GLYPH_PORT", "'eighty'")),
        ({"port": 70000}, ("GLYPH_PORT", "65535")),
        ({"provider": "tpu"}, ("GLYPH_PROVIDER", "'cpu'")),
        ({"workers": 0}, ("GLYPH_WORKERS",)),
    ],
)
def test_a_wrong_setting_ends_the_service_with_its_name(
    settings: dict[str, object], words: tuple[str, ...]
) -> None:
    """The sentence says which variable, what it was, and what is allowed."""
    ended = start_and_end(**settings)
    assert ended.returncode == 2
    for word in words:
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_ends_the_service_and_says_which_setting_to_change() -> None:
    """The port is named, and so are the variable and make's word for it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = start_and_end(port=port)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"error: port {port} on 127.0.0.1 is taken by another program: "
        "give another one with GLYPH_PORT or --port (make run: PORT=)\n"
    )


def test_an_address_of_another_machine_ends_the_service_with_its_name() -> None:
    """192.0.2.1 is nobody's (RFC 5737)."""
    ended = start_and_end(host="192.0.2.1")
    assert ended.returncode == 1
    assert "cannot listen on 192.0.2.1" in ended.stderr


def test_an_option_overrides_the_environment(bundle: Bundle, tmp_path: Path) -> None:
    """`--port` wins over `GLYPH_PORT`."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = start_and_end("--port", str(port), port=free_port())
    assert ended.returncode == 1
    assert str(port) in ended.stderr


def test_help_teaches_every_setting_and_every_exit_code() -> None:
    """One look at `--help` is enough to run the service."""
    shown = start_and_end("--help")
    assert shown.returncode == 0
    for word in ("--max-body-bytes", "--provider", "GLYPH_MAX_BODY_BYTES", "exit codes:", "/readyz"):
        assert word in shown.stdout
