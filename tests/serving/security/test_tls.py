"""TLS, end to end: a certificate made here, checked by the client, by both worker classes."""

import contextlib
import dataclasses
import os
import shlex
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.support.management import await_
from bench.support.models import Linear
from bench.support.pictures import a_digit, png
from bench.support.processes import (
    PNG,
    ROOT,
    START_SECONDS,
    Service,
    await_ok,
    environment,
    running,
    serving_command,
)
from bundle.repository import Bundle
from tests.serving.certificates import write_certificate
from tests.serving.proxies import replaced, snippet


@pytest.fixture(scope="module", params=["inference", "gthread"])
def encrypted(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Service]:
    """Return a service that speaks TLS alone."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = write_certificate(directory)
    trust = ssl.create_default_context(cafile=str(certificate))
    settings = {
        "model": bundle.path.parent,
        "worker": request.param,
        "tls_certificate": certificate,
        "tls_key": key,
    }
    with running(directory, until="/readyz", tls=trust, **settings) as service:
        yield service


def test_a_prediction_is_answered_over_tls(encrypted: Service, linear: Linear) -> None:
    """The certificate is checked against its name, and the answer is the model's."""
    answer = encrypted.post(png(a_digit()))
    assert answer.status == 200
    expected = int(linear.probabilities(a_digit()[None])[0].argmax())
    assert answer.json()["predictions"][0]["index"] == expected


def test_one_connection_answers_many_requests_and_a_large_one(encrypted: Service) -> None:
    """Keep-alive, a body larger than TLS records and buffers, and the application's routes."""
    connection = encrypted.connect()
    body = png(a_digit())
    for path, payload, status in (
        ("/predict", body, 200),
        ("/predict", body + bytes(900_000), 200),
        ("/predict", bytes(3_000_000), 415),
        ("/v2", None, 200),
        ("/predict", body, 200),
    ):
        connection.request("GET" if payload is None else "POST", path, payload, {"Content-Type": PNG})
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()


def test_the_version_is_at_least_1_2(encrypted: Service) -> None:
    """And what is agreed on is what this Python can do best."""
    assert encrypted.tls is not None
    with (
        socket.create_connection(("127.0.0.1", encrypted.port), timeout=30) as plain,
        encrypted.tls.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        assert secure.version() == "TLSv1.3"
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with (
        socket.create_connection(("127.0.0.1", encrypted.port), timeout=30) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(plain)


def test_a_client_that_trusts_nobody_is_not_answered(encrypted: Service) -> None:
    """The certificate is really checked by the client of these tests."""
    stranger = Service(encrypted.process, encrypted.port, encrypted.output, ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        stranger.ask("GET", "/livez")


def presented(service: Service) -> bytes:
    """Return the certificate that a new connection is shown."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", service.port), timeout=30))


def checked(**settings: object) -> subprocess.CompletedProcess[str]:
    """Run the check that comes before a reload."""
    return subprocess.run(
        serving_command("--check"),
        env=environment(provider="cpu", **settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


def renewed(place: Path) -> tuple[Path, Path]:
    """Write another certificate and its key, beside those in use."""
    place.mkdir()
    return write_certificate(place)


@pytest.mark.parametrize("worker", ["inference", "gthread"])
def test_a_renewed_certificate_is_served_after_a_hangup(bundle: Bundle, tmp_path: Path, worker: str) -> None:
    """By the document's hook for certbot: both in one file, replaced by renaming, then the check and the signal."""
    both = tmp_path / "both.pem"
    certificate, key = write_certificate(tmp_path)
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    trust = ssl.create_default_context(cafile=certificate)
    settings: dict[str, Any] = {"model": bundle.path.parent, "worker": worker, "tls_certificate": both}
    with running(tmp_path, until="/readyz", tls=trust, **settings) as service:
        lineage = tmp_path / "renewed"
        certificate, key = renewed(lineage)
        certificate.rename(lineage / "fullchain.pem")
        key.rename(lineage / "privkey.pem")
        certificate = lineage / "fullchain.pem"
        reload = f"{shlex.join(serving_command('--check'))} >/dev/null && kill -HUP {service.process.pid}"
        hook = snippet("sh").replace("/etc/glyph/tls", str(tmp_path))
        hook = replaced(hook, {"chgrp glyph": f"chgrp {os.getegid()}", "systemctl reload glyph": reload})
        variables = environment(provider="cpu", **settings) | {"RENEWED_LINEAGE": str(lineage)}
        subprocess.run(["sh", "-c", hook], env=variables, cwd=ROOT, check=True, timeout=START_SECONDS)
        new = ssl.PEM_cert_to_DER_cert(certificate.read_text())

        def is_new() -> bool:
            with contextlib.suppress(OSError):  # an old worker has ended before the handshake was over
                return presented(service) == new
            return False

        await_(is_new)
        client = dataclasses.replace(service, tls=ssl.create_default_context(cafile=certificate))
        assert await_ok(client, "/readyz").status == 200  # an old worker may still accept


@pytest.mark.parametrize("worker", ["inference", "gthread"])
def test_a_certificate_without_its_key_is_refused_by_the_check_and_changes_nothing(
    bundle: Bundle, tmp_path: Path, worker: str
) -> None:
    """Half of a renewal: the check ends with 2, and the workers serve on with the pair that they have read."""
    certificate, key = write_certificate(tmp_path)
    old = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    trust = ssl.create_default_context(cafile=certificate)
    settings: dict[str, Any] = {"model": bundle.path.parent, "worker": worker}
    settings |= {"tls_certificate": certificate, "tls_key": key}
    with running(tmp_path, until="/readyz", tls=trust, **settings) as service:
        renewed(tmp_path / "renewed")[0].replace(certificate)
        refused = checked(**settings)
        assert refused.returncode == 2
        assert "cannot be used for TLS" in refused.stderr
        assert presented(service) == old
        assert service.post(png(a_digit())).status == 200


def test_plain_http_is_not_answered_and_spoils_nothing(encrypted: Service) -> None:
    """Nor half a handshake, nor noise; the next client is served."""
    for noise in (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\0" * 300):
        with socket.create_connection(("127.0.0.1", encrypted.port), timeout=30) as plain:
            plain.sendall(noise)
            plain.shutdown(socket.SHUT_WR)
            received = b""
            try:
                while piece := plain.recv(4096):
                    received += piece
            except ConnectionError:
                pass
            assert b"200 OK" not in received
    assert encrypted.ask("GET", "/livez").status == 200
