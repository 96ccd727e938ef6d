"""Gates fail closed: whatever is missing, empty or no number says no."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.prove.gate import BadPolicy, BadVerdict, Rule, Verdict, judge, read_rules, says

SOUND: dict[str, Any] = {"metric": "auc.value", "at_least": 0.7, "because": "agreed with risk"}


def verdict(report: Any, **rule: Any) -> Verdict:
    return judge("good", "evaluation", (Rule(**{**SOUND, **rule}),), report)


def test_a_metric_that_meets_its_threshold_says_yes() -> None:
    assert verdict({"auc": {"value": 0.7}}).says == "yes"
    assert verdict({"auc": {"value": 1}}).says == "yes"
    assert verdict({"auc": {"value": 0.7}}, at_least=None, at_most=0.7).says == "yes"


@pytest.mark.parametrize(
    ("report", "why"),
    [
        pytest.param({"auc": {"value": 0.69999}}, "is below 0.7", id="below"),
        pytest.param({}, "no such metric", id="empty report"),
        pytest.param({"auc": {}}, "no such metric", id="missing"),
        pytest.param({"auc": 0.9}, "no such metric", id="a number where a section should be"),
        pytest.param({"auc": [0.9]}, "no such metric", id="a list where a section should be"),
        pytest.param({"auc": {"value": None}}, "no value", id="null"),
        pytest.param({"auc": {"value": math.nan}}, "not a finite number", id="NaN"),
        pytest.param({"auc": {"value": math.inf}}, "not a finite number", id="infinity"),
        pytest.param({"auc": {"value": True}}, "not a finite number but bool", id="bool"),
        pytest.param({"auc": {"value": "0.9"}}, "not a finite number but str", id="string"),
        pytest.param({"auc": {"value": {}}}, "not a finite number but dict", id="section"),
        pytest.param({"auc": {"value": [0.9]}}, "not a finite number but list", id="list"),
    ],
)
def test_anything_else_says_no_and_why(report: Any, why: str) -> None:
    found = verdict(report)
    assert found.says == "no"
    assert why in found.rules[0].why


def test_above_a_ceiling_says_no() -> None:
    found = verdict({"auc": {"value": 0.71}}, at_least=None, at_most=0.7)
    assert (found.says, found.rules[0].why) == ("no", "0.71 is above 0.7")


def test_a_gate_without_rules_says_no() -> None:
    assert judge("good", "evaluation", (), {"auc": {"value": 1.0}}).says == "no"


def test_a_null_says_what_the_policy_chose() -> None:
    assert verdict({"auc": {"value": None}}, if_missing="yes").says == "yes"
    assert verdict({"auc": {}}, if_missing="yes").says == "no"  # a null is a finding; a metric that is not there is a mistake
    assert verdict({"auc": {"value": math.nan}}, if_missing="yes").says == "no"


GROUPS = {"metric": "groups.*.rate"}


def test_a_star_stands_for_every_group_and_each_must_pass() -> None:
    assert verdict({"groups": {"a": {"rate": 0.8}, "b": {"rate": 0.9}}}, **GROUPS).says == "yes"
    found = verdict({"groups": {"a": {"rate": 0.8}, "b": {"rate": 0.6}}}, **GROUPS)
    assert [(r.metric, r.says) for r in found.rules] == [("groups.a.rate", "yes"), ("groups.b.rate", "no")]
    assert found.says == "no"


@pytest.mark.parametrize(
    "groups", [{}, {"a": {"rate": 0.8}, "b": {}}, {"a": {"rate": 0.8}, "b": 1}, {"a": {"rate": 0.8}, "b": {"rate": None}}, None]
)
def test_a_star_does_not_pass_on_the_strength_of_some(groups: Any) -> None:
    assert verdict({"groups": groups}, **GROUPS).says == "no"


def test_one_rule_that_says_no_is_enough() -> None:
    rules = (Rule(**SOUND), Rule(metric="ks", at_least=0.2, because="b"))
    assert judge("good", "evaluation", rules, {"auc": {"value": 0.9}, "ks": 0.1}).says == "no"


@pytest.mark.parametrize("raw", [None, [], {}, "x", 3])
def test_a_policy_without_rules_is_refused(raw: Any) -> None:
    with pytest.raises(BadPolicy, match="expected a list of rules"):
        read_rules("good", raw)


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("x", "expected a mapping"),
        ({**SOUND, "at_laest": 1}, "unknown key 'at_laest'"),
        ({**SOUND, "at_most": 1}, "exactly one of at_least and at_most"),
        ({"metric": "a", "because": "b"}, "exactly one of at_least and at_most"),
        ({**SOUND, "at_least": math.nan}, "finite number"),
        ({**SOUND, "at_least": "0.7"}, "finite number"),
        ({**SOUND, "at_least": True}, "finite number"),
        ({**SOUND, "at_least": None}, "finite number"),
        ({**SOUND, "because": " "}, "because is missing"),
        ({"at_least": 1, "because": "b"}, "metric is missing"),
        ({**SOUND, "if_missing": True}, "in quotes"),
    ],
)
def test_a_rule_that_cannot_be_judged_by_is_refused(rule: Any, wrong: str) -> None:
    with pytest.raises(BadPolicy, match="(?s)" + wrong):
        read_rules("good", [rule])


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(BadPolicy) as caught:
        read_rules("good", [{**SOUND, "x": 1}, {"metric": ""}])
    assert len(str(caught.value).splitlines()) == 4


reports = st.dictionaries(st.sampled_from(["a", "b"]), st.none() | st.floats() | st.booleans() | st.text(max_size=2), max_size=2)


@given(reports, st.sampled_from(["a", "*", "c"]), st.sampled_from(["yes", "no"]))
def test_a_recorded_verdict_says_what_was_judged(report: Any, metric: str, if_missing: Any) -> None:
    found = verdict(report, metric=metric, if_missing=if_missing)
    assert says(found.to_json()) == found.says


def test_a_recorded_verdict_that_says_something_else_is_refused() -> None:
    sound = verdict({"auc": {"value": 0.5}}).to_json()
    rule = sound["rules"][0]
    for bad in (
        {**sound, "says": "yes"},
        {**sound, "rules": [{**rule, "says": "yes"}]},
        {**sound, "rules": [{**rule, "value": 0.9}]},
        {**sound, "rules": [{**rule, "value": True}]},
        {**sound, "rules": [{**rule, "at_least": "0"}]},
        {**sound, "rules": [{**rule, "at_most": 1}]},
        {**sound, "rules": [{**rule, "says": "maybe"}]},
        {**sound, "rules": [], "says": "yes"},
        {**sound, "rules": None},
        {**sound, "rules": ["x"]},
        {"says": "yes"},
        None,
    ):
        with pytest.raises(BadVerdict):
            says(bad)
