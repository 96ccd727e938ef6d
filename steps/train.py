"""Join the searches and train: out-of-fold scores, the final model on all training rows, and the rule that decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from steps.decisions import decided, groups_of
from steps.lightgbm_profile import Examples, Floats, Ints, Profile, Recipe, check_folds, examples, fit, out_of_fold
from steps.metrics import auc, figure, log_loss
from steps.mitigation import Groups, Tried, gentlest, group_thresholds, reduced_models, reduced_out_of_fold, selection_rate_ratio
from steps.types import BadData, Params, Report

if TYPE_CHECKING:
    import lightgbm as lgb


class TrainParams(Params):
    """How the model is fitted, how a score becomes a decision, and what is done about unequal approval rates."""

    profile: Profile = Field(description="The fixed part of every fit")
    threshold: float | None = Field(gt=0, lt=1, description="Approve from this score on; null: as many, out of fold, as the bank approved")
    mitigation: Literal["none", "reductions", "threshold"] = Field(description="none; while learning; when deciding (see steps.mitigation)")
    attribute: str = Field(min_length=1, description="Protected attribute whose approval rates are brought together")
    wanted_ratio: float = Field(gt=0, le=1, description="Lowest over highest approval rate to reach out of fold")
    strengths: list[float] = Field(min_length=1, description="Strengths to try for reductions; 0 changes nothing")
    small_group: int = Field(ge=1, description="Groups with fewer rows do not steer the mitigation")


class Train(NamedTuple):
    """What `train` returns."""

    model: lgb.Booster
    decision_rule: Report
    training: Report
    oof: pa.Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a mitigation ends in."""

    model: lgb.Booster
    scores: Floats
    rule: Report
    found: Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What every mitigation starts from. `plain` are out-of-fold scores without any, `threshold` theirs."""

    data: Examples
    groups: Groups
    recipe: Recipe
    plain: Floats
    threshold: float
    params: TrainParams


def train(*, train_rows: pa.Table, train_protected: pa.Table, trial: tuple[Report, ...], params: TrainParams) -> Train:
    """Model, decision rule, report on the training, and an out-of-fold table of (subject, label, score, decision).

    Raises BadData for rows that cannot be learned from, subjects that differ, or no trial.
    """
    chosen, trials = best_of(trial)
    data = examples(train_rows, "train_rows")
    folds = check_folds(data, "train_rows")
    groups = groups_of(train_protected, train_rows["subject"], params.attribute, "train_protected")
    recipe = Recipe(profile=params.profile, chosen=chosen)
    plain = out_of_fold(data, folds, recipe)
    setting = Setting(
        data=data, groups=groups, recipe=recipe, plain=plain, threshold=threshold_of(plain, data.label, params), params=params
    )
    done = {"none": no_mitigation, "reductions": reductions, "threshold": thresholds}[params.mitigation](setting)
    oof = decided(train_rows["subject"], data.label, done.scores, done.rule, train_protected)
    training = {
        "mitigation": params.mitigation,
        "parameters": chosen,
        "rounds": done.model.num_trees(),
        "rows": len(data.label),
        "features": list(data.names),
        "device": params.profile.device,
        "trials": trials,
        "mitigation_cost": cost(setting, done, oof),
        "mitigation_search": done.found,
    }
    return Train(model=done.model, decision_rule=done.rule, training=training, oof=oof)


def best_of(trials: tuple[Report, ...]) -> tuple[dict[str, Any], list[Report]]:
    """The parameters with the least log loss, ties to the lower seed and trial; and each search's best in order of seed."""
    if not trials:
        raise BadData("no search to choose from", where="trial", expected="at least one")
    ordered = sorted(trials, key=lambda t: int(t["seed"]))
    best = min(ordered, key=lambda t: (t["best"]["log_loss"], t["seed"], t["best"]["number"]))
    summary = [{"search": t["search"], "seed": t["seed"], "log_loss": t["best"]["log_loss"], "chosen": t is best} for t in ordered]
    return dict(best["best"]["params"]), summary


def threshold_of(scores: Floats, label: Ints, params: TrainParams) -> float:
    """The threshold of the params; else the score of the last row approved where as many are as in the label, rounded down."""
    if params.threshold is not None:
        return params.threshold
    last = np.sort(scores)[::-1][int(label.sum()) - 1]
    return float(np.floor(last * 1e9) / 1e9)


def single_rule(threshold: float, reason: str) -> Report:
    return {"kind": "single", "threshold": threshold, "needs": [], "reason": reason}


def plain_model(setting: Setting) -> lgb.Booster:
    data = setting.data
    return fit(data.features, data.label, names=data.names, recipe=setting.recipe)


def no_mitigation(setting: Setting) -> Outcome:
    rule = single_rule(setting.threshold, "One threshold for everybody. Deciding needs no protected attribute.")
    return Outcome(model=plain_model(setting), scores=setting.plain, rule=rule, found={"status": "none"})


def reductions(setting: Setting) -> Outcome:
    """Models of rising strength, out of fold; the one that reaches the wanted ratio at the least loss is trained on all rows.

    The strength is chosen on the same out-of-fold scores that the report then shows, as hyperparameters are; the hold-out
    takes no part in it.
    """
    p, label = setting.params, setting.data.label
    scores = reduced_out_of_fold(setting.data, setting.groups, setting.recipe, strengths=p.strengths, small_group=p.small_group)
    levels = [threshold_of(own, label, p) for own in scores.T]
    tried = [
        Tried(
            strength=strength,
            loss=round(log_loss(label, own), 9),
            ratio=selection_rate_ratio(own >= level, setting.groups, p.small_group),
        )
        for strength, own, level in zip(p.strengths, scores.T, levels, strict=True)
    ]
    best = gentlest(tried, p.wanted_ratio)
    [model] = reduced_models(setting.data, setting.groups, setting.recipe, strengths=[p.strengths[best]], small_group=p.small_group)
    reached = (tried[best].ratio or 0.0) >= p.wanted_ratio
    found = {
        "status": "reached" if reached else "missed",
        "wanted_ratio": p.wanted_ratio,
        "strength": p.strengths[best],
        "tried": [{"strength": t.strength, "log_loss": figure(t.loss), "selection_rate_ratio": t.ratio and figure(t.ratio)} for t in tried],
    }
    reason = f"One threshold for everybody. The {p.attribute} of past applicants shaped the weights in training; deciding does not need it."
    return Outcome(model=model, scores=scores[:, best], rule=single_rule(levels[best], reason), found=found)


def thresholds(setting: Setting) -> Outcome:
    p = setting.params
    own = group_thresholds(
        setting.plain, setting.groups, threshold=setting.threshold, wanted_ratio=p.wanted_ratio, small_group=p.small_group
    )
    rule = {
        "kind": "per_group",
        "threshold": setting.threshold,
        "attribute": p.attribute,
        "thresholds": own,
        "needs": [p.attribute],
        "reason": f"A threshold for each {p.attribute}. Deciding needs the {p.attribute} of every applicant, which under the Equal Credit "
        "Opportunity Act can be disparate treatment: have counsel agree before use.",
    }
    return Outcome(model=plain_model(setting), scores=setting.plain, rule=rule, found={"status": "chosen", "wanted_ratio": p.wanted_ratio})


def cost(setting: Setting, done: Outcome, oof: pa.Table) -> Report:
    """What the mitigation took from accuracy and gave to fairness, out of fold."""
    approved = np.asarray(oof["decision"].to_pylist(), dtype=object) == "approved"
    label, p = setting.data.label, setting.params
    pairs = {"without": (setting.plain, setting.plain >= setting.threshold), "with": (done.scores, approved)}
    report: Report = {}
    for name, (scores, decision) in pairs.items():
        ratio = selection_rate_ratio(decision, setting.groups, p.small_group)
        report |= {
            f"auc_{name}": figure(auc(label, scores)),
            f"accuracy_{name}": figure(float(np.mean(decision == (label == 1)))),
            f"log_loss_{name}": figure(log_loss(label, scores)),
            f"approval_rate_{name}": figure(float(decision.mean())),
            f"selection_rate_ratio_{name}": None if ratio is None else figure(ratio),
        }
    report["auc_cost"] = figure(report["auc_without"] - report["auc_with"])
    report["accuracy_cost"] = figure(report["accuracy_without"] - report["accuracy_with"])
    return report
