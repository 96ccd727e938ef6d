"""A run's `dvc.lock` for whoever has DVC and nothing of ours: as the run left it in its store, checked against its records.

The lock itself is not signed. So every artifact that it names must be the one that a signed record names. Code, parameters
and sources are held by the commit: there DVC compares them itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workflows.compile import dvc_lock
from workflows.compile.gather import gather
from workflows.declare import Pipeline
from workflows.errors import BadInput, NotVerified, Problem
from workflows.prove.record import Record
from workflows.prove.verify import Verification, last_entries
from workflows.run.journal import lock_document
from workflows.run.parameters import Settings, as_written
from workflows.run.store.interface import Store

ARTIFACT = re.compile(r"artifacts/(?P<pipeline>[^/]+)/(?P<name>[^/.]+)(/(?P<item>[^/.]+))?\.[a-z]+")
"""Where `workflows.plan` puts artifacts; the run's own declaration need not be here."""


def text_of(root: Path, pipeline: Pipeline, settings: Settings, records: Mapping[str, Record]) -> bytes:
    """The lock of a run whose code lies at `root`."""
    declared = gather(root, pipeline, as_written(root, pipeline, settings))
    return dvc_lock.merged("", dvc_lock.stages_of(root, declared, records)).encode()


def lock_of(checked: Verification, store: Store) -> bytes:
    """The lock of a verified run, as its store has it; `NotVerified` where it is not what the records say."""
    if not checked.ok or checked.seal is None:
        problems = [Problem(what=f.what, where=f.where) for f in checked.findings]
        raise NotVerified(*problems, hint="a run that does not verify is not exported")
    where = f"{store.place}/{lock_document(checked.run)}"
    data = store.get_document(lock_document(checked.run))
    if data is None:
        raise BadInput(Problem(what="the run left no lock in its store", where=where), hint="countersign reproduce needs none")
    last = last_entries(checked.seal)
    check(data, [checked.records[last[t].sha256] for t in checked.seal.tasks if t in last], where)
    return data


def check(data: bytes, records: Iterable[Record], where: str) -> None:
    """`NotVerified` where a lock has another artifact than the records, lacks a stage that was done, or has one that was not."""
    done = {f"{r.pipeline}-{r.task}": r for r in records if r.outcome.good}
    made = {i.name for r in done.values() for i in r.outputs}
    try:
        stages: Mapping[str, Any] = dvc_lock.read(data.decode())["stages"]
        problems = [Problem(what="is in one of lock and records, but not in both", where=f"{where}: {s}") for s in {*stages} ^ {*done}]
        for name in sorted({*stages} & {*done}):
            problems += _differences(stages[name], done[name], made, f"{where}: {name}")
    except (BadInput, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise NotVerified(Problem(what=f"not a lock file: {type(error).__name__}: {error}", where=where)) from None
    if problems:
        raise NotVerified(*problems, hint="the lock is not what the run left, and proves nothing")


def _differences(stage: Mapping[str, Any], record: Record, made: Collection[str], where: str) -> Iterator[Problem]:
    for side, items in (("deps", record.inputs), ("outs", record.outputs)):
        listed = {name: (f["md5"], f["size"]) for f in stage.get(side) or () if (name := _item_name(f["path"]))}
        recorded = {i.name: (i.md5, i.size) for i in items if i.name in made}
        for name in sorted({*listed, *recorded}):
            if listed.get(name) != recorded.get(name):
                expected, got = (_words(of.get(name)) for of in (recorded, listed))
                yield Problem(what=f"{name} is not what the record says", where=where, expected=expected, got=got)


def _item_name(path: str) -> str:
    """`loan_approval/model` of a path to an artifact; empty where it is a path to something else."""
    matched = ARTIFACT.fullmatch(path)
    if not matched:
        return ""
    name = f"{matched['pipeline']}/{matched['name']}"
    return f"{name}@{matched['item']}" if matched["item"] else name


def _words(known: tuple[str, int] | None) -> str:
    return f"md5 {known[0]}, {known[1]} bytes" if known else "none"
