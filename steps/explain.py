"""Why the model answers as it does: what weighs overall, and the principal reasons of each declined application, in words.

Contributions are TreeSHAP values in log-odds of approval (Lundberg et al. 2020), by LightGBM itself. They sum, with the model's
expected value, to the raw score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from steps.decisions import DECLINED, check_subjects
from steps.lightgbm_profile import Examples, Floats, examples
from steps.metrics import figure
from steps.types import BadData, Params, Report

if TYPE_CHECKING:
    import lightgbm as lgb


class Reason(Params):
    """What an applicant is told where a feature lowered the score."""

    code: str = Field(min_length=1, description="Stable code for letters and statistics")
    words: str = Field(min_length=1, description="A principal reason in the sense of 12 CFR 1002.9 (b)(2)")


class ExplainParams(Params):
    """How many reasons, and their words."""

    num_threads: int = Field(ge=1, le=64, description="Threads to explain with")
    most_reasons: int = Field(
        ge=1, le=10, description="Reasons an application at most; Regulation B's commentary finds over four unhelpful"
    )
    reasons: dict[str, Reason] = Field(description="Feature -> reason")


class Explain(NamedTuple):
    """What `explain` returns."""

    importance: Report
    reasons: pa.Table


def explain(*, model: lgb.Booster, decision_rule: Report, holdout_rows: pa.Table, predictions: pa.Table, params: ExplainParams) -> Explain:
    """Mean absolute contribution of each feature over the hold-out; up to `most_reasons` reasons of each declined subject.

    A reason is a contribution that lowered the score. Raises BadData where a feature has no reason, or subjects differ.
    """
    data = examples(holdout_rows, "holdout_rows")
    check_subjects(predictions, holdout_rows["subject"], "predictions")
    names = check_features(model, data, params)
    parts = contributions(model, data, params.num_threads)
    check_scores(parts, predictions)
    mean = np.abs(parts[:, :-1]).mean(axis=0)
    order = sorted(range(len(names)), key=lambda n: (-figure(mean[n]), names[n]))
    points = [{"feature": names[n], "words": params.reasons[names[n]].words, "contribution": figure(mean[n])} for n in order]
    importance = {"unit": "log-odds of approval", "rows": len(parts), "decision_rule": decision_rule["kind"], "points": points}
    return Explain(importance=importance, reasons=reasons_of(parts[:, :-1], names, predictions, params))


def check_features(model: lgb.Booster, data: Examples, params: ExplainParams) -> list[str]:
    names: list[str] = model.feature_name()
    if missing := sorted(set(names) - set(data.names)):
        raise BadData("the model needs features that the rows lack", where="holdout_rows", expected=", ".join(missing))
    if silent := [n for n in names if n not in params.reasons]:
        raise BadData("feature has no reason code", where="explain.reasons", expected="a code and words a feature", got=", ".join(silent))
    return names


def contributions(model: lgb.Booster, data: Examples, num_threads: int) -> Floats:
    """Shape (rows, features + 1): log-odds each feature adds; the last column is the model's expected value."""
    columns = [data.names.index(n) for n in model.feature_name()]
    return np.asarray(model.predict(data.features[:, columns], pred_contrib=True, num_threads=num_threads), dtype=np.float64)


def check_scores(parts: Floats, predictions: pa.Table) -> None:
    """BadData unless contributions add up to the scores that were decided on: reasons of another model would be lies."""
    scores = 1 / (1 + np.exp(-parts.sum(axis=1)))
    apart = float(np.max(np.abs(scores - predictions["score"].to_numpy())))
    if apart > 1e-6:  # noqa: PLR2004 - far above rounding, far below a different model
        raise BadData("contributions do not add up to the predictions", where="predictions.score", expected="this model's scores")


def reasons_of(parts: Floats, names: list[str], predictions: pa.Table, params: ExplainParams) -> pa.Table:
    """Columns subject, rank (1 weighs most), code, words, feature, contribution (negative, log-odds)."""
    rows: list[tuple[str, int, str, str, str, float]] = []
    for subject, decision, row in zip(predictions["subject"].to_pylist(), predictions["decision"].to_pylist(), parts, strict=True):
        if decision != DECLINED:
            continue
        worst = sorted((round(float(c), 9), name) for c, name in zip(row, names, strict=True) if round(float(c), 9) < 0)
        if not worst:
            raise BadData(
                "a declined application has no reason: nothing lowered its score", where="predictions", got="a threshold above it all"
            )
        for rank, (value, name) in enumerate(worst[: params.most_reasons], start=1):
            rows.append((subject, rank, params.reasons[name].code, params.reasons[name].words, name, value))
    kinds = [pa.string(), pa.int8(), pa.string(), pa.string(), pa.string(), pa.float64()]
    fields = ["subject", "rank", "code", "words", "feature", "contribution"]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(fields)
    return pa.table({f: pa.array(list(c), k) for f, c, k in zip(fields, columns, kinds, strict=True)})
