"""The contract says of every feature what a server must ask and may answer, and refuses to be made where it could not."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from steps.contract import ContractParams, describe
from steps.types import BadData
from tests.steps.example import ROWS, trained

MADE = trained()
NAMES = ("income", "debt", "gap", "code")
PARAMS: dict[str, Any] = {
    "features": {n: {"unit": "count", "words": n} for n in NAMES},
    "ranges": {"income": [-10, 10.0], "debt": [-10.0, 10.0], "gap": [-10.0, 10.0]},
    "categories": {"code": [0, 1, 2]},
    "may_be_missing": ["gap", "not_a_feature"],
    "ratios": [
        {"ratio": "gap", "of": "debt", "to": "income", "tolerance": 0.1},
        {"ratio": "gap", "of": "debt", "to": "x", "tolerance": 0.1},
    ],
    "reasons": {n: {"code": f"C{i}", "words": f"because of {n}"} for i, n in enumerate(NAMES)},
    "most_reasons": 4,
    "groups": {"race": ["white", "black"]},
    "sealed": ["debt"],
}


def contract(rule: Any = MADE.decision_rule, rows: pa.Table = ROWS, **how: Any) -> Any:
    params = ContractParams.model_validate({**PARAMS, **how}, strict=False)
    return describe(model=MADE.model, decision_rule=rule, train_rows=rows, params=params).contract


def test_every_feature_in_the_models_order() -> None:
    made = contract()
    assert [f["name"] for f in made["features"]] == MADE.model.feature_name()
    by = {f["name"]: f for f in made["features"]}
    assert by["code"]["type"] == "category"
    assert by["code"]["codes"] == [0, 1, 2]
    assert (by["income"]["type"], by["income"]["lowest"], by["income"]["highest"]) == ("number", -10, 10)
    assert [n for n in by if by[n]["may_be_missing"]] == ["gap"]
    assert [n for n in by if by[n]["sealed"]] == ["debt"]
    assert by["debt"]["reason"] == {"code": "C1", "words": "because of debt"}
    assert [r["to"] for r in made["ratios"]] == ["income"]
    assert made["rule"] == {"kind": "single", "needs": []}


def test_a_whole_number_stays_one() -> None:
    made = contract(ranges={**PARAMS["ranges"], "code": [0, 2]}, categories={})
    assert {f["name"]: f["type"] for f in made["features"]}["code"] == "integer"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"features": {}}, "feature is not in features"),
        ({"ranges": {}}, "feature is not in ranges or categories"),
        ({"reasons": {}}, "feature is not in reasons"),
        ({"sealed": ["other"]}, "no such feature"),
        ({"categories": {"code": [0, 1]}}, "rows that the contract would refuse"),
        ({"ranges": {**PARAMS["ranges"], "debt": [-1.0, 1.0]}}, "rows that the contract would refuse"),
        ({"rule": {"kind": "per_group", "needs": ["age"]}}, "the decision rule needs what an application cannot state"),
        ({"rows": ROWS.drop_columns(["gap"])}, "the model needs a feature that the rows lack"),
    ],
)
def test_what_cannot_be_served_has_no_contract(how: dict[str, Any], message: str) -> None:
    with pytest.raises(BadData, match=message):
        contract(**how)
