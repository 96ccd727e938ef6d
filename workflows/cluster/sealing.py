"""A workflow's exit handler: whatever happened, every attempt has a record, and the run is sealed and its root noted outside."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.cluster.anchors.object_lock import MOST_DAYS, LockedObjects, Mode
from workflows.cluster.incluster import annotate, workflow
from workflows.cluster.interface import OUTCOME, ROOT, RUN, SUBMITTER, run_label
from workflows.compile import exported
from workflows.declare import Pipeline
from workflows.errors import BadInput, CountersignError, NotVerified, Problem, Temporary
from workflows.names import argo_name
from workflows.plan import Task, tasks
from workflows.prove.record import ACCOUNT, Seal
from workflows.run import tracing
from workflows.run.driver import abandon
from workflows.run.journal import Journal, lock_document, standing
from workflows.run.logs import structlog
from workflows.run.planned import read_plan
from workflows.run.pod import OUTPUTS, WORKFLOW, planned_session, put_out, wanted
from workflows.run.session import Session, last_claimed, open_journal
from workflows.run.store.interface import Store
from workflows.run.store.s3 import S3Store

FAILURES = "COUNTERSIGN_FAILURES"
"""JSON: what Argo says of each node that failed."""
LOCK_DAYS = "COUNTERSIGN_LOCK_DAYS"
"""For how many days the root is locked in S3; without it, it is not."""
LOCK_MODE = "COUNTERSIGN_LOCK_MODE"
"""`COMPLIANCE`, the default, or `GOVERNANCE`."""


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
    with tracing.sending(journal):
        if not journal.sealed:
            _record_deaths(session, journal, failed_nodes(pipeline, os.environ.get(FAILURES, "")))
            names = tuple(t.id for t in tasks(pipeline))
            journal.seal(
                pipeline=pipeline.name, tasks=names, keys=session.ring, signer=session.signer, sealed=session.clock(),
                submitter=_submitter(uid),
            )  # fmt: skip
        sealed, digest = journal.read_seal(session.ring)
        _export(session, journal, sealed)
        put_out(Path(wanted(OUTPUTS)), {"run": journal.run, "root": digest, "outcome": str(sealed.outcome)})
        _anchor(store, journal.run, digest, sealed)
    return Sealed(run=journal.run, root=digest, seal=sealed)


def _submitter(uid: str) -> str | None:
    """Who submitted the run, as the API server knows it; `Temporary` where that is away: what a seal leaves out, nobody adds later."""
    try:
        return submitter_in(workflow(), uid)
    except BadInput as error:
        structlog.get_logger().warning("the seal will not say who submitted the run", why=str(error))
        return None


def submitter_in(found: Mapping[str, Any], uid: str) -> str | None:
    """The account that a workflow says it was created by. Another workflow of the same name, or what is no account's name, says nothing."""
    said = (found["metadata"].get("annotations") or {}).get(SUBMITTER, "")
    return said if found["metadata"]["uid"] == uid and ACCOUNT.fullmatch(said) else None


def _anchor(store: Store, run: str, root: str, sealed: Seal) -> None:
    """Note the root outside the store. One place that cannot be reached keeps it from no other."""
    annotations = {RUN: run, ROOT: root, OUTCOME: str(sealed.outcome)}
    failures: list[CountersignError] = []
    notes: tuple[Callable[[], None], ...] = (
        lambda: annotate(annotations, {RUN: run_label(run)}),
        lambda: _lock(store, run, root),
    )
    for note in notes:
        try:
            note()
        except CountersignError as error:
            failures.append(error)
    if failures:
        # What may pass is tried again by Argo, and then both are.
        raise next((f for f in failures if isinstance(f, Temporary)), failures[0])


def _lock(store: Store, run: str, root: str) -> None:
    days, mode = os.environ.get(LOCK_DAYS, ""), os.environ.get(LOCK_MODE) or Mode.COMPLIANCE
    if not days:
        return
    if not days.isdecimal() or len(days) > len(str(MOST_DAYS)):
        raise BadInput(Problem(what="not a number of days", where=f"{LOCK_DAYS}, key lock_days of the ConfigMap", got=days[:40]))
    if mode not in set(Mode):
        raise BadInput(
            Problem(
                what="no mode of a lock", where=f"{LOCK_MODE}, key lock_mode of the ConfigMap", expected=" or ".join(Mode), got=mode[:40]
            )
        )
    if not isinstance(store, S3Store):
        raise BadInput(Problem(what="a folder has no object lock", where=store.place), hint=f"leave {LOCK_DAYS} out, or use a store in S3")
    LockedObjects(store=store).lock(run, root, int(days), Mode(mode))


def failed_nodes(pipeline: Pipeline, text: str) -> dict[str, str]:
    """Task id -> what Argo said of its last failed pod. What cannot be read says nothing: records come from the tasks.

    A task that is retried is a node, too, which says no more than that no retries are left; it counts where no pod says more.
    """
    try:
        listed = json.loads(text) if text else []
    except ValueError:
        return {}
    # Argo hands over a JSON list, in some versions as a JSON string that holds it.
    found = json.loads(listed) if isinstance(listed, str) else listed
    names = {display_name(t): t.id for t in tasks(pipeline)}
    said: dict[str, tuple[int, str]] = {}
    for node in found if isinstance(found, list) else []:
        shown = str(node.get("displayName", ""))
        name, attempt = (shown, -1) if shown in names else _attempt(shown)
        if (task := names.get(name)) and attempt >= said.get(task, (-1, ""))[0]:
            said[task] = attempt, str(node.get("message") or "no message")
    return {task: message for task, (_, message) in said.items()}


def _attempt(shown: str) -> tuple[str, int]:
    """`tune(0:a)(2)`: the node of a pod, and which attempt it was."""
    matched = re.fullmatch(r"(.*)\(([0-9]{1,4})\)", shown)
    return (matched[1], int(matched[2])) if matched else (shown, 0)


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
    text = exported.text_of(session.root, session.pipeline, session.settings, standing(session.store, session.ring, sealed))
    session.store.put_document(lock_document(journal.run), text)
