from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.keyed import normalise
from steps.mask import MaskParams, as_codes, group_sizes, mask
from steps.types import BadData

KEY, OTHER_KEY = b"k" * 32, b"q" * 32


def params(**changes: Any) -> MaskParams:
    values: dict[str, Any] = {
        "subject": "national_id",
        "tokens": {"account": "account_token"},
        "birth_date": "born",
        "birth_band_years": 20,
        "top_codes": {"dep": 3},
        "keep": ["amount", "dep", "married", "male"],
        "quasi_identifiers": ["birth_band", "dep", "married", "male"],
        "blank_order": ["birth_band", "dep", "married"],
        "wanted_k": 2,
    }
    return MaskParams(**values | changes)


def people(count: int = 8, **columns: list[Any]) -> pa.Table:
    data: dict[str, Any] = {
        "name": [f"Given{n} Family{n}" for n in range(count)],
        "national_id": [f"900-01-{n:04d}" for n in range(count)],
        "account": [f"ZZ{n:020d}" for n in range(count)],
        "born": pa.array([dt.date(1950, 1, 1 + n % 28) for n in range(count)], pa.date32()),
        "amount": [float(n) for n in range(count)],
        "dep": [0] * count,
        "married": pa.array([1] * count, pa.int64()),
        "male": [0, 1] * (count // 2) + [0] * (count % 2),
    }
    return pa.table(data | columns)


def test_columns_and_order() -> None:
    made = mask(applications=people(), masking_key=KEY, params=params())
    assert made.masked.column_names == ["subject", "account_token", "birth_band", "amount", "dep", "married", "male"]
    subjects = made.masked["subject"].to_pylist()
    assert subjects == sorted(subjects)
    assert made.masking["columns"] == {
        "name": "dropped",
        "national_id": "token",
        "account": "token",
        "born": "generalised",
        "amount": "kept",
        "dep": "generalised",
        "married": "generalised",
        "male": "kept",
    }
    assert set(made.masked["birth_band"].to_pylist()) == {1940}


def test_a_column_that_appears_tomorrow_is_dropped() -> None:
    table = people().append_column("email", pa.array(["x@example.org"] * 8))
    made = mask(applications=table, masking_key=KEY, params=params())
    assert "email" not in made.masked.column_names
    assert made.masking["columns"]["email"] == "dropped"


def test_same_value_in_two_columns_has_two_tokens() -> None:
    """Tokens are bound to their column, so an account number cannot be matched with a national id."""
    table = people()
    made = mask(applications=table.set_column(2, "account", table["national_id"]), masking_key=KEY, params=params())
    assert not set(made.masked["subject"].to_pylist()) & set(made.masked["account_token"].to_pylist())


identity = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=3, max_size=20).map("\u00a7{}".format)
"""The section sign makes sure that a find is a leak: no token, number or word of a report has one."""


@settings(deadline=None, max_examples=50)
@given(ids=st.lists(identity, min_size=8, max_size=8), names=st.lists(identity, min_size=8, max_size=8))
def test_no_identifier_survives(ids: list[str], names: list[str]) -> None:
    made = mask(applications=people(national_id=ids, name=names), masking_key=KEY, params=params())
    told = "\n".join([str(made.masked.to_pydict()), str(made.masked.schema), json.dumps(made.masking, ensure_ascii=False)])
    assert "\u00a7" not in told
    for secret in (*people()["account"].to_pylist(), "1950-01-0", "date(1950"):
        assert secret not in told
    for value in (*ids, *names):
        assert value not in told
        assert normalise(value) not in told


@settings(deadline=None, max_examples=50)
@given(ids=st.lists(identity, min_size=8, max_size=8))
def test_tokens_depend_on_value_and_key_alone(ids: list[str]) -> None:
    def subjects(values: list[str], key: bytes) -> list[str]:
        table = people(national_id=values)
        made = mask(applications=table, masking_key=key, params=params()).masked.sort_by("amount")
        return list(made["subject"].to_pylist())

    first = subjects(ids, KEY)
    assert first == subjects([f"  {i} " for i in ids], KEY), "space at the ends is no difference"
    assert first[::-1] == subjects(ids[::-1], KEY), "nor is the order of rows"
    assert not set(first) & set(subjects(ids, OTHER_KEY))


def test_small_groups_are_blanked_then_dropped() -> None:
    """Two women, each alone with her number of children, hide each other once it is blanked. Nobody hides one of unknown sex."""
    table = people(10, dep=[7, 0, 0, 0, 0, 0, 0, 0, 1, 0], male=pa.array([0, 1, 0, 1, 0, 1, 0, 1, 0, None]))
    made = mask(applications=table, masking_key=KEY, params=params())
    rows = made.masked.sort_by("amount")
    assert rows["amount"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], "the row that nothing can hide is gone"
    assert rows["dep"].to_pylist() == [None, 0, 0, 0, 0, 0, 0, 0, None]
    assert rows["married"].to_pylist() == [1] * 9, "nothing is blanked that need not be"
    assert made.masking["blanked"] == {"birth_band": 2, "dep": 2, "married": 0}
    assert (made.masking["k_before"], made.masking["k"], made.masking["suppressed_rows"]) == (1, 2, 1)
    assert made.masking["suppressed_ratio"] == 0.1
    assert made.masking["smallest_groups"] == [{"size": 2, "groups": 1}, {"size": 3, "groups": 1}, {"size": 4, "groups": 1}]


def test_a_lone_row_is_joined_by_a_whole_group_rather_than_dropped() -> None:
    """One woman with three children among others with none or one: the smaller group gives up its details to hide her."""
    table = people(9, dep=[3, 0, 0, 0, 0, 0, 1, 1, 1], male=[0] * 9)
    made = mask(applications=table, masking_key=KEY, params=params(wanted_k=3))
    assert made.masked.sort_by("amount")["dep"].to_pylist() == [None, 0, 0, 0, 0, 0, None, None, None]
    assert (made.masking["k"], made.masking["suppressed_rows"]) == (4, 0)


def test_large_families_are_cut_off_and_missing_stays_missing() -> None:
    table = people(dep=pa.array([3, 4, 5, 6, 8, 3, None, None]), male=[0] * 8)
    made = mask(applications=table, masking_key=KEY, params=params(wanted_k=2))
    assert sorted(made.masked["dep"].to_pylist(), key=str) == [3] * 6 + [None] * 2
    assert made.masking["suppressed_rows"] == 0


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.integers(1920, 1969), st.integers(0, 5), st.sampled_from([0, 1, None]), st.integers(0, 1)), min_size=6, max_size=40
    ),
    wanted=st.integers(2, 4),
)
def test_result_is_k_anonymous_or_refused(rows: list[tuple[int, int, int | None, int]], wanted: int) -> None:
    count = len(rows)
    table = people(
        count,
        born=pa.array([dt.date(r[0], 6, 1) for r in rows], pa.date32()),
        dep=[r[1] for r in rows],
        married=pa.array([r[2] for r in rows], pa.int64()),
        male=[r[3] for r in rows],
    )
    asked = params(wanted_k=wanted)
    try:
        made = mask(applications=table, masking_key=KEY, params=asked)
    except BadData as problem:
        assert "nothing is left" in problem.what  # noqa: PT017 - refusing is one of two right answers
        return
    sizes = group_sizes(as_codes(made.masked, asked.quasi_identifiers))
    assert made.masking["k"] == sizes.min() >= wanted
    assert made.masked.num_rows + made.masking["suppressed_rows"] == count
    assert sum(g["size"] * g["groups"] for g in made.masking["smallest_groups"]) <= count


def test_group_sizes_by_hand() -> None:
    codes = np.array([[0, 1], [0, 1], [0, -1], [1, 1], [0, 1]], dtype=np.int64)
    assert group_sizes(codes).tolist() == [3, 3, 1, 1, 3]


@pytest.mark.parametrize(
    ("table", "changes", "what"),
    [
        (people().drop_columns("national_id"), {}, "column missing"),
        (people().drop_columns("amount"), {}, "column missing"),
        (people().slice(0, 0), {}, "table is empty"),
        (people(national_id=[None, *(f"9{n}" for n in range(7))]), {}, "rows without an identity"),
        (people(national_id=[" ", *(f"9{n}" for n in range(7))]), {}, "rows without an identity"),
        (people(born=["1950-01-01"] * 8), {}, "birth date is no date"),
        (people(), {"keep": ["national_id", "amount", "dep", "married", "male"]}, "a direct identifier would be kept"),
        (people(), {"quasi_identifiers": ["birth_band", "dep", "married", "male", "town"]}, "quasi-identifier is not in the result"),
        (people(), {"blank_order": ["amount"]}, "only quasi-identifiers can be blanked"),
        (people(), {"top_codes": {"name": 3}}, "only a kept column can be cut off"),
        (people(), {"wanted_k": 9}, "nothing is left: no group is large enough"),
    ],
)
def test_bad_input_is_refused(table: pa.Table, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(BadData) as caught:
        mask(applications=table, masking_key=KEY, params=params(**changes))
    assert caught.value.what == what
    assert caught.value.where


def test_short_key_is_refused() -> None:
    with pytest.raises(BadData, match="key too short"):
        mask(applications=people(), masking_key=b"short", params=params())
