#!/usr/bin/env python3
"""Make the secrets that infra/events needs, where they are not there yet: one a web hook, and the bus's password and certificate.

Nothing that exists is changed. Where secrets come from a vault, it makes the same ones instead:
    countersign-github   secret                                  what GitHub signs pushes with
    countersign-gitlab   token                                   what GitLab sends as "Authorization: Bearer ..."
    countersign-bus      auth.yaml auth.conf ca.crt tls.crt tls.key   only for overlays/local; prod's bus makes its own
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BUS = "countersign-bus"


def main() -> None:
    """Make what is missing; say what was made and what was there."""
    parser = argparse.ArgumentParser(description="Make the secrets of infra/events that are not there yet.")
    parser.add_argument("--namespace", default="countersign-events")
    namespace = parser.parse_args().namespace
    makers: dict[str, Callable[[], dict[str, bytes]]] = {
        "countersign-github": lambda: {"secret": secrets.token_hex(32).encode()},
        "countersign-gitlab": lambda: {"token": secrets.token_hex(32).encode()},
        BUS: lambda: bus(namespace),
    }
    for name, make in makers.items():
        if exists(name, namespace):
            print(f"kept {name}")
        else:
            create(name, namespace, make())
            print(f"made {name}")


def bus(namespace: str) -> dict[str, bytes]:
    """A password, once as Argo Events reads it and once as NATS does, and a certificate that names the server."""
    password = f"p{secrets.token_hex(24)}"  # NATS reads what starts with a digit as a number
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = self_signed(key, [f"{BUS}.{namespace}.svc", f"{BUS}.{namespace}.svc.cluster.local"])
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return {
        "auth.yaml": f"username: countersign\npassword: {password}\n".encode(),
        "auth.conf": f"user: countersign\npassword: {password}\n".encode(),
        "ca.crt": pem,
        "tls.crt": pem,
        "tls.key": key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    }


def self_signed(key: ec.EllipticCurvePrivateKey, hosts: list[str]) -> x509.Certificate:
    """A certificate for `hosts` that is its own authority: whoever has the secret trusts this server and no other."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + dt.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def exists(name: str, namespace: str) -> bool:
    done = kubectl("get", "secret", name, "--namespace", namespace, "--ignore-not-found", "--output", "name")
    return bool(done.strip())


def create(name: str, namespace: str, data: dict[str, bytes]) -> None:
    """`create`, not `apply`: one that appeared in between is not replaced, and no annotation repeats what is secret."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "countersign"}},
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }
    kubectl("create", "--filename", "-", stdin=json.dumps(secret))


def kubectl(*words: str, stdin: str | None = None) -> str:
    try:
        done = subprocess.run([os.environ.get("KUBECTL", "kubectl"), *words], input=stdin, capture_output=True, text=True, check=False)  # noqa: S603  # fixed words, no shell
    except FileNotFoundError:
        sys.exit("error: kubectl is not installed")
    if done.returncode:
        sys.exit(f"error: kubectl {words[0]}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
