"""One task outside a run of ours: what DVC and Argo start. Finds or opens the run that the task belongs to."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from workflows.declare import Pipeline
from workflows.errors import BadInput, CountersignError, GateRefused, Problem
from workflows.plan import Task, tasks
from workflows.run import keys, parameters, tracing
from workflows.run.driver import explained, prepare, reuse, run_task
from workflows.run.interrupt import heard_once
from workflows.run.journal import Journal
from workflows.run.lock import only_one
from workflows.run.logs import structlog
from workflows.run.pod import PLAN, ancestors, leave_message, run_in_pod
from workflows.run.session import Session, checkout, find_pipeline, local_store, open_journal
from workflows.run.store.interface import Store
from workflows.run.store.open import STORE, open_store


def run_single(pipeline: str, step: str, item: str | None, *, debug: bool = False) -> int:
    """Run one task and say in the exit code what came of it."""
    log_to(sys.stderr.fileno())
    with heard_once():
        try:
            root, declared = checkout(), find_pipeline(pipeline)
            task = _find_task(declared, step, item)
            with only_one(root):
                if PLAN in os.environ:
                    run_in_pod(root, declared, task, open_store(root, os.environ.get(STORE)))
                else:
                    _run(declared, task)
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                raise
            return say(error, f"{pipeline}.{step}")
    return 0


def say(error: BaseException, where: str) -> int:
    """Tell a person, on the terminal and in the Argo UI, what went wrong; the exit code that goes with it."""
    failure = explained(error, where)
    print(told(failure), file=sys.stderr)
    leave_message(told(failure))
    return failure.exit_code


def told(error: CountersignError) -> str:
    """An error as a person reads it: each problem on a line, then what to do."""
    lines = [f"{'refused' if isinstance(error, GateRefused) else 'error'}: {p}" for p in error.problems]
    return "\n".join((*lines, *([f"hint: {error.hint}"] if error.hint else [])))


def make_session(
    root: Path, pipeline: Pipeline, overrides: list[str], *, reuse_results: bool = True, store: Store | None = None
) -> Session:
    """A session on the checkout at `root`, with parameters read and checked."""
    settings = parameters.read(root, pipeline, parameters.overrides_of(overrides))
    signer, made = keys.signer()
    if made:
        print(
            f"made a signing key for this machine: {keys.folder() / 'signing.pem'} (its records are signed by an unregistered local key)",
            file=sys.stderr,
        )
    store = store or local_store(root)
    keys.publish(store, signer)
    return Session(root=root, pipeline=pipeline, settings=settings, store=store, signer=signer, ring=keys.ring(store), reuse=reuse_results)


def log_to(handle: int) -> None:
    """Structured logs as JSON lines: no values, only names, digests and counts."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=os.fdopen(os.dup(handle), "w", buffering=1)),
        cache_logger_on_first_use=False,
    )


def _find_task(pipeline: Pipeline, step: str, item: str | None) -> Task:
    for t in tasks(pipeline):
        if (t.step.name, t.item) == (step, item):
            return t
    known = ", ".join(t.id for t in tasks(pipeline))
    raise BadInput(Problem(what=f"no task {step if item is None else f'{step}@{item}'}", where=pipeline.name, expected=f"one of {known}"))


def _run(pipeline: Pipeline, task: Task) -> None:
    session = make_session(checkout(), pipeline, [])
    session.take_sources()
    journal = open_journal(session.store, session.plan_id(), session.holder)
    is_last = not any(task.id in t.upstream for t in tasks(pipeline))
    with tracing.sending(journal):
        _fill(session, journal, [t for t in tasks(pipeline) if t.id in ancestors(pipeline, task)])
        # Whoever started this task alone wants it computed, not looked up.
        session.reuse = False
        with _sealing(session, journal) if is_last else contextlib.nullcontext():
            run_task(session, journal, task)


@contextlib.contextmanager
def _sealing(session: Session, journal: Journal) -> Iterator[None]:
    """Seal the run after its last task, whatever the gates said, if every other task has a record or can be reused."""
    refused: GateRefused | None = None
    try:
        yield
    except GateRefused as error:
        refused = error
    session.reuse = True
    if _fill(session, journal, list(tasks(session.pipeline))):
        names = tuple(t.id for t in tasks(session.pipeline))
        journal.seal(pipeline=session.pipeline.name, tasks=names, keys=session.ring, signer=session.signer, sealed=session.clock())
    if refused:
        raise refused


def _fill(session: Session, journal: Journal, wanted: list[Task]) -> bool:
    """Give tasks that were not run now a record of reuse; false where one has to be computed first."""
    have = journal.attempts()
    return all(t.id in have or reuse(session, journal, prepare(session, journal, t)) is not None for t in wanted)
