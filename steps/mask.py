"""Take identities out: keyed tokens, coarser values, and a measure of how well each person hides in a group.

Only columns that the parameters name come through, so a column that a source adds tomorrow is dropped, not leaked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from steps.keyed import check_key, keyed_digest, normalise
from steps.types import BadData, Params, Report

Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]


class MaskParams(Params):
    """Which columns become what. A column named nowhere is dropped."""

    subject: str = Field(min_length=1, description="Column that names the person; its token becomes the column `subject`")
    tokens: dict[str, str] = Field(description="Further direct identifiers to replace by a token: column -> new column")
    birth_date: str = Field(min_length=1, description="Date column that becomes `birth_band`, the first year of its band")
    birth_band_years: int = Field(ge=1, le=100, description="Width of a band of birth years; bands start at multiples of it")
    top_codes: dict[str, int] = Field(description="Whole-number columns cut off: column -> largest value told apart")
    keep: list[str] = Field(min_length=1, description="Columns that stay as they are (top codes apart)")
    quasi_identifiers: list[str] = Field(min_length=1, description="Columns of the result that could be known from elsewhere")
    blank_order: list[str] = Field(description="Quasi-identifiers that may be blanked in small groups, the first one first")
    wanted_k: int = Field(ge=2, le=1000, description="Rows that must look alike in all quasi-identifiers")


class Masked(NamedTuple):
    """What `mask` returns."""

    masked: pa.Table
    masking: Report


def mask(*, applications: pa.Table, masking_key: bytes, params: MaskParams) -> Masked:
    """Applications without direct identifiers, sorted by `subject`, k-anonymous in the declared quasi-identifiers.

    A token is the HMAC-SHA256, in hex, of column name and normalised value, so equal values in two columns get different
    tokens and the same value gets the same token in every run with the same key.
    """
    check_key(masking_key, "masking_key")
    check_columns(applications, params)
    coarse = coarsen(applications, masking_key, params).sort_by("subject").combine_chunks()
    codes = as_codes(coarse, params.quasi_identifiers)
    blanked, kept = hide_small_groups(codes, params)
    masked = coarse
    for column, flags in blanked.items():
        at = masked.column_names.index(column)
        masked = masked.set_column(at, column, pc.if_else(pa.array(flags), None, masked[column]))
    masked = masked.filter(pa.array(kept)).combine_chunks()
    if not masked.num_rows:
        raise BadData("nothing is left: no group is large enough", where="mask.wanted_k", expected=f"at least {params.wanted_k} rows alike")
    sizes = group_sizes(as_codes(masked, params.quasi_identifiers))
    report: Report = {
        "rows": masked.num_rows,
        "k": int(sizes.min()),
        "k_before": int(group_sizes(codes).min()),
        "wanted_k": params.wanted_k,
        "quasi_identifiers": params.quasi_identifiers,
        "smallest_groups": smallest_groups(sizes),
        "blanked": {column: int(flags[kept].sum()) for column, flags in blanked.items()},
        "suppressed_rows": int((~kept).sum()),
        "suppressed_ratio": float((~kept).mean()),
        "columns": what_became(applications, params),
    }
    return Masked(masked=masked, masking=report)


def check_columns(table: pa.Table, params: MaskParams) -> None:
    """Stop on a missing column, a type that cannot be masked as asked, an empty table or parameters at odds."""
    named = [params.subject, *params.tokens, params.birth_date, *params.top_codes, *params.keep]
    missing = sorted({c for c in named if c not in table.column_names})
    if missing:
        raise BadData("column missing", where="applications", expected=", ".join(missing))
    if not table.num_rows:
        raise BadData("table is empty", where="applications", expected="at least one row", got="0 rows")
    born = table.schema.field(params.birth_date).type
    if not pa.types.is_date(born):
        raise BadData("birth date is no date", where=f"applications.{params.birth_date}", expected="date", got=str(born))
    direct = {params.subject, *params.tokens, params.birth_date}
    if both := sorted(direct & set(params.keep)):
        raise BadData("a direct identifier would be kept", where="mask.keep", got=", ".join(both))
    result = {"subject", "birth_band", *params.tokens.values(), *params.keep}
    if lost := sorted(set(params.quasi_identifiers) - result):
        raise BadData("quasi-identifier is not in the result", where="mask.quasi_identifiers", got=", ".join(lost))
    if odd := sorted(set(params.blank_order) - set(params.quasi_identifiers)):
        raise BadData("only quasi-identifiers can be blanked", where="mask.blank_order", got=", ".join(odd))
    if odd := sorted(set(params.top_codes) - set(params.keep)):
        raise BadData("only a kept column can be cut off", where="mask.top_codes", got=", ".join(odd))


def tokens_of(column: pa.ChunkedArray, name: str, key: bytes) -> pa.Array:
    """Give every value a token (64 hex digits); null and blank stay null."""
    clean = [normalise(str(v)) if v is not None else "" for v in column.to_pylist()]
    return pa.array([keyed_digest(key, "token", name, v).hex() if v else None for v in clean], pa.string())


def coarsen(table: pa.Table, key: bytes, params: MaskParams) -> pa.Table:
    """Tokens, the birth band and the kept columns; nothing else."""
    subject = tokens_of(table[params.subject], params.subject, key)
    if subject.null_count:
        raise BadData("rows without an identity", where=f"applications.{params.subject}", expected="0", got=str(subject.null_count))
    columns: dict[str, pa.Array | pa.ChunkedArray] = {"subject": subject}
    columns |= {new: tokens_of(table[old], old, key) for old, new in params.tokens.items()}
    width = pa.scalar(params.birth_band_years, pa.int64())
    columns["birth_band"] = pc.multiply(pc.divide(pc.year(table[params.birth_date]), width), width)
    for name in params.keep:
        top = params.top_codes.get(name)
        columns[name] = table[name] if top is None else pc.min_element_wise(table[name], top, skip_nulls=False)
    return pa.table(columns)


def as_codes(table: pa.Table, columns: list[str]) -> Codes:
    """(rows, columns) numbers that are equal and ordered as the values are; -1 is missing or blanked."""

    def one(column: pa.Array) -> Codes:
        rank = pc.rank(column, sort_keys="ascending", tiebreaker="dense")
        return np.where(pc.is_null(column).to_numpy(zero_copy_only=False), -1, rank.to_numpy().astype(np.int64))

    return np.stack([one(table[c].combine_chunks()) for c in columns], axis=1)


def group_sizes(codes: Codes) -> Codes:
    """For each row, how many rows share its values, itself included. With no rows, none."""
    _, which, count = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return np.asarray(count[which.ravel()], dtype=np.int64)


def hide_small_groups(codes: Codes, params: MaskParams) -> tuple[dict[str, Flags], Flags]:
    """Which cells to blank, by column, and which rows stay.

    Local suppression: column after column of `blank_order` is blanked, only in rows whose group is still too small. A
    group that is large enough never loses a row, so no step undoes an earlier one. What then still stands out is joined by
    its nearest group (`join_leftovers`), because rare people are those whose treatment one wants to see, and dropping
    them would hide it. Only those are dropped for whom all rows alike in the other columns do not make a group.
    """
    hidden = codes.copy()
    places = [params.quasi_identifiers.index(column) for column in params.blank_order]
    for at in places:
        hidden[group_sizes(hidden) < params.wanted_k, at] = -1
    join_leftovers(hidden, places, params.wanted_k)
    blanked = {column: (hidden[:, at] < 0) & (codes[:, at] >= 0) for column, at in zip(params.blank_order, places, strict=True)}
    return blanked, group_sizes(hidden) >= params.wanted_k


def join_leftovers(codes: Codes, places: list[int], wanted: int) -> None:
    """Blank whole groups, the smallest first, until the rows that are blank in all `places` are enough. Changes `codes`.

    Groups join only rows that agree with them in every column that may not be blanked. Ties go to the smaller values.
    """
    small = group_sizes(codes) < wanted
    rest = np.delete(codes, places, axis=1)
    for kind in np.unique(rest[small], axis=0):
        alike = (rest == kind).all(axis=1)
        groups, size = np.unique(codes[alike & ~small], axis=0, return_counts=True)
        missing = wanted - int((alike & small).sum())
        for group, rows in sorted(zip(groups.tolist(), size.tolist(), strict=True), key=lambda g: (g[1], g[0])):
            if missing <= 0:
                break
            codes[np.ix_((codes == group).all(axis=1), places)] = -1
            missing -= rows


def smallest_groups(sizes: Codes, most: int = 5) -> list[dict[str, int]]:
    """List the smallest group sizes and how many groups have each; no values, which could point at somebody."""
    size, rows = np.unique(sizes, return_counts=True)
    return [{"size": int(s), "groups": int(n // s)} for s, n in zip(size[:most], rows[:most], strict=True)]


def what_became(table: pa.Table, params: MaskParams) -> dict[str, str]:
    """For each column that came in: `token`, `generalised`, `kept` or `dropped`."""
    became = dict.fromkeys(table.column_names, "dropped") | dict.fromkeys(params.keep, "kept")
    became |= dict.fromkeys([params.birth_date, *params.top_codes, *params.blank_order], "generalised")
    became |= dict.fromkeys([params.subject, *params.tokens], "token")
    return {name: became[name] for name in table.column_names}
