"""A decision again: from its record in the log and the archived model, to the last bit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from workflows.errors import BadInput, NotVerified, Problem
from workflows.prove import canonical
from workflows.prove.signature import BadSignature, Keyring
from workflows.run.store.interface import Store
from workflows.serve import chain as chains
from workflows.serve import entry
from workflows.serve.chain import Broken, NotABatch, Opened
from workflows.serve.entry import Keeper, NotSealed
from workflows.serve.loading import load_one, roles
from workflows.serve.release import Variant
from workflows.serve.shipping import content_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """What the log says was answered, and what the archived model answers now, as canonical JSON."""

    decision: str
    record: dict[str, Any]
    said: bytes
    now: bytes
    batch: str
    signer: str

    @property
    def same(self) -> bool:
        return self.said == self.now


def replay(decision: str, store: Store, environments: list[str], keys: Keyring, keeper: Keeper) -> Replayed:
    """Find the record, verify it, verify the run that it names, and decide again.

    `BadInput` where no log has the decision, `NotVerified` where log, run or features are not what they should be.
    """
    where, opened, record = find(decision, store, environments, keys)
    by = record["by"]
    variant = Variant(name=by["variant"], run=by["run"], root=by["root"], model=by["model"], share=1.0, shadow=False)
    served = load_one(record["pipeline"], variant, roles(record["pipeline"]), store, keys)
    if served.lineage.to_json() != by:
        raise NotVerified(Problem(what="the record names another rule or contract than the run has", where=where))
    try:
        application = entry.application_of(record, served.model.contract, keeper)
    except NotSealed as error:
        hint = "COUNTERSIGN_SUBJECT_KEY_FILE names the key that the server had"
        raise NotVerified(Problem(what=str(error), where=where), hint=hint) from None
    now = entry.answered(served.model.decide(application))
    return Replayed(
        decision=decision,
        record=record,
        said=canonical.dump(record["answer"]),
        now=canonical.dump(now),
        batch=opened.sha256,
        signer=opened.keyid,
    )


def find(decision: str, store: Store, environments: list[str], keys: Keyring) -> tuple[str, Opened, dict[str, Any]]:
    """Where a decision stands, the batch that signs for it, and its record."""
    named = entry.DECISION.fullmatch(decision)
    if not named:
        raise BadInput(Problem(what="not the id of a decision", expected="CHAIN-TIME-CHANCE, as the answer gave it", got=decision[:80]))
    at = int(named["at"], 16)
    for environment in environments:
        for where, opened in _batches(store, environment, named["chain"], at, keys):
            data = content_of(store, opened.batch)
            try:
                found = chains.bodies(opened.batch, data) if data is not None else None
            except Broken as error:
                raise NotVerified(Problem(what=str(error), where=where)) from None
            if found is None:
                raise NotVerified(Problem(what="its records are missing", where=where))
            for body in found:
                record = canonical.read(body)
                if record["id"] == decision:
                    return where, opened, record
    hint = "the log is sent to the store every few seconds; a decision younger than that is on the server's disk only"
    raise BadInput(Problem(what="no log in the store has this decision", where=store.place, got=decision), hint=hint)


def _batches(store: Store, environment: str, chain: str, at: int, keys: Keyring) -> list[tuple[str, Opened]]:
    """The batches of a chain that reach over a time. A batch lies under the day on which it begins."""
    day = datetime.fromtimestamp(at / 1000, UTC)
    found = []
    for folder in (f"{d:%Y-%m-%d}" for d in (day, day - timedelta(days=1))):
        top = f"decisions/{environment}/{chain}/{folder}"
        for name, envelope in sorted(store.list_documents(top).items()):
            try:
                opened = chains.open_batch(envelope, keys)
            except (BadSignature, NotABatch) as error:
                raise NotVerified(Problem(what=str(error), where=f"{top}/{name}")) from None
            if (opened.batch.chain, opened.batch.name) != (chain, name):
                raise NotVerified(Problem(what="another batch in the place of this one", where=f"{top}/{name}"))
            if opened.batch.begun <= at <= opened.batch.ended:
                found.append((f"{top}/{name}", opened))
    return found
