"""A workflow's first task: find out what the run would do, take its sources, and write that down for every other task."""

from __future__ import annotations

import json
import os
from pathlib import Path

from workflows.declare import Pipeline, Source
from workflows.errors import BadInput, Problem
from workflows.plan import tasks
from workflows.prove.record import Item
from workflows.run import environment
from workflows.run.logs import structlog
from workflows.run.parameters import OVERRIDE, written
from workflows.run.planned import Plan, write_plan
from workflows.run.pod import OUTPUTS, WORKFLOW, as_text, put_out, wanted
from workflows.run.pointers import pointer_of
from workflows.run.session import Session, open_journal
from workflows.run.single import make_session
from workflows.run.sources.read import snapshot_path
from workflows.run.store.interface import Store

REVISION = "COUNTERSIGN_REVISION"
PARAMETERS = "COUNTERSIGN_PARAMETERS"
OVERRIDES = "COUNTERSIGN_OVERRIDES"
DIRTY = "-dirty"


def plan(root: Path, pipeline: Pipeline, store: Store) -> str:
    """Plan a run for this workflow, claim its id, and hand over what the other tasks need; the run's id.

    Started again, for the same workflow, it comes to the same plan and the same run.
    """
    uid = wanted(WORKFLOW)
    _warn_of_a_tag()
    session = make_session(root, pipeline, _overrides(), store=store)
    tree, code = session.snapshot()  # before data arrives: it is no part of the code
    commit, dirty = _revision()
    fetch_data(root, pipeline, store)
    session.take_sources()
    planned = Plan(
        pipeline=pipeline.name,
        run=session.plan_id(),
        commit=commit,
        dirty=dirty,
        tree=tree,
        code=code,
        sections=session.settings.sections,
        sources=tuple(_kept(session, s) for s in _sources(pipeline)),
        secrets={k: v for t in tasks(pipeline) for k, v in session.fingerprints(t).items()},
    )
    sha = write_plan(store, planned)
    store.put_document(f"workflows/{uid}", f"{sha}\n".encode())
    run = open_journal(store, planned.run, uid).run
    put_out(Path(wanted(OUTPUTS)), {"plan": sha, "run": run, "code": as_text(code)})
    return run


def _warn_of_a_tag() -> None:
    """A record names the image that its step ran in by digest. A tag may name another one tomorrow, so none is recorded."""
    named = os.environ.get(environment.IMAGE)
    if named and environment.image() is None:
        do = "name it as IMAGE@sha256:DIGEST in the ConfigMap countersign, key image"
        structlog.get_logger().warning("no digest in the image's name: records will not say which image ran", image=named, do=do)


def _overrides() -> list[str]:
    """What the workflow's parameter `overrides` says, as `--set` would; the form's fields count only where they are asked to."""
    if os.environ.get(PARAMETERS, "form") == "code":
        for name in [n for n in os.environ if n.startswith(OVERRIDE)]:
            del os.environ[name]
    text = os.environ.get(OVERRIDES) or "{}"
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadInput(
            Problem(what="is no JSON object", where="workflow parameter overrides", expected='{"step.parameter": value}', got=text[:80])
        )
    return [f"{key}={written(value)}" for key, value in found.items()]


def fetch_data(root: Path, pipeline: Pipeline, store: Store) -> None:
    """Bring the data files that the code's pointer files name."""
    for s in _sources(pipeline):
        pointer = pointer_of(root, s)
        if pointer and not (root / s.at).exists():
            store.fetch_pointer(pointer.md5, pointer.size, root / s.at)


def _sources(pipeline: Pipeline) -> list[Source]:
    return list({s.name: s for t in tasks(pipeline) for s in t.sources}.values())


def _kept(session: Session, source: Source) -> Item:
    path = snapshot_path(session.root, session.pipeline.name, source) if source.remote else session.root / source.at
    d = session.store.put_content(path)
    if d != session.taken[source.name]:
        raise BadInput(Problem(what="changed while it was taken", where=source.at))
    return Item.of(f"{session.pipeline.name}/{source.name}", d)


def _revision() -> tuple[str | None, bool]:
    """The commit that the code is said to be of, by whoever published it, and whether it differs from that.

    Whoever doubts it compares the archive with the commit: both are named in every record.
    """
    said = os.environ.get(REVISION, "")
    return (said.removesuffix(DIRTY) or None), not said or said.endswith(DIRTY)
