from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.split import Split, SplitParams, split
from steps.types import BadData

KEY = b"k" * 32


def params(**changes: Any) -> SplitParams:
    values: dict[str, Any] = {
        "label": "approve",
        "features": ["income", "amount"],
        "protected": ["race", "sex"],
        "holdout_share": 0.25,
        "folds": 5,
    }
    return SplitParams(**values | changes)


def rows(count: int = 400, **columns: Any) -> pa.Table:
    rng = np.random.default_rng(1)
    data: dict[str, Any] = {
        "subject": [f"token-{n:05d}" for n in range(count)],
        "income": rng.normal(size=count),
        "amount": np.arange(count, dtype=np.int64),
        "approve": np.arange(count, dtype=np.int64) % 2,
        "race": ["white", "black", "white", "unknown"] * (count // 4),
        "sex": ["male", "female"] * (count // 2),
    }
    return pa.table(data | columns)


def places(made: Split) -> dict[str, tuple[str, int | None]]:
    """Where each subject went: side and fold."""
    train = zip(made.train_rows["subject"].to_pylist(), made.train_rows["fold"].to_pylist(), strict=True)
    return {s: ("train", f) for s, f in train} | dict.fromkeys(made.holdout_rows["subject"].to_pylist(), ("holdout", None))


def test_tables_and_types() -> None:
    made = split(valid=rows(), masking_key=KEY, params=params())
    assert made.train_rows.schema.names == ["subject", "fold", "label", "income", "amount"]
    assert made.holdout_rows.schema.names == ["subject", "label", "income", "amount"]
    assert made.train_rows.schema.field("fold").type == made.train_rows.schema.field("label").type == pa.int8()
    assert made.train_protected.schema.names == made.holdout_protected.schema.names == ["subject", "race", "sex"]
    for table, protected in ((made.train_rows, made.train_protected), (made.holdout_rows, made.holdout_protected)):
        assert table["subject"].to_pylist() == sorted(table["subject"].to_pylist()) == protected["subject"].to_pylist()


def test_every_row_lands_once_and_shares_are_as_asked() -> None:
    made = split(valid=rows(4000), masking_key=KEY, params=params())
    where = places(made)
    assert set(where) == set(rows(4000)["subject"].to_pylist())
    assert made.train_rows.num_rows + made.holdout_rows.num_rows == 4000
    assert abs(made.holdout_rows.num_rows / 4000 - 0.25) < 0.03, "more than four standard deviations off"
    folds = np.bincount(made.train_rows["fold"].to_numpy(), minlength=5)
    assert len(folds) == 5
    assert folds.min() > 500


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), first=st.integers(100, 390))
def test_a_row_keeps_its_side_and_fold_as_data_grows(seed: int, first: int) -> None:
    """Whatever other rows there are and in whatever order, a subject goes where its own hash sends it."""
    order = random.Random(seed).sample(range(400), 400)  # noqa: S311 - an order to try, no secret
    some = places(split(valid=rows().take(order[:first]), masking_key=KEY, params=params()))
    grown = places(split(valid=rows().take(order), masking_key=KEY, params=params()))
    assert some == {subject: grown[subject] for subject in some}


def test_another_share_only_moves_rows_into_the_holdout() -> None:
    small, large = (places(split(valid=rows(), masking_key=KEY, params=params(holdout_share=s))) for s in (0.2, 0.4))
    assert {s for s, (side, _) in small.items() if side == "holdout"} < {s for s, (side, _) in large.items() if side == "holdout"}


def test_another_key_gives_another_split() -> None:
    one, two = (places(split(valid=rows(), masking_key=key, params=params())) for key in (KEY, b"q" * 32))
    assert one != two


def test_side_says_nothing_about_fold() -> None:
    """Side and fold come from different hashes: folds of those held out would be as even as those of the rest."""
    made = split(valid=rows(4000), masking_key=KEY, params=params(holdout_share=0.5))
    folds = np.bincount(made.train_rows["fold"].to_numpy(), minlength=5)
    assert folds.min() > 320, "a shared hash would leave the lower folds empty"


def carried(feature: list[int], attribute: list[str]) -> bool:
    """Whether feature and attribute tell each other for every row."""
    return len(set(zip(feature, attribute, strict=True))) == len(set(feature)) == len(set(attribute))


def test_no_protected_attribute_reaches_the_rows() -> None:
    made = split(valid=rows(), masking_key=KEY, params=params())
    for table, protected in ((made.train_rows, made.train_protected), (made.holdout_rows, made.holdout_protected)):
        assert not {"race", "sex"} & set(table.column_names)
        for attribute in ("race", "sex"):
            for feature in ("income", "amount"):
                assert not carried(table[feature].to_pylist(), protected[attribute].to_pylist())


@pytest.mark.parametrize(
    ("attribute", "codes"),
    [("sex", {"male": 1, "female": 0}), ("race", {"white": 7, "black": 3, "unknown": -1})],
)
def test_a_renamed_copy_of_a_protected_attribute_is_refused(attribute: str, codes: dict[str, int]) -> None:
    copy = [codes[v] for v in rows()[attribute].to_pylist()]
    with pytest.raises(BadData) as caught:
        split(valid=rows(innocent=copy), masking_key=KEY, params=params(features=["income", "innocent"]))
    assert caught.value.what == "feature carries a protected attribute"
    assert caught.value.where == "valid.innocent"
    assert caught.value.got == f"a copy of {attribute}"


def test_one_row_that_differs_is_no_copy() -> None:
    nearly = [int(v == "male") for v in rows()["sex"].to_pylist()]
    nearly[0] = 1 - nearly[0]
    split(valid=rows(innocent=nearly), masking_key=KEY, params=params(features=["income", "innocent"]))


@pytest.mark.parametrize(
    ("table", "changes", "what"),
    [
        (rows().drop_columns("race"), {}, "protected attribute absent"),
        (rows().drop_columns("income"), {}, "feature absent"),
        (rows().drop_columns("approve"), {}, "column missing"),
        (rows(approve=[1] * 400), {}, "all labels alike, or no rows"),
        (rows(approve=[0] * 400), {}, "all labels alike, or no rows"),
        (rows(approve=[0, 2] * 200), {}, "label is neither 0 nor 1"),
        (rows(approve=pa.array([0, None] * 200)), {}, "label is neither 0 nor 1"),
        (rows().slice(0, 0), {}, "all labels alike, or no rows"),
        (rows(), {"features": ["income", "sex"]}, "this column cannot be a feature"),
        (rows(), {"features": ["income", "approve"]}, "this column cannot be a feature"),
        (rows(), {"features": ["subject"]}, "this column cannot be a feature"),
        (rows(income=["1"] * 400), {}, "feature is no number"),
        (rows(), {"holdout_share": 1e-9}, "all labels alike, or no rows"),
    ],
)
def test_bad_input_is_refused(table: pa.Table, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(BadData) as caught:
        split(valid=table, masking_key=KEY, params=params(**changes))
    assert caught.value.what == what
    assert caught.value.where


def test_short_key_is_refused() -> None:
    with pytest.raises(BadData, match="key too short"):
        split(valid=rows(), masking_key=b"short", params=params())
