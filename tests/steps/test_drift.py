"""Drift: the statistics of scipy and alibi-detect, planted drift found, none found where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, false_discovery_control, ks_2samp, kstwo

from steps import stability
from steps.drift import DriftParams, SketchParams, drift, sketch
from steps.stability import counted
from steps.types import BadData

EXACT = SketchParams(points=10_000)
SCIPY = DriftParams(detector="scipy", categorical_up_to=5, bins=10, correction="bonferroni", threshold=0.05)
ALIBI = SCIPY.model_copy(update={"detector": "alibi-detect"})


def rows(seed: int, n: int, shift: float = 0.0) -> pa.Table:
    rng = np.random.default_rng(seed)
    income = np.round(rng.lognormal(1.0 + shift, 0.5, n), 2)
    unit = rng.choice([1, 2, 3], n, p=[0.7, 0.2, 0.1])
    region = rng.choice(["north", "south", "east"], n)
    gap = np.where(rng.random(n) < 0.1, np.array(None), rng.normal(size=n))
    return pa.table(
        {
            "subject": [f"s{i}" for i in range(n)],
            "label": pa.array((np.arange(n) % 5 != 0).astype(np.int8)),
            "income": income,
            "unit": unit,
            "region": pa.array(region).dictionary_encode(),
            "gap": pa.array(gap.tolist(), pa.float64()),
            "constant": np.ones(n, dtype=np.int64),
        }
    )


def scored(table: pa.Table, seed: int) -> pa.Table:
    label = table["label"].to_numpy()
    score = np.clip(0.5 + 0.2 * label + np.random.default_rng(seed).normal(0, 0.2, len(label)), 0, 1)
    return pa.table({"subject": table["subject"], "label": table["label"], "score": score})


THEN, NOW, MOVED = rows(1, 900), rows(2, 400), rows(3, 400, shift=0.4)
REFERENCE = sketch(train_rows=THEN, oof=scored(THEN, 1), params=EXACT).reference


def report(now: pa.Table = NOW, params: DriftParams = SCIPY, reference: pa.Table = REFERENCE, predictions: Any = None) -> Any:
    return drift(reference=reference, holdout_rows=now, predictions=predictions or scored(now, 2), params=params).drift


def test_nothing_drifts_where_nothing_moved() -> None:
    found = report()
    assert found["rows"] == {"reference": 900, "current": 400}
    assert (found["drifted"], found["drifted_ratio"]) == (0, 0.0)
    assert found["max_psi"] < 0.1
    assert found["performance"]["status"] == "measured"
    assert abs(found["performance"]["auc_drop"]) < 0.08


@pytest.mark.parametrize("correction", ["bonferroni", "fdr"])
def test_planted_drift_is_found_and_only_that(correction: str) -> None:
    found = report(MOVED, SCIPY.model_copy(update={"correction": correction}))
    assert [n for n, f in found["features"].items() if f["drifted"]] == ["income"]
    assert found["features"]["income"]["psi"] > 0.25
    assert found["drifted_ratio"] == 0.2


def test_a_drop_in_performance_is_measured() -> None:
    noise = scored(NOW, 2).set_column(2, "score", pa.array(np.random.default_rng(0).random(NOW.num_rows)))
    performance = report(predictions=noise)["performance"]
    assert performance["auc_drop"] == pytest.approx(performance["auc_reference"] - performance["auc_current"])
    assert performance["auc_drop"] > 0.15


@pytest.mark.parametrize("labels", [None, [None] * 400, [1] * 400])
def test_no_labels_no_performance(labels: Any) -> None:
    bare = scored(NOW, 2).drop_columns(["label"])
    predictions = bare if labels is None else bare.append_column("label", pa.array(labels, pa.int8()))
    assert report(predictions=predictions)["performance"] == {
        "status": "no labels",
        "auc_reference": None,
        "auc_current": None,
        "auc_drop": None,
    }


def test_a_new_category_and_new_gaps_are_drift() -> None:
    region = pa.array(["west"] * 100 + ["north"] * 300).dictionary_encode()
    gap = pa.array([None] * 200 + [0.1 * i for i in range(200)], pa.float64())
    columns = NOW.column_names
    changed = NOW.set_column(columns.index("region"), "region", region).set_column(columns.index("gap"), "gap", gap)
    found = report(changed)["features"]
    assert found["region"]["drifted"]
    assert found["gap"]["psi"] > 0.25


@pytest.mark.filterwarnings("ignore")  # its own, at import
@pytest.mark.parametrize("now", [NOW, MOVED], ids=["same", "moved"])
def test_both_detectors_say_the_same(now: pa.Table) -> None:
    ours, theirs = report(now)["features"], report(now, ALIBI)["features"]
    assert ours.keys() == theirs.keys()
    for name, f in ours.items():
        assert f["test"] == theirs[name]["test"]
        assert f["statistic"] == pytest.approx(theirs[name]["statistic"], rel=1e-5, abs=1e-6)
        assert f["p_value"] == pytest.approx(theirs[name]["p_value"], rel=1e-5)
        assert f["psi"] == theirs[name]["psi"]


numbers = st.lists(st.integers(-5, 5).map(float) | st.floats(-1e6, 1e6), min_size=2, max_size=60)


@settings(max_examples=60, deadline=None)
@given(numbers, numbers)
def test_ks_is_that_of_scipy(a: list[float], b: list[float]) -> None:
    expected = ks_2samp(a, b, method="asymp")
    statistic = stability.kolmogorov_smirnov(counted(np.array(a)), counted(np.array(b)))
    assert statistic == pytest.approx(expected.statistic, abs=1e-12)
    p_value = stability.kolmogorov_smirnov_p(np.array([statistic]), np.array([len(a)]), np.array([len(b)]))
    assert p_value[0] == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).filter(any), min_size=2, max_size=6))
def test_chi_squared_is_that_of_scipy(table: list[tuple[int, int]]) -> None:
    a, b = (np.array(c) for c in zip(*table, strict=True))
    if not (a.sum() and b.sum()):
        return
    expected = chi2_contingency(np.vstack((a, b)))
    statistic, p_value = stability.chi_squared(a, b)
    assert statistic == pytest.approx(expected.statistic, abs=1e-9)
    assert p_value == pytest.approx(expected.pvalue, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_fdr_is_that_of_scipy(p_values: list[float]) -> None:
    assert stability.corrected(np.array(p_values), "fdr") == pytest.approx(false_discovery_control(p_values))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 5e-324, 1.7e308, -1.7e308]), max_size=50))
def test_a_sort_in_two_steps_sorts(values: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stability, "FEW", 0)
        if values:
            assert stability.ascending(np.array(values)).tolist() == sorted(values)


@pytest.mark.parametrize("kind", ["normal", "far out", "few", "alike", "in order", "turned round"])
def test_many_values_are_counted_as_few_are(kind: str) -> None:
    rng = np.random.default_rng(0)
    n = 50_000
    values = {
        "normal": rng.normal(size=n),
        "far out": rng.lognormal(0, 5, n),
        "few": rng.integers(0, 9, n).astype(np.float64),
        "alike": np.ones(n),
        "in order": np.arange(n) / 3,
        "turned round": -np.arange(n) / 3,
    }[kind]
    values[:7] = np.nan
    values[7:9] = -0.0, 0.0
    found = counted(values)
    distinct, rows = np.unique(values[7:], return_counts=True)
    assert (found.values.tolist(), found.rows.tolist(), found.missing) == (distinct.tolist(), rows.tolist(), 7)
    assert not np.signbit(found.values[found.values == 0]).any()


def test_bonferroni_multiplies_and_stops_at_one() -> None:
    assert stability.corrected(np.array([0.01, 0.4]), "bonferroni").tolist() == [0.02, 0.8]
    assert stability.corrected(np.array([0.01, 0.6]), "bonferroni").tolist() == [0.02, 1.0]


def test_psi_by_hand() -> None:
    # Shares (with half a row in each bin) 60.5 / 101 and 40.5 / 101 against the reverse.
    r = np.array([60.5, 40.5]) / 101
    assert stability.population_stability(np.array([60, 40]), np.array([40, 60])) == pytest.approx(
        float(np.sum((r[::-1] - r) * np.log(r[::-1] / r)))
    )
    assert stability.population_stability(np.array([60, 40]), np.array([60, 40])) == 0


@pytest.mark.parametrize("points", [100, 500])
def test_a_thinned_sketch_is_off_by_at_most_its_share(points: int) -> None:
    rng = np.random.default_rng(4)
    exact, other = counted(rng.normal(size=5000)), counted(rng.normal(0.1, size=3000))
    thin = stability.thinned(exact, points)
    assert len(thin.values) <= points
    assert thin.present == exact.present
    gap = stability.kolmogorov_smirnov(thin, other) - stability.kolmogorov_smirnov(exact, other)
    assert abs(gap) <= 1 / points + 1e-9


def test_a_sketch_names_no_row_and_forgets_order() -> None:
    assert REFERENCE.column_names == ["part", "name", "category", "value", "rows"]
    turned = THEN.take(list(range(THEN.num_rows))[::-1])
    assert sketch(train_rows=turned, oof=scored(THEN, 1), params=EXACT).reference.equals(REFERENCE)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (NOW.drop_columns(["income"]), "features differ from the sketch's"),
        (NOW.append_column("extra", NOW["unit"]), "features differ from the sketch's"),
        (NOW.slice(0, 0), "no rows to compare"),
        (NOW.set_column(2, "income", pa.nulls(400, pa.float64())), "too few rows have a value"),
        (NOW.set_column(2, "income", pa.array([float("inf")] * 400)), "feature is infinite"),
        (NOW.set_column(2, "income", pa.array(["much"] * 400)), "feature is neither a number nor a category"),
    ],
)
def test_rows_that_cannot_be_compared(now: pa.Table, message: str) -> None:
    with pytest.raises(BadData, match=message):
        report(now, predictions=scored(NOW, 2))


def test_a_reference_that_is_no_sketch() -> None:
    with pytest.raises(BadData, match="not a sketch"):
        report(reference=THEN)


def test_nothing_to_sketch() -> None:
    with pytest.raises(BadData, match="nothing to sketch"):
        sketch(train_rows=THEN.slice(0, 0), oof=scored(THEN, 1), params=EXACT)


@pytest.mark.parametrize("distance", [0.5, 0.9, 1.3, 1.8, 2.5])
def test_ks_of_large_samples_is_that_of_scipy_too(distance: float) -> None:
    n = 250_000
    statistic = np.array([distance / np.sqrt(n / 2)])
    expected = kstwo.sf(statistic, n / 2)
    assert stability.kolmogorov_smirnov_p(statistic, np.array([n]), np.array([n])) == pytest.approx(expected, abs=3e-7)
