"""From an application to an answer: score, decision, and what speaks against approval, in the contract's words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflows.serve.contract import Application, Contract
from workflows.serve.trees import Floats

APPROVED, DECLINED = "approved", "declined"
DIGITS = 9
"""Contributions are rounded so before they are ranked, as `steps.explain` does: what differs below is no reason."""


class Undecidable(Exception):
    """The model has no lawful answer: it declines and nothing lowered the score."""


class BadRule(ValueError):
    """The report is no decision rule that is known here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """From which score on an application is approved; in a group that `thresholds` names, from that of the group on."""

    threshold: float
    attribute: str | None = None
    thresholds: Mapping[str, float]

    def approves(self, score: float, groups: Mapping[str, str]) -> bool:
        if self.attribute is None:
            return score >= self.threshold
        return score >= self.thresholds.get(groups[self.attribute], self.threshold)


def read_rule(report: Mapping[str, Any]) -> Rule:
    """The rule of a run's report, as `steps.decisions` understands it."""
    try:
        if report["kind"] == "single":
            return Rule(threshold=float(report["threshold"]), thresholds={})
        if report["kind"] == "per_group":
            thresholds = {str(k): float(v) for k, v in report["thresholds"].items()}
            return Rule(threshold=float(report["threshold"]), attribute=str(report["attribute"]), thresholds=thresholds)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRule(f"not a decision rule: {type(error).__name__}: {error}") from None
    raise BadRule(f"a rule of kind {report['kind']!r}, expected single or per_group")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """One principal reason."""

    code: str
    words: str
    feature: str
    contribution: float
    """Log-odds, below zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The answer. Reasons, the weightiest first, where it is adverse or they were asked for."""

    score: float
    decision: str
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """All that answers depend on."""

    contract: Contract
    rule: Rule
    score: Callable[[Sequence[float]], float]
    """Row -> probability of approval."""
    contributions: Callable[[Sequence[float]], Floats]
    """Row -> log-odds that each feature adds."""

    def decide(self, application: Application) -> Decision:
        """The decision on an application that was checked. `Undecidable` where it would be adverse without a reason."""
        row = application.row
        score = self.score(row)
        approved = self.rule.approves(score, application.groups)
        if approved and not application.explain:
            return Decision(score=score, decision=APPROVED)
        reasons = self.reasons(row)
        if not approved and not reasons:
            raise Undecidable("declined, but nothing lowered the score")
        return Decision(score=score, decision=APPROVED if approved else DECLINED, reasons=reasons)

    def reasons(self, row: Sequence[float]) -> tuple[Reason, ...]:
        """What lowered the score most, as `steps.explain` ranks it: by contribution, ties by name."""
        features = self.contract.features
        worst = sorted(
            (c, f.name, i)
            for i, (v, f) in enumerate(zip(self.contributions(row).tolist(), features, strict=True))
            if (c := round(v, DIGITS)) < 0
        )
        return tuple(
            Reason(code=features[i].reason_code, words=features[i].reason_words, feature=name, contribution=c)
            for c, name, i in worst[: self.contract.most_reasons]
        )
