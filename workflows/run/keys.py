"""Keys of this person or machine: they live outside the repository, in files that only their owner can read.

| what | from the environment | else, made when first needed |
|---|---|---|
| signing key | `COUNTERSIGN_SIGNING_KEY_FILE`, a PEM file | `signing.pem` in the key folder |
| a secret, such as `masking_key` | `COUNTERSIGN_MASKING_KEY` (hexadecimal), `COUNTERSIGN_MASKING_KEY_FILE` | `masking_key` there |

The key folder is `COUNTERSIGN_KEYS`, else `countersign` in the user's configuration folder.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from workflows.errors import BadInput, NotVerified, Problem
from workflows.prove import digest
from workflows.prove.signature import BadKey, Keyring, Signer, private_pem, read_private, ring_of, stored_ring
from workflows.run.store.interface import Store

SECRET_BYTES = 32


def folder() -> Path:
    """Where keys live that the environment does not name."""
    if named := os.environ.get("COUNTERSIGN_KEYS"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "countersign"


def signer() -> tuple[Signer, bool]:
    """The signing key, and whether it was made just now."""
    named = os.environ.get("COUNTERSIGN_SIGNING_KEY_FILE")
    path = Path(named) if named else folder() / "signing.pem"
    made = not named and _make(path, private_pem(Ed25519PrivateKey.generate()))
    try:
        return Signer(read_private(_read(path, "signing key"))), made
    except BadKey as error:
        raise BadInput(Problem(what=str(error), where=str(path)), hint="make a new one with: countersign keys init") from None


def secret(name: str, *, make: bool = True) -> bytes:
    """The bytes of a named secret. Where none is configured, 32 random ones are made, or with `make=False` it is `BadInput`."""
    variable = f"COUNTERSIGN_{name.upper()}"
    if value := os.environ.get(variable):
        where = variable
    else:
        named = os.environ.get(f"{variable}_FILE")
        path = Path(named) if named else folder() / name
        if not named and make:
            _make(path, secrets.token_hex(SECRET_BYTES).encode() + b"\n")
        value, where = _read(path, name).decode("ascii", "replace"), str(path)
    try:
        key = bytes.fromhex(value.strip())
    except ValueError:
        raise BadInput(Problem(what=f"{name} is not hexadecimal", where=where), hint="make one with: openssl rand -hex 32") from None
    if len(key) < SECRET_BYTES:
        raise BadInput(Problem(what=f"{name} is too short", where=where, expected=f"at least {SECRET_BYTES} bytes", got=str(len(key))))
    return key


def fingerprint(name: str, key: bytes) -> str:
    """What a record says of a secret: enough to know it again, not enough to learn it."""
    return digest.tagged("secret-fingerprint", name, key)[:32]


def init() -> list[Path]:
    """Make what is missing in the key folder; the paths made."""
    made = {
        folder() / "signing.pem": private_pem(Ed25519PrivateKey.generate()),
        folder() / "masking_key": secrets.token_hex(SECRET_BYTES).encode() + b"\n",
    }
    return [p for p, data in made.items() if _make(p, data)]


def ring(store: Store, extra: tuple[Path, ...] = ()) -> Keyring:
    """The public keys to verify with: those given, or else those that lie in the store beside the records."""
    if extra:
        return given_ring(extra)
    pems = {f"keys/{name}": data for name, data in store.list_documents("keys").items()}
    try:
        return stored_ring(pems)
    except BadKey as error:
        raise NotVerified(Problem(what=str(error), where=store.place), hint="name the keys that you trust with --key") from None


def publish(store: Store, signer: Signer) -> None:
    """Let whoever reads the store have the public key of what is signed there."""
    store.put_document(f"keys/{signer.keyid}.pem", signer.public_pem)


def given_ring(paths: tuple[Path, ...]) -> Keyring:
    """The public keys that a person named; `BadInput` where one cannot be read."""
    try:
        return ring_of({str(p): _read(p, "public key") for p in paths})
    except BadKey as error:
        raise BadInput(str(error)) from None


def ring_with(own: Signer, paths: tuple[Path, ...]) -> Keyring:
    """The public keys that an operator named, and this process's own."""
    try:
        return ring_of({**{str(p): _read(p, "public key") for p in paths}, "own": own.public_pem})
    except BadKey as error:
        raise BadInput(str(error)) from None


def _make(path: Path, data: bytes) -> bool:
    """Create a private file, once, even where two processes try at the same time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.touch(mode=0o600)
        temporary.write_bytes(data)
        try:
            os.link(temporary, path)
        finally:
            temporary.unlink()
    except FileExistsError:
        return False
    except OSError as error:
        hint = "set COUNTERSIGN_KEYS to a folder that you can write"
        raise BadInput(Problem(what=f"cannot make a key: {error.strerror}", where=str(path)), hint=hint) from error
    return True


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(Problem(what=f"cannot read the {what}: {error.strerror}", where=str(path))) from error
