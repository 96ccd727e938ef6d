"""An application is held to the contract, everything wrong at once; decisions and reasons are those that the steps make."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.decisions import approvals
from steps.explain import ExplainParams, Reason, explain
from tests.serve.world import DECLINED, FEATURES
from tests.steps.example import LATER, evaluated, trained
from tests.steps.test_contract import PARAMS
from workflows.serve import contract as contracts
from workflows.serve.contract import MOST_PROBLEMS, BadApplication, Contract, NotAContract
from workflows.serve.decide import BadRule, Rule, Undecidable, read_rule
from workflows.serve.loading import Served


@pytest.fixture
def contract(served: Served) -> Contract:
    return served.model.contract


def body(features: Any = FEATURES, **how: Any) -> dict[str, Any]:
    return {"subject": "somebody", "features": features, **how}


def wrong(contract: Contract, sent: Any) -> list[tuple[str, str]]:
    with pytest.raises(BadApplication) as found:
        contract.check(sent)
    return [(p.where, p.what) for p in found.value.problems]


def test_an_application_that_keeps_to_it(contract: Contract) -> None:
    assert contract.check(body()).row == [0.1, 0.4, 0.25, 1.0]
    assert np.isnan(contract.check(body(DECLINED)).row[2])
    left_out = {k: v for k, v in FEATURES.items() if k != "gap"}
    assert np.isnan(contract.check(body(left_out)).row[2])
    assert contract.check(body({**FEATURES, "code": 1.0, "income": 1})).values == (1.0, 0.4, 0.25, 1)
    both = contract.check(body(groups={"race": "black"}, explain=True))
    assert (both.groups, both.explain) == ({"race": "black"}, True)


NAN, HUGE = float("nan"), 10**400


@pytest.mark.parametrize(
    ("sent", "problems"),
    [
        ([], [("body", "wrong type")]),
        ({}, [("subject", "missing or no name for a subject"), ("features", "missing")]),
        (body([]), [("features", "wrong type")]),
        (body({**FEATURES, "income": None}), [("features.income", "missing")]),
        (body({**FEATURES, "income": True}), [("features.income", "wrong type")]),
        (body({**FEATURES, "income": "1"}), [("features.income", "wrong type")]),
        (body({**FEATURES, "income": NAN}), [("features.income", "out of range")]),
        (body({**FEATURES, "income": 10.000001}), [("features.income", "out of range")]),
        (body({**FEATURES, "income": HUGE}), [("features.income", "out of range")]),
        (body({**FEATURES, "code": 1.5}), [("features.code", "unknown code")]),
        (body({**FEATURES, "code": 3}), [("features.code", "unknown code")]),
        (body({**FEATURES, "other": 1}), [("features.other", "unknown feature")]),
        # As many as the model has, one of them misspelt where another may be missing.
        (body({"income": 1, "debt": 1, "code": 1, "gpa": 1}), [("features.gpa", "unknown feature")]),
        (body(subject=""), [("subject", "missing or no name for a subject")]),
        (body(subject="\ud800"), [("subject", "missing or no name for a subject")]),
        (body(subject=4), [("subject", "missing or no name for a subject")]),
        (body(groups={"race": "green"}), [("groups.race", "unknown group")]),
        (body(groups={"age": "old"}), [("groups.age", "unknown attribute")]),
        (body(groups=3, explain=1), [("explain", "wrong type"), ("groups", "wrong type")]),
        (
            {"features": {"income": 99, "debt": "x", "zzz": 1}, "b": 1},
            [
                ("b", "unknown field"),
                ("subject", "missing or no name for a subject"),
                ("features.zzz", "unknown feature"),
                ("features.income", "out of range"),
                ("features.debt", "wrong type"),
                ("features.code", "missing"),
            ],
        ),
    ],
)
def test_everything_wrong_is_said_at_once(contract: Contract, sent: Any, problems: list[tuple[str, str]]) -> None:
    assert wrong(contract, sent) == problems


def test_whoever_sends_ten_thousand_fields_gets_a_short_answer(contract: Contract) -> None:
    assert len(wrong(contract, body({f"x{i}": 1 for i in range(10_000)}))) == MOST_PROBLEMS


def test_features_that_must_agree(served: Served) -> None:
    report = {**served.report, "ratios": [{"ratio": "gap", "of": "debt", "to": "income", "tolerance": 0.001}]}
    contract = contracts.read(report)
    assert contract.check(body({"income": 2, "debt": 1, "gap": 0.5, "code": 0})).row[2] == 0.5
    assert wrong(contract, body({"income": 2, "debt": 1, "gap": 0.6, "code": 0})) == [("features.gap", "does not agree")]
    assert wrong(contract, body({"income": 0, "debt": 1, "gap": 0.6, "code": 0})) == [("features.gap", "does not agree")]
    assert contract.check(body({"income": 0, "debt": 1, "gap": None, "code": 0})).values[2] is None


def test_where_two_contracts_differ_is_said(contract: Contract) -> None:
    assert list(contracts.differences(contract, contract)) == []
    turned = replace(contract, features=contract.features[::-1], groups={"race": frozenset({"white"})})
    assert list(contracts.differences(contract, turned)) == [
        ("features", "income, debt, gap, code", "code, gap, debt, income"),
        ("groups", "race: black, white", "race: white"),
    ]
    *others, code = contract.features
    fewer = replace(contract, features=(*others, replace(code, codes=frozenset({0, 1}))), needs=("race",))
    assert list(contracts.differences(contract, fewer)) == [("features.code.codes", "0, 1, 2", "0, 1"), ("needs", "none", "race")]


def test_what_the_rule_needs_must_be_said(served: Served) -> None:
    contract = contracts.read({**served.report, "rule": {"kind": "per_group", "needs": ["race"]}})
    assert wrong(contract, body()) == [("groups.race", "missing: the decision rule needs it")]
    assert contract.check(body(groups={"race": "white"})).groups == {"race": "white"}


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*FEATURES, "subject", "features", "x"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(sent=json_like, features=st.dictionaries(st.sampled_from([*FEATURES, "x"]), json_like, max_size=5))
def test_whatever_is_sent_is_decided_or_refused(served: Served, sent: Any, features: Any) -> None:
    for said in (sent, body(features), body(FEATURES, groups=sent)):
        with suppress(BadApplication):  # any other error fails
            assert 0 <= served.model.decide(served.model.contract.check(said)).score <= 1


def test_decisions_and_reasons_are_those_of_the_steps(served: Served) -> None:
    """Hold-out rows through the server's core, against `evaluate` and `explain` on the same model."""
    made = trained()
    done = evaluated(made)
    params = ExplainParams(num_threads=1, most_reasons=4, reasons={k: Reason(**v) for k, v in PARAMS["reasons"].items()})
    told = explain(model=made.model, decision_rule=made.decision_rule, holdout_rows=LATER, predictions=done.predictions, params=params)
    theirs: dict[str, list[Any]] = {}
    for row in told.reasons.to_pylist():
        theirs.setdefault(row["subject"], []).append((row["code"], row["words"], row["feature"], row["contribution"]))
    names = [f.name for f in served.model.contract.features]
    for row, said in zip(LATER.to_pylist(), done.predictions.to_pylist(), strict=True):
        answer = served.model.decide(served.model.contract.check(body({n: row[n] for n in names})))
        assert (answer.score, answer.decision) == (said["score"], said["decision"])
        assert [(r.code, r.words, r.feature, r.contribution) for r in answer.reasons] == theirs.get(row["subject"], [])


def test_rules_decide_as_the_steps_do() -> None:
    import pyarrow as pa

    per_group = {"kind": "per_group", "attribute": "race", "threshold": 0.5, "thresholds": {"black": 0.25}, "needs": ["race"]}
    races = ["white", "black", "unknown"] * 3
    scores = np.array([0.2, 0.25, 0.5, 0.5, 0.3, 0.4, 0.9, 0.1, 0.49])
    for rule in (per_group, {"kind": "single", "threshold": 0.4, "needs": []}):
        theirs = approvals(scores, rule, pa.table({"race": races}))
        ours = [read_rule(rule).approves(s, {"race": r}) for s, r in zip(scores.tolist(), races, strict=True)]
        assert ours == theirs.tolist()


@pytest.mark.parametrize("rule", [{}, {"kind": "random"}, {"kind": "single"}, {"kind": "per_group", "threshold": 0.5}])
def test_a_rule_of_another_form_is_refused(rule: Any) -> None:
    with pytest.raises(BadRule):
        read_rule(rule)


@pytest.mark.parametrize("change", [{"format": "other"}, {"features": None}, {"rule": {}}, {"features": [{"name": "x"}]}])
def test_a_contract_of_another_form_is_refused(served: Served, change: Any) -> None:
    with pytest.raises(NotAContract):
        contracts.read({**served.report, **change})


def test_no_adverse_decision_without_a_reason(served: Served) -> None:
    strict = replace(served.model, rule=Rule(threshold=2.0, thresholds={}), contributions=lambda row: np.ones(len(row)))
    with pytest.raises(Undecidable):
        strict.decide(strict.contract.check(body()))
