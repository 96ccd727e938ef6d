"""Bring the groups' approval rates closer together: while learning (`reductions`) or when deciding (`threshold`).

`reductions` needs the protected attribute in training only. `threshold` needs it for every applicant and treats people who are
alike differently by group: under the Equal Credit Opportunity Act (15 USC 1691; 12 CFR 1002.4 a) that can itself be unlawful
disparate treatment. It is here to be compared with, not to be recommended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steps.lightgbm_profile import Examples, Floats, Ints, Recipe, fit, score

if TYPE_CHECKING:
    import lightgbm as lgb

HALF = 0.5
Groups = npt.NDArray[np.object_]


def selection_rates(approved: npt.NDArray[np.bool_], groups: Groups, small_group: int) -> dict[str, float]:
    """Share approved in each group of at least `small_group` rows, in the groups' alphabetic order."""
    return {str(g): float(approved[groups == g].mean()) for g in sorted(set(groups)) if np.sum(groups == g) >= small_group}


def selection_rate_ratio(approved: npt.NDArray[np.bool_], groups: Groups, small_group: int) -> float | None:
    """Lowest over highest approval rate, 1 where all are equal; none with fewer than two groups that are large enough.

    Groups approved at 0.6 and 0.8 have the ratio 0.75. Nobody approved at all is no fairness either: none.
    """
    rates = list(selection_rates(approved, groups, small_group).values())
    if len(rates) < 2 or max(rates) == 0:  # noqa: PLR2004 - a ratio has two ends
        return None
    return min(rates) / max(rates)


class Learner:
    """What Fairlearn asks of an estimator, over `fit` with a LightGBM profile."""

    def __init__(self, names: tuple[str, ...], recipe: Recipe) -> None:
        self.names, self.recipe = names, recipe
        self.booster: lgb.Booster | None = None

    def fit(self, features: Floats, label: Any, sample_weight: Any) -> Learner:
        weight = np.asarray(sample_weight, dtype=np.float64)
        self.booster = fit(np.asarray(features), np.asarray(label), names=self.names, recipe=self.recipe, weight=weight)
        return self

    def predict(self, features: Floats) -> Ints:
        """What Fairlearn measures each model by; the choice among them is made elsewhere, on out-of-fold scores."""
        if self.booster is None:
            raise RuntimeError("predict before fit")
        return (score(self.booster, np.asarray(features), self.recipe.profile.num_threads) >= HALF).astype(np.int64)


def multipliers(constraints: Any, label: Ints, groups: Groups, strengths: list[float], small_group: int) -> Any:
    """Fairlearn's Lagrange multipliers, a column a strength, so that group g's rows weigh `strength * gap(g) / largest gap` more.

    A gap is how far a group's approval rate in the labels lies below that of all. With strength 1, declines in the group
    furthest behind no longer count; above 1 they begin to count as approvals. Group shares cancel: Fairlearn divides by them.
    """
    import pandas as pd

    rates = selection_rates(label == 1, groups, small_group)
    gaps = {g: float(label.mean()) - r for g, r in rates.items()}
    largest = max((abs(gap) for gap in gaps.values()), default=0.0) or 1.0
    grid = pd.DataFrame(0.0, index=constraints.index, columns=range(len(strengths)))
    for number, strength in enumerate(strengths):
        for group, gap in gaps.items():
            push = strength * gap / largest * float(np.mean(groups == group))
            grid.loc[("-" if push > 0 else "+", "all", group), number] = abs(push)
    return grid


def reduced_models(data: Examples, groups: Groups, recipe: Recipe, *, strengths: list[float], small_group: int) -> list[lgb.Booster]:
    """A model for each strength: Fairlearn's reduction to weighted learning (Agarwal et al. 2018) under demographic parity.

    Each is one ordinary model; the randomised mixture that the method is known for is not used.
    """
    from fairlearn.reductions import DemographicParity, GridSearch

    constraints = DemographicParity()
    constraints.load_data(data.features, data.label, sensitive_features=groups)
    grid = multipliers(constraints, data.label, groups, strengths, small_group)
    search = GridSearch(Learner(data.names, recipe), DemographicParity(), grid=grid)
    search.fit(data.features, data.label, sensitive_features=groups)
    return [p.booster for p in search.predictors_]


def reduced_out_of_fold(data: Examples, groups: Groups, recipe: Recipe, *, strengths: list[float], small_group: int) -> Floats:
    """Scores of shape (rows, strengths), each by models that never saw the row's fold."""
    scores = np.full((len(data.label), len(strengths)), np.nan)
    for fold in np.unique(data.fold):
        out = data.fold == fold
        rest = Examples(names=data.names, features=data.features[~out], label=data.label[~out], fold=data.fold[~out])
        for number, model in enumerate(reduced_models(rest, groups[~out], recipe, strengths=strengths, small_group=small_group)):
            scores[out, number] = score(model, data.features[out], recipe.profile.num_threads)
    return scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """What one strength came to, out of fold."""

    strength: float
    loss: float
    ratio: float | None


def gentlest(tried: list[Tried], wanted_ratio: float) -> int:
    """Number of the strength with the least log loss among those that reach the ratio; else of the highest ratio.

    Ties go to the smaller strength.
    """
    reach = [n for n, t in enumerate(tried) if t.ratio is not None and t.ratio >= wanted_ratio]
    if reach:
        return min(reach, key=lambda n: (tried[n].loss, tried[n].strength))
    return min(range(len(tried)), key=lambda n: (-(tried[n].ratio or 0.0), tried[n].strength))


def group_thresholds(scores: Floats, groups: Groups, *, threshold: float, wanted_ratio: float, small_group: int) -> dict[str, float]:
    """The highest threshold a group, at most `threshold`, that approves at least `wanted_ratio` times the best group's rate.

    Groups smaller than `small_group` keep the common threshold: their quantiles would be noise.
    """
    rates = selection_rates(scores >= threshold, groups, small_group)
    best = max(rates.values(), default=0.0)
    found = {}
    for group in sorted(set(groups)):
        found[str(group)] = threshold
        if rates.get(str(group), 1.0) < wanted_ratio * best:
            own = np.sort(scores[groups == group])[::-1]
            needed = int(np.ceil(wanted_ratio * best * len(own) - 1e-9))
            found[str(group)] = round(min(threshold, float(own[needed - 1])) - 1e-9, 9)
    return found
