"""Applications made up so that what must come out is known: income helps, debt hurts, one group is approved less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from steps.evaluate import Evaluate, EvaluateParams, evaluate
from steps.lightgbm_profile import Profile
from steps.train import Train, TrainParams, train

PROFILE: dict[str, Any] = {"device": "cpu", "num_threads": 1, "seed": 3, "max_bin": 63, "monotone": {"debt": -1}}
CHOSEN = {"rounds": 30, "num_leaves": 7, "min_data_in_leaf": 10, "learning_rate": 0.1, "lambda_l2": 1.0, "feature_fraction": 0.9}
TRIAL: dict[str, Any] = {"search": "0", "seed": 1, "best": {"number": 0, "log_loss": 0.3, "params": CHOSEN}, "trials": []}


def tables(rows: int, seed: int, *, folds: int = 4) -> tuple[pa.Table, pa.Table]:
    """Rows and protected attributes of the same subjects; about three in four are approved, of black applicants fewer."""
    rng = np.random.default_rng(seed)
    race = rng.choice(["white", "black"], rows, p=[0.75, 0.25])
    income = rng.normal(0, 1, rows) - 0.7 * (race == "black")
    debt = rng.normal(0, 1, rows)
    approved = (1.5 + 1.2 * income - 1.2 * debt + rng.normal(0, 1, rows) > 0).astype(np.int8)
    subject = [f"{seed}-{i:05d}" for i in range(rows)]
    gap = [None if i % 11 == 0 else float(v) for i, v in enumerate(rng.normal(size=rows))]
    columns: dict[str, Any] = {"subject": subject, "label": pa.array(approved, pa.int8())}
    if folds:
        columns["fold"] = pa.array(np.arange(rows) % folds, pa.int8())
    features = {"income": income, "debt": debt, "gap": pa.array(gap, pa.float64()), "code": np.arange(rows) % 3}
    sex = np.where(np.arange(rows) % 2, "male", "female")
    return pa.table(columns | features), pa.table({"subject": subject, "race": race, "sex": sex})


ROWS, PROTECTED = tables(700, 1)
LATER, LATER_PROTECTED = tables(300, 2, folds=0)


def train_params(**how: Any) -> TrainParams:
    given: dict[str, Any] = {
        "profile": Profile(**{**PROFILE, **how.pop("profile", {})}),
        "threshold": None,
        "mitigation": "none",
        "attribute": "race",
        "wanted_ratio": 0.9,
        "strengths": [0.0, 1.0, 2.0],
        "small_group": 30,
    }
    return TrainParams(**{**given, **how})


def trained(rows: pa.Table = ROWS, protected: pa.Table = PROTECTED, **how: Any) -> Train:
    return train(train_rows=rows, train_protected=protected, trial=(TRIAL,), params=train_params(**how))


EVALUATE = EvaluateParams(num_threads=1, seed=7, resamples=40, bins=5, baseline_strength=1.0)


def evaluated(made: Train, rows: pa.Table = ROWS, later: pa.Table = LATER, champion: Any = None) -> Evaluate:
    return evaluate(
        model=made.model,
        decision_rule=made.decision_rule,
        train_rows=rows,
        holdout_rows=later,
        holdout_protected=LATER_PROTECTED,
        oof=made.oof,
        champion=champion or {"status": "none"},
        params=EVALUATE,
    )
