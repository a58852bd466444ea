"""The addresses on which the service listens: whether it can, and how a local client reaches it.

Gunicorn opens the sockets. A host is a name or an IP address, `*` for every address of IPv4 and IPv6, or `unix:` and
the path of a UNIX socket. If systemd passes sockets (sd_listen_fds(3)), the service listens on those instead.
"""

import errno
import os
import socket
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError
from serving.settings import ALL_ADDRESSES, ServiceSettings, management_port, unix_path

FIRST_DESCRIPTOR = 3
"""The first of systemd's sockets (SD_LISTEN_FDS_START)."""


def bind_addresses(settings: ServiceSettings) -> list[str]:
    """Return the value of Gunicorn's setting `bind`."""
    if unix_path(settings.host) is not None:
        return [settings.host]
    hosts = _wildcard_hosts() if settings.host in ALL_ADDRESSES else [settings.host]
    ports = [settings.port] if settings.grpc_port is None else [settings.port, settings.grpc_port]
    return [authority(host, port) for port in ports for host in hosts]


def _wildcard_hosts() -> list[str]:
    """Return the hosts that bind every address: `::` accepts IPv4 as well, unless the kernel is set otherwise."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
            alone = probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:  # there is no IPv6
        return ["0.0.0.0"]  # noqa: S104  every address was asked for
    return ["::", "0.0.0.0"] if alone else ["::"]  # noqa: S104


def bind_tcp(host: str, port: int, backlog: int | None = None) -> socket.socket:
    """Return a bound TCP socket, for every address as well a single one.

    Args:
        host: the host, as a setting has it.
        port: the port.
        backlog: connections that may wait to be accepted; None if the socket is not to listen.

    Raises:
        OSError: the address cannot be bound; `socket.gaierror` if the host has none.
    """
    if host in ALL_ADDRESSES:
        host = _wildcard_hosts()[0]
    # As Gunicorn decides: a name is resolved by IPv4, and so is an address with a scope, which fails.
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
    """Return the number of sockets that systemd passes to this process.

    Raises:
        ConfigurationError: systemd's variables are not numbers.
    """
    try:
        count, process = (int(os.environ.get(name) or 0) for name in ("LISTEN_FDS", "LISTEN_PID"))
    except ValueError:
        raise ConfigurationError(
            "LISTEN_FDS and LISTEN_PID have to be numbers, which systemd sets when it passes sockets: unset them"
        ) from None
    return count if process == os.getpid() else 0


def listen_problem(settings: ServiceSettings) -> str | None:
    """Return why the service cannot listen on its addresses, and the remedy; None if it can.

    Gunicorn would try for five seconds and end with a less helpful message. It still does if another program takes an
    address between this check and Gunicorn's bind.
    """
    if count := systemd_sockets():
        problem = _systemd_socket_problem(count)
    elif (path := unix_path(settings.host)) is not None:
        problem = _unix_socket_problem(path)
    else:
        problem = tcp_problem(settings.host, settings.port) or _grpc_problem(settings)
    if problem and not count and os.environ.get("LISTEN_FDS"):
        problem += (
            f". systemd passed its sockets to process {os.environ.get('LISTEN_PID')} and this is {os.getpid()}: "
            "start the service by ExecStart= itself, without a shell in between"
        )
    return problem or _management_problem(settings, activated=count > 0)


def _grpc_problem(settings: ServiceSettings) -> str | None:
    """Return why the port of gRPC cannot be bound, and the remedy; None if it can, or there is none."""
    if settings.grpc_port is None:
        return None
    return tcp_problem(
        settings.host, settings.grpc_port, change="give another one with GLYPH_GRPC_PORT or --grpc-port"
    )


def _management_problem(settings: ServiceSettings, *, activated: bool) -> str | None:
    """Return why the management port cannot be bound, and the remedy; None if it can."""
    host, port = settings.management_host, management_port(settings)
    if port == 0:
        return None
    same = host == settings.host or {host, settings.host} & {*ALL_ADDRESSES, "0.0.0.0"}  # noqa: S104
    if port == settings.port and same and not activated and unix_path(settings.host) is None:
        return f"the management port is the service's own port, {port}: change GLYPH_MANAGEMENT_PORT"
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
    """Return why a TCP address cannot be bound, and the remedy; None if it can."""
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
    """Return why a UNIX socket cannot be created, and the remedy; None if it can, or replaces an unused one."""
    directory = path.parent
    if not os.path.isdir(directory):  # noqa: PTH112  Path.is_dir raises without permission
        return (
            f"the directory {directory} of the socket does not exist: make it (RuntimeDirectory= in a systemd unit), "
            "or change GLYPH_HOST"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"this user may not make a socket in {directory}: change its owner or mode, or GLYPH_HOST"
    if not os.path.lexists(path):
        return None
    if not path.is_socket():
        return f"{path} exists and is no socket: remove it, or change GLYPH_HOST"
    return _unix_socket_in_use(path)


def _unix_socket_in_use(path: Path) -> str | None:
    """Return why a UNIX socket's path cannot be used; None if nobody listens there, so that Gunicorn replaces it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return None
        except BlockingIOError:
            pass  # somebody listens, with a full backlog
        except OSError as error:
            return f"cannot listen on {path} ({error.strerror}): remove it, or change GLYPH_HOST"
    return f"the socket {path} is taken by another program: end that, or change GLYPH_HOST"


def _systemd_socket_problem(count: int) -> str | None:
    """Return why one of systemd's sockets cannot be used, and the remedy; None if all can."""
    for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + count):
        try:
            with socket.socket(fileno=os.dup(descriptor)) as handed:
                listens = handed.type == socket.SOCK_STREAM and handed.getsockopt(
                    socket.SOL_SOCKET, socket.SO_ACCEPTCONN
                )
        except OSError as error:
            return f"descriptor {descriptor}, passed by systemd, is no socket ({error.strerror})"
        if not listens:
            return (
                f"descriptor {descriptor}, passed by systemd, is no socket that listens for connections: "
                "have ListenStream= and Accept=no in the socket unit"
            )
    return None


def authority(host: str, port: int) -> str:
    """Return host and port as in a URL (RFC 3986, section 3.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unmap_ipv4(peer: Any) -> Any:
    """Return an IPv4-mapped IPv6 address as an IPv4 address (RFC 4291, section 2.5.5.2), and any other as it is.

    A client has such an address if it came over IPv4 to a socket of both families. Logs, limits and Gunicorn's list of
    trusted proxies use the IPv4 address.
    """
    if isinstance(peer, tuple) and peer[0].startswith("::ffff:"):
        return peer[0].removeprefix("::ffff:"), *peer[1:2]
    return peer


def local_management(settings: ServiceSettings) -> tuple[str, int] | None:
    """Return host and port by which this machine reaches the management port; None if there is none."""
    host, port = settings.management_host, management_port(settings)
    if port == 0:
        return None
    return "127.0.0.1" if host in {*ALL_ADDRESSES, "0.0.0.0"} else host, port  # noqa: S104


def local_host(listener: socket.socket) -> str:
    """Return the host by which this machine reaches a TCP socket: loopback, if it is bound to every address."""
    host: str = listener.getsockname()[0]
    if host == "::" and listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return "::1"
    return "127.0.0.1" if host in {"::", "0.0.0.0"} else host  # noqa: S104
