"""A run's plan as a document: what every pod of a workflow must agree on, decided once and named by digest.

On a laptop one process knows all of this. On a cluster the first task finds it out and writes it down; Argo hands the
document's sha256 to every other task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from workflows.errors import NotVerified, Problem
from workflows.prove import canonical, digest
from workflows.prove.record import Item
from workflows.run.store.interface import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run would do."""

    pipeline: str
    run: str
    """The run's id without the number of its attempt."""
    commit: str | None
    """The git commit that the code is said to be of."""
    dirty: bool
    """True where the code differs from that commit, or nobody knows."""
    tree: str
    """Digest over every file of code, parameters and lock."""
    code: Item
    """The archive of those files, in the store."""
    sections: Mapping[str, Any]
    """Each step's parameters in full, overrides applied."""
    sources: tuple[Item, ...]
    """Every source as it was when the run began, in the store."""
    secrets: Mapping[str, str]
    """Fingerprints of the secret keys that the run uses."""

    def source(self, name: str) -> Item:
        """The item of a source by its name."""
        return {i.name.partition("/")[2]: i for i in self.sources}[name]


def write_plan(store: Store, plan: Plan) -> str:
    """Keep the plan; its sha256 is its name."""
    data = canonical.encode(asdict(plan))
    sha = digest.of_bytes(data).sha256
    store.put_document(f"plans/{sha}", data)
    return sha


def read_plan(store: Store, sha256: str) -> Plan:
    """The plan of that digest; `NotVerified` where it is missing or is not what the digest says."""
    where = f"plan {sha256}"
    data = store.get_document(f"plans/{sha256}")
    if data is None:
        raise NotVerified(Problem(what="missing from the store", where=where))
    if (got := digest.of_bytes(data).sha256) != sha256:
        raise NotVerified(Problem(what="changed in the store", where=where, expected=sha256, got=got))
    try:
        raw = canonical.read(data)
        return Plan(**{**raw, "code": Item(**raw["code"]), "sources": tuple(Item(**i) for i in raw["sources"])})
    except (KeyError, TypeError, ValueError) as error:
        raise NotVerified(Problem(what=f"not a plan: {type(error).__name__}: {error}", where=where)) from None
