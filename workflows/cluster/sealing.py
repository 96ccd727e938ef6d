"""A workflow's exit handler: whatever happened, every attempt has a record, and the run is sealed and its root noted outside."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.cluster.incluster import annotate
from workflows.compile import dvc_lock
from workflows.compile.gather import gather
from workflows.declare import Pipeline
from workflows.errors import BadInput, NotVerified, Problem, Temporary
from workflows.names import argo_name
from workflows.plan import Task, tasks
from workflows.prove.record import Seal
from workflows.run.driver import abandon
from workflows.run.journal import Journal, standing
from workflows.run.planned import read_plan
from workflows.run.pod import OUTPUTS, WORKFLOW, planned_session, put_out, wanted
from workflows.run.session import Session, last_claimed, open_journal
from workflows.run.store.interface import Store

FAILURES = "COUNTERSIGN_FAILURES"
"""JSON: what Argo says of each node that failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """The end of a run."""

    run: str
    root: str
    seal: Seal


def seal(root: Path, pipeline: Pipeline, store: Store) -> Sealed | None:
    """Seal the run of this workflow and note its root; None where the workflow had planned no run.

    Started again it finds the run sealed, and only notes the root.
    """
    uid = wanted(WORKFLOW)
    named = store.get_document(f"workflows/{uid}")
    if named is None:
        return None
    plan = read_plan(store, named.decode().strip())
    session = planned_session(root, pipeline, plan, store)
    journal = last_claimed(store, plan.run, uid) or open_journal(store, plan.run, uid)
    if not journal.sealed:
        _record_deaths(session, journal, failed_nodes(pipeline, os.environ.get(FAILURES, "")))
        names = tuple(t.id for t in tasks(pipeline))
        journal.seal(pipeline=pipeline.name, tasks=names, keys=session.ring, signer=session.signer, sealed=session.clock())
    sealed, digest = journal.read_seal(session.ring)
    _export(session, journal, sealed)
    annotate({"countersign/run": journal.run, "countersign/root": digest, "countersign/outcome": str(sealed.outcome)})
    put_out(Path(wanted(OUTPUTS)), {"run": journal.run, "root": digest, "outcome": str(sealed.outcome)})
    return Sealed(run=journal.run, root=digest, seal=sealed)


def failed_nodes(pipeline: Pipeline, text: str) -> dict[str, str]:
    """Task id -> what Argo said of its last failed pod. What cannot be read says nothing: records come from the tasks."""
    try:
        listed = json.loads(text) if text else []
    except ValueError:
        return {}
    # Argo hands over a JSON list, in some versions as a JSON string that holds it.
    found = json.loads(listed) if isinstance(listed, str) else listed
    names = {display_name(t): t.id for t in tasks(pipeline)}
    said: dict[str, str] = {}
    for node in found if isinstance(found, list) else []:
        name = str(node.get("displayName", "")).rsplit("(", 1)
        task = names.get(str(node.get("displayName", ""))) or (names.get(name[0]) if len(name) > 1 else None)
        if task:
            said[task] = str(node.get("message") or "no message")
    return said


def display_name(task: Task) -> str:
    """What Argo calls the node of a task: `tune(0:a)` for the first item of a fan-out."""
    name = argo_name(task.step.name)
    if task.item is None or task.step.fan_out is None:
        return name
    return f"{name}({task.step.fan_out.over.index(task.item)}:{task.item})"


def _record_deaths(session: Session, journal: Journal, said: Mapping[str, str]) -> None:
    """A record for each task whose pod ended without leaving one: killed, out of memory, its node lost."""
    have = journal.attempts()
    for task in tasks(session.pipeline):
        if task.id not in said or task.id in have:
            continue
        where = f"{session.pipeline.name}.{task.id}"
        try:
            abandon(session, journal, task, Temporary(Problem(what=f"the pod ended without a record: {said[task.id]}", where=where)))
        except (BadInput, NotVerified):
            continue  # what it builds on is not there either: that has its own record


def _export(session: Session, journal: Journal, sealed: Seal) -> None:
    """The run's `dvc.lock`, for whoever checks it with DVC alone."""
    stages: dict[str, Any] = dvc_lock.stages_of(
        session.root, gather(session.root, session.pipeline, session.settings), standing(session.store, session.ring, sealed)
    )
    session.store.put_document(f"exports/{journal.run}/dvc.lock", dvc_lock.merged("", stages).encode())
