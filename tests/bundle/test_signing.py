"""Signatures: the stock verifier accepts them, and trusted keys refuse everything else before it is parsed."""

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bundle import remote, signing
from bundle.__main__ import TRUSTED_KEYS
from bundle.__main__ import main as bundle_command
from bundle.errors import InvalidBundleError, PublishError
from bundle.fetch import fetch
from bundle.manifest import CARD_FILE, FILES, MANIFEST_FILE, ONNX_FILE, SIGNATURE_FILE, Manifest
from bundle.repository import Bundle, publish, sign, staging, versions
from bundle.signing import PASSPHRASE, Signer, SigningError, TrustedKeysError
from bundle.verify import problems
from tests.bundle.hostile import put, restate
from tests.bundle.keys import Key, key_pair, new_key, public_pem, signed_statement, statement_of
from tests.bundle.making import fill, publish_one, some_metadata
from tests.bundle.serving_files import serving

SECRET = "swordfish"  # noqa: S105  of keys that live as long as a test


def signed_one(models: Path, key: Path) -> Bundle:
    """Publish a bundle that is signed."""
    with staging(models, "shapes") as directory:
        fill(directory)
        return publish(directory, some_metadata(), Signer(key))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return the files of a private and of its public key."""
    return key_pair(tmp_path)


def stock(version: Path, public: Path) -> subprocess.CompletedProcess[str]:
    """Verify by model-signing's own command."""
    places = ["--signature", str(version / SIGNATURE_FILE), "--public_key", str(public), str(version)]
    command = [sys.executable, "-m", "model_signing", "verify", "key", *places]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda one: one.name)
def test_the_stock_verifier_accepts_what_is_published_signed(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    """So does ours, by the same public key; the signature is read-only, as every other file is."""
    private, public = key_pair(tmp_path, key=new_key(curve))
    bundle = signed_one(tmp_path, private)
    assert stock(bundle.path, public).returncode == 0
    assert problems(bundle.path, public) == []
    assert {entry.name for entry in bundle.path.iterdir()} == {*FILES, MANIFEST_FILE, SIGNATURE_FILE}
    assert all(stat.S_IMODE(entry.stat().st_mode) == 0o444 for entry in bundle.path.iterdir())


def test_a_changed_byte_and_an_added_file_fail_both_verifiers(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    """Whichever file it is in."""
    bundle = signed_one(tmp_path, pair[0])
    for name in (*FILES, MANIFEST_FILE, SIGNATURE_FILE):
        path = bundle.path / name
        data = path.read_bytes()
        put(path, data[:-1] + bytes([data[-1] ^ 1]))
        assert stock(bundle.path, pair[1]).returncode == 1, name
        assert problems(bundle.path, pair[1]), name
        put(path, data)
    assert problems(bundle.path, pair[1]) == []
    put(bundle.path / "more.txt", b"more")
    assert stock(bundle.path, pair[1]).returncode == 1
    assert problems(bundle.path, pair[1]) == ["more.txt does not belong to the bundle: remove it"]


def test_nothing_of_an_unsigned_version_is_parsed(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the manifest as JSON; a file that is not a regular one is not opened for it either."""
    unsigned, signed = publish_one(tmp_path / "unsigned"), signed_one(tmp_path / "signed", pair[0])
    put(signed.path / MANIFEST_FILE, b"[" * 1000)

    def parse(_data: bytes) -> Manifest:
        raise AssertionError

    monkeypatch.setattr(Manifest, "from_bytes", parse)
    with pytest.raises(InvalidBundleError, match=r"^it is not signed, and trusted keys are set: sign it"):
        Bundle.open(unsigned.path, pair[1])
    with pytest.raises(InvalidBundleError, match=r"manifest\.json was changed after it was signed"):
        Bundle.open(signed.path, pair[1])


def test_nothing_that_another_key_signed_is_parsed(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the beginnings of both keys' hashes, and no statement is read."""
    bundle = signed_one(tmp_path, pair[0])
    monkeypatch.setattr(signing, "_statement", None)
    with pytest.raises(
        InvalidBundleError, match=r"signed by another key \([0-9a-f]{16}\) than the trusted ones"
    ):
        Bundle.open(bundle.path, key_pair(tmp_path, "other")[1])


def test_files_exchanged_after_the_signature_was_verified_are_not_loaded(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    """The manifest in memory has the signed hashes, and each file is read by them: sealing again gains nothing."""
    bundle = Bundle.open(signed_one(tmp_path, pair[0]).path, pair[1])
    other = publish_one(tmp_path / "other", created="2026-11-23T12:00:00+00:00")
    for name in (*FILES, MANIFEST_FILE):
        put(bundle.path / name, (other.path / name).read_bytes() + b" " * (name == ONNX_FILE))
    with pytest.raises(InvalidBundleError, match=r"model\.onnx was changed"):
        bundle.read(ONNX_FILE)
    with pytest.raises(InvalidBundleError, match=r"manifest\.json was changed after it was signed"):
        Bundle.open(bundle.path, pair[1])


def _without_a_file(statement: Any) -> None:
    del statement["predicate"]["resources"][0]


def _with_another_hash(statement: Any) -> None:
    statement["predicate"]["resources"][0]["digest"] = "ab" * 32


def _with_another_algorithm(statement: Any) -> None:
    statement["predicate"]["resources"][0]["algorithm"] = "blake3"


def _by_shards(statement: Any) -> None:
    statement["predicate"]["serialization"]["method"] = "shards"


def _of_another_type(statement: Any) -> None:
    statement["predicateType"] = "https://slsa.dev/provenance/v1"


def _without_resources(statement: Any) -> None:
    statement["predicate"] = {"serialization": {"method": "files"}, "resources": [1]}


@pytest.mark.parametrize(
    "change",
    [
        _without_a_file,
        _with_another_hash,
        _with_another_algorithm,
        _by_shards,
        _of_another_type,
        _without_resources,
    ],
)
def test_a_trusted_key_must_have_signed_these_files(tmp_path: Path, change: Callable[[Any], None]) -> None:
    """A signature of the right key over a statement of something else is refused by a sentence."""
    key = new_key()
    private, public = key_pair(tmp_path, key=key)
    bundle = signed_one(tmp_path, private)
    path = bundle.path / SIGNATURE_FILE
    statement = statement_of(path.read_bytes())
    put(path, signed_statement(key, statement))
    assert problems(bundle.path, public) == []
    change(statement)
    put(path, signed_statement(key, statement))
    [said] = problems(bundle.path, public)
    assert SIGNATURE_FILE in said
    assert "sign it again" in said or "sign again" in said


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 60_000,
        b'{"mediaType": 1, "verificationMaterial": [], "dsseEnvelope": {"signatures": [{}], "payloadType": 2}}',
    ],
)
def test_what_is_no_signature_is_a_sentence(tmp_path: Path, pair: tuple[Path, Path], data: bytes) -> None:
    """Somebody wrote something else into the file."""
    bundle = signed_one(tmp_path, pair[0])
    put(bundle.path / SIGNATURE_FILE, data)
    [said] = problems(bundle.path, pair[1])
    assert said.startswith("model.sig is not a signature of model signing by a key")


def test_two_signatures_or_another_envelope_are_none(tmp_path: Path) -> None:
    """A Sigstore bundle has exactly one signature, over an in-toto statement."""
    key: Key = new_key()
    private, public = key_pair(tmp_path, key=key)
    bundle = signed_one(tmp_path, private)
    path = bundle.path / SIGNATURE_FILE
    statement = statement_of(path.read_bytes())
    envelopes: tuple[dict[str, Any], ...] = (
        {"signatures": []},
        {"signatures": [{"sig": ""}, {"sig": ""}]},
        {"payloadType": "text/plain"},
        {"payload": "no base64"},
    )
    for changes in envelopes:
        put(path, signed_statement(key, statement, **changes))
        [said] = problems(bundle.path, public)
        assert "is not a signature of model signing" in said


def test_keys_are_files_and_directories_of_files(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """Several in a file, several files, and links and hidden names as Kubernetes mounts a ConfigMap."""
    bundle = signed_one(tmp_path, pair[0])
    several = tmp_path / "several.pem"
    several.write_bytes(b"# ours\n" + public_pem(new_key()) + pair[1].read_bytes())
    mounted = tmp_path / "mounted"
    (mounted / "..data").mkdir(parents=True)
    for name, pem in (("a.pem", public_pem(new_key())), ("b.pem", pair[1].read_bytes())):
        (mounted / "..data" / name).write_bytes(pem)
        (mounted / name).symlink_to(f"..data/{name}")
    for keys in (several, mounted):
        assert problems(bundle.path, keys) == []


def test_keys_that_cannot_be_used_refuse_everything(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """A missing file, a private key, an empty directory, a key of another kind, half a key: a sentence each."""
    bundle = signed_one(tmp_path, pair[0])
    (tmp_path / "empty").mkdir()
    pem = Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "small").write_bytes(public_pem(new_key(ec.SECP192R1())))
    (tmp_path / "other").write_bytes(ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*pem))
    (tmp_path / "half").write_bytes(pair[1].read_bytes().replace(b"A", b"", 3))
    for name, said in {
        "nothing": "cannot be read: No such file",
        "key.pem": "has no public key",
        "empty": "is empty",
        "other": "is not of the curve",
        "small": "is not of the curve",
        "half": "cannot be used",
    }.items():
        with pytest.raises(TrustedKeysError, match=said):
            Bundle.open(bundle.path, tmp_path / name)


def test_the_commands_sign_and_verify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encrypted key asks for its passphrase in the environment; signing again replaces the signature."""
    bundle = publish_one(tmp_path)
    private, public = key_pair(tmp_path, "second", SECRET)
    assert bundle_command(["verify", str(bundle.path), "--trusted-keys", str(public)]) == 1
    assert "it is not signed" in capsys.readouterr().err
    for passphrase in ("", "herring"):
        monkeypatch.setenv(PASSPHRASE, passphrase)
        assert bundle_command(["sign", str(bundle.path), str(private)]) == 1
        said = capsys.readouterr().err
        assert "cannot be used" in said
        assert "herring" not in said
    assert not (bundle.path / SIGNATURE_FILE).exists()
    monkeypatch.setenv(PASSPHRASE, SECRET)
    assert bundle_command(["sign", str(bundle.path), str(key_pair(tmp_path, "first", SECRET)[0])]) == 0
    assert bundle_command(["sign", str(bundle.path), str(private)]) == 0
    monkeypatch.setenv(TRUSTED_KEYS, str(public))
    assert bundle_command(["verify", str(bundle.path)]) == 0
    assert "signed by a trusted key" in capsys.readouterr().out
    assert Bundle.open(bundle.path).manifest == bundle.manifest


def test_only_an_intact_version_is_signed(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """Neither one with a changed file, nor one with a file more; nor by a key that is none."""
    changed, more = publish_one(tmp_path), publish_one(tmp_path)
    put(changed.path / CARD_FILE, b"another card")
    put(more.path / "more.txt", b"more")
    with pytest.raises(InvalidBundleError, match=r"MODEL_CARD\.md was changed"):
        sign(changed.path, Signer(pair[0]))
    with pytest.raises(SigningError, match="has other files than its manifest lists"):
        sign(more.path, Signer(pair[0]))
    for name, said in {"nothing": "No such file", "key.pub": "cannot be used"}.items():
        with pytest.raises(SigningError, match=said):
            Signer(tmp_path / name)


def test_a_version_that_cannot_be_signed_is_not_published(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishing renames a directory with its signature in it, or nothing."""

    def fail(*_arguments: object) -> bytes:
        raise SigningError("out of ink")

    monkeypatch.setattr(Signer, "sign", fail)
    with pytest.raises(SigningError, match="out of ink"):
        signed_one(tmp_path, pair[0])
    assert versions(tmp_path / "shapes") == []
    assert not list((tmp_path / "shapes").glob(".staging-*"))


def test_what_is_fetched_is_verified_first_and_stays_signed(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """With trusted keys the signature is asked for first, and nothing but it and the manifest until it is verified."""
    site, asked = tmp_path / "site", list[str]()
    bundle = signed_one(tmp_path, pair[0])
    digest = bundle.manifest.digest
    shutil.copytree(bundle.path, site / "3")
    other = key_pair(tmp_path, "other")[1]
    with serving(site, asked.append) as url:
        with pytest.raises(InvalidBundleError, match="signed by another key"):
            fetch(f"{url}/3", digest, tmp_path / "refused", trusted=other)
        assert asked == ["/3/model.sig", "/3/manifest.json"]
        found = fetch(f"{url}/3", digest, tmp_path / "trusted", trusted=pair[1])
        assert problems(found.path, pair[1]) == []
        unverified = fetch(f"{url}/3", digest, tmp_path / "unverified")
        assert problems(unverified.path, pair[1]) == []
        again = fetch(f"{url}/3", digest, tmp_path / "trusted", trusted=pair[1])
        assert again.path == found.path
        (site / "3" / SIGNATURE_FILE).unlink()
        with pytest.raises(InvalidBundleError, match="it is not signed"):
            fetch(f"{url}/3", digest, tmp_path / "refused", trusted=pair[1])
        assert not (fetch(f"{url}/3", digest, tmp_path / "plain").path / SIGNATURE_FILE).exists()
    assert versions(tmp_path / "refused" / "shapes") == []


def test_a_signature_cannot_be_written_where_nothing_can(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence, and no signature."""
    bundle = publish_one(tmp_path)

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bundle.repository.write_whole", full)
    with pytest.raises(PublishError, match=r"cannot write .*model\.sig"):
        sign(bundle.path, Signer(pair[0]))


def test_a_resealed_bundle_is_changed(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """Whoever changes the manifest and computes its digest again has no key."""
    bundle = signed_one(tmp_path, pair[0])
    document = json.loads((bundle.path / MANIFEST_FILE).read_bytes())
    restate(bundle.path, temperature=document["temperature"] * 2)
    assert Bundle.open(bundle.path).manifest.temperature == 2.5
    [said] = problems(bundle.path, pair[1])
    assert (
        said == "manifest.json was changed after it was signed: restore the file, or publish and sign again"
    )


def test_a_signature_goes_to_an_object_store_and_comes_back(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives passes the stock verifier; a newer version without a signature is passed over, unparsed."""
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    private, public = pair
    signed, store = signed_one(tmp_path / "models", private), f"file://{tmp_path}/store"
    remote.push(signed, store)
    remote.push(publish_one(tmp_path / "elsewhere", created="2026-11-23T12:00:00+00:00"), store)
    assert remote.problems(f"{store}/shapes/1", trusted=public) == []
    found = remote.resolve(f"{store}/shapes", trusted=public)
    assert (found.version, remote.resolve(f"{store}/shapes").version) == (1, 2)
    fetched = remote.fetch_version(found, tmp_path / "fetched", trusted=public)
    assert stock(fetched.path, public).returncode == 0
    monkeypatch.setattr(Manifest, "from_bytes", lambda _: pytest.fail("it was parsed"))
    with pytest.raises(InvalidBundleError, match="it is not signed"):
        remote.resolve(f"{store}/shapes/2", trusted=public)
