from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest

from steps.ingest import IngestParams, ingest
from steps.types import BadData

PARAMS = IngestParams(key="id", application_id="number", label="approve")
FORMS: dict[str, list[Any]] = {"number": ["A3", "A1", "A2"], "id": ["9-3", "9-1", "9-2"], "approve": [1, 0, 1], "amount": [3.0, 1.0, None]}
ANSWERS: dict[str, list[Any]] = {"id": ["9-1", "9-2", "9-3"], "lines": [1, 2, 3]}


def form(**rows: list[Any]) -> pa.Table:
    return pa.table({name: FORMS[name] + rows.get(name, []) for name in FORMS})


def bureau(**rows: list[Any]) -> pa.Table:
    return pa.table({name: ANSWERS[name] + rows.get(name, []) for name in ANSWERS})


def dropped(report: dict[str, Any]) -> dict[str, int]:
    return {d["reason"]: d["rows"] for d in report["dropped"] if d["rows"]}


def test_joins_in_order_of_application_number() -> None:
    made = ingest(application=form(), credit_bureau=bureau(), params=PARAMS)
    assert made.applications.to_pydict() == {
        "number": ["A1", "A2", "A3"],
        "id": ["9-1", "9-2", "9-3"],
        "approve": [0, 1, 1],
        "amount": [1.0, None, 3.0],
        "lines": [1, 2, 3],
    }
    assert made.ingestion["sources"] == {"application": {"rows": 3}, "credit_bureau": {"rows": 3}}
    assert made.ingestion["joined"] == 3
    assert dropped(made.ingestion) == {}
    assert len(made.ingestion["dropped"]) == 11, "every reason is listed, also where nothing was dropped"


@pytest.mark.parametrize(
    ("application", "credit_bureau", "reason", "left"),
    [
        (form(number=["A4"], id=[None], approve=[1], amount=[1.0]), bureau(), "application: no key", 3),
        (form(number=["A4"], id=["  "], approve=[1], amount=[1.0]), bureau(), "application: no key", 3),
        (form(number=[None], id=["9-4"], approve=[1], amount=[1.0]), bureau(), "application: no application number", 3),
        (form(number=["A4"], id=["9-4"], approve=[None], amount=[1.0]), bureau(), "application: no label", 3),
        (form(number=["A2"], id=["9-2"], approve=[1], amount=[None]), bureau(), "application: exact copy", 3),
        (form(number=["A4"], id=["9-4"], approve=[1], amount=[1.0]), bureau(), "application: no answer from the credit bureau", 3),
        (form(number=["A0"], id=["9-1"], approve=[1], amount=[1.0]), bureau(), "application: the same person applied again later", 3),
        (form(), bureau(id=["9-1"], lines=[1]), "credit_bureau: exact copy", 3),
        (form(), bureau(id=[None], lines=[1]), "credit_bureau: no key", 3),
        (form(), bureau(id=["9-9"], lines=[1]), "credit_bureau: no application", 3),
    ],
)
def test_counts_what_it_drops(application: pa.Table, credit_bureau: pa.Table, reason: str, left: int) -> None:
    made = ingest(application=application, credit_bureau=credit_bureau, params=PARAMS)
    assert dropped(made.ingestion) == {reason: 1}
    assert made.applications.num_rows == left


def test_contradicting_rows_are_all_dropped() -> None:
    again = form(number=["A1"], id=["9-1"], approve=[1], amount=[9.0])
    made = ingest(application=again, credit_bureau=bureau(), params=PARAMS)
    assert dropped(made.ingestion) == {
        "application: rows with one number contradict each other": 2,
        "credit_bureau: no application": 1,
    }
    made = ingest(application=form(), credit_bureau=bureau(id=["9-1"], lines=[7]), params=PARAMS)
    assert dropped(made.ingestion) == {
        "credit_bureau: rows with one key contradict each other": 2,
        "application: no answer from the credit bureau": 1,
    }


def test_a_row_is_joined_or_counted() -> None:
    """No row vanishes: joined and dropped add up to what came, source by source."""
    application = form(number=["A4", "A5", None], id=["9-4", "9-1", "9-2"], approve=[1, None, 0], amount=[1.0, 2.0, 3.0])
    made = ingest(application=application, credit_bureau=bureau(id=["9-8", "9-1"], lines=[1, 1]), params=PARAMS)
    for source, rows in (("application", 6), ("credit_bureau", 5)):
        gone = sum(d["rows"] for d in made.ingestion["dropped"] if d["reason"].startswith(f"{source}:"))
        assert gone + made.ingestion["joined"] == rows


def test_keys_match_in_spite_of_case_and_space() -> None:
    application = form(number=["A4"], id=[" X-4 "], approve=[1], amount=[1.0])
    made = ingest(application=application, credit_bureau=bureau(id=["x-4"], lines=[4]), params=PARAMS)
    assert made.applications["id"].to_pylist()[-1] == "x-4"


def test_order_of_the_sources_changes_nothing() -> None:
    expected = ingest(application=form(), credit_bureau=bureau(), params=PARAMS)
    for seed in range(5):
        order = random.Random(seed).sample(range(3), 3)  # noqa: S311 - an order to try, no secret
        made = ingest(application=form().take(order), credit_bureau=bureau().take(order[::-1]), params=PARAMS)
        assert made.applications.equals(expected.applications)
        assert made.ingestion == expected.ingestion


@pytest.mark.parametrize(
    ("application", "credit_bureau", "what"),
    [
        (form().slice(0, 0), bureau(), "source is empty"),
        (form(), bureau().slice(0, 0), "source is empty"),
        (form().drop_columns("approve"), bureau(), "column missing"),
        (form(), bureau().drop_columns("id"), "column missing"),
        (form(), bureau().set_column(0, "id", pa.array([1, 2, 3])), "key is no text"),
        (form(), bureau().append_column("amount", pa.array([1, 2, 3])), "both sources have a column of this name"),
        (form(), bureau().set_column(0, "id", pa.array(["a", "b", "c"])), "no application is left"),
    ],
)
def test_bad_sources_are_refused(application: pa.Table, credit_bureau: pa.Table, what: str) -> None:
    with pytest.raises(BadData) as caught:
        ingest(application=application, credit_bureau=credit_bureau, params=PARAMS)
    assert caught.value.what == what
    assert caught.value.where
