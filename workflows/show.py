"""How results look to a person on a terminal, and as JSON to a program."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from workflows.declare import Pipeline
from workflows.plan import tasks
from workflows.prove.anchor import State, Verdict
from workflows.prove.record import Outcome, Seal
from workflows.prove.signature import Keyring
from workflows.prove.verify import Verification, commits_of
from workflows.run.journal import standing
from workflows.run.local import Event, Finished
from workflows.run.logs import structlog
from workflows.run.store.interface import Store

WIDTH = 22  # of a task's name


def warnings_to_terminal() -> None:
    """Let warnings from the inside reach a person as sentences, on the error stream, until a run writes them to its log."""

    def sentence(_: object, __: str, said: MutableMapping[str, Any]) -> str:
        about = "; ".join(f"{name}: {value}" for name, value in said.items() if name != "event")
        return f"warning: {said['event']} ({about})"

    structlog.configure(
        processors=[sentence],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def utc(at: str) -> str:
    """A moment as records have it, for a person: to the second."""
    return f"{at[:19].replace('T', ' ')} UTC"


def answer(value: Any) -> None:
    """JSON for programs, one object."""
    print(json.dumps(value, indent=2, sort_keys=True))


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[Event], None]]:
    """Lines as steps end; on a terminal also a line of those at work. No thread: the runner forks."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        yield lambda _: None
        return
    if not console.is_terminal:
        yield lambda e: _line(console, e)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def tell(event: Event) -> None:
            _line(live.console, event)
            live.update(Text("  running " + ", ".join(event.running) if event.running else "", style="dim"), refresh=True)

        yield tell


def _line(console: Console, event: Event) -> None:
    if event.what not in {"started", "tick"}:
        style = {"done": "green", "reused": "cyan"}.get(event.what, "bold red")
        console.print(Text.assemble((f"  {event.task:<{WIDTH}}", ""), (f"{event.what:<8}", style), (f" {event.seconds:6.1f} s", "dim")))


class Kept(Protocol):
    """A run's pipeline, and where its records are."""

    pipeline: Pipeline
    store: Store
    ring: Keyring


def finished(kept: Kept, done: Finished, *, as_json: bool, workflow: Mapping[str, str | bool] | None = None) -> None:
    """The end of a run: what was decided, what each gate said, where the evidence is.

    `workflow` tells about the workflow that made it: then its artifacts are in the store, and not here.
    """
    verdicts = [v for r in standing(kept.store, kept.ring, done.seal).values() for v in r.verdicts or []]
    paths = {f"{kept.pipeline.name}/{p.name}": p.path for t in tasks(kept.pipeline) for p in t.outputs}
    if as_json:
        artifacts = [{"name": i.name, "sha256": i.sha256, "bytes": i.size, "path": paths.get(i.name)} for i in done.seal.outputs]
        known = {"run": done.run, "root": done.root, "outcome": done.seal.outcome, "unchanged": done.unchanged}
        problems = [str(p) for p in done.error.problems] if done.error else []
        answer({**(workflow or {}), **known, "gates": verdicts, "artifacts": artifacts, "problems": problems})
        return
    console = Console(highlight=False, soft_wrap=True)
    if done.unchanged:
        console.print("Nothing to do: this run has done exactly this, and its artifacts are as it left them.")
    console.print(_decision(done.seal), style="bold")
    for v in verdicts:
        says = (v["says"], "green" if v["says"] == "yes" else "bold red")
        console.print(Text.assemble("  gate ", (f"{v['gate']:<14}", ""), says, f"  {_evidence(v)}"))
    results = {f"{kept.pipeline.name}/{a.name}": a.name for a in kept.pipeline.results}
    for i in (i for i in done.seal.outputs if i.name in results):
        place = f"{kept.store.place}/files/md5/{i.md5[:2]}/{i.md5[2:]}" if workflow else paths[i.name]
        console.print(f"  {results[i.name]:<10} {place}")
    console.print(f"  run        {done.run}")
    console.print(f"  root       {done.root}")
    where = f" --store {kept.store.place}" if workflow else ""
    console.print(f"Check it:    countersign verify {done.run}{where}", style="dim")
    sys.stdout.flush()


def compiled(paths: list[str], changed: list[str], *, as_json: bool) -> None:
    """What compilation wrote."""
    if as_json:
        answer({"files": paths, "changed": changed})
        return
    for path in sorted({*paths, *changed}):
        print(f"{'written' if path in changed else 'fresh  '} {path}")


def keys_made(made: list[Path], folder: Path, *, as_json: bool) -> None:
    """Which keys were made, or that they were there."""
    if as_json:
        answer({"made": list(map(str, made)), "folder": str(folder)})
        return
    for path in made:
        print(f"made {path}")
    if not made:
        print(f"nothing to do: the keys are in {folder}")


def own_key(keyid: str, pem: str, *, as_json: bool) -> None:
    """Whom a signature of this machine is by."""
    if as_json:
        answer({"key": keyid, "pem": pem})
        return
    print(keyid)
    print(pem, end="")


OWN_KEYS = """\
The keys came with the {}, so this proves only that it agrees with itself.
Ask whoever made the run for the fingerprint of their key, compare it with the one above, and verify with --key."""


ANCHOR = {
    State.SAME: ("the same root", "green"),
    State.OTHER: ("ANOTHER ROOT", "bold red"),
    State.NONE: ("none", "dim"),
    State.UNREACHED: ("not reached", "dim"),
}


def verification(
    result: Verification, anchors: Sequence[Verdict], *, as_json: bool, trust: str = "unregistered local key", note: str = ""
) -> None:
    """What verification found. `trust` says why the keys were believed, `note` what a reader must not overlook."""
    if as_json:
        answer(
            {
                "run": result.run,
                "root": result.root,
                "verified": result.ok,
                "outcome": result.seal.outcome if result.seal else None,
                "findings": [{"where": f.where, "what": f.what} for f in result.findings],
                "records": len(result.records),
                "artifacts_checked": result.checked,
                "artifacts_elsewhere": result.elsewhere,
                "signers": list(result.signers),
                "submitter": result.seal.submitter if result.seal else None,
                "trust": trust,
                "commits": commits_of(result),
                "anchors": [{"name": v.anchor, "state": v.state, "root": v.root, "said": v.said} for v in anchors],
            }
        )
        return
    console = Console(highlight=False, soft_wrap=True)
    for f in result.findings:
        console.print(Text.assemble(("not verified ", "bold red"), str(f)))
    if result.ok and result.seal:
        console.print(
            Text.assemble(
                ("verified ", "bold green"),
                f"{result.run}: {len(result.records)} records, {result.checked} artifacts checked byte for byte",
            )
        )
        if result.elsewhere:
            console.print(f"  {result.elsewhere} artifacts known by digest only: their bytes are not here")
        console.print(f"  outcome    {result.seal.outcome}")
        for commit in commits_of(result):
            console.print(f"  commit     {commit}{_changes(result)}")
    console.print(f"  root       {result.root}")
    for keyid in result.signers:
        console.print(f"  signed by  {keyid} ({trust})")
    if result.seal and result.seal.submitter:
        console.print(f"  submitted  by {result.seal.submitter}")
    for v in anchors:
        console.print(Text.assemble(f"  {v.anchor:<12}", ANCHOR[v.state], f": {v.said}"))
    if note:
        console.print(note, style="yellow")
    sys.stdout.flush()


def _changes(result: Verification) -> str:
    return ", with changes" if any(r.code.dirty for r in result.records.values()) else ""


def _decision(seal: Seal) -> str:
    words = {
        Outcome.DONE: "Passed: every gate said yes.",
        Outcome.REUSED: "Passed: every gate said yes (all steps reused).",
        Outcome.REFUSED: "Refused: a gate said no.",
        Outcome.FAILED: "Failed: a step did not finish.",
    }
    return words[seal.outcome]


def _evidence(verdict: dict[str, Any]) -> str:
    rules = verdict["rules"]
    said = [r for r in rules if r["says"] == "no"] or rules[:1]
    more = f" and {len(rules) - 1} more" if verdict["says"] == "yes" and len(rules) > 1 else ""
    return "; ".join(map(_rule, said)) + more


def _rule(rule: dict[str, Any]) -> str:
    limit = f">= {rule['at_least']:g}" if "at_least" in rule else f"<= {rule['at_most']:g}"
    value = "nothing" if rule["value"] is None else f"{rule['value']:.4g}"
    return f"{rule['metric']} {value} ({limit})"
