"""Join what the applicant wrote with what the credit bureau knew, and count every row that is left behind."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from steps.keyed import normalise
from steps.types import BadData, Params, Report


class IngestParams(Params):
    """Which columns hold the sources together."""

    key: str = Field(min_length=1, description="Column that names the person in both sources; text")
    application_id: str = Field(min_length=1, description="Column of the application form that names the application; text")
    label: str = Field(min_length=1, description="Column of the application form with the bank's decision")


class Ingested(NamedTuple):
    """What `ingest` returns."""

    applications: pa.Table
    ingestion: Report


class Tally:
    """A table that only shrinks, and why it did: every reason is listed, with 0 where nothing was dropped."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.dropped: list[dict[str, str | int]] = []

    def keep(self, table: pa.Table, reason: str) -> None:
        self.dropped.append({"reason": reason, "rows": self.table.num_rows - table.num_rows})
        self.table = table


def ingest(*, application: pa.Table, credit_bureau: pa.Table, params: IngestParams) -> Ingested:
    """One row a person, sorted by application number: the application's columns, then the bureau's.

    The key is compared and kept in its normalised form (see `steps.keyed.normalise`). Exact copies of a row count once.
    Rows that contradict each other under one key are all dropped: nothing says which is right. Of several applications
    by one person the one with the highest number stays.
    """
    sources = {"application": application, "credit_bureau": credit_bureau}
    check_sources(sources, params)
    forms = one_application_each(with_key(application, params.key), params)
    answers = one_answer_each(with_key(credit_bureau, params.key), params.key)
    known = pc.is_in(forms.table[params.key], answers.table[params.key])
    forms.keep(forms.table.filter(known), "application: no answer from the credit bureau")
    wanted = pc.is_in(answers.table[params.key], forms.table[params.key])
    answers.keep(answers.table.filter(wanted), "credit_bureau: no application")
    if not forms.table.num_rows:
        raise BadData("no application is left", where="application and credit_bureau", expected=f"rows that share {params.key}")
    order = [*application.column_names, *(c for c in credit_bureau.column_names if c != params.key)]
    joined = forms.table.join(answers.table, params.key, join_type="inner", use_threads=False).select(order)
    report: Report = {
        "sources": {name: {"rows": table.num_rows} for name, table in sources.items()},
        "joined": joined.num_rows,
        "dropped": [*forms.dropped, *answers.dropped],
    }
    return Ingested(applications=joined.sort_by(params.application_id).combine_chunks(), ingestion=report)


def check_sources(sources: dict[str, pa.Table], params: IngestParams) -> None:
    """Stop where a source is empty, lacks a column that the join needs, or both bring a column of one name."""
    needed = {"application": (params.key, params.application_id, params.label), "credit_bureau": (params.key,)}
    for name, table in sources.items():
        missing = [c for c in needed[name] if c not in table.column_names]
        if missing:
            raise BadData("column missing", where=name, expected=", ".join(missing), got=", ".join(table.column_names))
        if not table.num_rows:
            raise BadData("source is empty", where=name, expected="at least one row", got="0 rows")
        for text in needed[name][:2]:
            if not pa.types.is_string(table.schema.field(text).type):
                raise BadData("key is no text", where=f"{name}.{text}", expected="string", got=str(table.schema.field(text).type))
    both = (set(sources["application"].column_names) & set(sources["credit_bureau"].column_names)) - {params.key}
    if both:
        raise BadData("both sources have a column of this name", where=", ".join(sorted(both)), expected=f"only {params.key} in both")


def with_key(table: pa.Table, key: str) -> pa.Table:
    """Normalise the key of a table; blank becomes null."""
    values = [(normalise(v) or None) if v is not None else None for v in table[key].to_pylist()]
    return table.set_column(table.column_names.index(key), key, pa.array(values, pa.string()))


def one_application_each(application: pa.Table, params: IngestParams) -> Tally:
    forms = Tally(application)
    forms.keep(application.filter(pc.is_valid(application[params.key])), "application: no key")
    forms.keep(forms.table.filter(pc.is_valid(forms.table[params.application_id])), "application: no application number")
    forms.keep(forms.table.filter(pc.is_valid(forms.table[params.label])), "application: no label")
    forms.keep(distinct(forms.table), "application: exact copy")
    forms.keep(uncontradicted(forms.table, params.application_id), "application: rows with one number contradict each other")
    last = forms.table.group_by(params.key, use_threads=False).aggregate([(params.application_id, "max")])
    latest = pc.is_in(forms.table[params.application_id], last[f"{params.application_id}_max"])
    forms.keep(forms.table.filter(latest), "application: the same person applied again later")
    return forms


def one_answer_each(credit_bureau: pa.Table, key: str) -> Tally:
    answers = Tally(credit_bureau)
    answers.keep(credit_bureau.filter(pc.is_valid(credit_bureau[key])), "credit_bureau: no key")
    answers.keep(distinct(answers.table), "credit_bureau: exact copy")
    answers.keep(uncontradicted(answers.table, key), "credit_bureau: rows with one key contradict each other")
    return answers


def distinct(table: pa.Table) -> pa.Table:
    return table.group_by(table.column_names, use_threads=False).aggregate([])


def uncontradicted(table: pa.Table, key: str) -> pa.Table:
    """Keep the rows whose key no other row has."""
    count = table.group_by(key, use_threads=False).aggregate([([], "count_all")])
    return table.filter(pc.is_in(table[key], count.filter(pc.equal(count["count_all"], 1))[key]))
