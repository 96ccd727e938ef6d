"""The laptop's runner: every task of a pipeline in a process of its own, forked from this one while it is warm."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from workflows.declare import Kind
from workflows.errors import BadInput, CountersignError, GateRefused, NotVerified, Problem, Temporary
from workflows.plan import tasks
from workflows.prove.record import Seal
from workflows.run import interrupt, tracing
from workflows.run.driver import abandon, place_outputs
from workflows.run.journal import Journal
from workflows.run.session import Session, open_journal
from workflows.run.worker import Worker

ERRORS: dict[str, type[CountersignError]] = {e.__name__: e for e in (CountersignError, BadInput, GateRefused, NotVerified, Temporary)}
POLL = 0.1  # seconds between looks at the clock while tasks run
GRACE = 10.0  # seconds an interrupted task gets to leave its record


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something a person watching a run wants to know."""

    what: Literal["started", "done", "reused", "refused", "failed", "tick"]
    task: str = ""
    seconds: float = 0.0
    running: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A run that came to its end."""

    run: str
    seal: Seal
    root: str
    unchanged: bool
    """Nothing had to be done: an earlier run had done exactly this."""
    error: CountersignError | None = None


def run_pipeline(session: Session, *, again: bool = False, jobs: int = 2, tell: Callable[[Event], None] = lambda _: None) -> Finished:
    """Run every task, several at a time, and seal the run.

    A temporary failure leaves the run open, so that the same command goes on with it; it is raised. Any other failure
    is sealed into the run and returned with it.
    """
    session.take_sources()
    plan = session.plan_id()
    if not again and session.reuse and (finished := _already(session, plan)):
        return finished
    journal = open_journal(session.store, plan, session.holder, again=again)
    with tracing.sending(journal):
        error = _Pool(session, journal, jobs, tell).run()
        if isinstance(error, Temporary):
            raise error
        names = tuple(t.id for t in tasks(session.pipeline))
        seal, root = journal.seal(
            pipeline=session.pipeline.name, tasks=names, keys=session.ring, signer=session.signer, sealed=session.clock()
        )
    return Finished(run=journal.run, seal=seal, root=root, unchanged=False, error=error)


def _already(session: Session, plan: str) -> Finished | None:
    """The newest good run of this plan, with every output checked and put back in the checkout if need be."""
    n, found = 1, None
    while (journal := Journal(session.store, plan if n == 1 else f"{plan}-{n}")).sealed:
        found, n = journal, n + 1
    if found is None:
        return None
    try:
        seal, root = found.read_seal(session.ring)
        if not seal.outcome.good:
            return None
        place_outputs(session, seal.outputs)
        found.is_latest()
    except NotVerified:
        return None
    return Finished(run=found.run, seal=seal, root=root, unchanged=True)


class _Pool:
    """Children at work. One at a time is forked, from a process that has no threads."""

    def __init__(self, session: Session, journal: Journal, jobs: int, tell: Callable[[Event], None]) -> None:
        self.session, self.journal, self.jobs, self.tell = session, journal, jobs, tell
        self.waiting = list(tasks(session.pipeline))
        self.known = {t.id: t for t in self.waiting}
        self.needs = {t.id: t.upstream for t in self.waiting}
        self.done: set[str] = {t for t, w in journal.last(session.ring, [t.id for t in self.waiting]).items() if w.record.outcome.good}
        self.waiting = [t for t in self.waiting if t.id not in self.done]
        self.children: dict[int, Worker] = {}
        self.spare: Worker | None = None
        """Forked while others work, so that the next task need not wait for that."""
        self.leaving: list[Worker] = []
        self.error: CountersignError | None = None

    def run(self) -> CountersignError | None:
        """The first failure, or None when every task is done."""
        self.session.learn()
        _preload(self.session)
        # What there is now is shared with every child; without this, their garbage collections would copy it page by page.
        gc.freeze()
        try:
            while self._start() or self.children:
                self._wait()
        except KeyboardInterrupt:
            self._interrupted()
        finally:
            gc.unfreeze()
            for worker in (*self.leaving, *([self.spare] if self.spare else [])):
                worker.dismiss()
        return self.error

    def _start(self) -> bool:
        started = False
        while self.error is None and len(self.children) < self.jobs:
            ready = next((t for t in self.waiting if self.done.issuperset(self.needs[t.id])), None)
            if ready is None:
                break
            self.waiting.remove(ready)
            worker = self.spare or Worker(self.session, self.journal, self.known)
            self.spare = None
            worker.start(ready)
            self.children[worker.pid] = worker
            started = True
            self.tell(Event(what="started", task=ready.id, running=self._running()))
        if self.waiting and self.error is None and self.spare is None:
            self.spare = Worker(self.session, self.journal, self.known)
        return started

    def _running(self) -> tuple[str, ...]:
        return tuple(c.task.id for c in self.children.values())

    def _wait(self) -> None:
        by_pipe = {c.answers: (pid, c) for pid, c in self.children.items()}
        readable, _, _ = select.select(list(by_pipe), [], [], POLL)
        for pipe in readable:
            pid, child = by_pipe[pipe]
            if chunk := os.read(pipe, 65536):
                child.said += chunk
            else:
                self._finish(pid, child)
        for child_pid, child in list(self.children.items()):
            if time.monotonic() - child.begun > child.task.step.resources.timeout:
                os.kill(child_pid, signal.SIGKILL)
        self.tell(Event(what="tick", running=self._running()))

    def _finish(self, pid: int, child: Worker) -> None:
        del self.children[pid]
        seconds = time.monotonic() - child.begun
        said = json.loads(child.said) if child.said else None
        if said and "outcome" in said:
            # Its record is written; it sends its traces, and the kernel takes its memory apart, while the next task starts.
            self.leaving = [*(c for c in self.leaving if not c.gone()), child]
            self.done.add(child.task.id)
            self.tell(Event(what=said["outcome"], task=child.task.id, seconds=seconds, running=self._running()))
            return
        status = child.dismiss()
        error = _error(said) if said else self._died(child, status)
        what: Literal["refused", "failed"] = "refused" if isinstance(error, GateRefused) else "failed"
        self.tell(Event(what=what, task=child.task.id, seconds=seconds, running=self._running()))
        # What another task says after the first failure must not hide it, unless the first was only temporary.
        if self.error is None or isinstance(self.error, Temporary):
            self.error = error

    def _died(self, child: Worker, status: int) -> CountersignError:
        late = time.monotonic() - child.begun > child.task.step.resources.timeout
        how = (
            f"took longer than {child.task.step.resources.timeout} s"
            if late
            else f"was killed by signal {os.WTERMSIG(status)}"
            if os.WIFSIGNALED(status)
            else "died"
        )
        where = f"{child.task.pipeline.name}.{child.task.id}"
        error = Temporary(
            Problem(what=f"the step {how}", where=where), hint="out of memory? try --jobs 1; the same command goes on from here"
        )
        abandon(self.session, self.journal, child.task, error)
        return error

    def _interrupted(self) -> None:
        interrupt.answered()
        self.error = Temporary("interrupted", hint="the same command goes on from here: finished steps are not repeated")
        for pid in self.children:
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + GRACE
        while self.children:
            if time.monotonic() > deadline:
                for pid in self.children:
                    os.kill(pid, signal.SIGKILL)
            self._wait()


def _preload(session: Session) -> None:
    """Import here what most tasks would each import for themselves."""
    if tracing.wanted():
        with contextlib.suppress(Exception):  # what is wrong with traces is said where they are sent
            tracing.preload()
    if any(p.artifact.kind in {Kind.TABLE, Kind.DATASET} for t in tasks(session.pipeline) for p in t.outputs):
        import pyarrow.parquet  # noqa: F401  # loaded for the processes that are forked


def _error(said: dict[str, object]) -> CountersignError:
    problems = [Problem(what=p[0], where=p[1], expected=p[2], got=p[3]) for p in said["problems"]]  # type: ignore[attr-defined]
    return ERRORS[str(said["error"])](*problems, hint=str(said["hint"]))
