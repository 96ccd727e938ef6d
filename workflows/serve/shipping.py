"""Signed batches of the decision log into the store: content first, the statement last, and a note of the end beside them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from workflows.errors import NotVerified, Problem
from workflows.prove.digest import Digests
from workflows.prove.record import Item
from workflows.prove.signature import Keyring, Signer
from workflows.run.keys import publish
from workflows.run.store.interface import Store
from workflows.serve import chain as chains
from workflows.serve.chain import Batch, Said
from workflows.serve.disk import LINES, SENT, unsent


def ship(folder: Path, store: Store, signer: Signer, keys: Keyring) -> int:
    """Send what was not sent; the number of batches. What fails half way is done again, and does no harm."""
    todo = unsent(folder)
    for path in todo:
        envelope = path.read_bytes()
        batch = chains.open_batch(envelope, keys).batch
        lines = path.with_suffix(LINES)
        if store.put_content(lines) != Digests(sha256=batch.sha256, md5=batch.md5, size=batch.size):
            raise NotVerified(Problem(what="changed since it was signed", where=str(lines)))
        publish(store, signer)
        store.put_document(name_of(batch), envelope)
        store.put_document(_note(batch.environment, batch.chain), f"{batch.head}\n".encode())
        path.with_suffix(SENT).touch()
    return len(todo)


def name_of(batch: Batch) -> str:
    """A batch's name in the store: by environment, chain and day, so that a decision is found without listing the rest."""
    return f"{_folder(batch.environment, batch.chain)}/{day(batch.begun)}/{batch.name}"


def day(milliseconds: int) -> str:
    """The day of a time, UTC."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d}"


def verify_logs(store: Store, environment: str, keys: Keyring, noted: Mapping[str, str] | None = None) -> list[Said]:
    """What is wrong with the chains of an environment. `noted` is chain -> the digest that its end, or a receipt, has."""
    known = dict(noted or {})
    chains_there = {*store.list_folders(f"decisions/{environment}"), *known}
    return [_verify(store, environment, chain, keys, known.get(chain)) for chain in sorted(chains_there)]


def _verify(store: Store, environment: str, chain: str, keys: Keyring, noted: str | None) -> Said:
    # The end before the batches: a server at work sends more of both meanwhile, batches first.
    noted = noted or _noted(store, environment, chain)
    listed = store.list_documents(_folder(environment, chain))
    envelopes = {name.rpartition("/")[2]: data for name, data in listed.items()}
    said = chains.verify_chain(chain, envelopes, lambda b: content_of(store, b), keys, noted)
    elsewhere = [f"{chain}: two batches are named {n}" for n in sorted(envelopes) if sum(k.endswith(f"/{n}") for k in listed) > 1]
    return replace(said, findings=(*said.findings, *elsewhere))


def content_of(store: Store, batch: Batch) -> bytes | None:
    """The bytes of a batch's file; None where the store has not these."""
    item = Item(name=f"{batch.chain}/{batch.name}", sha256=batch.sha256, md5=batch.md5, size=batch.size)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "lines"
        try:
            store.fetch_content(item, path)
        except NotVerified:
            return None
        return path.read_bytes()


def _noted(store: Store, environment: str, chain: str) -> str | None:
    data = store.get_document(_note(environment, chain))
    return data.decode("ascii", "replace").strip() if data else None


def _note(environment: str, chain: str) -> str:
    # It only helps: whoever can remove batches can change it, too. Loss by accident it shows.
    return f"cache/decisions/{environment}/{chain}"


def _folder(environment: str, chain: str) -> str:
    return f"decisions/{environment}/{chain}"
