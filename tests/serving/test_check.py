"""`python -m serving --check` and what a start refuses: every reason before it costs a running service anything."""

import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import serialization

from bench.support.models import NO_GRAPH, publish_synthetic
from bundle.repository import Bundle
from common.errors import ConfigurationError
from serving import check as checks
from serving.__main__ import main
from serving.check import check_tls
from serving.settings import ServiceSettings
from tests.serving.certificates import write_certificate


def checked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return the exit code and both outputs."""
    code = main(["--check", "--provider", "cpu", "--connections", "8", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_what_could_start_is_told_in_a_sentence_each(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the model's version and where it was proven."""
    code, told, wrong = checked(capsys, "--model", bundle.path.parent)
    assert (code, wrong) == (0, "")
    assert [line.partition(": ")[0] for line in told.splitlines()] == ["ok"] * 3
    assert "synthetic version 1 is proven on cpu" in told


def test_a_model_that_cannot_be_proven_is_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A graph that is none, and no version at all."""
    bad = publish_synthetic(tmp_path, graph=NO_GRAPH)
    for model, words in (
        (bad.path.parent, "cannot be loaded"),
        (tmp_path / "none", "no version is published"),
    ):
        code, _, wrong = checked(capsys, "--model", model)
        assert code == 3
        assert wrong.startswith("error: ")
        assert words in wrong
        assert wrong.count("\n") == 1


def test_a_refused_newer_version_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An older one serves, so it is no error."""
    good = publish_synthetic(tmp_path)
    publish_synthetic(tmp_path, golden_shift=0.001)
    code, told, _ = checked(capsys, "--model", good.path.parent)
    assert code == 0
    assert "version 1 is proven on cpu; version 2 is refused: the golden examples" in told


def test_shared_memory_that_is_full_is_a_warning(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Workers start without it. The sentence has what is there, what is needed and what helps."""
    monkeypatch.setattr(checks, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
    code, told, wrong = checked(capsys, "--model", bundle.path.parent)
    assert (code, wrong) == (0, "")
    for word in ("warning: ", "4096 bytes left", "--shm-size"):
        assert word in told


def test_fewer_descriptors_than_connections_are_code_2(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a start: the sentence says how many connections there may be."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    code, _, wrong = checked(capsys, "--model", bundle.path.parent)
    assert code == 2
    assert "needs 136 file descriptors and a process may open 100" in wrong


def test_tls_files_that_are_no_pair_end_a_start_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a port is opened: missing, empty, of two pairs, and a key alone."""
    certificate, key = write_certificate(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, another = write_certificate(other)
    empty = tmp_path / "empty.pem"
    empty.touch()
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    for arguments, word in (
        (("--tls-certificate", certificate, "--tls-key", encrypted), "is encrypted"),
        (("--tls-certificate", certificate, "--tls-key", another), "cannot be used for TLS"),
        (("--tls-certificate", certificate, "--tls-key", empty), "cannot be used for TLS"),
        (("--tls-certificate", tmp_path / "none", "--tls-key", key), "cannot be read"),
        (("--tls-key", key), "GLYPH_TLS_CERTIFICATE"),
    ):
        for check in (["--check"], []):
            assert main([*check, *map(str, arguments)]) == 2
            wrong = capsys.readouterr().err
            assert wrong.startswith("error: ")
            assert word in wrong
            assert wrong.count("\n") == 1
    check_tls(ServiceSettings(tls_certificate=certificate, tls_key=key))
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    check_tls(ServiceSettings(tls_certificate=both))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        check_tls(ServiceSettings(tls_certificate=tmp_path))
