"""The evidence page: what was decided and why, how well and how fairly the model decides, from which data, and how to check it.

One HTML file that needs nothing else: no network, no server, no script to be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import Field

from steps import charts
from steps.types import Page, Params, Report

TEMPLATES = Path(__file__).parent / "templates"
SIDES = {"out_of_fold": "out of fold", "holdout": "hold-out"}
ENDS = {"high": "upper end of the interval of ", "low": "lower end of the interval of "}
SHORT = {"auc": "AUC", "ks": "KS", "psi": "PSI"}
MEASURES = {
    "auc": ("AUC", "chance that an approved application scores above a declined one"),
    "average_precision": ("Average precision", "of finding the declined, the rarer outcome"),
    "ks": ("KS", "largest gap between the scores of approved and declined"),
    "brier": ("Brier score", "mean squared error of the score; lower is better"),
    "calibration_error": ("Calibration error", "how far the score is from the observed share; lower is better"),
    "approval_rate": ("Approval rate", "share of applications approved"),
}
NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
NOTICES = 3  # declined applications shown as examples
SHOWN = 12  # bars of a plot: more are read in the table below it


class ReportParams(Params):
    """What no step can know of the model: what it is for."""

    title: str = Field(min_length=1, max_length=200, description="Heading of the evidence page")
    intended_use: str = Field(min_length=1, description="What the model is for")
    not_for: str = Field(min_length=1, description="Uses that the evidence on the page does not support")
    limits: list[str] = Field(min_length=1, description="What a reader must know before relying on the model")


class Reported(NamedTuple):
    """What `report` returns."""

    evidence: Page


def report(  # noqa: PLR0913 - one argument an input
    *,
    ingestion: Report,
    masking: Report,
    privacy_verdicts: Report,
    validation: Report,
    quality_verdicts: Report,
    training: Report,
    decision_rule: Report,
    evaluation: Report,
    calibration: Report,
    fairness: Report,
    drift: Report,
    importance: Report,
    reasons: pa.Table,
    lineage: Report,
    verdicts: Report,
    params: ReportParams,
) -> Reported:
    """The page, as text. It holds digests and tokens, and no other personal data."""
    gates = [_gate(g) for v in (privacy_verdicts, quality_verdicts, verdicts) for g in v["gates"]]
    view = {
        "card": params,
        "lineage": lineage,
        "gates": gates,
        "refused": [g["gate"] for g in gates if g["says"] != "yes"],
        "training": training,
        "rule": decision_rule,
        "measures": _measures(evaluation),
        "evaluation": evaluation,
        "calibration_points": calibration["points"],
        "calibration": charts.calibration(calibration["points"], "Predicted against observed approval, out of fold"),
        "fairness": fairness,
        "attributes": [
            _attribute(fairness, name) for name in sorted(fairness["out_of_fold"]["attributes"], key=lambda n: (n.count("+"), n))
        ],
        "drift": drift,
        "drift_plot": _drift_plot(drift, _psi_limit(gates)),
        "psi_limit": _psi_limit(gates),
        "moved": sorted(drift["features"].items(), key=lambda f: (-f[1]["psi"], f[0])),
        "importance": _importance(importance),
        "features": importance["points"],
        "common_reasons": _common(reasons),
        "notices": _notices(reasons),
        "flow": _flow(ingestion, masking, validation, evaluation),
        "dropped": [d for d in ingestion["dropped"] if d["rows"]],
        "masked": _by_value(masking["columns"]),
        "masking": masking,
        "quarantined": sorted(validation["by_reason"].items()),
        "graph": charts.graph(_nodes(lineage), "How the steps build on each other"),
        "artifacts": _artifacts(lineage),
    }
    return Reported(evidence=_render(view))


def _render(view: Mapping[str, Any]) -> Page:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "plain": plain, "number": number, "points": points, "signed": signed, "words": words}
    return environment.get_template("report.html.j2").render(view)


def percent(value: float | None) -> str:
    """0.8774 -> 87.7 %."""
    return NONE if value is None else f"{value * 100:.1f} %"


def points(value: float | None) -> str:
    """A difference of shares: -0.0443 -> -4.4 points, with a real minus sign."""
    return NONE if value is None else f"{signed(value)} points"


def signed(value: float) -> str:
    """The same without its unit."""
    return f"{value * 100:+.1f}".replace("-", MINUS)


def number(value: float | None) -> str:
    """Three decimals for shares and scores, none for whole numbers."""
    if value is None:
        return NONE
    text = f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.3f}"
    return text.replace("-", MINUS)


def plain(group: str) -> str:
    """black+female -> black, female."""
    return group.replace("+", ", ").replace("_", " ")


def words(metric: str) -> str:
    """A metric's path in words: out_of_fold.attributes.race.selection_rate_ratio.value -> selection rate ratio, race (out of fold)."""
    parts = metric.split(".")
    side = SIDES.get(parts[0])
    parts = [p for p in parts[1 if side else 0 :] if p not in {"attributes", "value"}]
    end = ENDS.get(parts[-1], "") if len(parts) > 1 else ""
    parts = parts[:-1] if end else parts
    last, *before = reversed([" ".join(SHORT.get(w, w) for w in p.split("_")) for p in parts])
    return f"{end}{last}{''.join(f', {b}' for b in reversed(before))}{f' ({side})' if side else ''}"


def _gate(gate: Report) -> Report:
    limits = [(r, "at_least" if "at_least" in r else "at_most") for r in gate["rules"]]
    rules = [{**r, "bound": f"{bound.replace('_', ' ')} {number(r[bound])}"} for r, bound in limits]
    return {**gate, "rules": rules}


def _measures(evaluation: Report) -> list[Report]:
    """A row a measure: ours on both sides, the baseline's on both, the champion's on the hold-out."""
    champion = evaluation["champion"].get("holdout", {})
    baseline = evaluation["baseline"]
    return [
        {
            "name": name,
            "means": means,
            "ours": [evaluation[side].get(key) for side in SIDES],
            "baseline": [baseline[side].get(key) for side in SIDES],
            "champion": champion.get(key),
        }
        for key, (name, means) in MEASURES.items()
    ]


def _attribute(fairness: Report, name: str) -> Report:
    found = {side: fairness[side]["attributes"][name] for side in SIDES}
    plots = {}
    for side, said in SIDES.items():
        items = [
            charts.Bar(
                label=plain(group),
                value=g["selection_rate"] or 0.0,
                low=g["low"],
                high=g["high"],
                said=f"{percent(g['selection_rate'])} of {g['rows']}",
                muted=g["status"] != "conclusive",
            )
            for group, g in sorted(found[side]["groups"].items())
        ]
        highest = max((g["selection_rate"] for g in found[side]["groups"].values() if g["status"] == "conclusive"), default=None)
        title = f"Share approved by {name.replace('+', ' and ')}, {said}"
        plots[said] = charts.bars(items, title, most=1.0, mark=0.8 * highest if highest else None)
    return {"name": name.replace("+", " and "), "plots": plots, "sides": {SIDES[s]: f for s, f in found.items()}}


def _importance(importance: Report) -> str:
    shown = importance["points"][:SHOWN]
    most = max((p["contribution"] for p in shown), default=0.0) or 1.0
    items = [charts.Bar(label=p["feature"], value=p["contribution"], said=number(p["contribution"])) for p in shown]
    return charts.bars(items, "Mean absolute contribution of each feature to the score", most=most)


def _psi_limit(gates: Iterable[Report]) -> float | None:
    """What a gate asks of the feature that moved most; None where no gate asks that."""
    return next((r["at_most"] for g in gates for r in g["rules"] if r["metric"] == "max_psi" and "at_most" in r), None)


def _drift_plot(drift: Report, limit: float | None) -> str:
    shown = sorted(drift["features"].items(), key=lambda f: (-f[1]["psi"], f[0]))[:SHOWN]
    most = max(1.1 * (limit or 0.0), *(f["psi"] for _, f in shown)) or 1.0
    items = [charts.Bar(label=name, value=f["psi"], said=number(f["psi"]), muted=not f["drifted"]) for name, f in shown]
    return charts.bars(items, "Population stability index of the features that moved most", most=most, mark=limit)


def _common(reasons: pa.Table) -> list[tuple[str, str, int]]:
    """Code, words and count of the first reasons of the declined, most common first."""
    found = Counter((r["code"], r["words"]) for r in reasons.to_pylist() if r["rank"] == 1)
    return [(code, said, n) for (code, said), n in sorted(found.items(), key=lambda f: (-f[1], f[0]))]


def _notices(reasons: pa.Table) -> list[tuple[str, list[str]]]:
    """The first declined applications, by token: the words of their reasons, the principal one first."""
    found: dict[str, list[str]] = {}
    for r in reasons.to_pylist():
        if r["subject"] in found or len(found) < NOTICES:
            found.setdefault(r["subject"], []).append(r["words"])
    return list(found.items())


def _flow(ingestion: Report, masking: Report, validation: Report, evaluation: Report) -> list[tuple[str, int, str]]:
    """How many applications each step passed on."""
    sources = ", ".join(f"{name.replace('_', ' ')} {s['rows']:,}" for name, s in ingestion["sources"].items())
    return [
        ("joined", ingestion["joined"], f"from {sources}"),
        ("masked", masking["rows"], f"{masking['suppressed_rows']} withheld: too rare to hide among others"),
        ("valid", validation["valid"], f"{validation['quarantined']} quarantined"),
        ("learned from", evaluation["rows"]["out_of_fold"], "each scored by a model that never saw it"),
        ("held out", evaluation["rows"]["holdout"], "never learned from, nor tuned on"),
    ]


def _by_value(columns: Mapping[str, str]) -> dict[str, list[str]]:
    return {what: sorted(c for c, w in columns.items() if w == what) for what in sorted(set(columns.values()))}


def _nodes(lineage: Report) -> list[charts.Node]:
    made = {o["name"].partition("@")[0]: s["step"] for s in lineage["steps"] for o in s["outputs"]}
    steps: dict[str, tuple[set[str], int]] = {}
    sources: dict[str, None] = {}
    for s in lineage["steps"]:
        needs, times = steps.setdefault(s["step"], (set(), 0))
        for i in s["inputs"]:
            name = i["name"].partition("@")[0]
            needs.add(made.get(name, name))
            if name not in made:
                sources[name] = None
        steps[s["step"]] = (needs, times + 1)
    found = [charts.Node(name=name, note="source", needs=(), source=True) for name in sources]
    for name, (needs, times) in steps.items():
        found.append(charts.Node(name=name, note=f"{times} at a time" if times > 1 else "step", needs=tuple(sorted(needs))))
    return found


def _artifacts(lineage: Report) -> Iterable[Report]:
    """Every source and artifact, in the order in which they came about."""
    seen: dict[str, Report] = {}
    for s in lineage["steps"]:
        by = s["step"] if s["item"] is None else f"{s['step']}@{s['item']}"
        for i in s["inputs"]:
            seen.setdefault(i["name"], {**i, "by": "source"})
        for o in s["outputs"]:
            seen[o["name"]] = {**o, "by": by}
    return list(seen.values())
