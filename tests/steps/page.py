"""An evidence page over made-up applications, with hostile text wherever text can come from outside."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from steps.drift import DriftParams, SketchParams, drift, sketch
from steps.explain import ExplainParams, Reason, explain
from steps.fairness import FairnessParams, fairness
from steps.report import ReportParams, report
from tests.steps.example import LATER, LATER_PROTECTED, PROTECTED, ROWS, evaluated, trained

HOSTILE = '<script>document.title="owned"</script><img src=x onerror=alert(1)>"\'&{{ 7 * 7 }}'
CARD = ReportParams(title=f"Loans {HOSTILE}", intended_use=HOSTILE, not_for="Lending", limits=[HOSTILE, "small"])


def rule(metric: str, value: float | None, says: str, where: str, **more: str) -> dict[str, Any]:
    return {"metric": metric, "where": where, "at_least": 0.8, "value": value, "says": says, "because": f"so it is. {HOSTILE}", **more}


def gate(name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    return {"gates": [{"gate": name, "says": "no" if any(r["says"] == "no" for r in rules) else "yes", "rules": list(rules)}]}


def made(step: str, inputs: list[str], outputs: list[str], item: str | None = None) -> dict[str, Any]:
    def items(names: list[str]) -> list[dict[str, Any]]:
        return [{"name": n, "sha256": (n.encode().hex() * 32)[:64], "bytes": 1234567, "kind": "table"} for n in names]

    return {"step": step, "item": item, "code": "1" * 64, "inputs": items(inputs), "outputs": items(outputs)}


LINEAGE = {
    "pipeline": "loans",
    "description": f"Approve or decline {HOSTILE}",
    "run": "loans-0123456789ab",
    "steps": [
        made("ingest", ["application", "bureau"], ["applications"]),
        made("tune", ["applications"], ["trial@0"], "0"),
        made("tune", ["applications"], ["trial@1"], "1"),
        made("train", ["applications", "trial@0", "trial@1"], ["model"]),
        made("evaluate", ["model", "applications", "champion"], ["evaluation"]),
    ],
}


def inputs(*, mitigation: str = "reductions", refused: bool = False, small_group: int = 30) -> dict[str, Any]:
    """Everything that the step reads, from real steps where they are quick."""
    model = trained(mitigation=mitigation)
    done = evaluated(model)
    groups = FairnessParams(attributes=[["race"], ["race", "sex"], ["sex", "race", "sex"]], small_group=small_group, seed=1, resamples=40)
    compared = DriftParams(detector="scipy", categorical_up_to=5, bins=10, correction="fdr", threshold=0.05)
    reasons = {n: Reason(code="R1", words=f"reason {n} {HOSTILE}") for n in ("income", "debt", "gap", "code")}
    told = explain(
        model=model.model,
        decision_rule=model.decision_rule,
        holdout_rows=LATER,
        predictions=done.predictions,
        params=ExplainParams(num_threads=1, most_reasons=4, reasons=reasons),
    )
    reference = sketch(train_rows=ROWS, oof=model.oof, params=SketchParams(points=1000)).reference
    rules = [rule("out_of_fold.auc.value", 0.9, "yes", "evaluation"), rule("holdout.auc.high", 0.81, "yes", "evaluation")]
    if refused:
        rules.append(rule("out_of_fold.attributes.race.selection_rate_ratio.value", None, "no", "fairness", why="no value"))
    return {
        "ingestion": {"sources": {"application": {"rows": 1000}}, "joined": 1000, "dropped": [{"reason": f"no key {HOSTILE}", "rows": 3}]},
        "masking": {
            "rows": 1000, "suppressed_rows": 2, "quasi_identifiers": ["sex"], "k": 5, "k_before": 1,
            "columns": {f"name{HOSTILE}": "dropped", "income": "kept", "national_id": "token"},
        },
        "privacy_verdicts": gate("privacy", rule("k", 5.0, "yes", "masking")),
        "validation": {"valid": 1000, "quarantined": 0, "by_reason": {f"odd {HOSTILE}": 1}},
        "quality_verdicts": gate("data_quality", rule("valid", 1000.0, "yes", "validation")),
        "training": model.training,
        "decision_rule": model.decision_rule,
        "evaluation": done.evaluation,
        "calibration": done.calibration,
        "fairness": fairness(
            oof=model.oof, train_protected=PROTECTED, predictions=done.predictions, holdout_protected=LATER_PROTECTED, params=groups
        ).fairness,
        "drift": drift(reference=reference, holdout_rows=LATER, predictions=done.predictions, params=compared).drift,
        "importance": told.importance,
        "reasons": told.reasons,
        "lineage": LINEAGE,
        "verdicts": gate("performance", *rules),
        "params": CARD,
    }  # fmt: skip


def page(**how: Any) -> str:
    return report(**inputs(**how)).evidence


NO_REASONS = pa.table(
    {n: pa.array([], t) for n, t in (("subject", pa.string()), ("rank", pa.int8()), ("code", pa.string()), ("words", pa.string()))}
)
