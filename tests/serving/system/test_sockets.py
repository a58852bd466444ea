"""Where the service listens: sockets that systemd hands over, UNIX sockets, every address, and what is said of each."""

import contextlib
import functools
import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.support.management import await_
from bench.support.pictures import a_digit, png
from bench.support.processes import (
    ROOT,
    START_SECONDS,
    Service,
    await_ok,
    environment,
    free_port,
    running,
)
from bundle.repository import Bundle
from serving.process.announcement import curl_target, subject_names
from serving.settings import ServiceSettings
from serving.system import addresses
from serving.system.descriptors import RESERVE
from tests.serving.certificates import write_certificate
from tests.serving.proxies import snippet
from tests.serving.test_start import start_and_end

WORKERS = ["inference", "gthread"]
ACTIVATE = """
import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[2:]]
for place, descriptor in enumerate(high, 3):
    os.dup2(descriptor, place)
    os.close(descriptor)
os.environ.update(LISTEN_PID=sys.argv[1] or str(os.getpid()), LISTEN_FDS=str(len(high)))
os.execv(sys.executable, [sys.executable, "-m", "serving"])
"""
"""As systemd does it: descriptors from 3 on, and the number of the process that the service is after its exec."""


def activated(*sockets: socket.socket, process: str = "") -> list[str]:
    """Return a command line that hands sockets to the service; they have to be inheritable."""
    return [sys.executable, "-c", ACTIVATE, process, *(str(each.fileno()) for each in sockets)]


def activate_and_end(*sockets: socket.socket, process: str = "", **settings: object) -> tuple[int, str]:
    """Hand sockets to a service that does not start; return its exit code and what it says."""
    ended = subprocess.run(
        activated(*sockets, process=process),
        env=environment(**settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
        pass_fds=[each.fileno() for each in sockets],
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


@contextlib.contextmanager
def listening(address: Any, family: int = socket.AF_INET) -> Iterator[socket.socket]:
    """Listen as systemd does before it starts a service."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()
        yield listener


def printed_command(service: Service) -> list[str]:
    """Return the curl line that the service prints when it is ready, as words."""
    await_(lambda: "curl " in service.log(), service.log)
    (line,) = [line for line in service.log().splitlines() if line.strip().startswith("curl ")]
    return shlex.split(line)


def assert_works_as_printed(service: Service) -> None:
    """Run the printed line, where there is a curl."""
    command = printed_command(service)
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    answer = subprocess.run(
        [*command, "--silent", "--show-error", "--fail"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, ""), command
    assert '"predictions"' in answer.stdout


def has_ipv6() -> bool:
    """Tell whether this machine can be asked at ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def status_at(host: str, port: int) -> int:
    """Return what `/livez` answers at an address."""
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return int(connection.makefile("rb").readline().split()[1])


# systemd


@pytest.mark.parametrize("worker", WORKERS)
def test_a_socket_of_systemd_on_the_same_port_is_served(bundle: Bundle, tmp_path: Path, worker: str) -> None:
    """It is not taken for another program's; a hangup keeps it, and it outlives the service."""
    with listening(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with running(
            tmp_path,
            until="/readyz",
            command=activated(listener),
            pass_fds=[listener.fileno()],
            model=bundle.path.parent,
            worker=worker,
            port=port,
        ) as service:
            assert service.post(png(a_digit())).status == 200
            assert f"http://127.0.0.1:{port}/predict" in printed_command(service)
            booted = service.log().count("Booting worker")
            service.process.send_signal(signal.SIGHUP)
            await_(lambda: service.log().count("Booting worker") > booted)
            assert await_ok(service, "/readyz").status == 200
        with socket.create_connection(("127.0.0.1", port), timeout=30):
            pass  # systemd listens on, and would start it again


@pytest.mark.parametrize("worker", WORKERS)
def test_several_sockets_of_systemd_are_served_side_by_side(
    bundle: Bundle, tmp_path: Path, worker: str
) -> None:
    """One of TCP, one of UNIX, and an abstract one; no file of systemd's is removed."""
    path, name = tmp_path / "http.sock", f"\0glyph-{os.getpid()}-{worker}"
    with (
        listening(("127.0.0.1", 0)) as tcp,
        listening(str(path), socket.AF_UNIX) as unix,
        listening(name, socket.AF_UNIX) as abstract,
    ):
        sockets = [tcp, unix, abstract]
        with running(
            tmp_path,
            until="/readyz",
            command=activated(*sockets),
            pass_fds=[each.fileno() for each in sockets],
            model=bundle.path.parent,
            worker=worker,
            port=tcp.getsockname()[1],
        ) as service:
            for where in (None, path, name):
                asked = Service(service.process, service.port, service.output, path=where)  # type: ignore[arg-type]
                assert asked.post(png(a_digit())).status == 200
                assert asked.ask("GET", "/livez").status == 200
        assert path.is_socket()


def test_sockets_for_another_process_are_not_taken_and_the_reason_is_said() -> None:
    """A shell that systemd started and that started the service is the one that LISTEN_PID names."""
    with listening(("127.0.0.1", 0)) as listener:
        code, said = activate_and_end(listener, process="1", port=listener.getsockname()[1])
    assert code == 1
    for word in ("is taken by another program", "to process 1", "without a shell"):
        assert word in said


def test_what_systemd_hands_over_and_nobody_can_connect_to_is_refused(tmp_path: Path) -> None:
    """A connection (Accept=yes), a socket of datagrams and a file end the service with a sentence."""
    one, other = socket.socketpair()
    with one, other, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        for handed in (one, datagrams):
            code, said = activate_and_end(handed)
            assert code == 1
            for word in ("descriptor 3", "ListenStream=", "Accept=no"):
                assert word in said
    with (tmp_path / "file").open("w") as file:
        code, said = activate_and_end(file)  # type: ignore[arg-type]
    assert code == 1
    assert "descriptor 3, passed by systemd, is no socket" in said


@pytest.mark.parametrize("name", ["LISTEN_PID", "LISTEN_FDS"])
def test_a_variable_of_systemd_that_is_no_number_is_a_wrong_setting(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gunicorn would end with a traceback."""
    monkeypatch.setenv(name, "three")
    ended = start_and_end(port=free_port())
    assert ended.returncode == 2
    assert "LISTEN_FDS and LISTEN_PID have to be numbers" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_units_of_the_document_are_what_systemd_takes(tmp_path: Path) -> None:
    """And their limits are beyond the service's."""
    listener, service = snippet("ini", 0), snippet("ini", 1)
    values = dict(line.split("=", 1) for line in service.splitlines() if "=" in line)
    settings = ServiceSettings()
    assert int(values["TimeoutStopSec"]) > settings.graceful_timeout_seconds
    assert int(values["LimitNOFILE"]) >= settings.connections + RESERVE
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    (tmp_path / "glyph.socket").write_text(listener)
    (tmp_path / "glyph.service").write_text(service.replace("/opt/glyph/.venv/bin/python", sys.executable))
    units = [str(tmp_path / name) for name in ("glyph.socket", "glyph.service")]
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert [line for line in told.stderr.splitlines() if "glyph." in line] == []


# Every address


@pytest.mark.parametrize(("host", "worker"), [("*", "inference"), ("*", "gthread"), ("::", "inference")])
def test_every_address_is_both_families(bundle: Bundle, tmp_path: Path, host: str, worker: str) -> None:
    """On both ports; a client of IPv4 has its own address in the log, and what is printed can be asked."""
    port = free_port()
    with running(
        tmp_path,
        until="/readyz",
        model=bundle.path.parent,
        worker=worker,
        host=host,
        management_host=host,
        management_port=port,
        access_log=True,
    ) as service:
        for asked in (service.port, port):
            await_(functools.partial(_answers, "127.0.0.1", asked))
            if has_ipv6():
                assert status_at("::1", asked) == 200
        await_(lambda: f"Probes and metrics: http://127.0.0.1:{port}/readyz" in service.log())
        assert_works_as_printed(service)
        await_(lambda: "] 127.0.0.1 POST /predict 200" in service.log(), service.log)


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        return status_at(host, port) == 200
    return False


def test_without_ipv6_every_address_is_that_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where the kernel keeps the families apart there is a socket of each."""

    class Socket(socket.socket):
        """A socket on another kernel."""

        alone = 1

        def bind(self, _address: object) -> None:
            if self.alone is None:
                raise OSError("Address family not supported by protocol")
            super().bind(("127.0.0.1", 0))

        def getsockopt(self, *_: object) -> int:  # type: ignore[override]
            assert self.alone is not None
            return self.alone

        def __init__(self, _family: int, kind: int) -> None:
            super().__init__(socket.AF_INET, kind)

    settings = ServiceSettings(host="*", port=9000)
    monkeypatch.setattr("serving.system.addresses.socket.socket", Socket)
    for alone, binds in (
        (0, ["[::]:9000"]),
        (1, ["[::]:9000", "0.0.0.0:9000"]),
        (None, ["0.0.0.0:9000"]),
    ):
        monkeypatch.setattr(Socket, "alone", alone)
        assert addresses.bind_addresses(settings) == binds


def test_the_port_that_is_the_management_port_is_named_also_where_one_is_of_every_address() -> None:
    """Binding the two one after the other would find nothing wrong until both listen."""
    port = free_port()
    for host, management in (("*", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("127.0.0.1", "127.0.0.1")):
        ended = start_and_end(host=host, management_host=management, port=port, management_port=port)
        assert ended.returncode == 1
        assert f"the management port is the service's own port, {port}" in ended.stderr


@pytest.mark.parametrize("ported", [True, False])
def test_the_line_of_a_log_of_json_names_the_management_port(
    bundle: Bundle, tmp_path: Path, ported: bool
) -> None:
    """Where there is one."""
    port = free_port() if ported else 0
    with running(
        tmp_path, until="/readyz", model=bundle.path.parent, log_format="json", management_port=port
    ) as service:
        await_(lambda: "curl " in service.log())
        (said,) = [
            message
            for line in service.log().splitlines()
            if "curl " in (message := json.loads(line)["message"])
        ]
    assert (f"Probes and metrics: http://127.0.0.1:{port}/readyz" in said) is ported
    assert ("Probes" in said) is ported


# UNIX sockets


@pytest.mark.parametrize("worker", WORKERS)
def test_a_unix_socket_is_served_and_goes_with_the_service(
    bundle: Bundle, tmp_path: Path, worker: str
) -> None:
    """One that was left behind is replaced; pages, predictions, old clients and the printed line work."""
    path = tmp_path / "http.sock"
    with listening(str(path), socket.AF_UNIX):
        pass  # whoever listened was killed
    assert path.is_socket()
    port = free_port()
    with running(
        tmp_path,
        until="/readyz",
        model=bundle.path.parent,
        worker=worker,
        host=f"unix:{path}",
        management_port=port,
        access_log=True,
    ) as service:
        assert stat.S_IMODE(path.stat().st_mode) == 0o777  # who may enter the directory may ask
        assert service.post(png(a_digit())).status == 200
        assert service.post(png(a_digit()), chunked=True).status == 200
        forwarded = service.ask("GET", "/livez", X_Forwarded_Proto="https", X_Forwarded_For="192.0.2.1")
        assert forwarded.status == 200
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as old:
            old.settimeout(30)
            old.connect(str(path))
            old.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            assert b" 200 " in old.makefile("rb").readline()
        await_(lambda: " - POST /predict 200" in service.log())
        await_(lambda: f"Probes and metrics: http://127.0.0.1:{port}/readyz" in service.log())
        assert " and draw." not in service.log()
        assert printed_command(service)[1:3] == ["--unix-socket", str(path)]
        assert_works_as_printed(service)
        service.process.send_signal(signal.SIGHUP)
        await_(lambda: service.log().count("Booting worker") > 1)
        assert await_ok(service, "/readyz").status == 200
    assert not path.exists()


@pytest.mark.parametrize("unix", [True, False])
def test_clients_of_a_unix_socket_share_no_address(bundle: Bundle, tmp_path: Path, unix: bool) -> None:
    """Half of the memory is for one address; a proxy's clients have none, and may fill all of it together."""
    settings: dict[str, Any] = {"queue_bytes": 1 << 20, "max_body_bytes": 4096}
    if unix:
        settings["host"] = f"unix:{tmp_path / 'http.sock'}"
    head = b"POST /nowhere HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 8000 + b"\r\nContent-Length: 4096\r\n\r\n"
    with (
        running(tmp_path, until="/readyz", model=bundle.path.parent, **settings) as service,
        contextlib.ExitStack() as stack,
    ):
        clients = []
        for _ in range(80):  # some 900 kB, of which half would be an address's share
            connection = stack.enter_context(contextlib.closing(service.connect()))
            connection.connect()
            connection.sock.sendall(head + bytes(4000))
            clients.append(connection.sock)
        assert service.ask("GET", "/livez").status == 200  # it was accepted after all of them
        statuses = set()
        for client in clients:
            with contextlib.suppress(OSError):  # refused, and closed
                client.sendall(bytes(96))
            statuses.add(client.makefile("rb").readline().split()[1])
        assert statuses == ({b"404"} if unix else {b"404", b"503"})


def test_a_unix_socket_of_a_living_service_is_taken(bundle: Bundle, tmp_path: Path) -> None:
    """The second ends with the sentence, and the first serves on."""
    host = f"unix:{tmp_path / 'http.sock'}"
    with running(tmp_path, until="/readyz", model=bundle.path.parent, host=host) as service:
        ended = start_and_end(host=host)
        assert ended.returncode == 1
        assert ended.stderr == (
            f"error: the socket {tmp_path / 'http.sock'} is taken by another program: end that, or change GLYPH_HOST\n"
        )
        assert service.ask("GET", "/livez").status == 200


def test_a_unix_socket_that_nobody_accepts_from_is_taken_too(tmp_path: Path) -> None:
    """A full backlog is no reason to wait, nor to think that nobody is there."""
    path = tmp_path / "http.sock"
    with listening(str(path), socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(str(path))
        assert start_and_end(host=f"unix:{path}").returncode == 1


def test_a_path_where_no_socket_can_be_made_ends_the_service_with_a_sentence(tmp_path: Path) -> None:
    """No directory, and a file or a link that is no socket."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for path, words in (
        (tmp_path / "none" / "http.sock", ("does not exist", "RuntimeDirectory=")),
        (tmp_path / "file" / "http.sock", ("does not exist",)),
        (tmp_path / "file", ("exists and is no socket", "GLYPH_HOST")),
        (tmp_path / "link", ("exists and is no socket", "GLYPH_HOST")),
    ):
        ended = start_and_end(host=f"unix:{path}")
        assert ended.returncode == 1
        assert ended.stderr.startswith("error: ")
        assert ended.stderr.count("\n") == 1
        for word in (str(path.parent), *words):
            assert word in ended.stderr


def test_a_directory_that_may_not_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /run is for everybody but root, who may write everywhere."""
    monkeypatch.setattr("serving.system.addresses.os.access", lambda *_: False)
    problem = addresses.listen_problem(ServiceSettings(host=f"unix:{tmp_path}/http.sock"))
    assert problem is not None
    assert f"may not make a socket in {tmp_path}" in problem


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "unix:/" + "a" * 107}, ("GLYPH_HOST", "at most 107 bytes", "108")),
        ({"host": "unix:" + "/ä" * 40}, ("GLYPH_HOST", "at most 107 bytes", "120")),
        ({"host": "unix:http.sock"}, ("GLYPH_HOST", "absolute path")),
        ({"host": "unix:"}, ("GLYPH_HOST", "absolute path")),
        ({"management_host": "unix:/run/http.sock"}, ("GLYPH_MANAGEMENT_HOST", "must be a TCP port")),
    ],
)
def test_a_unix_socket_that_cannot_be_is_a_wrong_setting(
    settings: dict[str, object], words: Sequence[str]
) -> None:
    """Before anything is looked at."""
    ended = start_and_end(**settings)
    assert ended.returncode == 2
    for word in words:
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "host", ["[::1]", "127.0.0.1:8080", "fe80::1%lo", "tcp://127.0.0.1", "fd://0", "no.such.host.invalid"]
)
def test_what_is_no_host_ends_the_service_with_its_name(host: str) -> None:
    """Gunicorn reads some of them in its own way, and others end it with a traceback."""
    ended = start_and_end(host=host, port=free_port())
    assert ended.returncode == 1
    assert f"the host {host!r} is no address of this machine" in ended.stderr


# The printed line


@pytest.mark.parametrize("names", [("127.0.0.1",), ("glyph.example.org", "192.0.2.1"), ("*.example.org",)])
@pytest.mark.parametrize("unix", [False, True])
def test_the_printed_line_works_with_a_certificate(
    bundle: Bundle, tmp_path: Path, names: tuple[str, ...], unix: bool
) -> None:
    """Also of one for a name by which this machine is not found."""
    certificate, key = write_certificate(tmp_path, *names)
    trust = ssl.create_default_context(cafile=certificate)
    trust.check_hostname = False
    settings: dict[str, Any] = {"tls_certificate": certificate, "tls_key": key}
    if unix:
        settings["host"] = f"unix:{tmp_path / 'http.sock'}"
    with running(
        tmp_path,
        until="/readyz",
        tls=trust,
        model=bundle.path.parent,
        **settings,
    ) as service:
        assert printed_command(service)[-1].startswith("https://")
        assert_works_as_printed(service)


def test_the_names_of_a_certificate_are_read_from_it(tmp_path: Path) -> None:
    """One that has expired has none that anybody would accept; curl says why."""
    files = write_certificate(tmp_path, "::1", "a.example.org", "*.b.example.org")
    assert subject_names(*files) == ["::1", "a.example.org", "www.b.example.org"]
    assert subject_names(*write_certificate(tmp_path, "a.example.org", days=-1)) == []


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:"),
        ("*", "http://127.0.0.1:"),
        ("127.0.0.1", "http://127.0.0.1:"),
        ("::1", "http://[::1]:"),
    ],
)
def test_the_printed_address_is_one_that_can_be_asked(host: str, url: str) -> None:
    """Nobody can connect to 'every address'."""
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with addresses.bind_tcp(host, 0) as listener:
        port = listener.getsockname()[1]
        assert curl_target(listener, ServiceSettings()) == ([], f"{url}{port}")
