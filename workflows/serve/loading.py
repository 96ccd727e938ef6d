"""From a release to models that answer: every run verified, then its artifacts fetched by digest. Nothing else is trusted."""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.declare import Pipeline, Serves
from workflows.errors import BadInput, NotVerified, Problem
from workflows.prove import canonical
from workflows.prove.digest import Digests
from workflows.prove.record import Item
from workflows.prove.signature import Keyring
from workflows.prove.verify import Verification, verify
from workflows.run.logs import structlog
from workflows.run.reader import StoreReader
from workflows.run.store.interface import Store
from workflows.serve import contract as contracts
from workflows.serve import trees
from workflows.serve.contract import Contract, NotAContract
from workflows.serve.decide import BadRule, Model, read_rule
from workflows.serve.entry import Lineage
from workflows.serve.release import Release, Variant
from workflows.serve.scorer import NotAModel, Scorer
from workflows.serve.shapley import Explainer, TooLarge

CLOSE = 1e-9
"""How far contributions and raw score of one row may be apart: far above rounding, far below another model."""
log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A variant that can answer."""

    variant: Variant
    lineage: Lineage
    model: Model
    reference: bytes
    """The sketch of its training rows, as the run has it."""
    report: Mapping[str, Any]
    """The contract as the run has it, for callers."""


class _OnlyServed(StoreReader):
    """The run's chain in full, of its artifacts only those that are served: a server need not read every training row."""

    holds_content = False

    def __init__(self, store: Store, names: frozenset[str]) -> None:
        super().__init__(store)
        self._names = names

    def content(self, item: Item) -> Digests | None:
        return super().content(item) if item.name in self._names else None


def load(release: Release, store: Store, keys: Keyring) -> list[Served]:
    """Every variant of a release, in its order.

    `NotVerified`, or `BadInput` for variants that do not go together, lists all that
    speaks against one, and then none is served.
    """
    serves = roles(release.pipeline)
    served = [load_one(release.pipeline, v, serves, store, keys) for v in release.variants]
    if problems := list(_apart([s for s in served if not s.variant.shadow])):
        raise BadInput(*problems, hint="variants with other contracts cannot share the answers: release one alone, or as a shadow")
    return served


def _apart(answering: Sequence[Served]) -> Iterator[Problem]:
    """Callers know one contract. What they may ask, and in which words they are answered, must not depend on who is asked about."""
    first, *others = answering
    for s in others:
        for field, expected, got in contracts.differences(first.model.contract, s.model.contract):
            what = f"another contract than variant {first.variant.name} has: {field}"
            yield Problem(what=what, where=f"variant {s.variant.name}, {s.variant.run}", expected=expected, got=got)


def roles(pipeline: str) -> Serves:
    """What of the pipeline's runs is served, as it is declared; `BadInput` where it is not."""
    where = f"workflows/{pipeline}.py"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", pipeline):
        raise BadInput(Problem(what="no name of a pipeline", got=pipeline))
    try:
        declared = getattr(importlib.import_module(f"workflows.{pipeline}"), "pipeline", None)
    except ModuleNotFoundError:
        declared = None
    if not isinstance(declared, Pipeline):
        raise BadInput(Problem(what="no pipeline is declared", where=where))
    if declared.serves is None:
        raise BadInput(Problem(what="the pipeline does not say what is served", where=where, expected="serves=Serves(...)"))
    return declared.serves


def load_one(pipeline: str, variant: Variant, serves: Serves, store: Store, keys: Keyring) -> Served:
    """One variant: its run verified against the root that the release names, its artifacts by the seal's digests."""
    names = {role: f"{pipeline}/{a.name}" for role, a in serves.artifacts.items()}
    checked = verify(variant.run, _OnlyServed(store, frozenset(names.values())), keys, expected_root=variant.root)
    if problems := _against(checked, pipeline, variant, names):
        raise NotVerified(*problems, hint="this variant is not served: release a run that verifies")
    seal = checked.seal
    made = {i.name: i for i in seal.outputs} if seal else {}
    found = {role: _bytes(store, made[name]) for role, name in names.items()}
    report = _report(found["contract"], names["contract"])
    lineage = Lineage(
        variant=variant.name,
        run=variant.run,
        root=variant.root,
        model=variant.model,
        policy=made[names["rule"]].sha256,
        contract=made[names["contract"]].sha256,
    )
    model = build(found["model"], _report(found["rule"], names["rule"]), report, where=f"{variant.run}: {names['model']}")
    return Served(variant=variant, lineage=lineage, model=model, reference=found["reference"], report=report)


def _against(checked: Verification, pipeline: str, variant: Variant, names: Mapping[str, str]) -> list[Problem]:
    """All that speaks against serving a run: the chain, the gates, and whether it is the one that was released."""
    problems = [Problem(what=f.what, where=f.where) for f in checked.findings]
    if checked.seal is None:
        return problems or [Problem(what="no seal", where=variant.run)]
    seal, where = checked.seal, f"seal of {variant.run}"
    if seal.pipeline != pipeline:
        problems.append(Problem(what="a run of another pipeline", where=where, expected=pipeline, got=seal.pipeline))
    if not seal.outcome.good:
        problems.append(Problem(what="a gate refused the run, or it failed", where=where, expected="done or reused", got=seal.outcome))
    if not any(r.verdicts for r in checked.records.values()):
        problems.append(Problem(what="no gate has judged this run", where=where, expected="at least one verdict"))
    made = {i.name: i.sha256 for i in seal.outputs}
    problems += [Problem(what=f"it made no {n}", where=where) for n in names.values() if n not in made]
    if made.get(names["model"]) not in {None, variant.model}:
        problems.append(Problem(what="not the model that was released", where=where, expected=variant.model, got=made[names["model"]]))
    return problems


def _bytes(store: Store, item: Item) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "artifact"
        store.fetch_content(item, path)
        return path.read_bytes()


def _report(data: bytes, where: str) -> dict[str, Any]:
    try:
        report = canonical.decode(data)
    except canonical.NotCanonical as error:
        raise NotVerified(Problem(what=f"not a report: {error}", where=where)) from None
    if not isinstance(report, dict):
        raise NotVerified(Problem(what="not a report", where=where))
    return report


def build(text: bytes, rule: Mapping[str, Any], report: Mapping[str, Any], where: str) -> Model:
    """A model that answers, from the bytes of a run's artifacts; `NotVerified` where they do not fit one another."""
    try:
        contract, decides = contracts.read(report), read_rule(rule)
        forest = trees.read(text.decode())
        scorer = Scorer(text.decode(), len(forest.names))
    except (NotAContract, BadRule, NotAModel, trees.UnknownModel, UnicodeDecodeError, KeyError, ValueError) as error:
        raise NotVerified(Problem(what=f"cannot be served: {error}", where=where)) from None
    names = tuple(f.name for f in contract.features)
    if names != forest.names:
        raise NotVerified(Problem(what="the contract is of another model", where=where, expected=", ".join(forest.names)))
    if decides.attribute and decides.attribute not in contract.needs:
        raise NotVerified(
            Problem(what="the rule needs an attribute that the contract does not ask for", where=where, got=decides.attribute)
        )
    try:
        explainer = Explainer(forest)
    except TooLarge as error:
        log.warning("reasons come from LightGBM itself, which is slow", model=where, why=str(error))
        return Model(contract=contract, rule=decides, score=scorer.score, contributions=scorer.contributions())
    _agree(explainer, scorer, contract, where)
    return Model(contract=contract, rule=decides, score=scorer.score, contributions=explainer.contributions)


def _agree(explainer: Explainer, scorer: Scorer, contract: Contract, where: str) -> None:
    """Hold the tables against LightGBM on rows across the contract's bounds, before anybody is told a reason."""
    slow = scorer.contributions()
    for step in range(16):
        row = [_between(f.lowest, f.highest, sorted(f.codes), step * (i + 3) % 16 / 15) for i, f in enumerate(contract.features)]
        ours, theirs = explainer.contributions(row), slow(row)
        apart = max(abs(ours - theirs).max(), abs(ours.sum() + explainer.expected - scorer.raw(row)))
        if not apart <= CLOSE:
            raise NotVerified(
                Problem(what="reasons from tables differ from LightGBM's", where=where, expected=f"at most {CLOSE}", got=str(apart))
            )


def _between(low: float, high: float, codes: list[int], share: float) -> float:
    return float(codes[round(share * (len(codes) - 1))]) if codes else low + share * (high - low)
