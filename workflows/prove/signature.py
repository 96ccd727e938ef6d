"""DSSE envelopes, signed with Ed25519: bytes in, trusted payload out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from workflows.lean import without
from workflows.prove import canonical

with without("boto3", "botocore"):  # it offers to sign with AWS's key service, too
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # re-exported without saying so

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class BadSignature(ValueError):
    """The envelope is malformed, signed by a key that is not given, or its signature does not fit."""


class BadKey(ValueError):
    """Not an Ed25519 key in PEM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What a checked envelope held, and who signed it."""

    payload: bytes
    keyid: str


def keyid_of(key: Ed25519PublicKey) -> str:
    """sha256 of the key's SubjectPublicKeyInfo, as `openssl pkey -pubin -outform der | sha256sum` prints it."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


class Signer:
    """A private key that signs payloads."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        public = key.public_key()
        self.keyid = keyid_of(public)
        self.public_pem = public_pem(public)
        self._signer = CryptoSigner(key, SSlibKey.from_crypto(public, keyid=self.keyid))

    def sign(self, payload: bytes) -> bytes:
        """The envelope's canonical bytes. Ed25519 is deterministic: the same payload gives the same bytes."""
        envelope = Envelope(payload, PAYLOAD_TYPE, {})
        envelope.sign(self._signer)
        return canonical.encode(envelope.to_dict())


class Keyring:
    """The public keys that are trusted to have signed, by key id."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = {keyid: SSlibKey.from_crypto(key, keyid=keyid) for keyid, key in keys.items()}

    def __contains__(self, keyid: str) -> bool:
        return keyid in self._keys

    def open(self, data: bytes) -> Opened:
        """The payload of an envelope with one valid signature by a key of this ring; `BadSignature` says what is off."""
        envelope, keyid = _parse(data)
        if keyid not in self._keys:
            raise BadSignature(f"signed by a key that is not at hand: {keyid!r}")
        try:
            envelope.verify([self._keys[keyid]], 1)
        except VerificationError:
            raise BadSignature(f"the signature by {keyid} does not fit the payload") from None
        return Opened(payload=envelope.payload, keyid=keyid)


def _parse(data: bytes) -> tuple[Envelope, str]:
    try:
        raw = canonical.decode(data)
        if set(raw) != {"payload", "payloadType", "signatures"} or len(raw["signatures"]) != 1:
            raise BadSignature("not an envelope with payload, payloadType and one signature")
        if raw["payloadType"] != PAYLOAD_TYPE:
            raise BadSignature(f"payload type is {raw['payloadType']!r}, expected {PAYLOAD_TYPE!r}")
        if set(raw["signatures"][0]) != {"keyid", "sig"}:
            raise BadSignature("a signature has other fields than keyid and sig")
        # Base64 has spare bits in its last character: without this check two texts would open to one payload.
        for text in (raw["payload"], raw["signatures"][0]["sig"]):
            if base64.b64encode(base64.b64decode(text, validate=True)).decode() != text:
                raise BadSignature("base64 that is not in canonical form")
        keyid = raw["signatures"][0]["keyid"]
        if not isinstance(keyid, str):
            raise BadSignature("a key id that is no text")
        return Envelope.from_dict(raw), keyid
    except BadSignature:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadSignature(f"not a DSSE envelope: {error}") from None


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_private(pem: bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKey(f"not a private key in PEM: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"expected an Ed25519 key, got {type(key).__name__}")
    return key


def read_public(pem: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKey(f"not a public key in PEM: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadKey(f"expected an Ed25519 key, got {type(key).__name__}")
    return key


def ring_of(pems: Mapping[str, bytes]) -> Keyring:
    """A keyring from PEM files by name; `BadKey` names the file."""
    return Keyring({keyid_of(key): key for key in _read_all(pems).values()})


def stored_ring(pems: Mapping[str, bytes]) -> Keyring:
    """A keyring from files named `keys/<keyid>.pem`; `BadKey` where a file does not hold the key it is named by."""
    keys = _read_all(pems)
    for name, key in keys.items():
        if name != f"keys/{keyid_of(key)}.pem":
            raise BadKey(f"{name}: it holds another key, {keyid_of(key)}")
    return Keyring({keyid_of(key): key for key in keys.values()})


def _read_all(pems: Mapping[str, bytes]) -> dict[str, Ed25519PublicKey]:
    keys = {}
    for name, pem in pems.items():
        try:
            keys[name] = read_public(pem)
        except BadKey as error:
            raise BadKey(f"{name}: {error}") from None
    return keys
