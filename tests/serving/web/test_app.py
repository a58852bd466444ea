"""The application's parts that need no process: settings, CPUs, failures, what is imported."""

import io
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from flask import request
from gunicorn.arbiter import Arbiter
from werkzeug.test import TestResponse

from bench.support.pictures import a_digit, png
from bench.support.processes import PNG, ROOT, Service, await_ok, environment, free_port
from bundle.repository import Bundle
from common.errors import ConfigurationError
from serving.model.store import ModelStore
from serving.predict import native
from serving.predict.exchange import PreparedRequest
from serving.process import gunicorn_conf
from serving.process.announcement import announcement
from serving.settings import ServiceSettings, load_settings
from serving.system import cpus
from serving.web.app import APP_LOAD_ERROR, create_app
from serving.worker.inference_worker import InferenceWorker


def test_settings_come_from_their_variables_and_leave_others_alone() -> None:
    """`GLYPH_*` is read, the training job's and the scorer's variables are theirs."""
    settings = load_settings(
        {
            "GLYPH_PORT": "9000",
            "GLYPH_WORKERS": "none",
            "GLYPH_TRAIN_EPOCHS": "3",
            "GLYPH_SCORE_X": "1",
            "HOME": "/",
        }
    )
    assert (settings.port, settings.workers, settings.host) == (9000, None, "127.0.0.1")


def test_an_unknown_variable_is_an_error_that_names_the_nearest() -> None:
    """A typing error never becomes a default."""
    with pytest.raises(ConfigurationError, match=r"GLYPH_PROT.*did you mean 'GLYPH_PORT'"):
        load_settings({"GLYPH_PROT": "9000"})


def test_every_setting_is_described() -> None:
    """`--help` and the reference are made of the descriptions."""
    assert all(field.description for field in ServiceSettings.model_fields.values())


def test_a_failure_nobody_foresaw_is_500_in_the_log_and_not_in_the_answer(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator gets the traceback, the client a problem document without secrets."""

    def fail(*_: object, **__: object) -> bytes:
        raise RuntimeError("a secret of the inside")

    client = create_app(ServiceSettings(model=bundle.path.parent, provider="cpu")).test_client()
    monkeypatch.setattr(native, "prepare", fail)
    answer = client.post("/predict", data=b"x", content_type=PNG)
    assert answer.status_code == 500
    assert answer.mimetype == "application/problem+json"
    assert b"secret" not in answer.data
    assert "a secret of the inside" in caplog.text


def test_flask_answers_predictions_itself(bundle: Bundle) -> None:
    """Nothing stands before it: what an operator hangs into Flask sees them too."""
    app = create_app(ServiceSettings(model=bundle.path.parent, provider="cpu"))
    seen: list[str] = []
    app.before_request(lambda: seen.append(request.path))
    client = app.test_client()
    assert client.post("/predict", data=png(a_digit()), content_type=PNG).status_code == 200
    assert client.post("/v2/models/synthetic/infer", data=b"{}").status_code == 400
    assert seen == ["/predict", "/v2/models/synthetic/infer"]


def test_beyond_the_places_some_predictions_wait_and_the_others_are_503(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one place and one that may wait, whatever the WSGI server's threads; then all is well again."""
    settings = ServiceSettings(model=bundle.path.parent, provider="cpu", threads=1, queue_limit=1)
    app = create_app(settings)
    prepare, begun, go_on = native.prepare, threading.Semaphore(0), threading.Event()

    def slowly(*arguments: Any) -> PreparedRequest:
        begun.release()
        go_on.wait()
        return prepare(*arguments)

    def post() -> TestResponse:
        return app.test_client().post("/predict", data=png(a_digit()), content_type=PNG)

    monkeypatch.setattr(native, "prepare", slowly)
    with ThreadPoolExecutor(3) as clients:
        try:
            answers = [clients.submit(post)]
            begun.acquire()
            answers += [clients.submit(post), clients.submit(post)]
            done, _ = wait(answers, return_when=FIRST_COMPLETED)
        finally:
            go_on.set()
    (refused,) = (answer.result() for answer in done)
    assert refused.status_code == 503
    assert refused.mimetype == "application/problem+json"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert sorted(answer.result().status_code for answer in answers) == [200, 200, 503]
    assert post().status_code == 200


def test_bodies_that_cannot_be_held_in_memory_are_503(bundle: Bundle) -> None:
    """What has arrived counts and what is announced does not; memory that is given back is there for others."""
    settings = ServiceSettings(model=bundle.path.parent, provider="cpu", queue_bytes=1 << 20)
    app = create_app(settings)
    begun, go_on = threading.Event(), threading.Event()

    class Slow(io.BytesIO):
        """A body whose second half comes when it is told to."""

        def read(self, size: int | None = -1) -> bytes:
            if self.tell() == 1 << 19:
                begun.set()
                go_on.wait()
            return super().read(size)

    def post(body: io.BytesIO) -> TestResponse:
        environ = {
            "wsgi.input_terminated": True,
            "wsgi.input": body,
            "CONTENT_LENGTH": str(len(body.getvalue())),
        }
        return app.test_client().post("/predict", environ_overrides=environ, content_type=PNG)

    with ThreadPoolExecutor(1) as other:
        try:
            slow = other.submit(post, Slow(bytes(1 << 20)))
            begun.wait()
            refused = post(io.BytesIO(bytes(1 << 20)))
            taken = post(io.BytesIO(bytes(1 << 19)))
        finally:
            go_on.set()
    assert refused.status_code == 503
    assert "the memory for requests" in refused.get_json()["detail"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert taken.status_code == slow.result().status_code == 415
    assert post(io.BytesIO(bytes(1 << 20))).status_code == 415


def test_any_wsgi_server_can_run_the_application(bundle: Bundle) -> None:
    """Without `wsgi.input_terminated`, as plain WSGI has it, bodies and limits work by length."""
    client = create_app(
        ServiceSettings(model=bundle.path.parent, provider="cpu", max_body_bytes=2000)
    ).test_client()
    assert client.post("/predict", data=png(a_digit()), content_type=PNG).status_code == 200
    assert client.post("/predict", data=bytes(2001), content_type=PNG).status_code == 413
    assert client.post("/predict", data=bytes(2000), content_type=PNG).status_code == 415


def test_a_server_of_the_standard_library_serves_by_its_name(bundle: Bundle, tmp_path: Path) -> None:
    """`serving.wsgi:application` is an application, as WSGI has it, and not what makes one."""
    port = free_port()
    code = (
        "from wsgiref.simple_server import make_server; from serving.wsgi import application; "
        f"make_server('127.0.0.1', {port}, application).serve_forever()"
    )
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment(model=bundle.path.parent, provider="cpu"),
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        service = Service(process, port, tmp_path / "log")
        await_ok(service, "/readyz")
        assert service.post(png(a_digit())).status == 200
        assert service.post(b"x").status == 415
        assert service.ask("GET", "/v2").status == 200
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize(("size", "status"), [(2000, 415), (2001, 413)])
def test_the_body_limit_is_exact_for_a_body_without_a_length(bundle: Bundle, size: int, status: int) -> None:
    """As many bytes as allowed are read, one more is refused, and nothing is cut in silence."""
    client = create_app(
        ServiceSettings(model=bundle.path.parent, provider="cpu", max_body_bytes=2000)
    ).test_client()
    environ = {"wsgi.input_terminated": True, "wsgi.input": io.BytesIO(bytes(size))}
    answer = client.post("/predict", environ_overrides=environ, content_type=PNG)
    assert answer.status_code == status


def test_a_body_shorter_than_its_length_is_400(bundle: Bundle) -> None:
    """A client that closes early is not answered as if it had sent a broken image."""
    client = create_app(ServiceSettings(model=bundle.path.parent, provider="cpu")).test_client()
    environ = {"wsgi.input_terminated": True, "wsgi.input": io.BytesIO(b"half"), "CONTENT_LENGTH": "8"}
    assert client.post("/predict", environ_overrides=environ, content_type=PNG).status_code == 400


def test_the_arbiter_understands_the_workers_exit_code() -> None:
    """Gunicorn halts, and does not start the worker again, on this code alone."""
    assert APP_LOAD_ERROR == Arbiter.APP_LOAD_ERROR


def modules_after(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the names of the modules it imported."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def test_the_arbiter_never_imports_onnxruntime() -> None:
    """A worker forked after that import can hang when it ends, and CUDA does not survive a fork."""
    imported = modules_after("import serving.process.gunicorn_conf, serving.__main__")
    assert "serving.settings" in imported
    assert not imported & {"onnxruntime", "flask", "torch"}


def test_the_service_never_imports_torch_or_training() -> None:
    """The service's image has neither."""
    imported = modules_after(
        "import serving.wsgi, serving.process.announcement, serving.process.gunicorn_conf"
    )
    assert "onnxruntime" in imported
    assert not imported & {"torch", "training", "torchvision"}


def test_gunicorn_is_configured_as_promised() -> None:
    """No preload, no control socket, the inference worker."""
    assert gunicorn_conf.preload_app is False
    assert gunicorn_conf.control_socket_disable is True
    assert gunicorn_conf.worker_class == f"{InferenceWorker.__module__}.{InferenceWorker.__name__}"


def test_one_worker_where_a_gpu_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default a process for each CPU on CPUs, one on a GPU; what is asked for wins."""
    monkeypatch.setattr(gunicorn_conf, "usable_cpus", lambda: 5)
    reason: list[str | None] = ["no driver"]
    monkeypatch.setattr(gunicorn_conf, "missing_device_by_child", lambda _: reason[0])
    assert gunicorn_conf._workers(ServiceSettings(provider="cpu")) == 5
    assert gunicorn_conf._workers(ServiceSettings(provider="auto")) == 5
    assert gunicorn_conf._workers(ServiceSettings(provider="cuda")) == 1
    assert gunicorn_conf._workers(ServiceSettings(provider="cuda", workers=3)) == 3
    reason[0] = None
    assert gunicorn_conf._workers(ServiceSettings(provider="auto")) == 1


@pytest.mark.parametrize(
    ("text", "cpus_expected"), [("max 100000", None), ("150000 100000", 1.5), ("nonsense", None)]
)
def test_the_control_groups_quota_is_read(tmp_path: Path, text: str, cpus_expected: float | None) -> None:
    """Version 2 is one file of two words."""
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert cpus._quota(tmp_path / "cpu.max", tmp_path) == cpus_expected


def test_the_older_control_groups_quota_is_read(tmp_path: Path) -> None:
    """Version 1 is two files, and -1 is no limit."""
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    for limit, expected in (("250000", 2.5), ("-1", None)):
        (tmp_path / "cpu.cfs_quota_us").write_text(limit + "\n")
        assert cpus._quota(tmp_path / "absent", tmp_path) == expected


def test_a_quota_rounds_up_and_never_beyond_what_affinity_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One and a half CPUs are two processes, a tenth is one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    for quota, expected in ((None, 8), (1.5, 2), (0.1, 1), (64.0, 8)):
        monkeypatch.setattr(cpus, "_quota", lambda *_, quota=quota: quota)
        assert cpus.usable_cpus() == expected


def test_the_sample_is_named_relative_to_the_working_directory(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short line is copied more easily."""
    settings = ServiceSettings(model=bundle.path.parent, provider="cpu")
    monkeypatch.chdir(bundle.path.parent.parent)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        text = announcement(ModelStore.start(settings), settings, listener)
    assert text is not None
    assert " @synthetic/1/sample.png " in text


def test_a_body_for_which_memory_ends_is_503(bundle: Bundle) -> None:
    """It says nothing of the body, which would be 400."""

    class Endless(io.BytesIO):
        """A body for which there is no memory."""

        def read(self, _size: int | None = -1, /) -> bytes:
            raise MemoryError

    app = create_app(ServiceSettings(model=bundle.path.parent, provider="cpu"))
    environ = {"wsgi.input_terminated": True, "wsgi.input": Endless(), "CONTENT_LENGTH": "100"}
    answer = app.test_client().post("/predict", environ_overrides=environ, content_type=PNG)
    assert answer.status_code == 503
    assert answer.mimetype == "application/problem+json"
    assert "no memory left" in answer.text
