"""The driver: what both back ends run for a task.

It checks what goes in, calls the step, checks that nothing changed meanwhile, judges the gates, keeps what came out and
writes the signed record last. A step that fails leaves a record of that.

As a program, `python -m workflows.run.driver PIPELINE STEP [--item ITEM]` runs one task in the current checkout.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from steps.types import BadData
from workflows.declare import Artifact, Source
from workflows.errors import BadInput, CountersignError, GateRefused, NotVerified, Problem, Temporary
from workflows.plan import Port, Task, tasks
from workflows.prove import canonical, digest
from workflows.prove.digest import Digests, in_parallel
from workflows.prove.gate import Verdict, judge
from workflows.prove.record import Item, Link, Outcome, Record
from workflows.prove.signature import Signer
from workflows.prove.verify import CLOCK_SKEW, POINTER, digest_in
from workflows.run import codec, environment, files, interrupt
from workflows.run.binding import bind
from workflows.run.journal import Journal, Written, read_record
from workflows.run.logs import structlog
from workflows.run.parameters import build
from workflows.run.planned import Plan
from workflows.run.session import Session
from workflows.run.sources import read as sources
from workflows.run.tracing import trace_of

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrived:
    """An input: where its file is, and what its bytes were before the step saw them."""

    name: str
    path: Path
    item: Item


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A task with all it needs, before anything is computed."""

    task: Task
    attempt: int
    upstream: Mapping[str, Written]
    inputs: tuple[Arrived, ...]
    lineage: dict[str, Any] | None
    cache_key: str
    started: str


def run_task(session: Session, journal: Journal, task: Task) -> Written:
    """Run one task, or reuse what it made before; its record is written either way.

    Raises `GateRefused` after the record where a gate says no, and whatever made the step fail after a record of it.
    """
    return run_ready(session, journal, prepare(session, journal, task))


def run_ready(session: Session, journal: Journal, ready: Ready) -> Written:
    """The same for a task whose inputs have been checked."""
    task = ready.task
    if session.reuse and (reused := reuse(session, journal, ready)):
        return reused
    say = _logger(journal, task)
    begun = time.monotonic()
    try:
        say.info("started")
        record, verdicts = _execute(session, journal, ready)
    except (Exception, KeyboardInterrupt) as error:
        failure = explained(error, where_of(task))
        journal.append(_failed(session, journal, ready, failure), session.signer)
        say.warning("failed", kind=type(failure).__name__, exit_code=failure.exit_code)
        raise failure from error
    written = journal.append(record, session.signer)
    if record.outcome is Outcome.DONE:
        session.store.put_document(f"cache/{ready.cache_key}", f"{written.sha256}\n".encode())
    say.info(record.outcome, record=written.sha256, seconds=round(time.monotonic() - begun, 3))
    if record.outcome is Outcome.REFUSED:
        raise refusal(verdicts)
    return written


def reuse(session: Session, journal: Journal, ready: Ready, keep: Callable[[Record, Signer], Written] | None = None) -> Written | None:
    """Take what the same computation made before, after checking all of it; None where there is nothing to take.

    `keep` puts the record into the journal: `append`, unless another process may do the same at this moment.
    """
    say = _logger(journal, ready.task)
    old = _reusable(session, ready, say)
    if old is None:
        return None
    written = (keep or journal.append)(_reused(session, journal, ready, old), session.signer)
    say.info("reused", record=written.sha256, of=old.sha256)
    return written


def _logger(journal: Journal, task: Task) -> Any:
    return log.bind(run=journal.run, step=task.id, trace=trace_of(journal.run))


def refusal(verdicts: list[Verdict]) -> GateRefused:
    """What gates that said no have to say, with their evidence."""
    return GateRefused(
        *(
            Problem(
                what=r.why or "no",
                where=f"gate {v.gate}: {v.artifact}: {r.metric}",
                expected=f"at least {r.rule.at_least:g}" if r.rule.at_least is not None else f"at most {r.rule.at_most:g}",
                got="nothing" if r.value is None else f"{r.value:.6g}",
            )
            for v in verdicts
            for r in v.rules
            if r.says == "no"
        )
    )


def abandon(session: Session, journal: Journal, task: Task, failure: CountersignError) -> None:
    """Write the record of a task whose process died before it could."""
    journal.append(_failed(session, journal, prepare(session, journal, task), failure), session.signer)


def place_outputs(session: Session, items: tuple[Item, ...]) -> None:
    """Make sure that store and checkout hold these artifacts of the pipeline; `NotVerified` where the store does not."""
    ports = {item_name(t, p.name): p for t in tasks(session.pipeline) for p in t.outputs}
    for item in items:
        _place(session, ports[item.name], item)


def prepare(session: Session, journal: Journal, task: Task) -> Ready:
    """Everything that a task needs, checked: upstream records, inputs by digest, the clock."""
    upstream = journal.last(session.ring, task.upstream)
    for name in task.upstream:
        if name not in upstream or not upstream[name].record.outcome.good:
            raise BadInput(Problem(what=f"{name} has not been run", where=where_of(task)), hint="run the pipeline from its start")
    started = session.clock()
    _check_clock(started, upstream)
    inputs = (*_arrived(session, task, upstream), *_taken(session, task))
    lineage = _lineage(session, journal, task, upstream) if task.step.lineage else None
    attempt = max(journal.attempts_of(task.id), default=0) + 1
    key = _cache_key(session, task, inputs, lineage)
    return Ready(task=task, attempt=attempt, upstream=upstream, inputs=inputs, lineage=lineage, cache_key=key, started=started)


def where_of(task: Task) -> str:
    """How messages name a task."""
    return f"{task.pipeline.name}.{task.id}"


def explained(error: BaseException, where: str) -> CountersignError:
    """What to tell a person. The message of an unexpected error is withheld: it may quote personal data."""
    interrupt.answered()
    # A gate's no and another temporary trouble hold whether or not someone wants to stop.
    if isinstance(error, KeyboardInterrupt) or (interrupt.told() and not isinstance(error, GateRefused | Temporary)):
        return Temporary(
            Problem(what="interrupted", where=where), hint="the same command goes on from here: finished steps are not repeated"
        )
    if isinstance(error, CountersignError):
        return error
    if isinstance(error, BadData):
        return BadInput(
            Problem(what=error.what, where=f"{where}: {error.where}" if error.where else where, expected=error.expected, got=error.got)
        )
    if isinstance(error, MemoryError):
        return Temporary(Problem(what="out of memory", where=where), hint="give it more memory, or run fewer steps at a time: --jobs 1")
    if isinstance(error, OSError) and (known := files.trouble(error)):
        return known
    frame = traceback.extract_tb(error.__traceback__)[-1]
    at = f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}"
    return CountersignError(
        Problem(what=f"{type(error).__name__} at {at}; its message is withheld, as it may quote data", where=where),
        hint="see it all with --debug",
    )


def _check_clock(started: str, upstream: Mapping[str, Written]) -> None:
    at = datetime.fromisoformat(started)
    for name, w in upstream.items():
        if at + CLOCK_SKEW < datetime.fromisoformat(w.record.finished):
            what = "a clock is wrong: by the clock here, what this step builds on was finished in the future"
            hint = f"set right the clock of this machine, or of the one that ran {name}, and run again"
            raise Temporary(Problem(what=what, where=name, expected=f"a start after {w.record.finished}", got=started), hint=hint)


def _arrived(session: Session, task: Task, upstream: Mapping[str, Written]) -> tuple[Arrived, ...]:
    recorded = {i.name: i for w in upstream.values() for i in w.record.outputs}
    return tuple(in_parallel(lambda p: _checked(session, p, recorded[item_name(task, p.name)]), task.inputs))


def _checked(session: Session, port: Port, expected: Item) -> Arrived:
    path = session.root / port.path
    try:
        with path.open("rb") as stream:
            got = digest.of_stream(stream)
    except FileNotFoundError:
        session.store.fetch_content(expected, path)
        return Arrived(name=port.artifact.name, path=path, item=expected)
    except OSError as error:
        raise NotVerified(Problem(what=f"cannot be read: {error.strerror}", where=port.path)) from error
    if got.sha256 != expected.sha256:
        raise NotVerified(
            Problem(
                what="not what the step before made: changed or cut short since", where=port.path, expected=expected.sha256, got=got.sha256
            ),
            hint="remove the file and run again: it comes back from the store",
        )
    return Arrived(name=port.artifact.name, path=path, item=expected)


def _taken(session: Session, task: Task) -> tuple[Arrived, ...]:
    if session.planned:
        return tuple(_planned(session, session.planned, task, s) for s in task.sources)
    found = []
    for s in task.sources:
        path = sources.take(session.root, task.pipeline.name, s) if s.name not in session.taken else _where_taken(session, task, s)
        d = session.store.put_content(path)
        if (before := session.taken.get(s.name)) and before.sha256 != d.sha256:
            raise NotVerified(Problem(what="changed since the run began", where=s.at, expected=before.sha256, got=d.sha256))
        found.append(Arrived(name=s.name, path=path, item=Item.of(item_name(task, s.name), d)))
    return tuple(found)


def _planned(session: Session, plan: Plan, task: Task, source: Source) -> Arrived:
    """A source that the run's plan has put into the store."""
    item, path = plan.source(source.name), _where_taken(session, task, source)
    _bring(session, path, item)
    return Arrived(name=source.name, path=path, item=item)


def _where_taken(session: Session, task: Task, source: Source) -> Path:
    return sources.snapshot_path(session.root, task.pipeline.name, source) if source.remote else session.root / source.at


def item_name(task: Task, port: str) -> str:
    return f"{task.pipeline.name}/{port}"


def _lineage(session: Session, journal: Journal, task: Task, upstream: Mapping[str, Written]) -> dict[str, Any]:
    """What every step before this one read and made, by digest: the same for every run that computes the same."""
    found: dict[str, Record] = {}
    waiting = list(upstream.values())
    while waiting:
        w = waiting.pop()
        if w.record.task not in found:
            found[w.record.task] = w.record
            waiting += [read_record(session.store, session.ring, link.sha256, link.task) for link in w.record.upstream]
    kinds = {i.name: i.kind for s in task.pipeline.steps for i in (*s.inputs, *s.made)}

    def item(i: Item) -> dict[str, Any]:
        name = i.name.partition("/")[2]
        return {"name": name, "sha256": i.sha256, "bytes": i.size, "kind": str(kinds[name.partition("@")[0]])}

    return {
        "pipeline": task.pipeline.name,
        "description": task.pipeline.description,
        "run": journal.plan,
        "steps": [
            {
                "step": t.step.name,
                "item": t.item,
                "code": found[t.id].code.step,
                "inputs": [item(i) for i in found[t.id].inputs],
                "outputs": [item(i) for i in found[t.id].outputs],
            }
            for t in tasks(task.pipeline)
            if t.id in found
        ],
    }


def _cache_key(session: Session, task: Task, inputs: tuple[Arrived, ...], lineage: dict[str, Any] | None) -> str:
    asked = {
        "params": session.settings.of(task.step),
        "rules": session.settings.rules_of(task.step),
        "secrets": session.fingerprints(task),
        "inputs": [[a.item.name, a.item.sha256] for a in inputs],
        "lineage": lineage,
    }
    return digest.tagged(
        "cache-key",
        task.pipeline.name,
        task.id,
        session.code_digest(task.step),
        session.environment_key,
        canonical.encode(asked),
    )


def _reusable(session: Session, ready: Ready, say: Any) -> Written | None:
    """The earlier record of exactly this computation, if it and all it made can still be trusted."""
    named = session.store.get_document(f"cache/{ready.cache_key}")
    if named is None:
        return None
    try:
        if not POINTER.fullmatch(named):
            raise NotVerified("the cache names no record")
        old = read_record(session.store, session.ring, digest_in(named), ready.task.id)
        if (old.record.cache_key, old.record.outcome, old.record.name) != (
            ready.cache_key,
            Outcome.DONE,
            item_name(ready.task, ready.task.id),
        ):
            raise NotVerified("the cache names the record of another computation")
        for port, item in zip(ready.task.outputs, old.record.outputs, strict=True):
            _place(session, port, item)
    except NotVerified as error:
        say.warning("not reused", why=str(error))
        return None
    return old


def _place(session: Session, port: Port, item: Item) -> None:
    """Make sure that both the store and the checkout hold an output, re-verified."""
    kept = session.store.check_content(item)
    if kept is None or kept.sha256 != item.sha256:
        raise NotVerified(Problem(what="missing from the store or changed in it", where=item.name))
    _bring(session, session.root / port.path, item)


def _bring(session: Session, path: Path, item: Item) -> None:
    """Let the checkout hold these bytes, from the store unless they are there."""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        if path.stat().st_size == item.size and digest.of_stream(stream).sha256 == item.sha256:
            return
    session.store.fetch_content(item, path)


def _reused(session: Session, journal: Journal, ready: Ready, old: Written) -> Record:
    base = _record(session, journal, ready, Outcome.REUSED)
    return replace(
        base, outputs=old.record.outputs, verdicts=old.record.verdicts, reused=Link(task=old.record.task, sha256=old.sha256), environment={}
    )


def _failed(session: Session, journal: Journal, ready: Ready, failure: CountersignError) -> Record:
    said = {"kind": type(failure).__name__, "exitCode": failure.exit_code, "problems": [str(p) for p in failure.problems]}
    return replace(_record(session, journal, ready, Outcome.FAILED), failure=said)


def _record(session: Session, journal: Journal, ready: Ready, outcome: Outcome) -> Record:
    return Record(
        pipeline=ready.task.pipeline.name,
        run=journal.run,
        task=ready.task.id,
        attempt=ready.attempt,
        outcome=outcome,
        started=ready.started,
        finished=max(ready.started, session.clock()),
        params=session.settings.of(ready.task.step),
        inputs=tuple(a.item for a in ready.inputs),
        outputs=(),
        upstream=tuple(Link(task=t, sha256=w.sha256) for t, w in ready.upstream.items()),
        code=session.code_of(ready.task),
        lock=session.lock,
        environment=environment.envelope(),
        cache_key=ready.cache_key,
        secrets=session.fingerprints(ready.task),
        image=environment.image(),
    )


def _execute(session: Session, journal: Journal, ready: Ready) -> tuple[Record, list[Verdict]]:
    task = ready.task
    bound = bind(task.pipeline, task.step)
    given = _values(session, ready)
    verdicts: list[Verdict] = []
    early = task.step.verdicts is not None and task.step.verdicts.name in bound.arguments
    if task.step.verdicts and early:
        verdicts = _judge(session, task, given)
        given[task.step.verdicts.name] = _verdict_report(verdicts)
    if bound.params:
        given["params"] = build(bound.params, session.settings.of(task.step))
    made = bound.function(**given)._asdict()
    if task.step.verdicts:
        verdicts = verdicts if early else _judge(session, task, {**given, **made})
        made[task.step.verdicts.name] = _verdict_report(verdicts)
    outputs = _keep(session, ready, made)
    outcome = Outcome.REFUSED if any(v.says == "no" for v in verdicts) else Outcome.DONE
    record = _record(session, journal, ready, outcome)
    said = [v.to_json() for v in verdicts] if task.step.gates else None
    return replace(record, outputs=outputs, verdicts=said), verdicts


def _values(session: Session, ready: Ready) -> dict[str, Any]:
    """The arguments of the step's function, by name."""
    task = ready.task
    by_name: dict[str, list[Arrived]] = {}
    for a in ready.inputs:
        by_name.setdefault(a.name, []).append(a)
    joined = {i.name for i in task.step.inputs if isinstance(i, Artifact) and task.pipeline.makers()[i.name].fan_out}
    given: dict[str, Any] = {}
    for i in task.step.inputs:
        if isinstance(i, Source):
            given[i.name] = sources.read(session.root, i, by_name[i.name][0].path)
        else:
            values = tuple(codec.load(i.kind, a.path) for a in by_name[i.name])
            given[i.name] = values if i.name in joined else values[0]
    given |= {name: session.secret(name) for name in task.step.secrets}
    if task.step.fan_out:
        given[task.step.fan_out.name] = task.item
    if ready.lineage is not None:
        given["lineage"] = ready.lineage
    return given


def _judge(session: Session, task: Task, values: Mapping[str, Any]) -> list[Verdict]:
    return [judge(g.name, g.reads.name, session.settings.rules[g.name], values[g.reads.name]) for g in task.step.gates]


def _verdict_report(verdicts: list[Verdict]) -> dict[str, Any]:
    return {"gates": [v.to_json() for v in verdicts]}


def _keep(session: Session, ready: Ready, made: Mapping[str, Any]) -> tuple[Item, ...]:
    """Write outputs beside their places, keep them, check the inputs once more, then let all appear."""
    with contextlib.ExitStack() as stack:
        written = [(p, stack.enter_context(_writing(session.root / p.path, p, made[p.artifact.name]))) for p in ready.task.outputs]
        items = []
        for p, temporary in written:
            items.append(Item.of(item_name(ready.task, p.name), session.store.put_content(temporary)))
        _unchanged(ready)
        for p, temporary in written:
            files.settle(temporary, session.root / p.path, durable=False)
    return tuple(items)


@contextlib.contextmanager
def _writing(path: Path, port: Port, value: Any) -> Iterator[Path]:
    with files.scratch(path.parent, path.suffix) as temporary:
        codec.dump(port.artifact.kind, value, temporary)
        yield temporary


def _unchanged(ready: Ready) -> None:
    """Inputs must be after the step what they were before it, or nobody can say what it read."""
    for a in ready.inputs:
        try:
            with a.path.open("rb") as stream:
                now: Digests | None = digest.of_stream(stream)
        except OSError:
            now = None
        if now is None or now.sha256 != a.item.sha256:
            raise NotVerified(
                Problem(
                    what="input changed while the step ran", where=a.item.name, expected=a.item.sha256, got=now.sha256 if now else "nothing"
                )
            )


def main(words: list[str] | None = None) -> int:
    """One task in the current checkout; the exit code is the contract with Argo and DVC."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.run.driver", description="Run one step of a pipeline in the current checkout."
    )
    parser.add_argument("pipeline")
    parser.add_argument("step")
    parser.add_argument("--item", help="which item of a fanned-out step")
    parser.add_argument("--debug", action="store_true", help="show tracebacks; they may quote data")
    asked = parser.parse_args(words)
    from workflows.run.single import run_single

    return run_single(asked.pipeline, asked.step, asked.item, debug=asked.debug)


if __name__ == "__main__":
    sys.exit(main())
