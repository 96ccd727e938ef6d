"""Reasons from tables are LightGBM's own contributions, for every form of split that LightGBM makes; scores are its very bits."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflows.serve import trees
from workflows.serve.scorer import NotAModel, Scorer
from workflows.serve.shapley import Explainer, TooLarge

CLOSE = 1e-11
FEATURES = 6


def rows_of(seed: int, rows: int = 400) -> Any:
    """Numbers with ties, zeros and gaps; the last column holds codes."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(rows, FEATURES)).round(1)
    data[rng.random(data.shape) < 0.15] = np.nan
    data[rng.random(data.shape) < 0.15] = 0.0
    data[:, -1] = rng.integers(-1, 40, rows)
    data[rng.random(rows) < 0.1, -1] = np.nan
    return data


def model_of(seed: int, **how: Any) -> tuple[lgb.Booster, Any]:
    data = rows_of(seed)
    rng = np.random.default_rng(seed + 1)
    known = np.nan_to_num(data)
    label = (known[:, 0] + known[:, 1] * known[:, 2] + (known[:, -1] % 3 == 0) + rng.normal(size=len(data)) > 0).astype(int)
    fixed = {"objective": "binary", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5, "seed": seed, "min_data_per_group": 5}
    settings = {"num_leaves": 8, **how}
    rounds = settings.pop("rounds", 6)
    given_data = lgb.Dataset(data, label, categorical_feature=settings.pop("categorical", []), weight=settings.pop("weight", None))
    return lgb.train(fixed | settings, given_data, rounds), data


def unlike(data: Any) -> Any:
    """The rows, and values that training never saw: between, beyond, at and next to thresholds, codes that are none."""
    odd = np.array([[v] * FEATURES for v in (np.nan, 0.0, -0.0, 1e-36, 1e300, -1e300, 0.5, 3.7, 1e9, -0.4, 39.0, 40.0, 64.0)])
    return np.vstack((data[:60], odd))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    leaves=st.integers(2, 14),
    zero=st.booleans(),
    missing=st.booleans(),
    categorical=st.booleans(),
    monotone=st.booleans(),
    weighted=st.booleans(),
)
def test_contributions_are_lightgbms(
    seed: int, leaves: int, *, zero: bool, missing: bool, categorical: bool, monotone: bool, weighted: bool
) -> None:
    how: dict[str, Any] = {"num_leaves": leaves, "zero_as_missing": zero, "use_missing": missing}
    how |= {"categorical": [FEATURES - 1]} if categorical else {}
    how |= {"monotone_constraints": [1, -1] + [0] * (FEATURES - 2)} if monotone else {}
    how |= {"weight": np.random.default_rng(seed).random(400) + 0.1} if weighted else {}
    model, data = model_of(seed, **how)
    explainer = Explainer(trees.read(model.model_to_string()))
    rows = unlike(data)
    theirs = np.asarray(model.predict(rows, pred_contrib=True, num_threads=1))
    ours = np.array([explainer.contributions(list(r)) for r in rows])
    assert np.abs(ours - theirs[:, :-1]).max() < CLOSE
    assert explainer.expected == pytest.approx(theirs[0, -1], abs=CLOSE)
    assert ours.sum(axis=1) + explainer.expected == pytest.approx(model.predict(rows, raw_score=True, num_threads=1), abs=CLOSE)


def test_scores_are_the_bits_of_predict() -> None:
    for categorical in ([], [FEATURES - 1]):
        model, data = model_of(3, rounds=30, categorical=categorical)
        scorer = Scorer(model.model_to_string(), FEATURES)
        rows = unlike(data)
        assert [scorer.score(list(r)) for r in rows] == np.asarray(model.predict(rows, num_threads=1)).tolist()
        assert [scorer.raw(list(r)) for r in rows[:5]] == np.asarray(model.predict(rows[:5], num_threads=1, raw_score=True)).tolist()
        slow, theirs = scorer.contributions(), np.asarray(model.predict(rows[:5], num_threads=1, pred_contrib=True))
        assert [slow(list(r)).tolist() for r in rows[:5]] == theirs[:, :-1].tolist()


def test_a_small_budget_parts_trees_and_changes_nothing() -> None:
    model, data = model_of(5, num_leaves=14, rounds=10)
    forest = trees.read(model.model_to_string())
    whole = Explainer(forest)
    parted = Explainer(forest, budget=whole._answers.nbytes // 2)
    assert parted.tables > whole.tables == 10
    assert parted.nbytes < whole.nbytes
    for row in data[:20]:
        assert parted.contributions(list(row)) == pytest.approx(whole.contributions(list(row)), abs=CLOSE)
    with pytest.raises(TooLarge, match="1000 allowed"):
        Explainer(forest, budget=1000)


def test_a_stump_by_hand() -> None:
    """Two leaves of -1 and 3 with 30 and 10 rows: expected 0, so the one feature adds the leaf's whole value."""
    tree = trees.Tree(
        feature=np.array([1]),
        threshold=np.array([0.5]),
        kind=np.array([0]),
        left=np.array([-1]),
        right=np.array([-2]),
        node_rows=np.array([40.0]),
        leaf_rows=np.array([30.0, 10.0]),
        leaf_value=np.array([-1.0, 3.0]),
    )
    explainer = Explainer(trees.Forest(names=("a", "b"), trees=(tree,)))
    assert explainer.expected == 0.0
    assert explainer.contributions([9.0, 0.5]).tolist() == [0.0, -1.0]
    assert explainer.contributions([9.0, 0.6]).tolist() == [0.0, 3.0]
    assert explainer.contributions([9.0, float("nan")]).tolist() == [0.0, -1.0]  # nothing counts as missing: NaN is zero


def test_a_model_without_a_split() -> None:
    data = np.zeros((50, 2))
    model = lgb.train({"objective": "binary", "verbosity": -1}, lgb.Dataset(data, np.arange(50) % 2), 3)
    explainer = Explainer(trees.read(model.model_to_string()))
    assert explainer.contributions([1.0, 2.0]).tolist() == [0.0, 0.0]
    assert explainer.expected == pytest.approx(model.predict([[1.0, 2.0]], raw_score=True)[0])


@pytest.mark.parametrize("how", [{"objective": "regression"}, {"objective": "multiclass", "num_class": 2}, {"linear_tree": True}])
def test_models_of_another_form_are_refused(how: dict[str, Any]) -> None:
    data = np.random.default_rng(1).normal(size=(300, 3))
    given_data = lgb.Dataset(data, (data[:, 0] > 0).astype(int), params={"linear_tree": bool(how.get("linear_tree"))})
    model = lgb.train({"objective": "binary", "verbosity": -1, "num_threads": 1, **how}, given_data, 3)
    with pytest.raises(trees.UnknownModel):
        trees.read(model.model_to_string())


def test_text_that_is_no_model() -> None:
    with pytest.raises(NotAModel):
        Scorer("tree\nno model", 3)
    with pytest.raises(trees.UnknownModel):
        trees.read("tree\nno model")
