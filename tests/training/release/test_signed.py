"""`fit --sign`: what is published is signed, and a key that cannot be used ends the job before it trains."""

from pathlib import Path

import pytest

from bundle.manifest import MANIFEST_FILE, SIGNATURE_FILE
from bundle.verify import problems
from tests.bundle.keys import key_pair
from tests.training.release.test_integer_graph import fit
from training.__main__ import main


def test_the_job_publishes_a_signed_version(tmp_path: Path) -> None:
    """The manifest says every other setting, but not where the private key is."""
    private, public = key_pair(tmp_path)
    version = fit(tmp_path / "job", "--sign", str(private))
    assert (version / SIGNATURE_FILE).is_file()
    assert problems(version, public) == []
    assert b'"sign"' not in (version / MANIFEST_FILE).read_bytes()
    assert str(private) not in (version / "report.html").read_text()


def test_a_key_that_cannot_be_used_ends_the_job_before_it_reads_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An hour of training is not lost to a forgotten passphrase."""
    private, _ = key_pair(tmp_path, passphrase="swordfish")  # noqa: S106
    nowhere = ["--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs"), "--data", "nothing"]
    assert main(["fit", *nowhere, "--sign", str(private)]) == 2
    assert "SIGNING_KEY_PASSPHRASE is the passphrase of an encrypted one" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
