"""Give every subject a side (train or hold-out) and a fold for good, and part features from protected attributes.

Side and fold come from keyed hashes of the subject's token alone, so a row keeps them however the data grows, and nobody
without the key can choose them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from steps.keyed import check_key, keyed_digest, share
from steps.types import BadData, Params


class SplitParams(Params):
    """What is learned from, what is predicted, and what must never be learned from."""

    label: str = Field(min_length=1, description="Column with the bank's decision: 1 approved, 0 declined")
    features: list[str] = Field(min_length=1, description="Columns to learn from, in the order the model sees them")
    protected: list[str] = Field(min_length=1, description="Protected attributes; they travel in tables of their own")
    holdout_share: float = Field(gt=0, lt=1, description="Expected share of subjects that is never learned from")
    folds: int = Field(ge=2, le=20, description="Number of cross-validation folds among the training subjects")


class Split(NamedTuple):
    """What `split` returns."""

    train_rows: pa.Table
    train_protected: pa.Table
    holdout_rows: pa.Table
    holdout_protected: pa.Table


def split(*, valid: pa.Table, masking_key: bytes, params: SplitParams) -> Split:
    """Rows tables (subject, fold in training only, label, features) and protected tables in the same order, by subject.

    A subject is held out where the share of its hash for side lies below `holdout_share`; its fold is the share of
    its hash for fold times `folds`, rounded down. Raises BadData where a column is absent, a feature carries a protected
    attribute, or either side has one label only.
    """
    check_key(masking_key, "masking_key")
    check_columns(valid, params)
    check_features_carry_nothing_protected(valid, params)
    table = valid.sort_by("subject").combine_chunks()
    subjects = table["subject"].to_pylist()
    held_out = np.array([share(keyed_digest(masking_key, "split/side", s)) for s in subjects]) < params.holdout_share
    folds = np.array([int(share(keyed_digest(masking_key, "split/fold", s)) * params.folds) for s in subjects], dtype=np.int8)
    label = pc.cast(table[params.label], pa.int8())
    rows = pa.table({"subject": table["subject"], "label": label} | {f: table[f] for f in params.features})
    protected = table.select(["subject", *params.protected])
    sides = {name: pa.array(flags) for name, flags in (("train", ~held_out), ("holdout", held_out))}
    for name, flags in sides.items():
        check_labels(rows["label"].filter(flags), name)
    with_fold = rows.add_column(1, "fold", pa.array(folds))
    return Split(
        train_rows=with_fold.filter(sides["train"]).combine_chunks(),
        train_protected=protected.filter(sides["train"]).combine_chunks(),
        holdout_rows=rows.filter(sides["holdout"]).combine_chunks(),
        holdout_protected=protected.filter(sides["holdout"]).combine_chunks(),
    )


def check_columns(table: pa.Table, params: SplitParams) -> None:
    """Stop on a missing column, a column in two roles, or a feature that is no number."""
    for what, names in (
        ("protected attribute absent", params.protected),
        ("feature absent", params.features),
        ("column missing", ["subject", params.label]),
    ):
        if missing := [n for n in names if n not in table.column_names]:
            raise BadData(what, where="valid", expected=", ".join(missing))
    reserved = {"subject", "fold", "label", params.label, *params.protected}
    if both := sorted(reserved & set(params.features)):
        raise BadData("this column cannot be a feature", where="split.features", got=", ".join(both))
    for name in params.features:
        kind = table.schema.field(name).type
        if kind not in (pa.int64(), pa.float64()):
            raise BadData("feature is no number", where=f"valid.{name}", expected="int64 or float64", got=str(kind))
    odd = pc.unique(table[params.label]).to_pylist()
    if not set(odd) <= {0, 1}:
        raise BadData("label is neither 0 nor 1", where=f"valid.{params.label}", expected="0 or 1 in every row")


def check_labels(label: pa.ChunkedArray, side: str) -> None:
    if pc.count_distinct(label).as_py() < 2:  # noqa: PLR2004 - approved and declined
        where = f"{side} rows"
        raise BadData("all labels alike, or no rows", where=where, expected="approved and declined ones", got=f"{len(label)} rows")


def codes_of(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Numbers that are equal where the values are."""
    return np.asarray(pc.fill_null(column.combine_chunks().dictionary_encode().indices, -1).to_numpy(), dtype=np.int64)


def check_features_carry_nothing_protected(table: pa.Table, params: SplitParams) -> None:
    """Refuse a feature that is a protected attribute under another name or coding.

    A feature carries an attribute where knowing the one tells the other for every row, both ways. A feature that only
    goes with an attribute (a proxy) is not found here; the fairness report measures what proxies do.
    """
    for name in params.protected:
        attribute = codes_of(table[name])
        kinds = len(np.unique(attribute))
        for feature in params.features:
            values = codes_of(table[feature])
            pairs = len(np.unique(np.stack([attribute, values]), axis=1).T)
            if kinds > 1 and pairs == kinds == len(np.unique(values)):
                raise BadData("feature carries a protected attribute", where=f"valid.{feature}", got=f"a copy of {name}")
