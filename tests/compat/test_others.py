"""Programs and libraries that know nothing of Countersign accept its envelopes, and refuse them once changed."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.json_format import ParseDict
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from tests.conftest import lacking
from tests.prove.chain import PRIVATE, RUN, build
from workflows.prove.signature import Signer

CHAIN = build()
ENVELOPES = {n: d for n, d in CHAIN.documents.items() if n.startswith("records/")}


def changed(data: bytes) -> bytes:
    """The same envelope around a payload with one other digit."""
    envelope = json.loads(data)
    payload = base64.b64decode(envelope["payload"]).replace(b'"toy/', b'"t0y/', 1)
    envelope["payload"] = base64.b64encode(payload).decode()
    return json.dumps(envelope).encode()


def test_securesystemslib_accepts_every_envelope() -> None:
    key = SSlibKey.from_crypto(PRIVATE.public_key(), keyid=Signer(PRIVATE).keyid)
    for data in ENVELOPES.values():
        Envelope.from_dict(json.loads(data)).verify([key], 1)
        with pytest.raises(VerificationError):
            Envelope.from_dict(json.loads(changed(data))).verify([key], 1)


def test_openssl_accepts_the_signature(tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        lacking("openssl")
    (tmp_path / "key.pem").write_bytes(PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    data = next(iter(ENVELOPES.values()))
    for envelope, code in ((data, 0), (changed(data), 1)):
        e = json.loads(envelope)
        payload, kind = base64.b64decode(e["payload"]), e["payloadType"].encode()
        (tmp_path / "pae").write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
        (tmp_path / "sig").write_bytes(base64.b64decode(e["signatures"][0]["sig"]))
        words = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin", "-in", "pae", "-sigfile", "sig"]
        assert subprocess.run(words, cwd=tmp_path, capture_output=True, check=False).returncode == code


def test_openssl_names_the_key_as_we_do(tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        lacking("openssl")
    (tmp_path / "key.pem").write_bytes(PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    words = "openssl pkey -pubin -in key.pem -outform der | sha256sum"
    said = subprocess.run(["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.split()[0] == Signer(PRIVATE).keyid


def statement(data: bytes) -> dict[str, object]:
    value: dict[str, object] = json.loads(base64.b64decode(json.loads(data)["payload"]))
    return value


def test_in_toto_accepts_every_statement() -> None:
    """in-toto's own Python package reads the statement, by its schema, and finds it valid."""
    for data in ENVELOPES.values():
        s = statement(data)
        read = Statement(subjects=[], predicate_type="", predicate={})
        ParseDict(s, read.pb)
        read.validate()
        assert read.pb.predicate_type == s["predicateType"]


def test_a_run_of_today_is_the_run_of_tomorrow() -> None:
    """The example run's root is fixed: a change of any format or rule of hashing would show here."""
    assert CHAIN.root(RUN) == (Path(__file__).parent / "root.txt").read_text().strip()


def test_a_bundle_of_the_first_version_verifies_forever() -> None:
    from tests.prove.chain import script
    from workflows.prove import bundle
    from workflows.prove.bundle import verify_bundle

    data = (Path(__file__).parent / "v1.bundle").read_bytes()
    assert verify_bundle(bundle.read(data, "v1.bundle")).ok
    assert script.check(data)[2] == []
