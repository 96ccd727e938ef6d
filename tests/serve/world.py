"""A sealed run with a small model in a store, as the engine would leave it, and what a server needs beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.contract import ContractParams, describe
from steps.drift import SketchParams, sketch
from tests.serve.logs import PRIVATE, SIGNER
from tests.steps.example import ROWS, trained
from tests.steps.test_contract import PARAMS
from workflows.declare import Kind
from workflows.prove.digest import of_bytes
from workflows.prove.record import Code, Item, Outcome, Record
from workflows.prove.signature import Keyring, Signer, private_pem, read_public
from workflows.run import codec
from workflows.run.journal import Journal
from workflows.run.store.local import LocalStore

SUBJECT_KEY = bytes(range(40, 72))
RUN, PIPELINE = "loan-approval-0123456789ab", "loan_approval"
VERDICTS: list[dict[str, Any]] = [
    {
        "gate": "performance",
        "says": "yes",
        "rules": [{"metric": "auc", "where": "evaluation", "at_least": 0.5, "value": 0.8, "says": "yes", "because": "just so"}],
    }
]
FEATURES = {"income": 0.1, "debt": 0.4, "gap": 0.25, "code": 1}
DECLINED = {"income": -2.0, "debt": 2.0, "gap": None, "code": 2}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A run in a store."""

    store: LocalStore
    run: str
    root: str
    model: str
    items: dict[str, Item]

    def variant(self, name: str = "champion", share: float = 1.0, *, shadow: bool = False) -> dict[str, Any]:
        return {"name": name, "run": self.run, "root": self.root, "model": self.model, "share": share, "shadow": shadow}


def release(*variants: dict[str, Any], **how: Any) -> bytes:
    said = {"release": {"environment": "prod", "sequence": 7, "sha256": None}, "pipeline": PIPELINE, "variants": list(variants)}
    return json.dumps(said | how).encode()


def artifacts(contract: Mapping[str, Any] | None = None, **how: Any) -> dict[str, tuple[Kind, Any]]:
    """What a run makes. `contract` changes that step's parameters, everything else those of the training."""
    made = trained(**how)
    # `gap` may be missing; no ratio ties features that were drawn apart.
    params = ContractParams.model_validate({**PARAMS, "ratios": [], **(contract or {})}, strict=False)
    described = describe(model=made.model, decision_rule=made.decision_rule, train_rows=ROWS, params=params).contract
    reference = sketch(train_rows=ROWS, oof=made.oof, params=SketchParams(points=1000)).reference
    return {
        "model": (Kind.MODEL, made.model),
        "decision_rule": (Kind.REPORT, made.decision_rule),
        "contract": (Kind.REPORT, described),
        "reference": (Kind.TABLE, reference),
    }


def keep(store: LocalStore, scratch: Path, values: dict[str, tuple[Kind, Any]]) -> dict[str, Item]:
    items = {}
    for name, (kind, value) in values.items():
        codec.dump(kind, value, scratch / name)
        d = store.put_content(scratch / name)
        items[name] = Item(name=f"{PIPELINE}/{name}", sha256=d.sha256, md5=d.md5, size=d.size)
    return items


def sealed(
    store: LocalStore,
    items: dict[str, Item],
    *,
    run: str = RUN,
    outcome: Outcome = Outcome.DONE,
    verdicts: Any = VERDICTS,
    signer: Signer = SIGNER,
) -> Made:
    digest = of_bytes(b"code").sha256
    if verdicts is not None:
        items = items | keep(store, store.documents, {"verdicts": (Kind.REPORT, {"gates": verdicts})})
    record = Record(
        pipeline=PIPELINE,
        run=run,
        task="train",
        attempt=1,
        outcome=outcome,
        started="2026-03-01T12:00:00.000000+00:00",
        finished="2026-03-01T12:00:01.000000+00:00",
        params={},
        inputs=(),
        outputs=tuple(items.values()),
        upstream=(),
        code=Code(step=digest, tree=digest),
        lock=digest,
        environment={},
        cache_key=digest,
        verdicts=verdicts,
    )
    journal = Journal(store, run)
    journal.append(record, signer)
    keys = Keyring({signer.keyid: read_public(signer.public_pem)})
    _, root = journal.seal(pipeline=PIPELINE, tasks=("train",), keys=keys, signer=signer, sealed=record.finished)
    return Made(store=store, run=run, root=root, model=items["model"].sha256 if "model" in items else "0" * 64, items=items)


def make(top: Path, **how: Any) -> Made:
    store = LocalStore(content=top, documents=top)
    scratch = top.parent / f"{top.name}-scratch"
    scratch.mkdir(exist_ok=True)
    top.mkdir(exist_ok=True)
    return sealed(store, keep(store, scratch, artifacts(**how.pop("training", {}))), **how)


def environment(top: Path, made: Made, **more: str) -> dict[str, str]:
    """What a server's process is given: keys, store, a folder for its log; ports are the caller's."""
    for folder in ("trusted", "log"):
        (top / folder).mkdir(exist_ok=True)
    (top / "trusted" / "own.pem").write_bytes(SIGNER.public_pem)
    (top / "signing.pem").write_bytes(private_pem(PRIVATE))
    (top / "subject").write_text(SUBJECT_KEY.hex())
    return {
        "COUNTERSIGN_STORE": f"file://{made.store.documents}",
        "COUNTERSIGN_TRUSTED_KEYS": str(top / "trusted"),
        "COUNTERSIGN_SIGNING_KEY_FILE": str(top / "signing.pem"),
        "COUNTERSIGN_SUBJECT_KEY_FILE": str(top / "subject"),
        "COUNTERSIGN_LOG": str(top / "log"),
        "COUNTERSIGN_HOST": "127.0.0.1",
        "COUNTERSIGN_DRAIN": "0",
        **more,
    }
