"""Approvals in a store: kept once under the run's root and the environment, and read without trusting what lies there."""

from __future__ import annotations

from workflows.errors import NotVerified
from workflows.promote.evidence import Signed, Unreadable
from workflows.prove import digest
from workflows.prove.approval import Approval, decode_approval, encode_approval
from workflows.prove.signature import BadSignature, Keyring, Signer
from workflows.prove.statement import MAX_STATEMENT, NotAStatement
from workflows.run import keys
from workflows.run.store.interface import Store


def folder(root: str, environment: str) -> str:
    """Where the approvals of one root for one environment lie."""
    return f"approvals/{root}/{environment}"


def keep(store: Store, signer: Signer, approval: Approval) -> str:
    """Sign an approval and keep it, its key first; the digest of its envelope."""
    envelope = signer.sign(encode_approval(approval))
    sha = digest.of_bytes(envelope).sha256
    keys.publish(store, signer)
    store.put_document(f"{folder(approval.root, approval.environment)}/{sha}", envelope)
    return sha


def listed(store: Store, ring: Keyring, root: str, environment: str) -> list[Signed | Unreadable]:
    """Everything that lies where approvals of this root for this environment belong, by digest."""
    found = store.list_documents(folder(root, environment))
    return [_read(name, data, ring) for name, data in sorted(found.items())]


def _read(name: str, data: bytes, ring: Keyring) -> Signed | Unreadable:
    sha = digest.of_bytes(data).sha256
    if name != sha:
        return Unreadable(sha256=sha, why=f"it lies under another digest: {name[:64]!a}")
    if len(data) > MAX_STATEMENT:
        return Unreadable(sha256=sha, why="larger than any approval")
    try:
        opened = ring.open(data)
        approval = decode_approval(opened.payload)
    except (BadSignature, NotAStatement, NotVerified) as error:
        return Unreadable(sha256=sha, why=str(error))
    if approval.by != opened.keyid:
        return Unreadable(sha256=sha, why=f"it says it is by {approval.by}, and is signed by {opened.keyid}")
    return Signed(approval=approval, sha256=sha)
