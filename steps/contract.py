"""What the model may be asked, and in which words it answers: the contract between a trained model and whoever serves it.

A server reads this report and nothing of the checkout. Its bounds are those that training rows had to meet, so it refuses
an application that could not have been learned from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from steps.explain import Reason
from steps.types import BadData, Params, Report
from steps.validate import Ratio

if TYPE_CHECKING:
    import lightgbm as lgb

FORMAT = "urn:countersign:contract:v1"


class Described(Params):
    """What a person who fills in an application must know of a feature."""

    unit: str = Field(min_length=1, description="Unit of measure, such as USD a month; code for a category, count for things")
    words: str = Field(min_length=1, description="What it is")


class ContractParams(Params):
    """What a server must know, all of it also what other steps used: the file repeats their values by reference."""

    features: dict[str, Described] = Field(description="Feature -> unit and words")
    ranges: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        description="Number columns: column -> [smallest, largest], both allowed; as validation used them"
    )
    categories: dict[str, list[int]] = Field(description="Coded columns: column -> codes allowed; as validation used them")
    may_be_missing: list[str] = Field(description="Columns that may be empty; as validation used them")
    ratios: list[Ratio] = Field(description="Columns that must agree; as validation used them")
    reasons: dict[str, Reason] = Field(description="Feature -> reason; as explanation used them")
    most_reasons: int = Field(ge=1, le=10, description="Reasons a decision at most; as explanation used it")
    groups: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
        description="Protected attribute -> groups, where an application may say it: to count by group, or because the rule needs it"
    )
    sealed: list[str] = Field(description="Features whose values stand in the decision log encrypted")


class Contract(NamedTuple):
    """What `describe` returns."""

    contract: Report


def describe(*, model: lgb.Booster, decision_rule: Report, train_rows: pa.Table, params: ContractParams) -> Contract:
    """Each feature in the model's order with type, unit, bounds and reason; how many reasons; what the decision rule needs.

    Raises BadData where a feature has no unit, bounds or reason, a training row lies outside the bounds, or the rule
    needs a protected attribute that an application cannot state.
    """
    names: list[str] = model.feature_name()
    check_described(names, params)
    needs = [str(n) for n in decision_rule["needs"]]
    if unknown := sorted(set(needs) - set(params.groups)):
        raise BadData("the decision rule needs what an application cannot state", where="describe.groups", expected=", ".join(unknown))
    return Contract(
        contract={
            "format": FORMAT,
            "features": [feature(n, train_rows, params) for n in names],
            "ratios": [r.model_dump() for r in params.ratios if {r.ratio, r.of, r.to} <= set(names)],
            "most_reasons": params.most_reasons,
            "rule": {"kind": str(decision_rule["kind"]), "needs": needs},
            "groups": params.groups,
        }
    )


def check_described(names: list[str], params: ContractParams) -> None:
    """BadData with every feature that lacks something, or is sealed without being there."""
    bounds = set(params.ranges) | set(params.categories)
    for what, known in (("features", set(params.features)), ("ranges or categories", bounds), ("reasons", set(params.reasons))):
        if missing := [n for n in names if n not in known]:
            raise BadData(f"feature is not in {what}", where=f"describe.{what.split()[0]}", expected=", ".join(missing))
    if unknown := sorted(set(params.sealed) - set(names)):
        raise BadData("no such feature", where="describe.sealed", expected=f"some of {', '.join(names)}", got=", ".join(unknown))


def feature(name: str, rows: pa.Table, params: ContractParams) -> Report:
    """One feature. A category has `codes`, any other `lowest` and `highest`; an integer takes no fraction."""
    if name not in rows.column_names:
        raise BadData("the model needs a feature that the rows lack", where="train_rows", expected=name)
    column = rows[name]
    if name in params.categories:
        kind, bounds = "category", dict[str, Any](codes=params.categories[name])
        outside = pc.invert(pc.is_in(column.cast(pa.float64()), pa.array(params.categories[name], pa.float64())))
    else:
        low, high = params.ranges[name]
        kind, bounds = "integer" if pa.types.is_integer(column.type) else "number", {"lowest": low, "highest": high}
        outside = pc.or_(pc.less(column, low), pc.greater(column, high))
    if bad := pc.sum(pc.and_(column.is_valid(), outside)).as_py():
        raise BadData("rows that the contract would refuse", where=f"train_rows.{name}", expected=str(bounds), got=f"{bad} rows")
    described = params.features[name].model_dump() | {"reason": params.reasons[name].model_dump()}
    return {
        "name": name,
        "type": kind,
        **bounds,
        **described,
        "may_be_missing": name in params.may_be_missing,
        "sealed": name in params.sealed,
    }
