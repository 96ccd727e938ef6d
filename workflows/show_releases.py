"""How approvals and releases look to a person and to a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from workflows.errors import CountersignError
from workflows.promote.approving import Draft
from workflows.promote.evidence import Signed
from workflows.promote.history import Told
from workflows.promote.ledger import Entry
from workflows.promote.policy import Policies
from workflows.promote.promoting import Looked, Promoted, release_file
from workflows.prove.approval import Approval
from workflows.prove.release import Release, State, Variant
from workflows.show import answer, utc

SHORT = 12
STYLE = {"done": "green", "begun": "yellow", "failed": "bold red", "aborted": "bold red"}


def _console(*, stderr: bool = False) -> Console:
    """Without markup and emoji: an account, a comment or a reason is shown as it stands, whoever wrote it."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False, stderr=stderr)


def draft(drafted: Draft, policies: Policies, *, quiet: bool) -> None:
    """Everything that an approval says, before it is signed."""
    if quiet:
        return
    console, a = _console(stderr=True), drafted.approval
    console.print("You are about to sign, with your own key:", style="bold")
    rows = (
        ("model", f"{a.model}  ({a.pipeline})"),
        ("run", a.run),
        ("root", a.root),
        ("submitted", f"by {drafted.evidence.submitter}" if drafted.evidence.submitter else "nobody says by whom"),
        ("for", a.environment),
        ("until", utc(a.expires)),
        ("your key", f"{a.by} ({policies.name_of(a.by)})"),
        ("as", ", ".join(drafted.roles) or "no role that is asked for"),
        ("comment", a.comment or "none"),
    )
    for name, value in rows:
        console.print(f"  {name:<10} {value}")
    console.print(f"  gates      {a.verdicts}")
    for v in drafted.evidence.verdicts:
        console.print(f"    {v['gate']:<14} {v['says']}")
        for r in v["rules"]:
            limit = f">= {r['at_least']:g}" if "at_least" in r else f"<= {r['at_most']:g}"
            value = "nothing" if r["value"] is None else f"{r['value']:.4g}"
            console.print(f"      {r['says']:<4} {r['metric']} {value} ({limit})", style="dim")
    for doubt in drafted.doubts:
        console.print(Text.assemble(("  warning ", "bold yellow"), doubt))


def approved(approval: Approval, sha256: str, place: str, *, as_json: bool) -> None:
    """An approval that was signed and kept."""
    if as_json:
        said = {f: getattr(approval, f) for f in Approval.__slots__}
        answer({**said, "approval": sha256, "store": place})
        return
    console = _console()
    console.print(Text.assemble(("approved ", "bold green"), f"{approval.run} for {approval.environment}"))
    console.print(f"  approval   {sha256}")
    console.print(f"  kept in    {place}")


def looked(found: Looked, environment: str, policies: Policies, *, as_json: bool) -> None:
    """Whether a run may come to an environment, and how every approval was weighed."""
    j, e = found.judgement, found.evidence
    if as_json:
        weighed = [{"approval": w.sha256, "by": w.by, "role": w.role or None, "why_not": w.why_not or None} for w in j.weighed]
        said = {"run": e.run, "root": e.root, "model": e.model, "submitter": e.submitter, "environment": environment}
        answer({**said, "allowed": j.allowed, "waiting": j.waiting, "reasons": list(j.reasons), "approvals": weighed})
        return
    console = _console()
    word = (
        ("may come", "bold green") if j.allowed else ("waits for approvals", "bold yellow") if j.waiting else ("may not come", "bold red")
    )
    console.print(Text.assemble(f"{e.run} ", word, f" to {environment}"))
    for reason in j.reasons:
        console.print(f"  {reason}")
    for w in j.weighed:
        name = policies.name_of(w.by) if w.by else "unreadable"
        counts = Text.assemble((f"counts as {w.role}", "green")) if w.role else Text.assemble(("does not count: ", "red"), w.why_not)
        console.print(Text.assemble(f"  approval {w.sha256[:SHORT]} by {name}: ", counts))


def promoted(done: Promoted, *, as_json: bool, file: Path | None = None) -> None:
    """What serves now."""
    entry = done.entry
    if as_json:
        answer({**_entry_json(entry), "unchanged": done.unchanged, "healed": done.healed or None, "file": str(file) if file else None})
        return
    console = _console()
    if done.healed:
        console.print(done.healed, style="yellow")
    if done.unchanged:
        console.print(f"Nothing to do: {entry.begun.environment} serves exactly this.")
    _print_entry(console, entry)
    if file:
        console.print(f"Serve it:    python -m workflows.serve --release {file}", style="dim")


def history(told: Sequence[Told], serving: Sequence[Entry], policies: Policies, *, at: str | None, as_json: bool) -> None:
    """Releases, the newest first, with who approved each; with `at`, what served then, of each pipeline one, and what was on its way."""
    if as_json:
        listed = [{**_entry_json(t.entry), "approved_by": [_approver(a, policies) for a in t.approvals]} for t in told]
        on_their_way = [t.entry.sequence for t in told if t.entry not in serving] if at else []
        answer({"at": at, "serving": [e.sequence for e in serving], "on_their_way": on_their_way, "releases": listed})
        return
    console = _console()
    if not told:
        console.print(f"Nothing served{f' at {at}' if at else ''}.")
    for t in sorted(told, key=lambda t: -t.entry.sequence):
        mark = ("  serves", "green") if t.entry in serving else ("  was on its way", "yellow") if at else ("", "")
        _print_entry(console, t.entry, mark=mark, told=t, policies=policies)


def _approver(signed: Signed, policies: Policies) -> dict[str, str]:
    a = signed.approval
    return {
        "approval": signed.sha256, "name": policies.name_of(a.by), "by": a.by, "at": a.at, "expires": a.expires, "run": a.run,
        "root": a.root, "verdicts": a.verdicts, "comment": a.comment,
    }  # fmt: skip


def champion(data: bytes, path: Path | None, *, as_json: bool) -> None:
    """Which model the next one is held against."""
    said = json.loads(data)
    if as_json:
        answer({**said, "file": str(path) if path else None})
        return
    if said["status"] == "none":
        print("nobody serves: there is no champion")
    else:
        print(f"{said['name']}: model of {len(said['model']):,} characters{f', written to {path}' if path else ''}")


def other_champion(pipeline: str, source: str, serving: Release) -> None:
    """That a run's model would be held against another one than what serves."""
    release = f"{serving.environment} {serving.sequence}"
    _warn(f"{release} serves, and {source} says another champion: countersign champion {pipeline} --env {serving.environment} -o {source}")


def champion_unknown(source: str, error: CountersignError) -> None:
    """That nobody can say whether it would."""
    _warn(f"whether {source} says what serves is not known: {'; '.join(str(p) for p in error.problems)}")


def _warn(text: str) -> None:
    _console(stderr=True).print(Text.assemble(("warning ", "bold yellow"), text))


def write_file(path: Path, entry: Entry) -> None:
    """What a server is started with."""
    path.write_text(json.dumps(release_file(entry), indent=2) + "\n")


def _entry_json(entry: Entry) -> dict[str, Any]:
    b, e = entry.begun, entry.ended
    deployed = {f: getattr(e.deployed, f) for f in type(e.deployed).__slots__} if e and e.deployed else None
    return {
        "environment": b.environment,
        "sequence": b.sequence,
        "release": entry.sha256,
        "kind": b.kind,
        "state": e.state if e else State.BEGUN,
        "pipeline": b.pipeline,
        "variants": [{f: getattr(v, f) for f in Variant.__slots__} for v in b.variants],
        "approvals": list(b.approvals),
        "policy": b.policy,
        "by": b.by,
        "began": b.at,
        "ended": e.at if e else None,
        "reason": e.reason if e else b.reason,
        "deployed": deployed,
    }


def _print_entry(
    console: Console, entry: Entry, *, mark: tuple[str, str] = ("", ""), told: Told | None = None, policies: Policies | None = None
) -> None:
    b, e = entry.begun, entry.ended
    state = str(e.state if e else State.BEGUN)
    head = Text.assemble((f"{b.environment} {b.sequence}", "bold"), f"  {b.kind:<9}  ", (state, STYLE[state]))
    console.print(Text.assemble(head, f"  {utc(e.at if e else b.at)}", mark))
    for v in b.variants:
        share = "in shadow" if v.shadow else f"{v.share:.0%}"
        console.print(f"  {v.name:<10} {share:<9} {v.run}  model {v.model[:SHORT]}  root {v.root[:SHORT]}")
    names = {a.sha256: _approver(a, policies) for a in told.approvals} if told and policies else {}
    for sha in b.approvals:
        a = names.get(sha)
        said = f" by {a['name']}, {a['at'][:16].replace('T', ' ')} UTC, over gates {a['verdicts'][:SHORT]}" if a else ""
        said += f": {a['comment']}" if a and a["comment"] else ""
        console.print(f"  approval   {sha[:SHORT]}{said}")
    name = policies.name_of(b.by) if policies else b.by
    console.print(f"  released   by {name[:SHORT] if name == b.by else name}, policy {b.policy[:SHORT]}, release {entry.sha256[:SHORT]}")
    if e and e.deployed:
        console.print(f"  deployed   {e.deployed.namespace}/{e.deployed.release} revision {e.deployed.revision}")
    if reason := (e.reason if e else b.reason):
        console.print(f"  because    {reason}")
