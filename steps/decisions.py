"""From a score to a decision: what a decision rule says, applied to every row alike wherever decisions are made."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steps.lightgbm_profile import Floats, Ints
from steps.mitigation import Groups
from steps.types import BadData, Report

Flags = npt.NDArray[np.bool_]
APPROVED, DECLINED = "approved", "declined"


def groups_of(protected: pa.Table, subjects: pa.ChunkedArray, attribute: str, where: str) -> Groups:
    """The attribute of each subject. BadData where subjects differ in any place, or the attribute is absent or null."""
    check_subjects(protected, subjects, where)
    if attribute not in protected.column_names:
        raise BadData("protected attribute absent", where=where, expected=attribute, got=", ".join(protected.column_names))
    if nulls := protected[attribute].null_count:
        raise BadData(
            "protected attribute is null", where=f"{where}.{attribute}", expected="a group for every subject", got=f"{nulls} rows"
        )
    return np.asarray(protected[attribute].to_pylist(), dtype=object)


def check_subjects(table: pa.Table, subjects: pa.ChunkedArray, where: str) -> None:
    """BadData unless the table has exactly these subjects in this order."""
    if "subject" not in table.column_names:
        raise BadData("column missing", where=where, expected="subject")
    if table["subject"].to_pylist() != subjects.to_pylist():
        raise BadData("subjects differ", where=where, expected=f"{len(subjects)} subjects in the rows' order", got=f"{table.num_rows} rows")


def approvals(scores: Floats, rule: Report, protected: pa.Table | None) -> Flags:
    """Whether each row is approved: its score reaches the threshold, which is that of its group where the rule is per group."""
    if rule["kind"] == "single":
        return np.greater_equal(scores, rule["threshold"])
    if rule["kind"] != "per_group":
        raise BadData("unknown kind of decision rule", where="decision_rule.kind", expected="single or per_group", got=str(rule["kind"]))
    if protected is None:
        raise BadData("this rule needs protected attributes", where="decision_rule", expected=rule["attribute"])
    groups = np.asarray(protected[rule["attribute"]].to_pylist(), dtype=object)
    return scores >= np.array([rule["thresholds"].get(g, rule["threshold"]) for g in groups], dtype=np.float64)


def decided(subjects: pa.ChunkedArray, label: Ints, scores: Floats, rule: Report, protected: pa.Table | None = None) -> pa.Table:
    """Columns subject, label (int8), score (float64), decision ("approved" or "declined")."""
    approved = approvals(scores, rule, protected)
    columns = {
        "subject": subjects,
        "label": pa.array(label, pa.int8()),
        "score": pa.array(scores, pa.float64()),
        "decision": pa.array(np.where(approved, APPROVED, DECLINED), pa.string()),
    }
    return pa.table(columns).combine_chunks()
