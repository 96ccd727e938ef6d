"""How runs that are over look to a person and to a program: lists, steps, comparisons, bundles."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from workflows.errors import NotVerified
from workflows.prove.compare import Comparison, Grade
from workflows.prove.record import Seal
from workflows.prove.signature import Keyring
from workflows.prove.verify import Verification, commits_of
from workflows.run.journal import Journal, Written, read_record, runs
from workflows.run.store.interface import Store
from workflows.show import answer

STYLE = {"done": "green", "reused": "cyan", "refused": "bold red", "failed": "bold red", "yes": "green", "no": "bold red"}
SHORT = 12  # digits of a digest that a person compares by eye


def listing(store: Store, ring: Keyring, *, as_json: bool) -> None:
    """Every run of a store, in the order in which they ended; those still open last."""
    found = sorted((_summary(Journal(store, r), ring) for r in runs(store)), key=lambda s: (s["sealed"] is None, s["sealed"], s["run"]))
    if as_json:
        answer({"runs": found})
        return
    console = Console(highlight=False, soft_wrap=True)
    if not found:
        console.print("No runs yet. Make one with: countersign run PIPELINE")
    width = max((len(s["run"]) for s in found), default=0)
    for s in found:
        when = (s["sealed"] or "not sealed")[:19].replace("T", " ")
        outcome = (f"{s['outcome']:<12}", STYLE.get(s["outcome"], "bold yellow"))
        console.print(Text.assemble(f"{s['run']:<{width}}  ", outcome, f"  {when:<19}  {s['records']} records"))


def steps(journal: Journal, ring: Keyring, *, as_json: bool) -> None:
    """The steps of one run, every attempt, in the order of the plan. Signatures are checked, artifacts are not read."""
    summary = _summary(journal, ring)
    attempts = journal.attempts()
    tasks = journal.read_seal(ring)[0].tasks if journal.sealed else tuple(sorted(attempts))
    written = [read_record(journal.store, ring, attempts[t][n], f"{journal.run}/{t}") for t in tasks for n in sorted(attempts.get(t, {}))]
    if as_json:
        answer({**summary, "steps": [_step(w) for w in written]})
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text.assemble((journal.run, "bold"), "  ", (summary["outcome"], STYLE.get(summary["outcome"], "bold yellow"))))
    for s in map(_step, written):
        again = f" (attempt {s['attempt']})" if s["attempt"] > 1 else ""
        outcome = (f"{s['outcome']:<8}", STYLE[s["outcome"]])
        console.print(Text.assemble(f"  {s['task'] + again:<24}", outcome, f"{s['seconds']:8.1f} s  record {s['record'][:SHORT]}"))
        for o in s["outputs"]:
            console.print(f"      {o['name'].partition('/')[2]:<28} {o['sha256'][:SHORT]}  {o['bytes']:,} bytes", style="dim")
        for g in s["gates"]:
            console.print(Text.assemble("      gate ", f"{g['gate']:<23} ", (g["says"], STYLE[g["says"]])))
        for p in s["problems"]:
            console.print(Text(f"      {p}", style="red"))
    if summary["root"]:
        console.print(f"  sealed {summary['sealed']}")
        console.print(f"  root   {summary['root']}")


def envelope(warnings: Sequence[str]) -> None:
    """What differs between here and where a run was made, said before anything is computed: it may explain other results."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for w in warnings:
        console.print(Text.assemble(("warning ", "bold yellow"), w))


def comparison(  # noqa: PLR0913  # what describes the second run is by keyword
    a: str, b: str, found: Comparison, *, as_json: bool, warnings: Sequence[str] = (), code: str = ""
) -> None:
    """The verdict on each artifact of two runs, and where they part. `code` says where the second got its code from."""
    if as_json:
        listed = [{"name": c.name, "verdict": c.grade, "why": c.why} for c in found.artifacts]
        where = {"first": found.first, "because": list(found.because), "warnings": list(warnings)}
        where |= {"code": code} if code else {}
        answer({"run": a, "other": b, "verdict": found.grade, "artifacts": listed, **where})
        return
    console = Console(highlight=False, soft_wrap=True)
    if code:
        console.print(f"  code {code}")
    width = max((len(c.name) for c in found.artifacts), default=0)
    for c in found.artifacts:
        style = "bold red" if c.grade is Grade.DIFFERS else "green" if c.grade is Grade.BYTES else "yellow"
        console.print(
            Text.assemble(f"  {c.name:<{width}}  ", (f"{c.grade:<9}" if c.why else c.grade, style), f"  {c.why}" if c.why else "")
        )
    if found.first:
        console.print(
            Text.assemble(("differs", "bold red"), f" first at {found.first}, given other: {', '.join(found.because) or 'nothing'}")
        )
    else:
        better = "" if found.grade is Grade.BYTES else " or better"
        console.print(Text.assemble((str(found.grade), "bold green"), f"{better} for every artifact"))


def packed(path: Path, data: bytes, checked: Verification, *, as_json: bool) -> None:
    """Where a bundle was written, and what to tell the one who gets it."""
    sha = hashlib.sha256(data).hexdigest()
    if as_json:
        signers = list(checked.signers)
        answer({"run": checked.run, "bundle": str(path), "sha256": sha, "bytes": len(data), "root": checked.root, "signers": signers})
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{path}: {len(checked.records)} records of {checked.run}, {len(data):,} bytes")
    console.print(f"  sha256     {sha}")
    console.print(f"  root       {checked.root}")
    for keyid in checked.signers:
        console.print(f"  signed by  {keyid}")
    console.print("Give root and fingerprints to its reader by another way than the file.", style="dim")


def exported(path: Path, data: bytes, checked: Verification, *, as_json: bool) -> None:
    """Where a run's lock was written, and the commit that it belongs to."""
    sha, commits = hashlib.sha256(data).hexdigest(), commits_of(checked)
    if as_json:
        answer({"run": checked.run, "lock": str(path), "sha256": sha, "bytes": len(data), "commits": commits})
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{path}: the lock of {checked.run}, as its records have it")
    for commit in commits:
        console.print(f"  commit     {commit}")


def anchored(run: str, root: str, done: Sequence[tuple[str, str]], *, as_json: bool) -> None:
    """Where a run's root was noted."""
    if as_json:
        answer({"run": run, "root": root, "anchors": [{"name": name, "said": said} for name, said in done]})
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{run}\n  root       {root}")
    for name, said in done:
        console.print(f"  {name:<12}{said}")


def _summary(journal: Journal, ring: Keyring) -> dict[str, Any]:
    count = sum(map(len, journal.attempts().values()))
    try:
        seal: Seal | None
        root: str | None
        seal, root = journal.read_seal(ring) if journal.sealed else (None, None)
    except NotVerified:
        return {"run": journal.run, "outcome": "not verified", "sealed": None, "records": count, "root": None}
    outcome = str(seal.outcome) if seal else "open"
    return {"run": journal.run, "outcome": outcome, "sealed": seal.sealed if seal else None, "records": count, "root": root}


def _step(written: Written) -> dict[str, Any]:
    r = written.record
    seconds = (datetime.fromisoformat(r.finished) - datetime.fromisoformat(r.started)).total_seconds()
    listed = {
        side: [{"name": i.name, "sha256": i.sha256, "bytes": i.size} for i in items]
        for side, items in (("inputs", r.inputs), ("outputs", r.outputs))
    }
    return {
        "task": r.task,
        "attempt": r.attempt,
        "outcome": str(r.outcome),
        "started": r.started,
        "seconds": seconds,
        "record": written.sha256,
        **listed,
        "gates": r.verdicts or [],
        "problems": list(map(str, (r.failure or {}).get("problems", []))),
    }
