"""Search, training and mitigation: what they must find in made-up applications, what they must refuse, the same bytes every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from steps.decisions import approvals
from steps.lightgbm_profile import Profile
from steps.mitigation import group_thresholds, selection_rate_ratio
from steps.train import best_of
from steps.tune import TuneParams, tune
from steps.types import BadData
from tests.conftest import lacking
from tests.steps.example import LATER, PROFILE, PROTECTED, ROWS, TRIAL, trained

TUNE: dict[str, Any] = {
    "profile": Profile(**PROFILE), "seed": 5, "trials": 3, "rounds": [10, 20], "num_leaves": [3, 7], "min_data_in_leaf": [10, 20],
    "learning_rate": [0.05, 0.2], "lambda_l2": [0.1, 1.0], "feature_fraction": [0.8, 1.0],
}  # fmt: skip


# --- tune


def test_a_search_finds_the_same_and_reports_every_trial() -> None:
    first, second = (tune(train_rows=ROWS, search="1", params=TuneParams(**TUNE)).trial for _ in range(2))
    assert first == second
    assert first["seed"] == 6
    assert len(first["trials"]) == 3
    assert first["best"]["log_loss"] == min(t["log_loss"] for t in first["trials"]) < np.log(2)


def test_searches_differ_by_seed() -> None:
    assert len({tune(train_rows=ROWS, search=s, params=TuneParams(**TUNE)).trial["best"]["params"]["learning_rate"] for s in "01"}) == 2


@pytest.mark.parametrize(
    ("how", "search", "message"),
    [
        ({"rounds": [20, 10]}, "0", "range is empty"),
        ({"lambda_l2": [0.0, 1.0]}, "0", "range is empty"),
        ({}, "first", "search is no number"),
    ],
)
def test_a_search_that_cannot_be(how: dict[str, Any], search: str, message: str) -> None:
    with pytest.raises(BadData, match=message):
        tune(train_rows=ROWS, search=search, params=TuneParams(**TUNE | how))


def test_the_best_of_all_searches_is_chosen_and_ties_go_to_the_lower_seed() -> None:
    better = {**TRIAL, "search": "1", "seed": 2, "best": {**TRIAL["best"], "log_loss": 0.2}}
    assert best_of((TRIAL, better))[1] == [
        {"search": "0", "seed": 1, "log_loss": 0.3, "chosen": False},
        {"search": "1", "seed": 2, "log_loss": 0.2, "chosen": True},
    ]
    assert best_of(({**TRIAL, "search": "9", "seed": 9}, TRIAL))[1][0]["chosen"]
    with pytest.raises(BadData, match="no search"):
        best_of(())


# --- train

PLAIN = trained()


def test_it_learns_what_is_there() -> None:
    assert PLAIN.oof.column_names == ["subject", "label", "score", "decision"]
    assert PLAIN.oof["subject"].equals(ROWS["subject"])
    assert roc_auc_score(PLAIN.oof["label"], PLAIN.oof["score"]) > 0.8
    assert PLAIN.training["features"] == ["income", "debt", "gap", "code"]
    assert set(PLAIN.model.feature_name()).isdisjoint(PROTECTED.column_names)


def test_as_many_are_approved_as_the_bank_approved() -> None:
    assert PLAIN.oof["decision"].to_pylist().count("approved") == sum(ROWS["label"].to_pylist())


def test_a_constraint_holds_for_every_applicant() -> None:
    features = np.column_stack([LATER[n].to_numpy() for n in PLAIN.model.feature_name()])
    before = np.asarray(PLAIN.model.predict(features))
    features[:, 1] += 0.5  # more debt
    assert (PLAIN.model.predict(features) <= before + 1e-12).all()


def test_out_of_fold_scores_are_by_models_that_never_saw_the_row() -> None:
    """With labels that are noise, a model that had seen them would do better than chance."""
    noise = pa.array(np.random.default_rng(0).integers(0, 2, ROWS.num_rows), pa.int8())
    made = trained(ROWS.set_column(1, "label", noise), profile={"monotone": {}})
    assert abs(roc_auc_score(noise, made.oof["score"]) - 0.5) < 0.08


SCRIPT = """
import hashlib, sys
from tests.steps.example import trained
made = trained(mitigation="reductions", profile={"num_threads": int(sys.argv[1])})
text = made.model.model_to_string().replace(f"[num_threads: {sys.argv[1]}]", "")
print(hashlib.sha256(text.encode()).hexdigest(), hashlib.sha256(repr(made.oof.to_pylist()).encode()).hexdigest())
"""


def test_the_same_model_with_any_hash_seed_zone_and_number_of_threads() -> None:
    root = Path(__file__).parents[2]
    said = set()
    for threads, seed, zone in (("1", "1", "UTC"), ("2", "99", "Asia/Kathmandu")):
        env = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(root)}
        said.add(
            subprocess.run([sys.executable, "-c", SCRIPT, threads], cwd=root, env=env, capture_output=True, text=True, check=True).stdout
        )
    assert len(said) == 1
    assert len(said.pop().split()[0]) == len(hashlib.sha256().hexdigest())


@pytest.mark.parametrize(
    ("rows", "protected", "how", "message"),
    [
        (ROWS.set_column(1, "label", pa.array([1] * 700, pa.int8())), PROTECTED, {}, "all labels alike"),
        (ROWS.set_column(1, "label", pa.array([2] * 700, pa.int8())), PROTECTED, {}, "label is neither 0 nor 1"),
        (ROWS.set_column(2, "fold", pa.array([0] * 700, pa.int8())), PROTECTED, {}, "too few folds"),
        (ROWS.slice(0, 0), PROTECTED.slice(0, 0), {}, "nothing to learn from"),
        (ROWS.drop_columns(["label"]), PROTECTED, {}, "column missing"),
        (ROWS, PROTECTED.drop_columns(["race"]), {}, "protected attribute absent"),
        (ROWS, PROTECTED.set_column(1, "race", pa.array(["white", None] * 350)), {}, "protected attribute is null"),
        (ROWS, PROTECTED.take(list(range(699, -1, -1))), {}, "subjects differ"),
        (ROWS.set_column(3, "income", pa.array(["much"] * 700)), PROTECTED, {}, "feature is no number"),
        (ROWS.set_column(3, "income", pa.array([float("inf")] * 700)), PROTECTED, {}, "infinite value"),
        (ROWS, PROTECTED, {"profile": {"monotone": {"height": 1}}}, "monotone constraint on an unknown feature"),
        (ROWS, PROTECTED, {"profile": {"monotone": {"debt": 2}}}, "neither 1 nor -1"),
    ],
)
def test_rows_that_cannot_be_learned_from(rows: pa.Table, protected: pa.Table, how: dict[str, Any], message: str) -> None:
    with pytest.raises(BadData, match=message):
        trained(rows, protected, **how)


# --- mitigation


def ratio(made: Any) -> float:
    approved = np.array(made.oof["decision"].to_pylist()) == "approved"
    found = selection_rate_ratio(approved, np.array(PROTECTED["race"].to_pylist(), dtype=object), 30)
    assert found is not None
    return found


def test_the_plain_model_is_unfair_and_each_mitigation_brings_the_rates_together() -> None:
    assert ratio(PLAIN) < 0.85
    for mitigation in ("reductions", "threshold"):
        made = trained(mitigation=mitigation)
        assert ratio(made) > ratio(PLAIN) + 0.05
        cost = made.training["mitigation_cost"]
        assert cost["selection_rate_ratio_with"] == pytest.approx(ratio(made), abs=1e-6)
        assert cost["selection_rate_ratio_without"] == pytest.approx(ratio(PLAIN), abs=1e-6)
        assert cost["auc_cost"] == pytest.approx(cost["auc_without"] - cost["auc_with"], abs=1e-6)


@pytest.mark.parametrize("mitigation", ["reductions", "threshold"])
def test_what_a_mitigation_costs_in_accuracy_is_what_it_costs(mitigation: str) -> None:
    made = trained(mitigation=mitigation, wanted_ratio=1.0)
    without, with_it = (
        accuracy_score(ROWS["label"].to_pylist(), [int(d == "approved") for d in m.oof["decision"].to_pylist()]) for m in (PLAIN, made)
    )
    assert without != with_it
    cost = made.training["mitigation_cost"]
    assert cost["accuracy_without"] == pytest.approx(without, abs=1e-6)
    assert cost["accuracy_with"] == pytest.approx(with_it, abs=1e-6)
    assert cost["accuracy_cost"] == pytest.approx(without - with_it, abs=2e-6)


def test_reductions_decide_without_the_protected_attribute() -> None:
    made = trained(mitigation="reductions")
    assert made.decision_rule["kind"] == "single"
    assert made.decision_rule["needs"] == []
    assert approvals(np.array([0.99, 0.01]), made.decision_rule, None).tolist() == [True, False]
    assert made.training["mitigation_search"]["tried"][0]["selection_rate_ratio"] == pytest.approx(ratio(PLAIN), abs=1e-6)


def test_thresholds_by_group_say_that_they_need_it() -> None:
    made = trained(mitigation="threshold")
    assert made.decision_rule["kind"] == "per_group"
    assert made.decision_rule["needs"] == ["race"]
    assert made.decision_rule["thresholds"]["black"] < made.decision_rule["thresholds"]["white"]
    assert made.training["mitigation_cost"]["auc_cost"] == 0.0
    with pytest.raises(BadData, match="this rule needs protected attributes"):
        approvals(np.array([0.5]), made.decision_rule, None)


def test_a_small_group_keeps_the_common_threshold() -> None:
    scores, groups = np.linspace(0, 1, 100), np.array(["a"] * 95 + ["b"] * 5, dtype=object)
    found = group_thresholds(scores[::-1].copy(), groups, threshold=0.5, wanted_ratio=1.0, small_group=30)
    assert found == {"a": 0.5, "b": 0.5}


def test_a_ratio_needs_two_groups_and_somebody_approved() -> None:
    groups = np.array(["a"] * 40 + ["b"] * 40, dtype=object)
    assert selection_rate_ratio(np.array([True] * 30 + [False] * 10 + [True] * 24 + [False] * 16), groups, 30) == pytest.approx(0.8)
    assert selection_rate_ratio(np.zeros(80, dtype=bool), groups, 30) is None
    assert selection_rate_ratio(np.ones(80, dtype=bool), groups, 41) is None


# --- another device


def test_opencl_trains_the_same_model_within_a_tolerance() -> None:
    """The OpenCL device, on a CPU through PoCL. Its sums run in another order, so scores agree within 1e-3 and not to the bit."""
    if not list(Path("/etc/OpenCL/vendors").glob("*.icd")):
        lacking("an OpenCL platform: apt-get install pocl-opencl-icd")
    script = """
import sys, numpy as np
from tests.steps.example import tables, trained
rows, protected = tables(300, 1)
made = trained(rows, protected, profile={"device": sys.argv[1], "max_bin": 15})
assert made.training["device"] == sys.argv[1]
np.save(sys.argv[2], made.oof["score"].to_numpy())
"""
    root = Path(__file__).parents[2]
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for device in ("cpu", "gpu"):
            # LightGBM says on stdout which OpenCL device it uses; a process of its own keeps PoCL's threads out of the other tests.
            done = subprocess.run(
                [sys.executable, "-c", script, device, f"{folder}/{device}.npy"],
                cwd=root, env={**os.environ, "PYTHONPATH": str(root), "HOME": folder}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
        cpu, gpu = (np.load(f"{folder}/{d}.npy") for d in ("cpu", "gpu"))
    assert np.abs(cpu - gpu).max() < 1e-3
