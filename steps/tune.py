"""Search hyperparameters: one seeded Optuna search an item, scored by log loss over the folds of the training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from pydantic import Field

from steps.lightgbm_profile import Profile, Recipe, check_folds, examples, out_of_fold
from steps.metrics import log_loss
from steps.types import BadData, Params, Report

if TYPE_CHECKING:
    import optuna


class TuneParams(Params):
    """Where to search, how long, and from which seed. Each range is [low, high]."""

    profile: Profile = Field(description="The fixed part of every fit")
    seed: int = Field(ge=0, lt=2**31 - 1000, description="Seed of search 0; search n has this plus n")
    trials: int = Field(ge=1, le=1000, description="Trials a search")
    rounds: list[int] = Field(min_length=2, max_length=2, description="Trees")
    num_leaves: list[int] = Field(min_length=2, max_length=2, description="Leaves a tree")
    min_data_in_leaf: list[int] = Field(min_length=2, max_length=2, description="Fewest rows in a leaf")
    learning_rate: list[float] = Field(min_length=2, max_length=2, description="Shrinkage, searched on a log scale")
    lambda_l2: list[float] = Field(min_length=2, max_length=2, description="L2 penalty, searched on a log scale")
    feature_fraction: list[float] = Field(min_length=2, max_length=2, description="Share of features a tree")


class Tune(NamedTuple):
    """What `tune` returns."""

    trial: Report


def tune(*, train_rows: pa.Table, search: str, params: TuneParams) -> Tune:
    """Best hyperparameters of search number `search`, and every trial with its out-of-fold log loss (lower is better).

    Raises BadData where the rows cannot be learned from or a range is upside down.
    """
    import optuna

    seed = params.seed + search_number(search)
    check_ranges(params)
    data = examples(train_rows, "train_rows")
    folds = check_folds(data, "train_rows")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=seed))

    def objective(trial: optuna.Trial) -> float:
        recipe = Recipe(profile=params.profile, chosen=suggest(trial, params))
        return round(log_loss(data.label, out_of_fold(data, folds, recipe)), 9)

    study.optimize(objective, n_trials=params.trials)
    trials = [{"number": t.number, "params": t.params, "log_loss": t.value} for t in study.trials]
    best = min(trials, key=lambda t: (t["log_loss"], t["number"]))
    return Tune(trial={"search": search, "seed": seed, "best": best, "trials": trials})


def search_number(search: str) -> int:
    if not search.isascii() or not search.isdigit():
        raise BadData("search is no number", where="tune", expected="0, 1, ...", got=search)
    return int(search)


def check_ranges(params: TuneParams) -> None:
    for name in ("rounds", "num_leaves", "min_data_in_leaf", "learning_rate", "lambda_l2", "feature_fraction"):
        low, high = getattr(params, name)
        if not 0 < low <= high:
            raise BadData("range is empty", where=f"tune.{name}", expected="0 < low <= high", got=f"[{low}, {high}]")


def suggest(trial: optuna.Trial, params: TuneParams) -> dict[str, Any]:
    """One point of the search space, under LightGBM's own names and `rounds`."""
    return {
        "rounds": trial.suggest_int("rounds", *params.rounds),
        "num_leaves": trial.suggest_int("num_leaves", *params.num_leaves),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", *params.min_data_in_leaf),
        "learning_rate": trial.suggest_float("learning_rate", *params.learning_rate, log=True),
        "lambda_l2": trial.suggest_float("lambda_l2", *params.lambda_l2, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", *params.feature_fraction),
    }
