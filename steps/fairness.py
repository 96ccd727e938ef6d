"""Decisions by race, ethnicity, sex and together: how often approved, how often rightly, how sure one can be.

A group smaller than `small_group` is inconclusive: it is listed with its size and interval and left out of every comparison,
because its rate is mostly chance. What an inconclusive comparison means for a gate is the policy's choice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from steps.decisions import APPROVED, groups_of
from steps.lightgbm_profile import Floats, Ints
from steps.metrics import figure, interval, wilson
from steps.types import BadData, Params, Report

Names = npt.NDArray[np.object_]


class FairnessParams(Params):
    """What is compared, and from which size on."""

    attributes: list[list[str]] = Field(min_length=1, description="Protected attributes to compare; several in one entry are crossed")
    small_group: int = Field(ge=1, description="Groups with fewer rows are inconclusive")
    seed: int = Field(ge=0, lt=2**31, description="Seed of the bootstrap")
    resamples: int = Field(ge=40, le=100_000, description="Bootstrap samples behind each interval that is no share's")


class Fairness(NamedTuple):
    """What `fairness` returns."""

    fairness: Report


class Decisions(NamedTuple):
    """Label, score and decision (1 approved) of the same rows."""

    label: Ints
    score: Floats
    approved: Ints


def fairness(
    *, oof: pa.Table, train_protected: pa.Table, predictions: pa.Table, holdout_protected: pa.Table, params: FairnessParams
) -> Fairness:
    """Under `out_of_fold` and `holdout`: for each attribute its groups, selection-rate ratio, equalised odds difference.

    Raises BadData where a table of decisions and its protected attributes have different subjects.
    """
    sides = {"out_of_fold": (oof, train_protected, "train_protected"), "holdout": (predictions, holdout_protected, "holdout_protected")}
    report: Report = {"small_group": params.small_group, "resamples": params.resamples}
    for side, (table, protected, where) in sides.items():
        decisions = decisions_of(table, side)
        found = {}
        for attributes in params.attributes:
            columns = [groups_of(protected, table["subject"], a, where) for a in attributes]
            found["+".join(attributes)] = compared(
                decisions, np.array(["+".join(c) for c in zip(*columns, strict=True)], dtype=object), params
            )
        report[side] = {"rows": table.num_rows, "attributes": found}
    return Fairness(fairness=report)


def decisions_of(table: pa.Table, where: str) -> Decisions:
    if table.num_rows == 0:
        raise BadData("no decisions to compare", where=where, expected="at least one row")
    label = np.asarray(table["label"].to_numpy(), dtype=np.int64)
    approved = np.array([d == APPROVED for d in table["decision"].to_pylist()], dtype=np.int64)
    return Decisions(label, np.asarray(table["score"].to_numpy(), dtype=np.float64), approved)


def compared(decisions: Decisions, groups: Names, params: FairnessParams) -> Report:
    """The groups of one attribute, and comparisons over those that are large enough."""
    from fairlearn.metrics import MetricFrame, count, selection_rate

    frame = MetricFrame(
        metrics={"rows": count, "selection_rate": selection_rate},
        y_true=decisions.label,
        y_pred=decisions.approved,
        sensitive_features=groups,
    ).by_group.sort_index()
    found = {str(name): group_report(decisions, groups == name, float(row["selection_rate"]), params) for name, row in frame.iterrows()}
    conclusive = {name: g for name, g in found.items() if g["status"] == "conclusive"}
    return {
        "groups": found,
        "selection_rate_ratio": ratio_report(conclusive, params),
        "equalized_odds_difference": odds_report(decisions, groups, conclusive, params),
    }


def group_report(decisions: Decisions, inside: npt.NDArray[np.bool_], rate: float, params: FairnessParams) -> Report:
    """Rates of one group with Wilson intervals; None where nobody is there to take a rate of.

    Calibration is mean score minus share approved by the bank, between the middle 95 % of bootstrap samples of the group.
    """
    label, score, approved = (part[inside] for part in decisions)
    rows, low_high = len(label), wilson(int(approved.sum()), len(label))
    good, bad = approved[label == 1], approved[label == 0]
    return {
        "rows": rows,
        "status": "conclusive" if rows >= params.small_group else "inconclusive",
        "selection_rate": figure(rate),
        "low": figure(low_high[0]),
        "high": figure(low_high[1]),
        "label_rows": {"approved": len(good), "declined": len(bad)},
        "label_rate": figure(float(label.mean())),
        "true_positive_rate": share_report(good),
        "false_positive_rate": share_report(bad),
        "calibration": gap_report(score - label, params),
    }


def share_report(approved: Ints) -> Report:
    """Share approved of these rows, with its Wilson interval; no value where there are no rows."""
    if not len(approved):
        return {"value": None, "low": None, "high": None}
    low, high = wilson(int(approved.sum()), len(approved))
    return {"value": figure(float(approved.mean())), "low": figure(low), "high": figure(high)}


def gap_report(gaps: Floats, params: FairnessParams) -> Report:
    rng = np.random.default_rng(params.seed)
    low, high = interval([float(rng.choice(gaps, len(gaps)).mean()) for _ in range(params.resamples)])
    return {"value": figure(float(gaps.mean())), "low": figure(low), "high": figure(high)}


def ratio_report(groups: dict[str, Any], params: FairnessParams) -> Report:
    """Lowest over highest selection rate. Rates of 0.6 and 0.8 give 0.75.

    The interval is the middle 95 % of bootstrap samples of those two groups; a group's decisions are yes or no, so a sample
    is a binomial draw.
    """
    if len(groups) < 2 or max(g["selection_rate"] for g in groups.values()) == 0:  # noqa: PLR2004 - a ratio has two ends
        why = "fewer than two groups are large enough" if len(groups) < 2 else "nobody was approved"  # noqa: PLR2004  # a ratio takes two
        return {"value": None, "low": None, "high": None, "status": "inconclusive", "why": why, "lowest_group": None, "highest_group": None}
    lowest = min(groups, key=lambda name: (groups[name]["selection_rate"], name))
    highest = min(groups, key=lambda name: (-groups[name]["selection_rate"], name))
    rng = np.random.default_rng(params.seed)
    drawn = {
        n: rng.binomial(groups[n]["rows"], groups[n]["selection_rate"], params.resamples) / groups[n]["rows"] for n in (lowest, highest)
    }
    usable = drawn[highest] > 0
    low, high = interval(list(drawn[lowest][usable] / drawn[highest][usable]))
    value = groups[lowest]["selection_rate"] / groups[highest]["selection_rate"]
    return {
        "value": figure(value),
        "low": figure(low),
        "high": figure(high),
        "status": "conclusive",
        "lowest_group": lowest,
        "highest_group": highest,
    }


def odds_report(decisions: Decisions, groups: Names, conclusive: dict[str, Any], params: FairnessParams) -> Report:
    """Fairlearn's equalised odds difference: the larger of the groups' widest gaps in true and in false positive rate.

    The interval is the middle 95 % of binomial draws of every group's rates. A widest gap only grows by chance, so it lies
    rather too high, and the value can lie below its `low`.
    """
    from fairlearn.metrics import equalized_odds_difference

    complete = [n for n, g in conclusive.items() if min(g["label_rows"].values()) > 0]
    if len(complete) < 2 or len(complete) < len(conclusive):  # noqa: PLR2004 - a difference has two ends
        why = "needs two large groups, each with approved and declined rows"
        return {"value": None, "low": None, "high": None, "status": "inconclusive", "why": why}
    inside = np.isin(groups.astype(str), complete)
    value = equalized_odds_difference(decisions.label[inside], decisions.approved[inside], sensitive_features=groups[inside])
    fewest = min(min(conclusive[n]["label_rows"].values()) for n in complete)
    low, high = interval(list(odds_drawn([conclusive[n] for n in complete], params)))
    return {
        "value": figure(float(value)),
        "low": figure(low),
        "high": figure(high),
        "status": "conclusive",
        "fewest_rows_behind_a_rate": fewest,
    }


def odds_drawn(groups: list[Any], params: FairnessParams) -> Floats:
    """The difference in `resamples` draws, as each group's rates vary by chance."""
    rng = np.random.default_rng(params.seed)
    gaps = []
    for rate, label in (("true_positive_rate", "approved"), ("false_positive_rate", "declined")):
        rows = [g["label_rows"][label] for g in groups]
        shares = np.stack([rng.binomial(n, g[rate]["value"], params.resamples) / n for n, g in zip(rows, groups, strict=True)])
        gaps.append(shares.max(axis=0) - shares.min(axis=0))
    widest: Floats = np.maximum(gaps[0], gaps[1])
    return widest
