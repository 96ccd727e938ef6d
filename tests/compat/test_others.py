"""Programs and libraries that know nothing of Countersign accept the envelopes of a real run, and refuse them once changed.

securesystemslib is what Countersign signs with, too; OpenSSL and in-toto's Go library share no code with it.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.json_format import ParseDict
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # re-exported without saying so

from tests.conftest import home_from, lacking
from tests.prove.chain import RUN, build
from workflows.prove.signature import Signer, read_private


@dataclass(frozen=True, kw_only=True)
class Signed:
    """What a run left: its envelopes, the key that signed them."""

    key: Ed25519PrivateKey
    envelopes: list[bytes]

    @property
    def pem(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def signed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    scratch = tmp_path_factory.mktemp("signed")
    home = home_from(template, scratch)
    home.run()
    records = sorted(p for p in (home.path / ".countersign/records").iterdir() if p.is_file())
    assert len(records) == 5, "of four tasks, and the seal"
    return Signed(key=read_private((scratch / "keys/signing.pem").read_bytes()), envelopes=[p.read_bytes() for p in records])


def changed(data: bytes) -> bytes:
    """The same envelope around a payload with one other digit."""
    envelope = json.loads(data)
    payload = base64.b64decode(envelope["payload"]).replace(b'"toy/', b'"t0y/', 1)
    envelope["payload"] = base64.b64encode(payload).decode()
    return json.dumps(envelope).encode()


def test_in_totos_go_library_accepts_every_envelope(signed: Signed, tmp_path: Path) -> None:
    if not (program := shutil.which("dsse")):
        lacking("dsse: python infra/cluster programs dsse builds it")
    (tmp_path / "key.pem").write_bytes(signed.pem)
    for data in signed.envelopes:
        for envelope, code in ((data, 0), (changed(data), 4)):
            said = subprocess.run([program, tmp_path / "key.pem"], input=envelope, capture_output=True, check=False)
            assert said.returncode == code, said.stderr
            assert said.stdout == (base64.b64decode(json.loads(data)["payload"]) if code == 0 else b"")


def test_securesystemslib_accepts_every_envelope(signed: Signed) -> None:
    key = SSlibKey.from_crypto(signed.key.public_key(), keyid=Signer(signed.key).keyid)
    for data in signed.envelopes:
        Envelope.from_dict(json.loads(data)).verify([key], 1)
        with pytest.raises(VerificationError):
            Envelope.from_dict(json.loads(changed(data))).verify([key], 1)


def test_openssl_accepts_the_signature(signed: Signed, tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        lacking("openssl")
    (tmp_path / "key.pem").write_bytes(signed.pem)
    data = signed.envelopes[0]
    for envelope, code in ((data, 0), (changed(data), 1)):
        e = json.loads(envelope)
        payload, kind = base64.b64decode(e["payload"]), e["payloadType"].encode()
        (tmp_path / "pae").write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
        (tmp_path / "sig").write_bytes(base64.b64decode(e["signatures"][0]["sig"]))
        words = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin", "-in", "pae", "-sigfile", "sig"]
        assert subprocess.run(words, cwd=tmp_path, capture_output=True, check=False).returncode == code


def test_openssl_names_the_key_as_we_do(signed: Signed, tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        lacking("openssl")
    (tmp_path / "key.pem").write_bytes(signed.pem)
    words = "openssl pkey -pubin -in key.pem -outform der | sha256sum"
    said = subprocess.run(["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.split()[0] == Signer(signed.key).keyid


def statement(data: bytes) -> dict[str, object]:
    value: dict[str, object] = json.loads(base64.b64decode(json.loads(data)["payload"]))
    return value


def test_in_toto_accepts_every_statement(signed: Signed) -> None:
    """in-toto's own Python package reads the statement, by its schema, and finds it valid."""
    for data in signed.envelopes:
        s = statement(data)
        read = Statement(subjects=[], predicate_type="", predicate={})
        ParseDict(s, read.pb)
        read.validate()
        assert read.pb.predicate_type == s["predicateType"]


def test_a_run_of_today_is_the_run_of_tomorrow() -> None:
    """The example run's root is fixed: a change of any format or rule of hashing would show here."""
    assert build().root(RUN) == (Path(__file__).parent / "root.txt").read_text().strip()


def test_a_bundle_of_the_first_version_verifies_forever() -> None:
    from tests.prove.chain import script
    from workflows.prove import bundle
    from workflows.prove.bundle import verify_bundle

    data = (Path(__file__).parent / "v1.bundle").read_bytes()
    assert verify_bundle(bundle.read(data, "v1.bundle")).ok
    assert script.check(data)[2] == []
