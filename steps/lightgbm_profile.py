"""LightGBM, so that the same table gives the same trees: one profile for search, out-of-fold scores and the final model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from steps.types import BadData, Params

if TYPE_CHECKING:
    import lightgbm as lgb

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
NOT_FEATURES = ("subject", "fold", "label")


class Profile(Params):
    """What stays the same in every fit of a pipeline."""

    device: Literal["cpu", "gpu", "cuda"] = Field(
        description="cpu is bitwise reproducible; gpu (OpenCL) and cuda are so within a tolerance"
    )
    num_threads: int = Field(ge=1, le=64, description="Fixed, because the model's text records it")
    seed: int = Field(ge=0, lt=2**31, description="Seed of LightGBM's sampling")
    max_bin: int = Field(ge=2, le=255, description="Bins a feature; 63 or fewer are fastest on a GPU")
    monotone: dict[str, int] = Field(description="Feature -> 1 (more never hurts the applicant) or -1 (more never helps)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """A rows table as arrays. `fold` is all 0 where the table has none."""

    names: tuple[str, ...]
    features: Floats
    label: Ints
    fold: Ints


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All that a fit needs beside data: the fixed profile, and the hyperparameters chosen within it, `rounds` among them."""

    profile: Profile
    chosen: dict[str, Any]


def examples(rows: pa.Table, where: str) -> Examples:
    """Arrays of a rows table; a missing value becomes NaN. BadData for a feature or label that is no number, or no rows."""
    if missing := [c for c in ("subject", "label") if c not in rows.column_names]:
        raise BadData("column missing", where=where, expected=", ".join(missing))
    names = tuple(c for c in rows.column_names if c not in NOT_FEATURES)
    if not names or rows.num_rows == 0:
        raise BadData(
            "nothing to learn from", where=where, expected="rows and features", got=f"{rows.num_rows} rows, {len(names)} features"
        )
    features = np.column_stack([_numbers(rows[n], f"{where}.{n}") for n in names])
    label = _numbers(rows["label"], f"{where}.label")
    if not np.isin(label, (0.0, 1.0)).all():
        raise BadData("label is neither 0 nor 1", where=f"{where}.label", expected="0 or 1 in every row")
    fold = _numbers(rows["fold"], f"{where}.fold") if "fold" in rows.column_names else np.zeros(rows.num_rows)
    return Examples(names=names, features=features, label=label.astype(np.int64), fold=fold.astype(np.int64))


def _numbers(column: pa.ChunkedArray, where: str) -> Floats:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise BadData("feature is no number", where=where, expected="an integer or a float", got=str(kind))
    found = np.asarray(pc.fill_null(pc.cast(column, pa.float64(), safe=False), float("nan")).to_numpy(), dtype=np.float64)
    if np.isinf(found).any():
        raise BadData("infinite value", where=where, expected="finite numbers or none", got=f"{int(np.isinf(found).sum())} rows")
    return found


def check_folds(data: Examples, where: str) -> Ints:
    """The folds in order. BadData unless there are two or more and each holds approved and declined rows."""
    folds = np.unique(data.fold)
    if len(folds) < 2:  # noqa: PLR2004 - one part to learn from, one to score
        raise BadData("too few folds", where=f"{where}.fold", expected="at least 2", got=str(len(folds)))
    if len(np.unique(data.label)) < 2:  # noqa: PLR2004 - approved and declined
        raise BadData("all labels alike", where=f"{where}.label", expected="approved and declined rows", got=f"{len(data.label)} rows")
    for fold in folds:
        if len(np.unique(data.label[data.fold == fold])) < 2:  # noqa: PLR2004 - likewise
            raise BadData("all labels in this fold are alike", where=f"{where}, fold {fold}", expected="approved and declined rows")
    return folds.astype(np.int64)


def settings_of(recipe: Recipe, names: tuple[str, ...]) -> dict[str, Any]:
    """LightGBM's parameters. BadData for a constraint on a feature that is not there."""
    profile = recipe.profile
    if unknown := sorted(set(profile.monotone) - set(names)):
        raise BadData(
            "monotone constraint on an unknown feature", where="params", expected=f"one of {', '.join(names)}", got=", ".join(unknown)
        )
    if odd := sorted(n for n, way in profile.monotone.items() if way not in (-1, 1)):
        raise BadData("monotone constraint is neither 1 nor -1", where="params", got=", ".join(odd))
    fixed: dict[str, Any] = {
        "objective": "binary",
        "device_type": profile.device,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": profile.num_threads,
        "seed": profile.seed,
        "max_bin": profile.max_bin,
        "feature_pre_filter": False,
        "verbosity": -1,
    }
    if profile.monotone:
        fixed["monotone_constraints"] = [profile.monotone.get(n, 0) for n in names]
    if profile.device == "gpu":
        del fixed["force_row_wise"]  # the OpenCL device has a layout of its own
        fixed["gpu_use_dp"] = True  # sums in single precision depend on their order
    return fixed | {k: v for k, v in recipe.chosen.items() if k != "rounds"}


def fit(features: Floats, label: Ints, *, names: tuple[str, ...], recipe: Recipe, weight: Floats | None = None) -> lgb.Booster:
    """A model of `rounds` trees, no early stopping: a tie there would hang on the last bit."""
    import lightgbm as lgb

    settings = settings_of(recipe, names)
    data = lgb.Dataset(features, label=label, weight=weight, feature_name=list(names), params=settings)
    return lgb.train(settings, data, num_boost_round=int(recipe.chosen["rounds"]))


def score(model: lgb.Booster, features: Floats, num_threads: int) -> Floats:
    """Probability of approval, one a row."""
    return np.asarray(model.predict(features, num_threads=num_threads), dtype=np.float64)


def out_of_fold(data: Examples, folds: Ints, recipe: Recipe) -> Floats:
    """Each row's score by a model that never saw its fold."""
    scores = np.full(len(data.label), np.nan)
    for fold in folds:
        out = data.fold == fold
        model = fit(data.features[~out], data.label[~out], names=data.names, recipe=recipe)
        scores[out] = score(model, data.features[out], recipe.profile.num_threads)
    return scores
