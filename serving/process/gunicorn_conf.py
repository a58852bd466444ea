"""Gunicorn's configuration, from the service's settings: `gunicorn -c python:serving.process.gunicorn_conf`.

A name of this module that is a Gunicorn setting sets it. The functions below are hooks, in the order in which Gunicorn
calls them.
"""

import functools
import os
import signal
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from gunicorn import sock
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.workers.base import Worker

from serving.model.cuda import missing_device_by_child
from serving.process.management_process import ManagementProcess
from serving.security.tokens import check_file
from serving.settings import ServiceSettings, load_settings
from serving.system import addresses, descriptors
from serving.system.cpus import usable_cpus
from serving.system.parent_death import end_with_parent, outlive_parent
from serving.telemetry import logs, tracing
from serving.worker.lifecycle import TERMINATION_SIGNALS, Heartbeat, LifecycleMixin
from serving.worker.rpc import installed

SPARE_THREADS = 16
"""Threads of gthread beyond those whose requests may wait, so that one is left to reject further requests."""
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  in memory, so that a busy disk does not delay heartbeats


def _workers(settings: ServiceSettings) -> int:
    """Return one process for each CPU, or one on a GPU, on which each process would hold a copy of the model."""
    if settings.workers is not None:
        return settings.workers
    on_gpu = settings.provider == "cuda" or (
        settings.provider == "auto" and missing_device_by_child(settings.device_id) is None
    )
    return 1 if on_gpu else usable_cpus()


def _threads(settings: ServiceSettings) -> int:
    """Return the threads for Gunicorn: gthread has one for each queued request as well, and some that reject."""
    if settings.worker == "inference":
        return settings.threads
    wanted = settings.threads + settings.queue_limit + SPARE_THREADS
    # The other half of the connections may be idle, which Gunicorn keeps without threads.
    return min(wanted, max(settings.threads, settings.connections // 2))


_settings = load_settings()
logs.configure(_settings)
check_file(_settings)
tracing.check_installed(_settings)
installed.check_installed(_settings)
_settings = descriptors.raise_limit(_settings)

wsgi_app = "serving.wsgi:application"
bind = addresses.bind_addresses(_settings)
proc_name = "glyph"

worker_class = {
    "inference": "serving.worker.inference_worker.InferenceWorker",
    # Not Gunicorn's sync worker, which keeps no connection alive.
    "gthread": "serving.worker.thread_worker.ReadyThreadWorker",
}[_settings.worker]
workers = _workers(_settings)
threads = _threads(_settings)
worker_connections = _settings.connections
max_requests = _settings.max_requests
max_requests_jitter = _settings.max_requests // 10  # so that workers are not replaced all at once
preload_app = False  # CUDA does not survive a fork: each worker builds its own session
timeout = _settings.timeout_seconds
graceful_timeout = _settings.graceful_timeout_seconds
keepalive = _settings.keepalive_seconds

control_socket_disable = True  # it is not used, and the root file system may be read-only
if Path(_SHARED_MEMORY).is_dir() and os.access(_SHARED_MEMORY, os.W_OK):
    worker_tmp_dir = _SHARED_MEMORY

if _settings.tls_certificate is not None:
    certfile = str(_settings.tls_certificate)
    keyfile = str(_settings.tls_key) if _settings.tls_key is not None else None
_ssl_contexts: list[ssl.SSLContext] = []

http_parser = (
    "python"  # even where gunicorn_h1c is installed, which rejects malformed requests with other messages
)
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}  # only one, as several may contradict each other
limit_request_line = 8190  # Gunicorn's most; RFC 9112, section 3, asks for 8000 at least
limit_request_fields = 64
limit_request_field_size = 8190

loglevel = _settings.log_level
accesslog = None  # the pipeline writes the access log, with the phases that it measures
logger_class = logs.ServiceLogger

_management = ManagementProcess(_settings, globals().get("worker_tmp_dir"))
Heartbeat.periodic_tasks = (logs.flush, _management.poll)


def on_starting(server: Arbiter) -> None:
    """Check the options of Gunicorn, and start the management process before any worker."""
    if problem := _unsupported_option(server.cfg):
        print(f"error: {problem}", file=sys.stderr, flush=True)
        sys.exit(2)
    # SIGUSR2 executes these arguments. Gunicorn would execute a file by its path, whose directory then comes before the
    # standard library: in Gunicorn's own directory `import http` finds the wrong package.
    server.START_CTX["args"][1:2] = ["-m", "gunicorn"]
    try:
        _management.start(server.log)
    except OSError as error:
        print(
            f"error: no directory for the workers' metrics can be made in {error.filename} ({error.strerror}): make "
            "room there (--shm-size, or a memory volume), or do without the management port "
            "(GLYPH_MANAGEMENT_PORT=0)",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(3)


def _unsupported_option(configuration: Config) -> str | None:
    """Return an error for an option in GUNICORN_CMD_ARGS that the workers do not support; None if there is none.

    Ignoring the option would log the proxy's address as the client's.
    """
    if configuration.proxy_protocol != "off":
        # Gunicorn's gthread reads it for the first request of a connection, and forgets it for the following ones.
        return (
            "the service does not speak the PROXY protocol: leave --proxy-protocol out, and have the proxy send "
            "plain HTTP"
        )
    return None


def when_ready(server: Any) -> None:
    """Replace the arbiter's SIGHUP handler, and unblock `TERMINATION_SIGNALS` after each fork (`pre_fork`)."""
    on_reload(server)
    signal.signal(signal.SIGHUP, functools.partial(_queue_sighup, server))
    os.register_at_fork(
        after_in_parent=functools.partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, TERMINATION_SIGNALS)
    )


def _queue_sighup(server: Any, number: int, frame: FrameType | None) -> None:
    """Queue a SIGHUP unless one is queued: Gunicorn would replace the workers once for each."""
    if not server.sighup_queued:
        server.sighup_queued = True
        server.signal(number, frame)


def on_reload(server: Any) -> None:
    """Let the next SIGHUP be queued, as Gunicorn handles the last one now."""
    server.sighup_queued = False


def pre_fork(_server: Arbiter, _worker: Worker) -> None:
    """Block `TERMINATION_SIGNALS` until the worker has its handlers; `when_ready` lets the arbiter unblock them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION_SIGNALS)


def post_fork(_server: Arbiter, worker: Worker) -> None:
    """End with the arbiter until the model is loaded, and close the arbiter's end of the management socket."""
    end_with_parent(worker.ppid)
    _management.close_socket()


def ssl_context(_configuration: Config, read: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Load certificate and key once per worker; gthread would for each connection, even while they are replaced."""
    if not _ssl_contexts:
        _ssl_contexts.append(read())
    return _ssl_contexts[0]


def post_worker_init(worker: Worker) -> None:
    """Print how to try the service, once: when the first worker has loaded its model.

    From here on the worker itself checks that the arbiter lives, and if not, drains.
    """
    outlive_parent()
    if worker.cfg.is_ssl:
        sock.ssl_context(worker.cfg)
    # Imported here because it imports ONNX Runtime, which the arbiter must never do: a worker that is
    # forked after that import can hang when it ends (seen with 1.31), and Gunicorn waits for it.
    from serving.process.announcement import announcement

    listener = worker.sockets[0].sock
    if worker.age == 1 and (text := announcement(worker.wsgi.extensions["glyph"], _settings, listener)):
        logs.announce(text)


def worker_abort(worker: Worker) -> None:
    """Mark a worker as aborted, because it was stuck; the management process counts it among those that died."""
    worker.aborted = True
    if (application := getattr(worker, "wsgi", None)) is not None:
        application.extensions["glyph"].metrics.state("aborted")


def worker_exit(_server: Arbiter, worker: Worker) -> None:
    """Send the spans that are not sent yet."""
    if (application := getattr(worker, "wsgi", None)) is not None:  # missing if the model could not be loaded
        application.extensions["glyph.pipeline"].request_log.shutdown()


def child_exit(_server: Arbiter, worker: LifecycleMixin) -> None:
    """Free the shared state of a worker that has ended, whatever ended it."""
    worker.release_entry()


def on_exit(_server: Arbiter) -> None:
    """End the management process, when all workers have ended."""
    _management.end()
