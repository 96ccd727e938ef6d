"""Gates: does the evidence meet the policy? They fail closed: missing, empty, not a number, unknown are all a no."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Says = Literal["yes", "no"]
RULE_KEYS = {"metric", "at_least", "at_most", "because", "if_missing"}


class BadPolicy(ValueError):
    """A policy that cannot be judged by."""


class BadVerdict(ValueError):
    """A verdict that does not follow from the evidence it gives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One threshold, and why it has that value.

    `metric` is a dotted path into the report; `*` stands for every key at that level, and then each must pass.
    Exactly one of `at_least` and `at_most` is set; both include the threshold itself.
    """

    metric: str
    because: str
    at_least: float | None = None
    at_most: float | None = None
    if_missing: Says = "no"
    """What a null says: a value that the step could not establish, such as the rate of a group too small to tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleVerdict:
    """What one rule says of one number."""

    rule: Rule
    metric: str
    value: float | None
    says: Says
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a gate says: yes only where it has rules and each says yes."""

    gate: str
    artifact: str
    rules: tuple[RuleVerdict, ...]

    @property
    def says(self) -> Says:
        return "yes" if self.rules and all(r.says == "yes" for r in self.rules) else "no"

    def to_json(self) -> dict[str, Any]:
        return {"gate": self.gate, "says": self.says, "rules": [_rule_json(self.artifact, r) for r in self.rules]}


def read_rules(gate: str, raw: object) -> tuple[Rule, ...]:
    """The rules of one gate from its section of a policy file; `BadPolicy` lists all that is wrong."""
    if not isinstance(raw, list) or not raw:
        raise BadPolicy(f"{gate}: expected a list of rules; an empty gate would let everything pass")
    wrong = [f"{gate}[{i}]: {w}" for i, r in enumerate(raw) for w in _wrong_with(r)]
    if wrong:
        raise BadPolicy("\n".join(wrong))
    return tuple(Rule(**r) for r in raw)


def judge(gate: str, artifact: str, rules: Sequence[Rule], report: Mapping[str, Any]) -> Verdict:
    """What `rules` say of a report. A metric that is not there says no."""
    found = [v for rule in rules for v in _apply(rule, report)]
    return Verdict(gate=gate, artifact=artifact, rules=tuple(found))


def says(verdict: object) -> Says:
    """What a recorded verdict says, worked out anew from its numbers; `BadVerdict` where it says something else.

    A rule without a value says what its policy chose for a missing one, which the verdict does not repeat.
    """
    if not isinstance(verdict, Mapping) or not isinstance(verdict.get("gate"), str):
        raise BadVerdict("a verdict without a gate")
    rules = verdict.get("rules")
    if not isinstance(rules, list):
        raise BadVerdict(f"{verdict['gate']!r} lists no rules")
    said: list[Says] = [_recorded(r) for r in rules]
    found: Says = "yes" if said and all(s == "yes" for s in said) else "no"
    if verdict.get("says") != found:
        raise BadVerdict(f"{verdict['gate']!r} says {verdict.get('says')!r}, but its rules come to {found}")
    return found


def _recorded(rule: object) -> Says:
    limits = {"at_least", "at_most"} & set(rule) if isinstance(rule, Mapping) else set()
    if not isinstance(rule, Mapping) or len(limits) != 1 or rule.get("says") not in {"yes", "no"}:
        raise BadVerdict("a rule that cannot be read")
    limit, value, said = rule[next(iter(limits))], rule.get("value"), rule["says"]
    if value is None:
        return said  # type: ignore[no-any-return]  # one of the two, as checked
    if not _is_number(limit) or not _is_number(value):
        raise BadVerdict(f"{rule.get('metric')!r} compares what is no number")
    found: Says = "yes" if (value >= limit if "at_least" in limits else value <= limit) else "no"
    if said != found:
        raise BadVerdict(f"{rule.get('metric')!r} says {said}, but {value!r} against {limit!r} is {found}")
    return found


def _wrong_with(rule: object) -> list[str]:
    if not isinstance(rule, dict):
        return [f"expected a mapping, got {type(rule).__name__}"]
    wrong = [f"unknown key {k!r}" for k in sorted(map(str, set(rule) - RULE_KEYS))]
    wrong += [f"{k} is missing or not text" for k in ("metric", "because") if not isinstance(rule.get(k), str) or not rule[k].strip()]
    limits = [k for k in ("at_least", "at_most") if k in rule]
    if len(limits) != 1:
        wrong.append("expected exactly one of at_least and at_most")
    wrong += [f"{k} must be a finite number, got {rule[k]!r}" for k in limits if not _is_number(rule[k])]
    if rule.get("if_missing", "no") not in {"yes", "no"}:
        wrong.append(f"if_missing must be 'yes' or 'no' (in quotes), got {rule['if_missing']!r}")
    return wrong


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _apply(rule: Rule, report: Mapping[str, Any]) -> list[RuleVerdict]:
    found = list(_find(report, rule.metric.split("."), ()))
    if not found:
        return [RuleVerdict(rule=rule, metric=rule.metric, value=None, says="no", why="no such metric in the report")]
    return [_one(rule, path, value) for path, value in found]


def _find(node: object, path: Sequence[str], walked: tuple[str, ...]) -> list[tuple[str, object]]:
    if not path:
        return [(".".join(walked), node)]
    if not isinstance(node, Mapping):
        return []
    keys = sorted(node) if path[0] == "*" else [path[0]] if path[0] in node else []
    found = [_find(node[k], path[1:], (*walked, k)) for k in keys]
    # A `*` under which only some keys have the metric must not pass on the strength of those that do.
    return [] if any(not f for f in found) else [x for f in found for x in f]


def _one(rule: Rule, metric: str, value: object) -> RuleVerdict:
    if value is None:
        why = "" if rule.if_missing == "yes" else "no value: the step could not establish it"
        return RuleVerdict(rule=rule, metric=metric, value=None, says=rule.if_missing, why=why)
    if not _is_number(value):
        return RuleVerdict(rule=rule, metric=metric, value=None, says="no", why=f"not a finite number but {type(value).__name__}")
    number = float(value)  # type: ignore[arg-type]  # _is_number saw to it
    if rule.at_least is not None and number < rule.at_least:
        return RuleVerdict(rule=rule, metric=metric, value=number, says="no", why=f"{number:.6g} is below {rule.at_least:g}")
    if rule.at_most is not None and number > rule.at_most:
        return RuleVerdict(rule=rule, metric=metric, value=number, says="no", why=f"{number:.6g} is above {rule.at_most:g}")
    return RuleVerdict(rule=rule, metric=metric, value=number, says="yes")


def _rule_json(artifact: str, verdict: RuleVerdict) -> dict[str, Any]:
    rule = verdict.rule
    limit = {"at_least": rule.at_least} if rule.at_least is not None else {"at_most": rule.at_most}
    why = {"why": verdict.why} if verdict.why else {}
    return {
        "metric": verdict.metric,
        "where": artifact,
        **limit,
        "value": verdict.value,
        "says": verdict.says,
        **why,
        "because": rule.because,
    }
