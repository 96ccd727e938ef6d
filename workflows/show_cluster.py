"""How work on a cluster looks to a person and to a program: submissions, workflows on their way, what was published."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from workflows.cluster.following import Away, TaskState, failed_attempts, follow, tasks_of
from workflows.cluster.interface import Progress, Submitted, Workflows
from workflows.cluster.publishing import Data, Packed
from workflows.cluster.reconciling import Found
from workflows.show import WIDTH, answer

STYLE = {"done": "green", "running": "cyan", "waiting": "dim", "skipped": "dim"}
BAD = "bold red"
SHORT = 12  # digits of a commit that a person compares by eye
A_WHILE = 10.0  # seconds without an answer that are not worth a word


class _Watched:
    """What was said of a workflow already, and what is to be said at its next state."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.said: set[tuple[str, str]] = set()
        self.tasks: list[TaskState] = []
        self.away: Away | None = None

    def tell(self, update: Progress | Away) -> None:
        if isinstance(update, Away):
            self._tell_away(update)
            return
        if self.away and self.away.seconds > A_WHILE:
            self.console.print("  the cluster answers again", style="dim")
        self.away = None
        for name, message in failed_attempts(update):
            self._once(name, "tried again", Text.assemble(f"  {name:<{WIDTH}}", ("failed  ", "yellow"), f" tried again: {message}"))
        tasks = tasks_of(update)
        for t in tasks:
            if t.ended:
                self._once(t.name, t.state, _line(t))
            elif t.state == "waiting" and t.message and not self.console.is_terminal:
                self._once(t.name, t.message, _line(t))
        self.tasks = [t for t in tasks if not t.ended]

    def _tell_away(self, update: Away) -> None:
        if self.away is None or self.away.seconds <= A_WHILE < update.seconds:
            problem = update.error.problems[0].what
            if update.seconds > A_WHILE:
                self.console.print(f"  {problem}; the workflow goes on, and so does this when the cluster is back", style="yellow")
        self.away = update

    def _once(self, name: str, what: str, line: Text) -> None:
        if (name, what) not in self.said:
            self.said.add((name, what))
            self.console.print(line)

    def __rich__(self) -> Group:
        lines = [_line(t) for t in self.tasks]
        if self.away:
            lines.append(Text(f"  the cluster does not answer ({self.away.seconds:.0f} s)", style="yellow"))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*lines)


@contextlib.contextmanager
def watching(*, quiet: bool) -> Iterator[Callable[[Progress | Away], None]]:
    """Lines as tasks end; on a terminal also a line for each that is at work or waits, with the seconds going by."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    watched = _Watched(console)
    if quiet:
        yield lambda _: None
    elif not console.is_terminal:
        yield watched.tell
    else:
        with Live(watched, console=console, refresh_per_second=4, transient=True):
            yield watched.tell


def followed(workflows: Workflows, name: str, *, quiet: bool) -> Progress:
    """Tell of a workflow until it has ended, and how it then stands."""
    last: Progress | None = None
    with watching(quiet=quiet) as tell:
        for update in follow(workflows, name):
            tell(update)
            last = update if isinstance(update, Progress) else last
    if last is None:
        raise AssertionError  # following ends with a state, or raises
    return last


def _line(task: TaskState) -> Text:
    seconds = f"{task.seconds(datetime.now(UTC)):6.1f} s" if task.started and task.state != "waiting" else " " * 8
    tries = f" (attempt {task.attempts})" if task.attempts > 1 else ""
    return Text.assemble(
        f"  {task.name:<{WIDTH}}",
        (f"{task.state:<8}", STYLE.get(task.state, BAD)),
        (f" {seconds}{tries}", "dim"),
        f"  {task.message}" if task.message else "",
    )


def about(workflows: Workflows, name: str, *, phase: str, created: bool) -> dict[str, str | bool]:
    """A workflow, for a program."""
    return {"workflow": name, "namespace": workflows.namespace, "phase": phase, "created": created}


def submitted(workflows: Workflows, done: Submitted, watch: str, *, again: str = "A new one of the same: --again", as_json: bool) -> None:
    """The workflow that was made, or was there already, and how to look at it; `again`: how to have a new one of the same."""
    if as_json:
        answer(about(workflows, done.name, phase=done.phase, created=done.created))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(headline(workflows, done))
    console.print(f"  watch it   {watch}")
    console.print(f"             argo watch -n {workflows.namespace} {done.name}")
    if server := os.environ.get("ARGO_SERVER"):
        scheme = "http" if os.environ.get("ARGO_SECURE") == "false" else "https"
        console.print(f"             {scheme}://{server}/workflows/{workflows.namespace}/{done.name}")
    if again and not done.created:
        console.print(again, style="dim")


def started(workflows: Workflows, done: Submitted) -> None:
    """Said before a workflow is followed."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(headline(workflows, done))


def headline(workflows: Workflows, done: Submitted) -> Text:
    """One line about a submission."""
    if done.created:
        return Text.assemble(("submitted", "green"), f": {done.name} in namespace {workflows.namespace}")
    return Text.assemble(("already there", "yellow"), f": {done.name} ({done.phase}) in namespace {workflows.namespace}")


def published(packed: Packed, data: Sequence[Data], applied: Sequence[str], place: Mapping[str, str], *, as_json: bool) -> None:
    """What was brought where. `place` names the store and the namespace."""
    if as_json:
        kept = [{"path": d.path, "md5": d.md5, "bytes": d.size, "was_here": d.here} for d in data]
        code = {"code": packed.code, "revision": packed.revision, "dirty": packed.dirty}
        answer({**code, "data": kept, "applied": list(applied), **place})
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"code       {packed.item.sha256[:SHORT]}  {packed.item.size:,} bytes  {_revision(packed)}")
    for d in data:
        console.print(f"data       {d.md5[:SHORT]}  {d.size:,} bytes  {d.path}{'' if d.here else '  (was in the store already)'}")
    console.print(f"kept in    {place['store']}")
    for name in applied:
        console.print(f"applied    {name}")
    console.print(f"configured ConfigMap countersign in namespace {place['namespace']}: what argo submit and the UI start is this code")


def changes_go_along(packed: Packed) -> None:
    """Said where the code differs from its commit: it is allowed, and easily overlooked."""
    if packed.dirty:
        what = f"the files differ from commit {packed.commit[:SHORT]}" if packed.commit else "this is no git clone"
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(Text.assemble(("warning ", "bold yellow"), f"{what}: they go along as they are, and the records will say so"))


def _revision(packed: Packed) -> str:
    if packed.commit is None:
        return "no git commit"
    return f"commit {packed.commit[:SHORT]}{' with changes' if packed.dirty else ''}"


def reconciled(found: Sequence[Found], *, dry_run: bool, as_json: bool) -> None:
    """What each commit that was looked at came to."""
    if as_json:
        answer({"commits": [f.as_json() for f in found], "dry_run": dry_run})
        return
    console = Console(highlight=False, soft_wrap=True)
    if not found:
        console.print("Nothing to do: no commit that was looked at touches a pipeline that its branch runs.")
    for f in found:
        style = {"submitted": "green", "lost": "bold yellow", "failed": BAD}.get(f.what, "dim")
        console.print(Text.assemble(f"{f.branch} {f.commit[:SHORT]} {f.pipeline}  ", (f.what, style), f"  {f.detail}" if f.detail else ""))
    if dry_run and any(f.what == "lost" for f in found):
        console.print("Submit them: the same command without --dry-run", style="dim")
