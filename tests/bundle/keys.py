"""Elliptic-curve keys, and signatures over any statement, as somebody with a key could make them."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from bundle.signing import BUNDLE_TYPE, PAYLOAD_TYPE

Key = ec.EllipticCurvePrivateKey


def new_key(curve: ec.EllipticCurve | None = None) -> Key:
    """Return a private key, by default of P-256."""
    return ec.generate_private_key(curve or ec.SECP256R1())


def public_pem(key: Key) -> bytes:
    """Return the public half as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_pair(
    directory: Path, name: str = "key", passphrase: str = "", key: Key | None = None
) -> tuple[Path, Path]:
    """Write a private and a public key to files, and return their paths."""
    key = key or new_key()
    private, public = directory / f"{name}.pem", directory / f"{name}.pub"
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    public.write_bytes(public_pem(key))
    return private, public


def statement_of(signature: bytes) -> Any:
    """Return the statement that a signature is over."""
    return json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))


def signed_statement(key: Key, statement: Any, **changes: Any) -> bytes:
    """Return a `model.sig` over any statement, by a key of P-256, with `changes` to its envelope."""
    payload = json.dumps(statement).encode()
    encoded = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
    seal = base64.b64encode(key.sign(encoded, ec.ECDSA(hashes.SHA256()))).decode()
    envelope: dict[str, Any] = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": seal}],
    }
    hint = hashlib.sha256(public_pem(key)).hexdigest()
    return json.dumps(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": envelope | changes,
        }
    ).encode()
