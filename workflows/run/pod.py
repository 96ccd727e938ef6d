"""One task in a pod of a workflow: the run's plan says what to do, the store holds what to do it with.

| variable | what it says |
|---|---|
| `COUNTERSIGN_STORE` | the store, `s3://bucket/prefix` |
| `COUNTERSIGN_PLAN` | sha256 of the run's plan |
| `COUNTERSIGN_WORKFLOW` | uid of the workflow |
| `COUNTERSIGN_CODE` | `sha256:md5:size` of the archive of the code here; set by the bootstrap where only a commit is known |
| `COUNTERSIGN_GIVEN_<artifact>` | the digests that Argo carried from the tasks before |
| `COUNTERSIGN_OUTPUTS` | a folder for what Argo carries on |
| `COUNTERSIGN_MESSAGE` | a file whose text becomes the node's message |
| `COUNTERSIGN_TRUSTED_KEYS` | a folder of public keys: what others signed is not reused |
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from workflows.declare import Pipeline
from workflows.errors import BadInput, NotVerified, Problem
from workflows.plan import Task, tasks
from workflows.prove.record import Item
from workflows.prove.signature import Keyring, Signer
from workflows.run import files, keys, parameters, tracing
from workflows.run.driver import Ready, prepare, reuse, run_ready
from workflows.run.journal import Journal, Written
from workflows.run.planned import Plan, read_plan
from workflows.run.session import Session, open_journal
from workflows.run.store.interface import Store

PLAN = "COUNTERSIGN_PLAN"
WORKFLOW = "COUNTERSIGN_WORKFLOW"
CODE = "COUNTERSIGN_CODE"
GIVEN = "COUNTERSIGN_GIVEN_"
OUTPUTS = "COUNTERSIGN_OUTPUTS"
MESSAGE = "COUNTERSIGN_MESSAGE"
TRUSTED = "COUNTERSIGN_TRUSTED_KEYS"
MAX_MESSAGE = 3000  # bytes: Kubernetes keeps 4,096


def run_in_pod(root: Path, pipeline: Pipeline, task: Task, store: Store) -> None:
    """Run one task of a planned run, or take what the same computation made before."""
    plan = read_plan(store, wanted(PLAN))
    session = planned_session(root, pipeline, plan, store)
    journal = open_journal(store, plan.run, wanted(WORKFLOW))
    with tracing.sending(journal):
        complete(session, journal, task)
        ready = prepare(session, journal, task)
        check_given(session, ready, os.environ)
        hand_over(run_ready(session, journal, ready))


def planned_session(root: Path, pipeline: Pipeline, plan: Plan, store: Store) -> Session:
    """A session that does what the plan says; `NotVerified` where the code here is not the plan's."""
    if plan.pipeline != pipeline.name:
        raise NotVerified(Problem(what="the plan is another pipeline's", where=PLAN, expected=pipeline.name, got=plan.pipeline))
    if (got := wanted(CODE)) != as_text(plan.code):
        raise NotVerified(Problem(what="the code here is not the code that was planned", where=CODE, expected=as_text(plan.code), got=got))
    settings = parameters.planned(root, pipeline, plan.sections)
    signer, _ = keys.signer()
    return Session(
        root=root, pipeline=pipeline, settings=settings, store=store, signer=signer, ring=trusted_ring(store, signer), planned=plan
    )


def trusted_ring(store: Store, signer: Signer) -> Keyring:
    """The keys whose records may be built on: those named by the operator and this machine's own, or else all in the store."""
    keys.publish(store, signer)
    folder = os.environ.get(TRUSTED)
    return keys.ring_with(signer, tuple(sorted(Path(folder).glob("*.pem")))) if folder else keys.ring(store)


def complete(session: Session, journal: Journal, task: Task) -> None:
    """Take over what this task builds on from an earlier run of the same plan, where a sealed one was retried by hand.

    Pods side by side each try. Whose record is there first stands, and the others build on it.
    """
    have = journal.begun()
    keep = partial(journal.offer, keys=session.ring)
    known = {t.id: t for t in tasks(session.pipeline)}
    for name in ancestors(session.pipeline, task):
        if name in have:
            continue
        ready = prepare(session, journal, known[name])
        if ready.attempt == 1 and reuse(session, journal, ready, keep) is None:
            raise BadInput(
                Problem(what=f"{name} has no result to build on", where=f"{session.pipeline.name}.{task.id}"),
                hint="submit the pipeline again: countersign submit --again",
            )


def ancestors(pipeline: Pipeline, task: Task) -> list[str]:
    """Every task that this one builds on, each after the ones it builds on itself."""
    known = tasks(pipeline)
    by_id = {t.id: t for t in known}
    found: set[str] = set()
    waiting = list(task.upstream)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += by_id[name].upstream
    return [t.id for t in known if t.id in found]


def check_given(session: Session, ready: Ready, environment: Mapping[str, str]) -> None:
    """What Argo carried must be what the records say: a store that was meddled with between two tasks is noticed here."""
    made: dict[str, list[str]] = {}
    for port in ready.task.inputs:
        for w in ready.upstream.values():
            made.setdefault(port.artifact.name, []).extend(
                i.sha256 for i in w.record.outputs if i.name == f"{session.pipeline.name}/{port.name}"
            )
    for name, recorded in made.items():
        carried = environment.get(f"{GIVEN}{name}")
        if carried and sorted(_digests(carried)) != sorted(recorded):
            raise NotVerified(
                Problem(what="Argo carried other digests than the records have", where=f"{session.pipeline.name}/{name}", expected=carried)
            )


def _digests(carried: str) -> list[str]:
    # Argo joins what a fanned-out task put out into a JSON list.
    return json.loads(carried) if carried.startswith("[") else [carried]


def hand_over(written: Written) -> None:
    """The record's digest and each output's as a file by its name: they become output parameters of the task."""
    folder = os.environ.get(OUTPUTS)
    if folder:
        found = {i.name.partition("/")[2].partition("@")[0]: i.sha256 for i in written.record.outputs}
        put_out(Path(folder), {**found, "record": written.sha256})


def put_out(folder: Path, values: Mapping[str, str]) -> None:
    """Output parameters, a file each."""
    for name, value in values.items():
        files.write(folder / name, value.encode(), durable=False)


def leave_message(text: str) -> None:
    """Let the node say in the Argo UI what a person at a terminal is told."""
    if path := os.environ.get(MESSAGE):
        Path(path).write_bytes(text.encode()[:MAX_MESSAGE])


def wanted(variable: str) -> str:
    """A variable that the workflow must set."""
    value = os.environ.get(variable, "")
    if not value:
        raise BadInput(
            Problem(what="is not set", where=variable), hint="this program is started by a workflow: countersign submit PIPELINE"
        )
    return value


def as_text(code: Item) -> str:
    """A code archive as the workflow carries it."""
    return f"{code.sha256}:{code.md5}:{code.size}"
