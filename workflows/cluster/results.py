"""What a workflow came to: its run, read from the store as any run is, and what its end means for whoever waited."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.cluster.following import failure_of, run_of
from workflows.cluster.interface import ROOT, Progress
from workflows.declare import Pipeline
from workflows.errors import CountersignError, NotVerified, Problem
from workflows.prove.signature import Keyring
from workflows.run import keys
from workflows.run.journal import Journal
from workflows.run.local import Finished
from workflows.run.store.interface import Store


@dataclass(kw_only=True, slots=True)
class RunInStore:
    """A run of `pipeline`, where its records are, and the keys that they are checked with."""

    pipeline: Pipeline
    store: Store
    ring: Keyring


def opened(pipeline: Pipeline, store: Store) -> RunInStore:
    """A store to read a run of `pipeline` from, with the keys that lie in it."""
    return RunInStore(pipeline=pipeline, store=store, ring=keys.ring(store))


def finished_run(kept: RunInStore, progress: Progress) -> Finished | None:
    """The sealed run of an ended workflow; None where it has none: it was never planned, or its exit handler failed.

    `NotVerified` where the root that the workflow was annotated with is not the root that the store has.
    """
    run = run_of(progress)
    journal = Journal(kept.store, run) if run else None
    if journal is None or not journal.sealed:
        return None
    seal, root = journal.read_seal(kept.ring)
    noted = progress.annotations.get(ROOT)
    if noted and noted != root:
        raise NotVerified(
            Problem(what="the store has another root than the workflow was annotated with", where=journal.run, expected=noted, got=root)
        )
    return Finished(run=journal.run, seal=seal, root=root, unchanged=False, error=_error(progress, good=seal.outcome.good))


def _error(progress: Progress, *, good: bool) -> CountersignError | None:
    failure = failure_of(progress)
    if failure is None and not good:
        return CountersignError(Problem(what="the workflow ended well, but its run did not", where=progress.name))
    return failure
