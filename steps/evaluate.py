"""How well the model predicts, on rows it never saw: with intervals, next to logistic regression and the model now in use."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from steps.baseline import baseline_scores
from steps.decisions import APPROVED, Flags, approvals, check_subjects, decided
from steps.lightgbm_profile import Examples, Floats, Ints, check_folds, examples, score
from steps.metrics import (
    Measure,
    auc,
    average_precision,
    brier,
    calibration_error,
    equal_mass_bins,
    figure,
    interval,
    ks,
    resamples,
    wilson,
)
from steps.types import BadData, Params, Report

if TYPE_CHECKING:
    import lightgbm as lgb


class EvaluateParams(Params):
    """How the measures are taken."""

    num_threads: int = Field(ge=1, le=64, description="Threads to predict with")
    seed: int = Field(ge=0, lt=2**31, description="Seed of the bootstrap")
    resamples: int = Field(ge=40, le=100_000, description="Bootstrap samples behind each interval")
    bins: int = Field(ge=2, le=100, description="Bins of equal mass for the calibration error and its plot")
    baseline_strength: float = Field(gt=0, description="Inverse L2 penalty of the logistic regression (scikit-learn's C)")


class Evaluate(NamedTuple):
    """What `evaluate` returns."""

    predictions: pa.Table
    evaluation: Report
    calibration: Report


class Scored(NamedTuple):
    """Labels, scores and decisions of the same rows; decisions are none where a model has no rule."""

    label: Ints
    scores: Floats
    approved: Flags | None


def evaluate(  # noqa: PLR0913 - one argument an input
    *,
    model: lgb.Booster,
    decision_rule: Report,
    train_rows: pa.Table,
    holdout_rows: pa.Table,
    holdout_protected: pa.Table,
    oof: pa.Table,
    champion: Report,
    params: EvaluateParams,
) -> Evaluate:
    """Hold-out predictions; measures on hold-out and out of fold with 95 % intervals; points of the calibration plot.

    The hold-out's protected attributes serve a decision rule that needs them and nothing else. Raises BadData where the
    rows do not fit the model, subjects differ, or labels are all alike.
    """
    train, holdout = examples(train_rows, "train_rows"), examples(holdout_rows, "holdout_rows")
    check_subjects(oof, train_rows["subject"], "oof")
    check_subjects(holdout_protected, holdout_rows["subject"], "holdout_protected")
    check_labels(holdout, "holdout_rows")
    folds = check_folds(train, "train_rows")
    scores = scores_of(model, holdout, params, "model")
    predictions = decided(holdout_rows["subject"], holdout.label, scores, decision_rule, holdout_protected)
    sides = {"holdout": scored(predictions), "out_of_fold": scored(oof)}
    base = baseline_scores(train, folds, holdout, params.baseline_strength)
    measured = {name: measures(side, params) for name, side in sides.items()}
    for name, side in sides.items():
        measured[name]["auc_over_baseline"] = advantage(side, base[name], params)
    evaluation = {
        "rows": {name: len(side.label) for name, side in sides.items()},
        "average_precision_of": "declined",
        "resamples": params.resamples,
        **measured,
        "baseline": {
            "name": "logistic regression",
            **{name: measures(Scored(side.label, base[name], None), params) for name, side in sides.items()},
        },
        "champion": against_champion(champion, holdout, holdout_protected, sides["holdout"], params),
    }
    return Evaluate(predictions=predictions, evaluation=evaluation, calibration=calibration_points(sides["out_of_fold"], params.bins))


def check_labels(data: Examples, where: str) -> None:
    if len(np.unique(data.label)) < 2:  # noqa: PLR2004 - approved and declined
        raise BadData("all labels alike", where=f"{where}.label", expected="approved and declined rows", got=f"{len(data.label)} rows")


def scored(table: pa.Table) -> Scored:
    """A table of decisions as arrays. BadData for a score that is no probability."""
    scores = np.asarray(table["score"].to_numpy(), dtype=np.float64)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise BadData(
            "score is no probability", where="oof.score", expected="0 to 1", got=f"{int((~((scores >= 0) & (scores <= 1))).sum())} rows"
        )
    approved = np.asarray(table["decision"].to_pylist(), dtype=object) == APPROVED
    return Scored(np.asarray(table["label"].to_numpy(), dtype=np.int64), scores, approved)


def scores_of(model: lgb.Booster, data: Examples, params: EvaluateParams, where: str) -> Floats:
    """The model's scores. BadData unless the rows hold the model's features, which may stand in another order."""
    names = model.feature_name()
    if missing := sorted(set(names) - set(data.names)):
        raise BadData("the model needs features that the rows lack", where=where, expected=", ".join(missing))
    return score(model, data.features[:, [data.names.index(n) for n in names]], params.num_threads)


def measures(side: Scored, params: EvaluateParams) -> Report:
    """Every measure as {"value", "low", "high"}: value on all rows, low and high the middle 95 % of bootstrap samples.

    Samples are drawn within each label. The calibration error is biased upwards in samples, so its value can lie below its `low`.
    """
    named: dict[str, Measure] = {
        "auc": auc,
        "average_precision": average_precision,
        "ks": ks,
        "brier": brier,
        "calibration_error": partial(calibration_error, bins=params.bins),
    }
    drawn = resamples(side.label, count=params.resamples, seed=params.seed)
    report = {
        name: with_interval(m(side.label, side.scores), [m(side.label[d], side.scores[d]) for d in drawn]) for name, m in named.items()
    }
    if side.approved is not None:
        report["approval_rate"] = with_interval(float(side.approved.mean()), [float(side.approved[d].mean()) for d in drawn])
    return report


def with_interval(value: float, values: list[float]) -> Report:
    low, high = interval(values)
    return {"value": figure(value), "low": figure(low), "high": figure(high)}


def advantage(side: Scored, other: Floats, params: EvaluateParams) -> Report:
    """AUC minus that of other scores on the same rows; samples are paired, so what both share cancels."""
    drawn = resamples(side.label, count=params.resamples, seed=params.seed)
    values = [auc(side.label[d], side.scores[d]) - auc(side.label[d], other[d]) for d in drawn]
    return with_interval(auc(side.label, side.scores) - auc(side.label, other), values)


def against_champion(champion: Report, data: Examples, protected: pa.Table, ours: Scored, params: EvaluateParams) -> Report:
    """The same hold-out rows under the champion. It may have learned from some of them, which flatters it."""
    if champion.get("status") == "none":
        # Null, not left out: a rule can tell that there is nobody to compare with from a comparison that was not made.
        return {"status": "none", "auc_over_champion": {"value": None, "low": None, "high": None}}
    if champion.get("status") != "appointed" or not isinstance(champion.get("model"), str):
        raise BadData("champion cannot be read", where="champion", expected="status none, or appointed with name, model and decision_rule")
    import lightgbm as lgb

    try:
        theirs = lgb.Booster(model_str=champion["model"])
    except lgb.basic.LightGBMError as error:
        raise BadData("champion's model cannot be read", where="champion.model", expected="LightGBM's text") from error
    scores = scores_of(theirs, data, params, "champion")
    side = Scored(ours.label, scores, approvals(scores, champion["decision_rule"], protected))
    agree = float(np.mean(side.approved == ours.approved))
    return {
        "status": "compared",
        "name": str(champion.get("name", "champion")),
        "holdout": measures(side, params),
        "auc_over_champion": advantage(ours, scores, params),
        "same_decision": figure(agree),
    }


def calibration_points(side: Scored, bins: int) -> Report:
    """For each bin of equal mass, out of fold: mean score, share approved by the bank, and its Wilson interval."""
    points = []
    for part in equal_mass_bins(side.scores, bins):
        hits = int(side.label[part].sum())
        low, high = wilson(hits, len(part))
        points.append(
            {
                "predicted": figure(float(side.scores[part].mean())),
                "observed": figure(hits / len(part)),
                "rows": len(part),
                "low": figure(low),
                "high": figure(high),
            }
        )
    return {"points": points}
