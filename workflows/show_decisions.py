"""How decisions and their logs look to a person and to a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from workflows.show import answer, utc

if TYPE_CHECKING:
    from workflows.serve.chain import Batch, Said
    from workflows.serve.replay import Replayed

UNSURE = "in batched mode, what was answered in its last tenth of a second may be missing"


def replayed(found: Replayed, *, as_json: bool) -> None:
    """A decision, whether it came out the same, and what vouches for it."""
    said, now, record = json.loads(found.said), json.loads(found.now), found.record
    if as_json:
        log = {"batch": found.batch, "signer": found.signer}
        answer(
            {"decision": found.decision, "same": found.same, "said": said, "now": now, "by": record["by"], "at": record["at"], "log": log}
        )
        return
    console = Console(highlight=False, soft_wrap=True)
    words = ("the same score and reasons, bit for bit", "green") if found.same else ("something else came out", "bold red")
    console.print(Text.assemble(f"replayed {found.decision}: ", words))
    for name, value in (("logged", said), ("now", now)) if not found.same else (("", said),):
        reasons = ", ".join(f"{r['code']} ({r['feature']} {r['contribution']:+.4f})" for r in value["reasons"]) or "none given"
        console.print(f"  {name:<9}{value['decision']}, score {value['score']!r}; reasons: {reasons}")
    by, release = record["by"], record["release"]
    console.print(f"  decided  {record['at']}, {release['environment']} release {release['sequence']}, variant {by['variant']}")
    console.print(f"  model    {by['model']}")
    console.print(f"  run      {by['run']}, root {by['root']}")
    console.print(f"  log      batch {found.batch}, signed by {found.signer}")


def logs(found: Mapping[str, Sequence[Said]], *, as_json: bool) -> None:
    """Every chain of every environment, and all that is wrong with it."""
    if as_json:
        answer({"environments": {e: [_chain(s) for s in said] for e, said in found.items()}})
        return
    console = Console(highlight=False, soft_wrap=True)
    if not any(found.values()):
        console.print("No decisions yet.")
    for environment, said in found.items():
        for s in said:
            state = ("broken", "bold red") if s.findings else ("whole", "green")
            head = f", ends in {s.head.sha256}" if s.head else ""
            console.print(Text.assemble(f"{environment}  {s.chain}  ", state, f"  {s.records} records{head}"))
            for finding in s.findings:
                console.print(f"  {finding}", style="red")
            for b in s.recovered:
                console.print(f"  taken up after a kill: {_numbers(b)}, signed {utc(b.at)}; {UNSURE}", style="yellow")


def _chain(said: Said) -> dict[str, object]:
    head = {"number": said.head.number, "sha256": said.head.sha256} if said.head else None
    recovered = [{"first": b.first, "last": b.last, "at": b.at} for b in said.recovered]
    found = {"findings": list(said.findings), "signers": list(said.signers), "recovered": recovered}
    return {"chain": said.chain, "records": said.records, "head": head, **found}


def _numbers(batch: Batch) -> str:
    return f"records {batch.first} to {batch.last}" if batch.last > batch.first else f"record {batch.first}"
