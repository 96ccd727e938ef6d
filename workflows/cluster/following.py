"""Following a workflow to its end: through lost connections, and from Argo's nodes to tasks that a person knows.

What a workflow's end means for whoever waits is said with the same errors, and so the same exit codes, as a local run's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from workflows.cluster.interface import RUN, Node, Phase, Progress, Workflows
from workflows.declare import Pipeline
from workflows.errors import BadInput, CountersignError, GateRefused, NotVerified, Problem, Temporary
from workflows.names import argo_name

PATIENCE = 300.0  # seconds that a cluster may be away before whoever waits gives up; the workflow goes on all the same
PAUSE, LONGEST_PAUSE = 1.0, 15.0  # seconds between tries
AGAIN = "submit it again with --again: what was computed is reused"
PLAN = "plan"
ON_EXIT = ".onExit"
SEAL = "seal"
KINDS: dict[int, type[CountersignError]] = {e.exit_code: e for e in (CountersignError, BadInput, GateRefused, NotVerified, Temporary)}
KILLED = {137, 143}  # out of memory, or told to end
BY_ARGO = re.compile(r"main: \w+ \(exit code \d+\)(: )?")
OURS = re.compile(r"^(refused|error|hint): ")

State = Literal["waiting", "running", "done", "refused", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskState:
    """A task of a workflow as a person sees it, its attempts taken together."""

    name: str
    state: State
    message: str
    started: datetime | None
    finished: datetime | None
    exit_code: int | None
    attempts: int

    def seconds(self, now: datetime) -> float:
        """How long it has taken so far. A cluster's clock may be ahead of the one here."""
        return max(0.0, ((self.finished or now) - self.started).total_seconds()) if self.started else 0.0

    @property
    def ended(self) -> bool:
        return self.state not in {"waiting", "running"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Away:
    """The cluster does not answer, for `seconds` so far. The workflow goes on without whoever watches."""

    error: Temporary
    seconds: float


def follow(
    workflows: Workflows,
    name: str,
    *,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Progress | Away]:
    """Every state of a workflow up to its last. `Temporary` where the cluster is away too long, or the workflow was deleted."""
    since: float | None = None
    pause = PAUSE
    while True:
        try:
            for state in _connected(workflows, name):
                if state is None:
                    break
                since, pause = None, PAUSE
                yield state
                if state.phase.ended:
                    return
            else:
                sleep(PAUSE)
                continue
        except Temporary as error:
            since = clock() if since is None else since
            if (away := clock() - since) > patience:
                raise
            yield Away(error=error, seconds=away)
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            continue
        raise Temporary(
            Problem(what="the workflow was deleted before it had ended", where=f"{name}, {workflows.place}"),
            hint="submit it again: what was computed is reused",
        )


def _connected(workflows: Workflows, name: str) -> Iterator[Progress | None]:
    """The workflow as it is now, then each change as long as one connection lasts; None where it is not there any more."""
    now = workflows.get(name)
    yield now
    if now is not None:
        yield from workflows.watch(now)


def tasks_of(progress: Progress) -> list[TaskState]:
    """The workflow's tasks in the order in which they began; those that have not begun are last."""
    by_id = {n.id: n for n in progress.nodes}
    attempts = {c for n in progress.nodes if n.kind == "Retry" for c in n.children}
    found = [_task(progress, n, by_id) for n in progress.nodes if n.kind == "Retry" or (n.kind == "Pod" and n.id not in attempts)]
    found += [_task(progress, n, by_id) for n in progress.nodes if n.kind == "Skipped" and n.phase is not Phase.OMITTED]
    return sorted(found, key=lambda t: (t.started is None, t.started, t.name))


def failed_attempts(progress: Progress) -> list[tuple[str, str]]:
    """(Name, message) of each attempt that failed and was followed by another."""
    by_id = {n.id: n for n in progress.nodes}
    followed = [i for n in progress.nodes if n.kind == "Retry" for i in n.children[:-1]]
    return [(c.name, said(c.message)) for i in followed if (c := by_id.get(i)) and c.phase.bad]


def said(message: str) -> str:
    """A node's message on one line, without what Argo and our own programs put before it."""
    lines = [OURS.sub("", line) for line in BY_ARGO.sub("", message).splitlines()]
    return "; ".join(line.strip() for line in lines if line.strip())


def run_of(progress: Progress) -> str | None:
    """The id of the run that a workflow made: as its exit handler noted it, or else as its first task planned it."""
    planned = (n.outputs.get("run") for n in progress.nodes if n.kind in {"Pod", "Retry"} and n.name.partition("(")[0] == PLAN)
    return progress.annotations.get(RUN) or next((r for r in planned if r), None)


def pipeline_of(progress: Progress, known: Iterable[Pipeline]) -> Pipeline:
    """The pipeline that a workflow runs; `BadInput` where this checkout does not have it."""
    by_name = {argo_name(p.name): p for p in known}
    if progress.template not in by_name:
        raise BadInput(
            Problem(
                what="the workflow runs no pipeline of this checkout",
                where=progress.name,
                expected=f"one from the template {' or '.join(sorted(by_name))}",
                got=progress.template or "one from no template",
            )
        )
    return by_name[progress.template]


def failure_of(progress: Progress, *, again: str = AGAIN) -> CountersignError | None:
    """What an ended workflow's end means for whoever waited for it; None where all is well.

    As in a local run, the first failure counts, unless it was a temporary one and another was not. `again`: how to submit it anew.
    """
    if not progress.phase.bad:
        return None
    bad = [t for t in tasks_of(progress) if t.state in {"failed", "refused"}]
    if not bad:
        return _never_began(progress, again)
    latest = datetime.max.replace(tzinfo=UTC)
    first = min(bad, key=lambda t: (_kind(t) is Temporary, t.finished or latest))
    return _kind(first)(
        Problem(what=first.message or f"{first.state} without a message", where=f"{progress.name}/{first.name}"),
        hint=_hint(first, progress, again),
    )


def _never_began(progress: Progress, again: str) -> CountersignError:
    """No task failed, so it was the workflow as such: Argo would not have it, or someone stopped it."""
    problem = Problem(what=progress.message or f"the workflow ended as {progress.phase}", where=progress.name)
    if progress.message.startswith("invalid spec"):
        return BadInput(problem, hint="bring the templates up to date: countersign publish --templates")
    return Temporary(problem, hint=f"was it stopped? {again}")


def _hint(task: TaskState, progress: Progress, again: str) -> str:
    kind = _kind(task)
    if kind is GateRefused:
        return ""
    if kind is Temporary:
        return again
    return f"argo logs -n {progress.namespace} {progress.name} shows what the pods printed"


def _kind(task: TaskState) -> type[CountersignError]:
    # No exit code: the pod was never run to its end. Its node was lost, its image could not be had, someone deleted it.
    if task.exit_code is None or task.exit_code in KILLED:
        return Temporary
    return KINDS.get(task.exit_code, CountersignError)


def _task(progress: Progress, node: Node, by_id: dict[str, Node]) -> TaskState:
    tries = [by_id[c] for c in node.children if c in by_id] if node.kind == "Retry" else [node]
    last = tries[-1] if tries else node
    code = last.exit_code if last.exit_code is not None else node.exit_code
    if node.kind == "Skipped" and node.phase.bad:
        code = CountersignError.exit_code  # Argo could not make sense of the task: no pod was ever started
    return TaskState(
        name=_name(progress, node),
        state=_state(node, code),
        message=said(last.message or node.message),
        started=node.started,
        finished=node.finished,
        exit_code=code,
        attempts=len(tries),
    )


def _name(progress: Progress, node: Node) -> str:
    return SEAL if node.name == f"{progress.name}{ON_EXIT}" else node.name


def _state(node: Node, code: int | None) -> State:
    if node.phase.bad:
        return "refused" if code == GateRefused.exit_code else "failed"
    states: dict[Phase, State] = {
        Phase.PENDING: "waiting",
        Phase.RUNNING: "running",
        Phase.SUCCEEDED: "done",
        Phase.SKIPPED: "skipped",
        Phase.OMITTED: "skipped",
    }
    return states[node.phase]
