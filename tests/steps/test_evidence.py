"""Evaluation, fairness, explanation, and the gates that read them: figures as the field computes them, nothing passed by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from scipy.stats import binomtest, ks_2samp
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from steps import metrics
from steps.evaluate import check_labels, scored
from steps.explain import ExplainParams, Reason, explain
from steps.fairness import FairnessParams, fairness
from steps.lightgbm_profile import examples
from steps.mask import mask
from steps.types import BadData
from steps.validate import validate
from tests.steps import test_drift, test_mask, test_validate
from tests.steps.example import LATER, LATER_PROTECTED, PROTECTED, ROWS, evaluated, trained
from workflows.prove.gate import judge, read_rules

MADE = trained()
DONE = evaluated(MADE)

labelled = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20).map(lambda i: i / 20)), min_size=4, max_size=80).filter(
    lambda rows: {label for label, _ in rows} == {0, 1}
)


@settings(max_examples=50, deadline=None)
@given(labelled)
def test_measures_are_those_of_the_field_ties_included(rows: list[tuple[int, float]]) -> None:
    label = np.array([r[0] for r in rows], dtype=np.int64)
    score = np.array([r[1] for r in rows])
    assert metrics.auc(label, score) == pytest.approx(roc_auc_score(label, score))
    assert metrics.ks(label, score) == pytest.approx(ks_2samp(score[label == 0], score[label == 1], method="asymp").statistic)
    assert metrics.average_precision(label, score) == pytest.approx(average_precision_score(1 - label, -score))
    assert metrics.brier(label, score) == pytest.approx(brier_score_loss(label, score))


@pytest.mark.parametrize(("hits", "rows"), [(8, 10), (0, 7), (30, 30), (1, 1)])
def test_intervals_of_shares_are_wilsons(hits: int, rows: int) -> None:
    assert metrics.wilson(hits, rows) == pytest.approx(tuple(binomtest(hits, rows).proportion_ci(method="wilson")), abs=1e-9)


def test_calibration_error_by_hand() -> None:
    label, score = np.array([0, 1, 1, 1]), np.array([0.2, 0.4, 0.9, 0.9])
    assert metrics.calibration_error(label, score, 2) == pytest.approx((abs(0.3 - 0.5) + abs(0.9 - 1.0)) / 2)


def test_no_figure_is_nan() -> None:
    with pytest.raises(FloatingPointError):
        metrics.figure(float("nan"))


def test_a_report_holds_both_sides_with_intervals_around_the_value() -> None:
    report = DONE.evaluation
    for side, rows in (("out_of_fold", 700), ("holdout", 300)):
        assert report["rows"][side] == rows
        for name in ("auc", "average_precision", "ks", "brier", "approval_rate"):
            m = report[side][name]
            assert m["low"] < m["value"] < m["high"], (side, name)
        # Noise in a sample only adds to it, so the value may lie below its interval, but never above.
        m = report[side]["calibration_error"]
        assert 0 < m["low"] < m["high"] < 1
        assert 0 < m["value"] < m["high"]
        assert report["baseline"][side]["auc"]["value"] > 0.8
    assert report["holdout"]["auc"]["value"] == pytest.approx(roc_auc_score(LATER["label"], DONE.predictions["score"]), abs=1e-6)
    assert report["champion"] == {"status": "none", "auc_over_champion": {"value": None, "low": None, "high": None}}
    assert report["out_of_fold"]["auc_over_baseline"]["value"] == pytest.approx(
        report["out_of_fold"]["auc"]["value"] - report["baseline"]["out_of_fold"]["auc"]["value"], abs=1e-6
    )
    assert sum(p["rows"] for p in DONE.calibration["points"]) == 700
    assert evaluated(MADE).evaluation == report


def test_a_champion_is_judged_on_the_same_rows() -> None:
    weak = trained(profile={"monotone": {"income": -1, "debt": 1}})  # it may only learn the wrong way round
    champion = {"status": "appointed", "name": "old", "model": weak.model.model_to_string(), "decision_rule": weak.decision_rule}
    found = evaluated(MADE, champion=champion).evaluation["champion"]
    assert (found["status"], found["name"]) == ("compared", "old")
    assert found["auc_over_champion"]["low"] > 0


@pytest.mark.parametrize(
    "champion", [{"status": "appointed"}, {"status": "who"}, {"status": "appointed", "model": "no model", "decision_rule": {}}]
)
def test_a_champion_that_cannot_be_read(champion: Any) -> None:
    with pytest.raises(BadData, match="champion"):
        evaluated(MADE, champion=champion)


def test_rows_that_cannot_be_evaluated() -> None:
    with pytest.raises(BadData, match="all labels alike"):
        check_labels(examples(LATER.set_column(1, "label", pa.array([1] * 300, pa.int8())), "holdout_rows"), "holdout_rows")
    with pytest.raises(BadData, match="the model needs features"):
        evaluated(MADE, later=LATER.drop_columns(["debt"]))
    with pytest.raises(BadData, match="score is no probability"):
        scored(MADE.oof.set_column(2, "score", pa.array([1.5] * 700)))
    with pytest.raises(BadData, match="score is no probability"):
        scored(MADE.oof.set_column(2, "score", pa.array([float("nan")] * 700)))


# --- fairness

FAIRNESS = FairnessParams(attributes=[["race"], ["race", "sex"]], small_group=3, seed=1, resamples=40)


def decisions(*rows: tuple[str, str, int, bool]) -> tuple[pa.Table, pa.Table]:
    """(race, sex, label, approved) for each applicant."""
    subject = [f"s{i}" for i in range(len(rows))]
    made = ["approved" if r[3] else "declined" for r in rows]
    table = pa.table({"subject": subject, "label": pa.array([r[2] for r in rows], pa.int8()), "score": [0.5] * len(rows), "decision": made})
    return table, pa.table({"subject": subject, "race": [r[0] for r in rows], "sex": [r[1] for r in rows]})


BY_HAND = decisions(
    *[("white", "male", 1, True)] * 4, ("white", "female", 0, False),
    ("black", "male", 1, True), ("black", "male", 1, True), ("black", "female", 1, False), ("black", "female", 0, False),
    ("other", "male", 1, True),
)  # fmt: skip


def judged(made: tuple[pa.Table, pa.Table], params: FairnessParams = FAIRNESS) -> Any:
    table, protected = made
    return fairness(oof=table, train_protected=protected, predictions=table, holdout_protected=protected, params=params).fairness


def test_rates_by_hand() -> None:
    race = judged(BY_HAND)["out_of_fold"]["attributes"]["race"]
    white, black = race["groups"]["white"], race["groups"]["black"]
    assert (white["rows"], white["selection_rate"]) == (5, 0.8)
    assert (white["true_positive_rate"]["value"], white["false_positive_rate"]["value"]) == (1.0, 0.0)
    assert (black["rows"], black["selection_rate"], black["true_positive_rate"]["value"]) == (4, 0.5, 0.666667)
    ratio = race["selection_rate_ratio"]
    assert (ratio["value"], ratio["lowest_group"], ratio["highest_group"]) == (0.625, "black", "white")
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    assert race["equalized_odds_difference"]["value"] == pytest.approx(1 / 3, abs=1e-6)


def test_every_figure_of_a_group_has_its_interval() -> None:
    race = judged(BY_HAND)["out_of_fold"]["attributes"]["race"]
    white, other, odds = race["groups"]["white"], race["groups"]["other"], race["equalized_odds_difference"]
    assert (white["true_positive_rate"]["low"], white["true_positive_rate"]["high"]) == pytest.approx(metrics.wilson(4, 4), abs=1e-6)
    assert (white["false_positive_rate"]["low"], white["false_positive_rate"]["high"]) == pytest.approx(metrics.wilson(0, 1), abs=1e-6)
    # Scores are all 0.5 and four of five were approved: 0.5 - 0.8, and between -0.5 and 0.5 whatever is drawn.
    assert white["calibration"]["value"] == -0.3
    assert -0.5 <= white["calibration"]["low"] < -0.3 < white["calibration"]["high"] <= 0.5
    assert other["false_positive_rate"] == {"value": None, "low": None, "high": None}  # nobody was declined
    assert other["calibration"] == {"value": -0.5, "low": -0.5, "high": -0.5}  # one row, drawn again and again
    assert 0 <= odds["low"] <= odds["value"] <= odds["high"] <= 1
    assert judged(BY_HAND)["out_of_fold"]["attributes"]["race"] == race


def test_an_interval_of_equalised_odds_narrows_with_more_rows() -> None:
    few = [("white", "male", 1, True)] * 9 + [("white", "male", 1, False)] + [("white", "male", 0, False)] * 5
    few += [("black", "male", 1, True)] * 6 + [("black", "male", 1, False)] * 4 + [("black", "male", 0, False)] * 5
    width = []
    for times in (1, 100):
        odds = judged(decisions(*(few * times)), FAIRNESS.model_copy(update={"resamples": 400}))["out_of_fold"]["attributes"]["race"][
            "equalized_odds_difference"
        ]
        assert odds["value"] == pytest.approx(0.3)
        assert odds["low"] < 0.3 < odds["high"]
        width.append(odds["high"] - odds["low"])
    assert width[1] < width[0] / 5


def test_a_group_of_one_is_shown_and_compared_with_nobody() -> None:
    race = judged(BY_HAND)["out_of_fold"]["attributes"]["race"]
    assert race["groups"]["other"]["status"] == "inconclusive"
    assert race["groups"]["other"]["selection_rate"] == 1.0
    assert race["selection_rate_ratio"]["highest_group"] == "white"


def test_only_small_groups_are_no_finding() -> None:
    both = judged(BY_HAND, FAIRNESS.model_copy(update={"small_group": 5}))["holdout"]["attributes"]["race"]
    assert both["selection_rate_ratio"]["value"] is None
    assert both["selection_rate_ratio"]["status"] == both["equalized_odds_difference"]["status"] == "inconclusive"


def test_nobody_approved_is_no_fairness() -> None:
    none = decisions(*[("white", "male", 1, False)] * 4, *[("black", "male", 0, False)] * 4)
    ratio = judged(none)["out_of_fold"]["attributes"]["race"]["selection_rate_ratio"]
    assert ratio["value"] is None
    assert ratio["why"] == "nobody was approved"


def test_attributes_are_crossed() -> None:
    crossed = judged(BY_HAND)["out_of_fold"]["attributes"]["race+sex"]["groups"]
    assert {g: v["rows"] for g, v in crossed.items()} == {
        "black+female": 2, "black+male": 2, "other+male": 1, "white+female": 1, "white+male": 4,
    }  # fmt: skip


def test_decisions_that_cannot_be_compared() -> None:
    table, protected = BY_HAND
    for wrong, message in [
        ((table, protected.drop_columns(["race"])), "protected attribute absent"),
        ((table, protected.take(list(range(9, -1, -1)))), "subjects differ"),
        ((table, protected.set_column(1, "race", pa.array([None] * 10, pa.string()))), "protected attribute is null"),
        ((table.slice(0, 0), protected.slice(0, 0)), "no decisions to compare"),
    ]:
        with pytest.raises(BadData, match=message):
            judged(wrong)


# --- explain

REASONS = {n: Reason(code=n[:1].upper(), words=f"the applicant's {n}") for n in ("income", "debt", "gap", "code")}
EXPLAIN = ExplainParams(num_threads=1, most_reasons=2, reasons=REASONS)


def explained(params: ExplainParams = EXPLAIN, predictions: pa.Table = DONE.predictions) -> Any:
    return explain(model=MADE.model, decision_rule=MADE.decision_rule, holdout_rows=LATER, predictions=predictions, params=params)


def test_every_declined_applicant_gets_reasons_in_words_and_nobody_else() -> None:
    rows = explained().reasons.to_pylist()
    declined = {r["subject"] for r in DONE.predictions.to_pylist() if r["decision"] == "declined"}
    assert {r["subject"] for r in rows} == declined
    for subject in declined:
        own = [r for r in rows if r["subject"] == subject]
        assert [r["rank"] for r in own] == list(range(1, len(own) + 1))
        assert 1 <= len(own) <= 2
        assert all(r["contribution"] < 0 for r in own)
        assert [r["contribution"] for r in own] == sorted(r["contribution"] for r in own)
        assert all(r["words"] == REASONS[r["feature"]].words for r in own)


def test_what_decides_most_stands_first() -> None:
    points = explained().importance["points"]
    assert {p["feature"] for p in points[:2]} == {"income", "debt"}
    assert [p["contribution"] for p in points] == sorted((p["contribution"] for p in points), reverse=True)


def test_explanations_that_cannot_be() -> None:
    with pytest.raises(BadData, match="feature has no reason code"):
        explained(EXPLAIN.model_copy(update={"reasons": {"income": REASONS["income"]}}))
    other = DONE.predictions.set_column(2, "score", pa.array([0.1] * 300))
    with pytest.raises(BadData, match="contributions do not add up"):
        explained(predictions=other)
    with pytest.raises(BadData, match="subjects differ"):
        explained(predictions=DONE.predictions.take(list(range(299, -1, -1))))


# --- the gates of the loan pipeline

POLICY = YAML(typ="safe").load(Path(__file__).parents[2] / "params/policies/loan_approval.yaml")


def value_at(path: str, value: Any) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    return {head: value_at(rest, value) if rest else value}


def merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    both = {**a, **b}
    return both | {k: merged(a[k], b[k]) for k in a.keys() & b.keys() if isinstance(a[k], dict)}


def limit_of(rule: dict[str, Any]) -> float:
    return float(rule["at_least"] if "at_least" in rule else rule["at_most"])


def report_for(gate: str, **changed: Any) -> dict[str, Any]:
    """A report in which every metric of the gate stands exactly at its bound, but for those changed, by number of the rule."""
    found: dict[str, Any] = {}
    for i, rule in enumerate(POLICY[gate]):
        found = merged(found, value_at(rule["metric"], changed.get(f"rule{i}", limit_of(rule))))
    return found


EVERY_RULE = [(g, i) for g, rules in POLICY.items() for i in range(len(rules))]


@pytest.mark.parametrize(("gate", "number"), EVERY_RULE)
def test_each_rule_of_each_gate_can_say_no(gate: str, number: int) -> None:
    rules = read_rules(gate, POLICY[gate])
    assert judge(gate, "report", rules, report_for(gate)).says == "yes"
    rule = POLICY[gate][number]
    beyond = limit_of(rule) - 0.001 if "at_least" in rule else limit_of(rule) + 0.001
    bads: tuple[Any, ...] = (beyond, float("nan"), "0.9", True, {})
    for bad in bads:
        assert judge(gate, "report", rules, report_for(gate, **{f"rule{number}": bad})).says == "no", bad
    assert judge(gate, "report", rules, report_for(gate, **{f"rule{number}": None})).says == rule.get("if_missing", "no")
    assert judge(gate, "report", rules, {}).says == "no"


def test_nothing_but_that_nobody_is_in_use_yet_may_be_missing() -> None:
    assert [r["metric"] for rules in POLICY.values() for r in rules if r.get("if_missing") == "yes"] == ["champion.auc_over_champion.high"]


def test_the_policy_says_what_an_inconclusive_comparison_means() -> None:
    """Too few in every group but one: nothing can be compared, and the policy says in so many words that this is a no."""
    assert {rule["if_missing"] for rule in POLICY["fair"]} == {"no"}
    only_small = judged(BY_HAND, FAIRNESS.model_copy(update={"attributes": [["race"], ["sex"]], "small_group": 30}))
    only_small["out_of_fold"]["attributes"]["ethnicity"] = only_small["out_of_fold"]["attributes"]["race"]
    verdict = judge("fair", "fairness", read_rules("fair", POLICY["fair"]), only_small)
    assert {(r.says, r.why) for r in verdict.rules} == {("no", "no value: the step could not establish it")}


# --- the same gates on what the steps make of data that is bad


def refused(gate: str, report: dict[str, Any]) -> set[str]:
    """The metrics for which this gate says no to this report."""
    verdict = judge(gate, "report", read_rules(gate, POLICY[gate]), report)
    assert verdict.says == ("no" if any(r.says == "no" for r in verdict.rules) else "yes")
    return {r.metric for r in verdict.rules if r.says == "no"}


def test_the_privacy_gate_refuses_small_groups_and_rows_dropped_for_want_of_company() -> None:
    def masking(**changes: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"masking_key": b"k" * 32, "params": test_mask.params(wanted_k=changes.pop("wanted_k", 5))}
        return mask(applications=test_mask.people(100, **changes), **given).masking

    assert refused("privacy", masking()) == set()
    few = [3] * 4 + [0] * 96  # two women and two men with three children: enough for a step that is asked for two
    assert refused("privacy", masking(dep=few, wanted_k=2)) == {"k"}
    assert refused("privacy", masking(dep=few)) == set()
    alone = pa.array([None] * 3 + [0, 1] * 48 + [0])  # three of unknown sex, which is never blanked
    assert refused("privacy", masking(male=alone)) == {"suppressed_ratio"}


def test_the_data_quality_gate_refuses_bad_rows_and_few_rows() -> None:
    def validation(rows: int, bad: int) -> dict[str, Any]:
        table = test_validate.rows()
        many = table.take([0] * rows).set_column(0, "subject", pa.array([f"s{i}" for i in range(rows)]))
        term = pa.array([999.0] * bad + [360.0] * (rows - bad))
        return validate(masked=many.set_column(table.column_names.index("term"), "term", term), params=test_validate.PARAMS).validation

    assert refused("data_quality", validation(1200, 60)) == set()
    assert refused("data_quality", validation(1200, 120)) == {"quarantined_ratio"}
    assert refused("data_quality", validation(999, 0)) == {"valid"}


def test_the_stable_gate_refuses_planted_drift() -> None:
    same = test_drift.report()
    assert refused("stable", same) == set()
    assert refused("stable", test_drift.report(test_drift.MOVED)) == {"drifted_ratio", "max_psi"}
    scores = test_drift.scored(test_drift.NOW, 2)
    turned = scores.set_column(2, "score", pa.array(1 - scores["score"].to_numpy()))
    assert refused("stable", test_drift.report(predictions=turned)) == {"score.psi", "performance.auc_drop"}


def test_the_performance_gate_refuses_labels_that_are_noise() -> None:
    assert refused("performance", DONE.evaluation) == set()
    noise = np.random.default_rng(0).integers(0, 2, ROWS.num_rows + LATER.num_rows)
    rows = ROWS.set_column(1, "label", pa.array(noise[: ROWS.num_rows], pa.int8()))
    later = LATER.set_column(1, "label", pa.array(noise[ROWS.num_rows :], pa.int8()))
    learned = evaluated(trained(rows), rows, later).evaluation
    assert refused("performance", learned) >= {"out_of_fold.auc.value", "out_of_fold.ks.value", "holdout.auc.high"}
    # A model that learned what is there, and labels of the hold-out that have nothing to do with it.
    assert refused("performance", evaluated(MADE, later=later).evaluation) == {"holdout.auc.high"}


def test_the_performance_gate_refuses_a_model_worse_than_the_one_in_use() -> None:
    weak = trained(profile={"monotone": {"income": -1, "debt": 1}})
    champion = {"status": "appointed", "name": "good", "model": MADE.model.model_to_string(), "decision_rule": MADE.decision_rule}
    assert "champion.auc_over_champion.high" in refused("performance", evaluated(weak, champion=champion).evaluation)


def test_every_threshold_has_its_reason() -> None:
    assert all(len(rule["because"].split()) > 8 for rules in POLICY.values() for rule in rules)


def test_a_model_that_fails_fairness_is_refused() -> None:
    found = fairness(
        oof=MADE.oof,
        train_protected=PROTECTED,
        predictions=DONE.predictions,
        holdout_protected=LATER_PROTECTED,
        params=FairnessParams(attributes=[["race"], ["sex"]], small_group=30, seed=1, resamples=40),
    ).fairness
    found["out_of_fold"]["attributes"]["race"]["selection_rate_ratio"]["value"] -= 0.1
    verdict = judge("fair", "fairness", read_rules("fair", POLICY["fair"]), found)
    assert verdict.says == "no"
    assert ROWS.num_rows == found["out_of_fold"]["rows"]
