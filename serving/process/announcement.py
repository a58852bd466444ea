"""The text that is printed when the service is ready: a curl command that works as printed, and its result."""

import contextlib
import ipaddress
import os
import shlex
import socket
import ssl
from pathlib import Path
from typing import Any

from bundle.manifest import SAMPLE_FILE
from serving.errors import NotReadyError
from serving.model.store import ModelStore
from serving.settings import ServiceSettings
from serving.system.addresses import authority, local_host, local_management


def announcement(store: ModelStore, settings: ServiceSettings, listener: socket.socket) -> str | None:
    """Return a curl command for the bundle's sample image, and its label; None if no model is ready.

    Args:
        store: the models that are served.
        settings: the service's settings.
        listener: a socket on which the service listens, which systemd may have opened.
    """
    try:
        bundle = store.engine().bundle
    except NotReadyError:
        return None
    options, base = curl_target(listener, settings)
    sample = f"@{_relative(bundle.path / SAMPLE_FILE)}"
    command = shlex.join(
        ["curl", *options, "--data-binary", sample, "-H", "Content-Type: image/png", f"{base}/predict"]
    )
    manifest = bundle.manifest
    draw = "" if listener.family == socket.AF_UNIX else f" Or open {base}/ and draw."
    management = local_management(settings)
    return (
        f"\nServing {manifest.name} version {bundle.version} ({store.provider}). Try it:\n\n    {command}\n\n"
        f"The answer's label should be {manifest.sample_label!r}.{draw}\n"
        + (f"Probes and metrics: http://{authority(*management)}/readyz and /metrics\n" if management else "")
    )


def curl_target(listener: socket.socket, settings: ServiceSettings) -> tuple[list[str], str]:
    """Return curl's options and the base URL with which this machine reaches a listening socket.

    With TLS, the URL has a name of the certificate, and curl trusts that certificate, whoever signed it.
    """
    options: list[str] = []
    names: list[str] = []
    if settings.tls_certificate is not None:
        options = ["--cacert", str(_relative(settings.tls_certificate))]
        names = subject_names(settings.tls_certificate, settings.tls_key)
    scheme = "http" if settings.tls_certificate is None else "https"
    if listener.family == socket.AF_UNIX:
        path = os.fsdecode(listener.getsockname())
        where = ["--abstract-unix-socket", path[1:]] if path[0] == "\0" else ["--unix-socket", path]
        name = names[0] if names else "localhost"
        return [*where, *options], f"{scheme}://{authority(name, 0).removesuffix(':0')}"
    host, port = local_host(listener), listener.getsockname()[1]
    if names and host not in names:
        options += ["--connect-to", f"::{authority(host, port)}"]
        host = names[0]
    return options, f"{scheme}://{authority(host, port)}"


def subject_names(certificate: Path, key: Path | None) -> list[str]:
    """Return the names and addresses that a certificate is valid for, from a TLS handshake in memory.

    There are none if a client rejects the certificate although it trusts its signer, as an expired one.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificate, key)
    client.load_verify_locations(certificate)
    # As curl does: it trusts a certificate in the file without its signer.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(to_client, to_server)
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (client_side, server_side, client_side):
        with contextlib.suppress(ssl.SSLError):
            side.do_handshake()
    trusted: Any = client_side.getpeercert() if client_side.version() else None
    found = trusted.get("subjectAltName", ()) if trusted else ()
    return [_connectable_name(name) for kind, name in found if kind in {"DNS", "IP Address"}]


def _connectable_name(name: str) -> str:
    """Return an address in its usual form, or for a wildcard a name that it matches."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name.strip()))
    return name.replace("*", "www", 1)


def _relative(path: Path) -> Path:
    """Return `path` relative to the working directory, if it lies below it."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the working directory was removed
        return path
    return path.relative_to(here) if path.is_relative_to(here) else path
