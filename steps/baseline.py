"""What anybody would try first: logistic regression on imputed, standardised features."""

from __future__ import annotations

from typing import Any

import numpy as np

from steps.lightgbm_profile import Examples, Floats, Ints


def baseline_scores(train: Examples, folds: Ints, holdout: Examples, strength: float) -> dict[str, Floats]:
    """Scores under "out_of_fold" and "holdout". One thread: its sums must not depend on the machine's cores."""
    from threadpoolctl import threadpool_limits

    order = [holdout.names.index(n) for n in train.names]
    with threadpool_limits(1):
        scores = np.full(len(train.label), np.nan)
        for fold in folds:
            out = train.fold == fold
            scores[out] = fitted(train.features[~out], train.label[~out], strength).predict_proba(train.features[out])[:, 1]
        final = fitted(train.features, train.label, strength).predict_proba(holdout.features[:, order])[:, 1]
    return {"out_of_fold": scores, "holdout": np.asarray(final, dtype=np.float64)}


def fitted(features: Floats, label: Ints, strength: float) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = (
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=strength, max_iter=2000, solver="lbfgs"),
    )
    return make_pipeline(*steps).fit(features, label)
