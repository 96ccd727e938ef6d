"""What served, and who answers for it: releases with the approvals that they name, each opened and checked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workflows.errors import NotVerified, Problem
from workflows.promote import approvals
from workflows.promote.evidence import Signed
from workflows.promote.ledger import Entry
from workflows.prove.signature import Keyring
from workflows.run import keys
from workflows.run.store.interface import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A release, and the approvals that it rests on."""

    entry: Entry
    approvals: tuple[Signed, ...]


def with_approvers(store: Store, entries: Sequence[Entry]) -> list[Told]:
    """Each release with its approvals; `NotVerified` where one that it names is gone, changed, or about something else."""
    ring = keys.ring(store) if entries else Keyring({})
    return [Told(entry=e, approvals=_of(store, ring, e)) for e in entries]


def _of(store: Store, ring: Keyring, entry: Entry) -> tuple[Signed, ...]:
    begun = entry.begun
    roots = sorted({v.root for v in begun.variants})
    found = {a.sha256: a for root in roots for a in approvals.listed(store, ring, root, begun.environment)}
    problems, sound = [], []
    for sha in begun.approvals:
        there = found.get(sha)
        where = f"release {begun.sequence} of {begun.environment}, approval {sha}"
        if there is None:
            problems.append(Problem(what="missing from the store", where=where))
        elif not isinstance(there, Signed):
            problems.append(Problem(what=there.why, where=where))
        elif there.approval.model not in {v.model for v in begun.variants} or there.approval.environment != begun.environment:
            problems.append(Problem(what="it is about another model or environment", where=where))
        else:
            sound.append(there)
    if problems:
        raise NotVerified(*problems)
    return tuple(sound)
