from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from steps.types import BadData
from steps.validate import Ratio, ValidateParams, validate

PARAMS = ValidateParams(
    label="approve",
    ranges={"amount": [1, 100], "price": [1, 100], "ltv": [0, 3], "term": [1, 600]},
    categories={name: [0, 1] for name in ("white", "black", "hispan", "male", "married", "old", "approve")},
    missing_codes={"term": [999.0]},
    may_be_missing=["male", "married", "old"],
    ratios=[Ratio(ratio="ltv", of="amount", to="price", tolerance=0.001)],
    exactly_one=[["white", "black", "hispan"]],
)


def rows(**columns: list[Any]) -> pa.Table:
    data: dict[str, list[Any]] = {
        "subject": ["a", "b", "c", "d"],
        "amount": [10, 20, 30, 40],
        "price": [20.0, 20.0, 60.0, 80.0],
        "ltv": [0.5, 1.0, 0.5, 0.5],
        "term": [360.0, 180.0, 360.0, 360.0],
        "white": [1, 0, 0, 1],
        "black": [0, 1, 0, 0],
        "hispan": [0, 0, 1, 0],
        "male": [1, 0, None, 1],
        "married": [1, None, 0, 1],
        "old": [0, 1, 0, None],
        "approve": [1, 0, 1, 1],
        "extra": [5, 6, 7, 8],
    }
    return pa.table(data | columns)


def test_valid_rows_have_model_columns_label_and_words_for_protected_attributes() -> None:
    made = validate(masked=rows(), params=PARAMS)
    assert made.valid.to_pydict() == {
        "subject": ["a", "b", "c", "d"],
        "amount": [10, 20, 30, 40],
        "price": [20.0, 20.0, 60.0, 80.0],
        "ltv": [0.5, 1.0, 0.5, 0.5],
        "term": [360.0, 180.0, 360.0, 360.0],
        "approve": [1, 0, 1, 1],
        "race": ["white", "black", "unknown", "white"],
        "ethnicity": ["not_hispanic", "not_hispanic", "hispanic", "not_hispanic"],
        "sex": ["male", "female", "unknown", "male"],
        "married": ["married", "unknown", "not_married", "married"],
        "old": ["up_to_median_age", "above_median_age", "up_to_median_age", "unknown"],
    }
    assert made.valid.schema.field("amount").type == pa.int64()
    assert made.quarantine.num_rows == 0
    assert made.quarantine.column_names == [*rows().column_names, "reason"]
    assert (made.validation["rows"], made.validation["valid"], made.validation["quarantined_ratio"]) == (4, 4, 0.0)
    assert made.validation["by_reason"] == {}
    assert made.validation["protected_unknown"] == {"race": 1, "sex": 1, "married": 1, "old": 1}


@pytest.mark.parametrize(
    ("columns", "reason", "bad"),
    [
        ({"amount": [10, None, 30, 40]}, "amount: missing", ["b"]),
        ({"price": [20.0, float("nan"), 60.0, 80.0]}, "price: missing", ["b"]),
        ({"term": [360.0, float("inf"), 360.0, 360.0]}, "term: out of range", ["b"]),
        ({"term": [360.0, 601.0, 0.0, 360.0]}, "term: out of range", ["b", "c"]),
        ({"term": [999.0, 180.0, 360.0, 360.0]}, "term: coded as missing", ["a"]),
        ({"male": [1, 2, 0, 1]}, "male: unknown category", ["b"]),
        ({"approve": [1, None, 1, 1]}, "approve: missing", ["b"]),
        ({"ltv": [0.5, 1.01, 0.5, 0.5]}, "ltv: is not amount / price", ["b"]),
        ({"white": [1, 1, 0, 1]}, "white, black, hispan: not exactly one", ["b"]),
        ({"hispan": [0, 0, 0, 0]}, "white, black, hispan: not exactly one", ["c"]),
        ({"subject": ["a", "b", "c", "a"]}, "subject: duplicate", ["a", "a"]),
    ],
)
def test_bad_rows_are_set_aside_with_the_reason(columns: dict[str, list[Any]], reason: str, bad: list[str]) -> None:
    made = validate(masked=rows(**columns), params=PARAMS)
    assert made.quarantine["subject"].to_pylist() == bad
    assert made.quarantine["reason"].to_pylist() == [reason] * len(bad)
    assert made.validation["by_reason"] == {reason: len(bad)}
    assert made.validation["quarantined_ratio"] == len(bad) / 4
    assert made.valid.num_rows == 4 - len(bad)
    assert {c["name"]: c["rows_failed"] for c in made.validation["checks"]}[reason] == len(bad)


def test_a_row_with_several_faults_is_counted_once_and_names_them_all() -> None:
    made = validate(masked=rows(term=[999.0, 180.0, 360.0, 360.0], amount=[0, 20, 30, 40], ltv=[0.0, 1.0, 0.5, 0.5]), params=PARAMS)
    assert made.quarantine["reason"].to_pylist() == ["amount: out of range; term: coded as missing"]
    assert made.validation["quarantined"] == 1


def test_all_rows_bad_leaves_an_empty_table_for_the_gate_to_refuse() -> None:
    made = validate(masked=rows(term=[999.0] * 4), params=PARAMS)
    assert made.valid.num_rows == 0
    assert made.valid.schema.field("race").type == pa.string()
    assert made.validation["quarantined_ratio"] == 1.0


def test_order_of_rows_changes_nothing() -> None:
    table = rows(term=[999.0, 180.0, 0.0, 360.0])
    one, two = (validate(masked=t, params=PARAMS) for t in (table, table.take([3, 1, 0, 2])))
    assert one.valid.equals(two.valid)
    assert one.quarantine.equals(two.quarantine)
    assert one.validation == two.validation


@pytest.mark.parametrize(
    ("table", "changes", "what"),
    [
        (rows().slice(0, 0), {}, "table is empty"),
        (rows().drop_columns("term"), {}, "column missing"),
        (rows().drop_columns("subject"), {}, "column missing"),
        (rows().drop_columns("male"), {}, "column missing"),
        (rows(term=["360", "180", "360", "360"]), {}, "column holds no numbers"),
        (rows(), {"categories": {"term": [1], "approve": [0, 1]}}, "a column has a range and categories"),
        (rows(), {"categories": {"male": [0, 1]}}, "the label has no categories"),
        (rows(), {"ranges": {"term": [600, 1]}}, "a range is turned round"),
    ],
)
def test_a_wrong_table_is_refused(table: pa.Table, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(BadData) as caught:
        validate(masked=table, params=ValidateParams(**PARAMS.model_dump() | changes))
    assert caught.value.what == what
    assert caught.value.where
