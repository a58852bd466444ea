"""Where the service listens: whether it can, and how a client on this machine reaches it.

Gunicorn opens the sockets. A host is a name or number of TCP, `*` for every address of IPv4 and IPv6, or `unix:` and
the path of a UNIX socket. Where systemd hands sockets over (sd_listen_fds(3)), the service listens on those instead.
"""

import errno
import os
import socket
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError
from serving.settings import EVERY, ServiceSettings, management_port, unix_path

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START: systemd's sockets are this descriptor and those that follow it."""


def bind_addresses(settings: ServiceSettings) -> list[str]:
    """Return the addresses as Gunicorn's setting `bind` has them."""
    if unix_path(settings.host) is not None:
        return [settings.host]
    hosts = _wildcard_hosts() if settings.host in EVERY else [settings.host]
    return [authority(host, settings.port) for host in hosts]


def _wildcard_hosts() -> list[str]:
    """Return what to bind for every address of this machine: `::` takes IPv4 too, unless the kernel says not to."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
            alone = probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:  # this machine has no IPv6
        return ["0.0.0.0"]  # noqa: S104  it was asked for
    return ["::", "0.0.0.0"] if alone else ["::"]  # noqa: S104


def bind_tcp(host: str, port: int, backlog: int | None = None) -> socket.socket:
    """Return a TCP socket that is bound; of every address it is one socket.

    Args:
        host: a setting.
        port: its port.
        backlog: connections that may wait; without it the socket does not listen.

    Raises:
        OSError: it cannot be bound; `socket.gaierror` where the host has no address.
    """
    if host in EVERY:
        host = _wildcard_hosts()[0]
    # As Gunicorn decides: a name is one of IPv4, and an address with a scope is none.
    family = socket.AF_INET6 if ":" in host and "%" not in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((host, port))
        if backlog is not None:
            made.listen(backlog)
    except OSError:
        made.close()
        raise
    return made


def systemd_sockets() -> int:
    """Return how many sockets systemd hands to this process.

    Raises:
        ConfigurationError: its variables are no numbers.
    """
    try:
        count, process = (int(os.environ.get(name) or 0) for name in ("LISTEN_FDS", "LISTEN_PID"))
    except ValueError:
        raise ConfigurationError(
            "LISTEN_FDS and LISTEN_PID are numbers that systemd sets where it hands sockets over: unset them"
        ) from None
    return count if process == os.getpid() else 0


def listen_problem(settings: ServiceSettings) -> str | None:
    """Return why the service cannot listen where it is to, and what to do; None if it can.

    Gunicorn would try for five seconds and end with a less helpful line. Someone may still take an address between
    this look and Gunicorn's; then that line is what is left.
    """
    if count := systemd_sockets():
        problem = _systemd_socket_problem(count)
    elif (path := unix_path(settings.host)) is not None:
        problem = _unix_socket_problem(path)
    else:
        problem = tcp_problem(settings.host, settings.port)
    if problem and not count and os.environ.get("LISTEN_FDS"):
        problem += (
            f". systemd handed its sockets to process {os.environ.get('LISTEN_PID')} and this is {os.getpid()}: "
            "start the service by ExecStart= itself, without a shell in between"
        )
    return problem or _management_problem(settings, activated=count > 0)


def _management_problem(settings: ServiceSettings, *, activated: bool) -> str | None:
    """Return why the management port cannot be listened on."""
    host, port = settings.management_host, management_port(settings)
    if port == 0:
        return None
    same = host == settings.host or {host, settings.host} & {*EVERY, "0.0.0.0"}  # noqa: S104
    if port == settings.port and same and not activated and unix_path(settings.host) is None:
        return f"the management port is the port itself, {port}: change GLYPH_MANAGEMENT_PORT"
    return tcp_problem(
        host,
        port,
        setting="GLYPH_MANAGEMENT",
        change="give another one with GLYPH_MANAGEMENT_PORT or --management-port; 0 is none",
    )


def tcp_problem(
    host: str,
    port: int,
    *,
    setting: str = "GLYPH",
    change: str = "give another one with GLYPH_PORT or --port (make run: PORT=)",
) -> str | None:
    """Return why a TCP address cannot be listened on, and what to do; None if it can."""
    try:
        bind_tcp(host, port).close()
    except socket.gaierror as error:
        return f"the host {host!r} is no address of this machine ({error.strerror}): change {setting}_HOST"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} on {host} is taken by another program: {change}"
        if error.errno == errno.EACCES:
            return f"port {port} needs privileges this user lacks: {change}"
        return (
            f"cannot listen on {host} port {port} ({error.strerror}): change {setting}_HOST or {setting}_PORT"
        )
    return None


def _unix_socket_problem(path: Path) -> str | None:
    """Return why a UNIX socket cannot be made; one that nobody listens on is replaced."""
    directory = path.parent
    if not os.path.isdir(directory):  # noqa: PTH112  which does not raise where it may not look
        return (
            f"the directory {directory} of the socket does not exist: make it (RuntimeDirectory= in a systemd unit), "
            "or change GLYPH_HOST"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"this user may not make a socket in {directory}: change its owner or mode, or GLYPH_HOST"
    if not os.path.lexists(path):
        return None
    return (
        _unix_socket_in_use(path)
        if path.is_socket()
        else f"{path} exists and is no socket: remove it, or change GLYPH_HOST"
    )


def _unix_socket_in_use(path: Path) -> str | None:
    """Return who keeps a UNIX socket's path; None if nobody listens there, and Gunicorn will replace it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return None
        except BlockingIOError:
            pass  # somebody listens who has much to accept
        except OSError as error:
            return f"cannot listen on {path} ({error.strerror}): remove it, or change GLYPH_HOST"
    return f"the socket {path} is taken by another program: end that, or change GLYPH_HOST"


def _systemd_socket_problem(count: int) -> str | None:
    """Return why nobody can connect to one of systemd's sockets."""
    for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + count):
        try:
            with socket.socket(fileno=os.dup(descriptor)) as handed:
                listens = handed.type == socket.SOCK_STREAM and handed.getsockopt(
                    socket.SOL_SOCKET, socket.SO_ACCEPTCONN
                )
        except OSError as error:
            return f"descriptor {descriptor}, handed over by systemd, is no socket ({error.strerror})"
        if not listens:
            return (
                f"descriptor {descriptor}, handed over by systemd, is no socket that listens for connections: "
                "have ListenStream= and Accept=no in the socket unit"
            )
    return None


def authority(host: str, port: int) -> str:
    """Return a host and a port as a URL has them (RFC 3986, section 3.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unmap_ipv4(peer: Any) -> Any:
    """Return a client's address as IPv4 has it, where it came over IPv4 to a socket of both families.

    Logs, limits and Gunicorn's list of trusted proxies know it by that (RFC 4291, section 2.5.5.2).
    """
    if isinstance(peer, tuple) and peer[0].startswith("::ffff:"):
        return peer[0].removeprefix("::ffff:"), *peer[1:2]
    return peer


def local_management(settings: ServiceSettings) -> tuple[str, int] | None:
    """Return the host and port at which this machine reaches the management port; None if there is none."""
    host, port = settings.management_host, management_port(settings)
    if port == 0:
        return None
    return "127.0.0.1" if host in {*EVERY, "0.0.0.0"} else host, port  # noqa: S104


def local_host(listener: socket.socket) -> str:
    """Return the address at which this machine reaches a TCP socket: nobody can connect to 'every address'."""
    host: str = listener.getsockname()[0]
    if host == "::" and listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return "::1"
    return "127.0.0.1" if host in {"::", "0.0.0.0"} else host  # noqa: S104
