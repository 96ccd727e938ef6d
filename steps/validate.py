"""Hold every row to the schema: rows that fail are set aside with all their reasons, the rest goes on.

Also turns the bank's yes/no flags into the protected attributes that fairness is measured over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from steps.types import BadData, Params, Report

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pandera

RACES = ("white", "black")
"""Flags that name a race. Where none is set the race is unknown: the data records Hispanic applicants as that alone."""

FLAGS = (*RACES, "hispan", "male", "married", "old")
"""Columns that become `race`, `ethnicity`, `sex`, `married` and `old`, and do not go on themselves."""


class Ratio(Params):
    """One column that must be another divided by a third."""

    ratio: str = Field(min_length=1, description="Column that holds the ratio")
    of: str = Field(min_length=1, description="Column that is divided")
    to: str = Field(min_length=1, description="Column that divides")
    tolerance: float = Field(ge=0, le=1, description="Largest absolute difference that still counts as equal")


class ValidateParams(Params):
    """What a good row looks like."""

    label: str = Field(min_length=1, description="Column with the bank's decision; must have categories")
    ranges: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        description="Number columns: column -> [smallest, largest], both allowed"
    )
    categories: dict[str, list[int]] = Field(description="Coded columns: column -> codes allowed")
    missing_codes: dict[str, list[float]] = Field(description="Numbers that a source writes for missing: column -> numbers")
    may_be_missing: list[str] = Field(description="Columns that may be empty; in any other a missing value fails the row")
    ratios: list[Ratio] = Field(description="Columns that must agree")
    exactly_one: list[list[str]] = Field(description="Groups of 0/1 columns of which exactly one is 1")


class Validated(NamedTuple):
    """What `validate` returns."""

    valid: pa.Table
    quarantine: pa.Table
    validation: Report


def validate(*, masked: pa.Table, params: ValidateParams) -> Validated:
    """Split the rows into valid ones (subject, model columns, label, protected attributes) and quarantined ones.

    `quarantine` has the columns of `masked` and `reason`: the failed checks, sorted and joined by "; ". The same subject
    twice quarantines both rows. Raises BadData where the table itself is wrong: empty, a column missing or of another type.
    """
    check_table(masked, params)
    failed = failed_checks(masked, params)
    bad = np.zeros(masked.num_rows, dtype=np.bool_)
    for rows in failed.values():
        bad |= rows
    reasons = ["; ".join(name for name, rows in failed.items() if rows[i]) for i in np.flatnonzero(bad)]
    quarantine = masked.filter(pa.array(bad)).append_column("reason", pa.array(reasons, pa.string())).sort_by("subject")
    valid = masked.filter(pa.array(~bad)).sort_by("subject")
    model_columns = [c for c in (*params.ranges, *params.categories) if c not in FLAGS]
    columns = {c: valid[c] for c in ("subject", *model_columns)} | protected_attributes(valid)
    count = {name: int(rows.sum()) for name, rows in failed.items()}
    report: Report = {
        "rows": masked.num_rows,
        "valid": valid.num_rows,
        "quarantined": quarantine.num_rows,
        "quarantined_ratio": quarantine.num_rows / masked.num_rows,
        "by_reason": {name: n for name, n in count.items() if n},
        "checks": [{"name": name, "rows_failed": n} for name, n in count.items()],
        "protected_unknown": {name: pc.sum(pc.equal(columns[name], "unknown")).as_py() or 0 for name in ("race", "sex", "married", "old")},
    }
    return Validated(valid=pa.table(columns).combine_chunks(), quarantine=quarantine.combine_chunks(), validation=report)


def check_table(table: pa.Table, params: ValidateParams) -> None:
    """Stop on an empty table, a missing column, a column that holds no numbers, or parameters at odds."""
    if twice := sorted(set(params.ranges) & set(params.categories)):
        raise BadData("a column has a range and categories", where="validate", expected="one of them", got=", ".join(twice))
    if turned := sorted(name for name, (low, high) in params.ranges.items() if low > high):
        raise BadData("a range is turned round", where="validate.ranges", expected="[smallest, largest]", got=", ".join(turned))
    if params.label not in params.categories:
        raise BadData("the label has no categories", where="validate.categories", expected=params.label)
    wide = [c for r in params.ratios for c in (r.ratio, r.of, r.to)] + [c for group in params.exactly_one for c in group]
    numbers = [*params.ranges, *params.categories, *wide, *FLAGS]
    if missing := sorted({c for c in ("subject", *numbers) if c not in table.column_names}):
        raise BadData("column missing", where="masked", expected=", ".join(missing))
    for name in numbers:
        kind = table.schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise BadData("column holds no numbers", where=f"masked.{name}", expected="int64 or float64", got=str(kind))
    if not table.num_rows:
        raise BadData("table is empty", where="masked", expected="at least one row", got="0 rows")


def failed_checks(table: pa.Table, params: ValidateParams) -> dict[str, npt.NDArray[np.bool_]]:
    """For each check, by its name in sorted order, which rows fail it."""
    import pandera.pandas as pandera  # noqa: F401 - pandera.errors below needs its pandas backend
    from pandera.errors import SchemaErrors

    schema = schema_of(params)
    names = [(str(c), str(check.error)) for c, column in schema.columns.items() for check in column.checks]
    names += [("", str(check.error)) for check in schema.checks]
    names += [(str(c), f"{c}: missing") for c, column in schema.columns.items() if not column.nullable]
    failed = {name: np.zeros(table.num_rows, dtype=np.bool_) for _, name in names} | {
        "subject: duplicate": np.zeros(table.num_rows, dtype=np.bool_)
    }
    frame = table.select([*schema.columns]).to_pandas()
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        for column, check, row in zip(cases["column"], cases["check"], cases["index"], strict=True):
            plain = {"not_nullable": f"{column}: missing", "field_uniqueness": "subject: duplicate"}
            failed[plain.get(check, check)][int(row)] = True
    return dict(sorted(failed.items()))


def schema_of(params: ValidateParams) -> pandera.DataFrameSchema:
    """Turn the parameters into a pandera schema. A check's error text is its name in the report."""
    import pandera.pandas as pandera

    def column(name: str, checks: list[pandera.Check]) -> pandera.Column:
        codes = params.missing_codes.get(name, [])
        if codes:
            checks = [pandera.Check(lambda s: ~s.isin(codes), error=f"{name}: coded as missing"), *checks]
        return pandera.Column(None, checks, nullable=name in params.may_be_missing)

    def between(name: str, low: float, high: float) -> pandera.Check:
        codes = params.missing_codes.get(name, [])
        return pandera.Check(lambda s: s.between(low, high) | s.isin(codes), error=f"{name}: out of range")

    def among(name: str, allowed: list[int]) -> pandera.Check:
        codes = params.missing_codes.get(name, [])
        return pandera.Check(lambda s: s.isin([*allowed, *codes]), error=f"{name}: unknown category")

    columns = {"subject": pandera.Column(None, nullable=False, unique=True, report_duplicates="all")}
    columns |= {name: column(name, [between(name, *limits)]) for name, limits in params.ranges.items()}
    columns |= {name: column(name, [among(name, allowed)]) for name, allowed in params.categories.items()}
    return pandera.DataFrameSchema(columns, checks=wide_checks(params))


def wide_checks(params: ValidateParams) -> list[pandera.Check]:
    """Make the checks over several columns. A missing part makes no failure here: its own column says so."""
    import pandera.pandas as pandera

    def agrees(rule: Ratio) -> pandera.Check:
        def check(frame: pd.DataFrame) -> pd.Series[bool]:
            off = (frame[rule.of] / frame[rule.to] - frame[rule.ratio]).abs()
            return off.isna() | (off <= rule.tolerance)

        return pandera.Check(check, error=f"{rule.ratio}: is not {rule.of} / {rule.to}")

    def single(group: list[str]) -> pandera.Check:
        def check(frame: pd.DataFrame) -> pd.Series[bool]:
            return frame[group].isna().any(axis=1) | (frame[group].sum(axis=1) == 1)

        return pandera.Check(check, error=f"{', '.join(group)}: not exactly one")

    return [agrees(r) for r in params.ratios] + [single(g) for g in params.exactly_one]


def protected_attributes(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """`race`, `ethnicity`, `sex`, `married` and `old` as words; what is missing is "unknown"."""

    def words(flag: str, yes: str, no: str) -> pa.ChunkedArray:
        return pc.fill_null(pc.if_else(pc.equal(table[flag], 1), yes, no), "unknown")

    race = pa.chunked_array([pa.array(["unknown"] * table.num_rows, pa.string())])
    for name in RACES:
        race = pc.if_else(pc.fill_null(pc.equal(table[name], 1), fill_value=False), name, race)
    return {
        "race": race,
        "ethnicity": words("hispan", "hispanic", "not_hispanic"),
        "sex": words("male", "male", "female"),
        "married": words("married", "married", "not_married"),
        "old": words("old", "above_median_age", "up_to_median_age"),
    }
