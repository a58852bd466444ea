"""Signatures of bundles: OpenSSF Model Signing by an elliptic-curve key, in `model.sig` beside the manifest.

The file is a Sigstore bundle (protobuf-specs, `sigstore_bundle.proto`, version 0.3, as JSON). In it is a DSSE envelope
(secure-systems-lab/dsse, protocol 1.0.0), and in that an in-toto statement (attestation specification, version 1) whose
predicate, `https://model_signing/signature/v1.0`, lists the SHA-256 of every other file of the version, the manifest's
among them. `model_signing verify key` accepts it.

The package `model-signing` signs. It does not verify here: importing it loads the clients of Sigstore and of TUF, 55 MB
in each worker, and it hashes files that are read a second time afterwards, when they may be others. Verification needs
`cryptography` alone and returns the signed hashes, by which `reading.py` verifies the bytes that it parses.
"""

import base64
import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundle.errors import BundleError, InvalidBundleError
from bundle.manifest import MANIFEST_FILE, SIGNATURE_FILE, Manifest
from common.atomic_files import read_regular, sha256_bytes
from common.errors import one_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

PASSPHRASE = "SIGNING_KEY_PASSPHRASE"  # noqa: S105  the variable's name
"""Environment variable of the passphrase of an encrypted private key."""
MAX_KEY_BYTES = 1 << 16
CURVES = (256, 384, 521)
"""Bits of the curves P-256, P-384 and P-521, which model-signing signs with SHA-256, SHA-384 and SHA-512 for."""
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

_PUBLIC_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----\n?", re.DOTALL)


class SigningError(BundleError):
    """A version cannot be signed: the key, its passphrase or a package is missing."""


class TrustedKeysError(BundleError):
    """The trusted keys cannot be used, so nothing can be verified by them."""


def key_files(keys: Path) -> list[Path]:
    """Return the file of trusted keys, or the files in their directory; hidden ones are Kubernetes' own.

    Raises:
        OSError: the directory cannot be listed.
    """
    if not keys.is_dir():
        return [keys]
    return sorted(path for path in keys.iterdir() if not path.name.startswith("."))


def read_key_files(keys: Path) -> list[bytes]:
    """Return the public keys of a PEM file, or of all files of a directory, each as PEM and not parsed yet.

    Raises:
        TrustedKeysError: a file cannot be read or has no public key, or there is none.
    """
    found: list[bytes] = []
    try:
        for path in key_files(keys):
            pems = _PUBLIC_KEY.findall(read_regular(path.resolve(), MAX_KEY_BYTES))
            if not pems:
                raise TrustedKeysError(
                    f"{path} has no public key: give PEM files, as 'openssl pkey -in KEY -pubout' writes them"
                )
            found += pems
    except OSError as error:
        raise TrustedKeysError(f"the trusted keys in {keys} cannot be read: {error.strerror}") from None
    if not found:
        raise TrustedKeysError(
            f"the directory of trusted keys {keys} is empty: every bundle would be refused"
        )
    return found


def signed_files(signature: bytes | None, keys: Path) -> dict[str, str]:
    """Return the name and the SHA-256 of each file that the holder of a trusted key has signed.

    Nothing that was signed is parsed before the signature was verified.

    Args:
        signature: the content of `model.sig`; None if there is none.
        keys: a PEM file of public keys, or a directory of such files.

    Raises:
        InvalidBundleError: there is no signature, none of the keys made it, or it is not one of model signing.
        TrustedKeysError: the keys cannot be used.
    """
    trusted = _trusted_keys(keys)
    if signature is None:
        raise InvalidBundleError(
            "it is not signed, and trusted keys are set: sign it ('python -m bundle sign VERSION KEY')"
        )
    payload, seal, hint = _envelope(signature)
    if not any(_made(key, seal, payload) for key in trusted.values()):
        raise InvalidBundleError(
            f"{SIGNATURE_FILE} was changed after it was signed: the signature does not fit what is signed"
            if hint in trusted
            else f"it is signed by another key ({one_line(hint[:16]) or 'unnamed'}) than the trusted ones "
            f"({', '.join(known[:16] for known in trusted)}, SHA-256 of the PEM): trust that key, or sign again"
        )
    return _statement(payload)


def check_signed(files: dict[str, str], manifest: Manifest, data: bytes) -> None:
    """Check that what is signed is the manifest's bytes `data` and its files, and nothing else.

    Raises:
        InvalidBundleError: it is not.
    """
    if files != {MANIFEST_FILE: sha256_bytes(data), **manifest.files}:
        raise InvalidBundleError(
            f"{SIGNATURE_FILE} does not list exactly the files of this version with their hashes: sign it again"
        )


class Signer:
    """Signs versions by one private key."""

    def __init__(self, key: Path) -> None:
        """Read the private key, a PEM file. The passphrase of an encrypted one is in `SIGNING_KEY_PASSPHRASE`.

        Raises:
            SigningError: the key cannot be read or decrypted, or its curve is not supported; or model-signing is not
                installed.
        """
        try:
            from model_signing import hashing, signing
        except ImportError as error:
            raise SigningError(
                f"signing needs the package model-signing ({error}): pip install 'glyph[signing]'"
            ) from None
        passphrase = os.environ.get(PASSPHRASE)
        try:
            self._config = signing.Config().use_elliptic_key_signer(
                private_key=key,
                password=passphrase.encode() if passphrase else None,  # type: ignore[arg-type]  # it takes only bytes
            )
        except OSError as error:
            raise SigningError(f"the private key {key} cannot be read: {error.strerror}") from None
        except (
            AttributeError,
            TypeError,
            ValueError,
        ) as error:  # of cryptography, whose sentences name no secret
            raise SigningError(
                f"the private key {key} cannot be used ({one_line(error, 200)}): give a PEM file of an elliptic-curve "
                f"key (openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256); {PASSPHRASE} is the "
                "passphrase of an encrypted one"
            ) from None
        self._config.set_hashing_config(
            hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False)
        )

    def sign(self, directory: Path, manifest: Manifest) -> bytes:
        """Return the signature over all files of a version's directory, in which an earlier signature does not count.

        Raises:
            SigningError: the files are not those of the manifest, or cannot be read.
        """
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / SIGNATURE_FILE
            try:
                self._config.sign(directory, path)
                signature = path.read_bytes()
                data = (directory / MANIFEST_FILE).read_bytes()
            except (OSError, ValueError) as error:
                raise SigningError(f"{directory} cannot be signed: {one_line(error)}") from None
        try:
            check_signed(_statement(_envelope(signature)[0]), manifest, data)
        except InvalidBundleError:
            raise SigningError(
                f"{directory} has other files than its manifest lists: 'python -m bundle verify' names them"
            ) from None
        return signature


def _trusted_keys(keys: Path) -> "dict[str, EllipticCurvePublicKey]":
    """Return the public keys by the SHA-256 of their PEM, which is how a signature names its key."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise TrustedKeysError(
            "verifying signatures needs the package cryptography: pip install 'glyph[trust]'"
        ) from None
    found = {}
    for pem in read_key_files(keys):
        try:
            key = serialization.load_pem_public_key(pem)
        except (TypeError, UnsupportedAlgorithm, ValueError) as error:
            raise TrustedKeysError(f"a key in {keys} cannot be used: {one_line(error, 200)}") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.key_size not in CURVES:
            raise TrustedKeysError(f"a key in {keys} is not of the curve P-256, P-384 or P-521: remove it")
        canonical = key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        found[sha256_bytes(canonical)] = key
    return found


def _made(key: "EllipticCurvePublicKey", seal: bytes, payload: bytes) -> bool:
    """Tell whether a key made the signature of a payload, over DSSE's pre-authentication encoding of it."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    digest = dict(zip(CURVES, (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()), strict=True))
    encoded = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
    try:
        key.verify(seal, encoded, ec.ECDSA(digest[key.curve.key_size]))
    except InvalidSignature:
        return False
    return True


def _envelope(data: bytes) -> tuple[bytes, bytes, str]:
    """Return the payload, its signature and the hash of the signer's key; nothing of them is verified yet."""
    try:
        document: Any = json.loads(data)
        material, envelope = document["verificationMaterial"], document["dsseEnvelope"]
        [signature] = envelope["signatures"]
        types = document["mediaType"], envelope["payloadType"]
        if types != (BUNDLE_TYPE, PAYLOAD_TYPE):
            raise ValueError(f"its types are {types}")
        payload = base64.b64decode(envelope["payload"], validate=True)
        hint = (material.get("publicKey") or {}).get("hint") or ""
        return payload, base64.b64decode(signature["sig"], validate=True), str(hint)
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InvalidBundleError(
            f"{SIGNATURE_FILE} is not a signature of model signing by a key ({one_line(error, 200)}): sign again"
        ) from None


def _statement(payload: bytes) -> dict[str, str]:
    """Return the name and the SHA-256 of each file in a signed statement, which the holder of a key has made."""
    try:
        document: Any = json.loads(payload)
        predicate = document["predicate"]
        types = document["_type"], document["predicateType"], predicate["serialization"]["method"]
        if types != (STATEMENT_TYPE, PREDICATE_TYPE, "files"):
            raise ValueError(f"its types are {types}")
        resources = predicate["resources"]
        if any(each["algorithm"] != "sha256" for each in resources):
            raise ValueError("a hash is not SHA-256")
        return {str(each["name"]): str(each["digest"]) for each in resources}
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InvalidBundleError(
            f"{SIGNATURE_FILE} signs something else than files by their SHA-256 ({one_line(error, 200)}): sign again"
        ) from None
