"""Bring a finished run whole from one store to another: content first, then records, then the run's folder, its root last.

Nothing is judged here: whoever reads the run verifies it. What is there already is not sent again.
"""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from workflows.errors import NotVerified, Problem
from workflows.prove.bundle import reused_by, signers_of
from workflows.prove.record import Item, NotARecord, Record, decode_record
from workflows.run.logs import structlog
from workflows.run.store.interface import Store
from workflows.run.store.parallel import in_order

FILES = 4  # large ones, at a time
log = structlog.get_logger()


def carry(run: str, source: Store, target: Store) -> None:
    """Have `target` hold a sealed run of `source`. A run of the same name that it has already, or has begun, stays what it is."""
    folder = f"runs/{run}"
    root = source.get_document(f"{folder}/root")
    there = target.get_document(f"{folder}/root")
    if root is None or there == root:
        return
    pointers = {name: data for name, data in source.list_documents(folder).items() if name != "root"}
    if there is not None or _contradicts(target.list_documents(folder), pointers):
        log.warning("the other store has a run of this name of its own, which stays", run=run, store=target.place)
        return
    envelopes = _envelopes(source, {_sha(p) for p in (*pointers.values(), root)})
    records = {name: record for name, data in envelopes.items() if (record := _record(data))}
    envelopes |= _envelopes(source, reused_by(records))
    records |= {name: record for name, data in envelopes.items() if (record := _record(data))}
    for _ in in_order(lambda item: _content(item, source, target), sorted(_items(records), key=lambda i: i.md5), threads=FILES):
        pass
    keys = _documents(source, {f"keys/{k}.pem" for k in signers_of(envelopes)})
    _put(target, keys)
    _put(target, {f"records/{sha}": data for sha, data in envelopes.items()})
    _put(target, {f"{folder}/{name}": data for name, data in pointers.items()})
    target.put_document(f"{folder}/root", root)


def _contradicts(there: Mapping[str, bytes], here: Mapping[str, bytes]) -> bool:
    return any(here.get(name) != data for name, data in there.items())


def _sha(pointer: bytes) -> str:
    return pointer.decode("ascii", "replace").strip()


def _envelopes(source: Store, digests: set[str]) -> dict[str, bytes]:
    return {name.removeprefix("records/"): data for name, data in _documents(source, {f"records/{sha}" for sha in digests}).items()}


def _documents(source: Store, names: set[str]) -> dict[str, bytes]:
    def one(name: str) -> bytes:
        data = source.get_document(name)
        if data is None:
            raise NotVerified(Problem(what="missing from the store", where=f"{source.place}/{name}"))
        return data

    listed = sorted(names)
    return dict(zip(listed, in_order(one, listed), strict=True))


def _put(target: Store, documents: Mapping[str, bytes]) -> None:
    for _ in in_order(lambda d: target.put_document(*d), documents.items()):
        pass


def _record(envelope: bytes) -> Record | None:
    """What an envelope says, unchecked; None where it is a seal."""
    with contextlib.suppress(NotARecord, ValueError, KeyError, TypeError):
        return decode_record(base64.b64decode(json.loads(envelope)["payload"]))
    return None


def _items(records: Mapping[str, Record]) -> Iterator[Item]:
    found: dict[str, Item] = {}
    for r in records.values():
        found |= {i.md5: i for i in (*r.inputs, *r.outputs, *([r.code.snapshot] if r.code.snapshot else []))}
    yield from found.values()


def _content(item: Item, source: Store, target: Store) -> None:
    if target.holds(item):
        return
    with tempfile.TemporaryDirectory(prefix="countersign-") as scratch:
        path = Path(scratch) / "content"
        source.fetch_content(item, path)
        if target.put_content(path) != item.digests:
            raise NotVerified(Problem(what="changed on its way to another store", where=item.name))
