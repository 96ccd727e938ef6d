"""What a pod says to the API server when that does not answer as it should: over TLS, by a server that stands for it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from workflows.cluster import incluster, sealing
from workflows.errors import BadInput, Temporary

NAMED = b'{"metadata": {"uid": "one", "annotations": {"countersign/submitter": "vera@bank"}}}'
PATH = "/apis/argoproj.io/v1alpha1/namespaces/lab/workflows/toy-1"


class Answers(ThreadingHTTPServer):
    """An API server that answers all the same: a status, a body, and how much of it comes before the connection is closed."""

    status, body, cut = 200, NAMED, 0


class _Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_GET(self) -> None:
        body = self.server.body if self.path == PATH and self.headers["Authorization"] == "Bearer secret" else b"{}"
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


def _certificate(folder: Path) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lab")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
            ), critical=True,
        )
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "ca.crt").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    """The server, and the environment and account of a pod that asks it."""
    _certificate(tmp_path)
    (tmp_path / "token").write_text("secret")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.crt", tmp_path / "key.pem")
    server = Answers(("127.0.0.1", 0), _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setattr(incluster, "ACCOUNT", tmp_path)
    said = {incluster.NAME: "toy-1", incluster.NAMESPACE: "lab", "KUBERNETES_SERVICE_HOST": "127.0.0.1"}
    for name, value in (said | {"KUBERNETES_SERVICE_PORT": str(server.server_address[1])}).items():
        monkeypatch.setenv(name, value)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_workflow_is_read(api: Answers) -> None:
    assert sealing._submitter("one") == "vera@bank"
    api.body = b'{"metadata": {"uid": "another"}}'
    assert sealing._submitter("one") is None


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_api_server_is_asked_again(api: Answers, status: int) -> None:
    """Else the seal would say nothing of who submitted the run, for ever."""
    api.status = status
    with pytest.raises(Temporary, match=f"HTTP {status}"):
        sealing._submitter("one")


def test_an_answer_that_breaks_off_is_asked_for_again(api: Answers) -> None:
    api.cut = 3
    with pytest.raises(Temporary, match="could not be read"):
        sealing._submitter("one")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_is_refused_stays_refused(api: Answers, status: int) -> None:
    api.status = status
    with pytest.raises(BadInput, match=f"HTTP {status}"):
        incluster.workflow()
    assert sealing._submitter("one") is None
