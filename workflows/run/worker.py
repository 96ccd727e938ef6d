"""A process for one task, forked while it is not known yet which: it waits for the task, runs it, says what came of it, and ends."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import NoReturn

from workflows.plan import Task
from workflows.run import tracing
from workflows.run.driver import explained, run_task, where_of
from workflows.run.journal import Journal
from workflows.run.session import Session


class Worker:
    """The parent's end. No other process may be forked between making a worker and starting it: it would hold its order pipe open."""

    def __init__(self, session: Session, journal: Journal, tasks: Mapping[str, Task]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        orders, self._orders = os.pipe()
        self.answers, said = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._orders)
            os.close(self.answers)
            _serve(session, journal, tasks, orders, said)
        os.close(orders)
        os.close(said)
        self.task: Task
        self.begun = 0.0
        self.said = b""

    def start(self, task: Task) -> None:
        """Give it its task. What it says arrives at `answers`, which ends with it."""
        self.task, self.begun = task, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it died waiting: it will be found to have said nothing
            os.write(self._orders, task.id.encode())
        os.close(self._orders)
        self._orders = -1

    def gone(self) -> bool:
        """Whether it has ended by itself; then nothing of it is left."""
        ended, _ = os.waitpid(self.pid, os.WNOHANG)
        if ended:
            os.close(self.answers)
        return bool(ended)

    def dismiss(self) -> int:
        """Wait for its end and return its status; one that has no task ends now."""
        if self._orders >= 0:
            os.close(self._orders)
        os.close(self.answers)
        return os.waitpid(self.pid, 0)[1]


def _serve(session: Session, journal: Journal, tasks: Mapping[str, Task], orders: int, said: int) -> NoReturn:
    code = 1
    try:
        with os.fdopen(orders) as order:
            task_id = order.read()
        if task_id:
            code = _run(session, journal, tasks[task_id], said)
    finally:
        # Not sys.exit: the parent's clean-up is not the child's to do.
        os._exit(code)


def _run(session: Session, journal: Journal, task: Task, said: int) -> int:
    code = 0
    try:
        answer: dict[str, object] = {"outcome": run_task(session, journal, task).record.outcome}
    except BaseException as error:  # whatever it was, the parent must hear of it
        failure = explained(error, where_of(task))
        code = failure.exit_code
        answer = {
            "error": type(failure).__name__,
            "hint": failure.hint,
            "problems": [[p.what, p.where, p.expected, p.got] for p in failure.problems],
        }
        if os.environ.get("COUNTERSIGN_DEBUG"):
            import traceback

            traceback.print_exc()
    with os.fdopen(said, "w") as out:
        json.dump(answer, out)
    tracing.send(journal)  # nobody waits for this any more
    sys.stdout.flush()
    sys.stderr.flush()
    return code
