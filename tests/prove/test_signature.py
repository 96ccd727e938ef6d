"""DSSE envelopes: one signature, by a known key, over exactly these bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tests.prove.chain import OTHER, PRIVATE, ring
from workflows.prove import canonical
from workflows.prove.signature import BadKey, BadSignature, Signer, private_pem, read_private, read_public, ring_of, stored_ring

SIGNER = Signer(PRIVATE)
ENVELOPE = SIGNER.sign(b'{"a":1}')


def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    raw = json.loads(ENVELOPE)
    return canonical.encode(change(raw) or raw)


@given(st.binary(max_size=100))
def test_a_payload_comes_back_as_it_was_signed(payload: bytes) -> None:
    opened = ring(PRIVATE).open(SIGNER.sign(payload))
    assert (opened.payload, opened.keyid) == (payload, SIGNER.keyid)


def test_the_same_payload_gives_the_same_envelope() -> None:
    assert SIGNER.sign(b"x") == SIGNER.sign(b"x")


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(BadSignature, match="not at hand"):
        ring(OTHER).open(ENVELOPE)
    with pytest.raises(BadSignature, match="not at hand"):
        ring().open(ENVELOPE)


def test_a_signature_by_another_key_under_a_trusted_keys_name_is_refused() -> None:
    forged = json.loads(Signer(OTHER).sign(b'{"a":1}'))
    forged["signatures"][0]["keyid"] = SIGNER.keyid
    with pytest.raises(BadSignature, match="does not fit"):
        ring(PRIVATE, OTHER).open(canonical.encode(forged))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def spare_bits(text: str) -> str:
    """Another text that opens to the same bytes: the last character before the padding has bits that say nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    at = len(text.rstrip("=")) - 1
    other = text[:at] + alphabet[alphabet.index(text[at]) + 1] + text[at + 1 :]
    assert base64.b64decode(other) == base64.b64decode(text)
    return other


def set_signature(e: dict[str, Any], **fields: Any) -> None:
    e["signatures"][0].update(fields)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda e: e.update(payload=b64(b'{"a":2}')), id="another payload"),
        pytest.param(lambda e: e.update(payloadType="application/json"), id="another payload type"),
        pytest.param(lambda e: e.update(payload=e["payload"] + "\n"), id="payload with a line end"),
        pytest.param(lambda e: set_signature(e, sig=spare_bits(e["signatures"][0]["sig"])), id="spare bits of the signature"),
        pytest.param(lambda e: set_signature(e, sig=b64(base64.b64decode(e["signatures"][0]["sig"])[:-1])), id="short signature"),
        pytest.param(lambda e: set_signature(e, sig=""), id="empty signature"),
        pytest.param(lambda e: set_signature(e, sig=None), id="no text as a signature"),
        pytest.param(lambda e: set_signature(e, keyid=None), id="no key id"),
        pytest.param(lambda e: set_signature(e, keyid=[]), id="a list as key id"),
        pytest.param(lambda e: set_signature(e, cert="x"), id="another field in a signature"),
        pytest.param(lambda e: e["signatures"].append(e["signatures"][0]), id="two signatures"),
        pytest.param(lambda e: e["signatures"].append(json.loads(Signer(OTHER).sign(b'{"a":1}'))["signatures"][0]), id="two signers"),
        pytest.param(lambda e: e.update(signatures=[]), id="no signature"),
        pytest.param(lambda e: e.update(signatures={}), id="signatures of another type"),
        pytest.param(lambda e: e.update(extra=1), id="another field"),
        pytest.param(lambda e: e.pop("payload") and None, id="no payload"),
        pytest.param(lambda e: e.update(payload=1), id="payload of another type"),
        pytest.param(lambda _: [1], id="a list"),
        pytest.param(lambda _: "x", id="a text"),
    ],
)
def test_a_changed_envelope_is_refused(change: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(BadSignature):
        ring(PRIVATE, OTHER).open(changed(change))


def test_spare_bits_of_the_payload_are_refused() -> None:
    envelope = SIGNER.sign(b'{"a":12}')
    raw = json.loads(envelope)
    raw["payload"] = spare_bits(raw["payload"])
    with pytest.raises(BadSignature, match="canonical"):
        ring(PRIVATE).open(canonical.encode(raw))


@given(st.integers(0, len(ENVELOPE) - 1), st.integers(1, 255))
def test_one_changed_byte_is_refused(place: int, by: int) -> None:
    damaged = bytearray(ENVELOPE)
    damaged[place] ^= by
    with pytest.raises(BadSignature):
        ring(PRIVATE).open(bytes(damaged))


def test_the_same_envelope_in_another_form_is_refused() -> None:
    with pytest.raises(BadSignature):
        ring(PRIVATE).open(json.dumps(json.loads(ENVELOPE), indent=1).encode())


# --- keys


def test_a_keyring_is_read_from_pem_files() -> None:
    assert SIGNER.keyid in ring_of({"a.pem": SIGNER.public_pem})
    with pytest.raises(BadKey, match=r"a\.pem"):
        ring_of({"a.pem": SIGNER.public_pem[:-40]})


def test_a_key_in_a_store_lies_under_its_own_name() -> None:
    assert SIGNER.keyid in stored_ring({f"keys/{SIGNER.keyid}.pem": SIGNER.public_pem})
    with pytest.raises(BadKey, match="another key"):
        stored_ring({f"keys/{Signer(OTHER).keyid}.pem": SIGNER.public_pem})


def test_only_ed25519_keys_are_taken() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(BadKey, match="Ed25519"):
        read_private(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(BadKey, match="Ed25519"):
        read_public(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(BadKey):
        read_private(SIGNER.public_pem)


def test_a_private_key_survives_its_file() -> None:
    key = read_private(private_pem(PRIVATE))
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    assert Signer(key).keyid == SIGNER.keyid
