"""How often each gate says yes, for each mitigation, over many masking keys: writes the tables of docs/loan_approval.md.

    python infra/study/mitigation.py --keys 10

The masking key decides which applications are held out and which fold each one is in. So every key is another draw of the
data, and a gate that passes for one key may fail for another. Each run is an ordinary `countersign run` in a clone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/loan_approval.md"
MITIGATIONS = ("none", "reductions", "threshold")
GATES = ("privacy", "data_quality", "performance", "fair", "stable")
FIGURES = {
    "AUC, out of fold": ("evaluation", "out_of_fold.auc.value"),
    "AUC, hold-out": ("evaluation", "holdout.auc.value"),
    "AUC over logistic regression": ("evaluation", "out_of_fold.auc_over_baseline.value"),
    "accuracy, out of fold": ("training", "mitigation_cost.accuracy_with"),
    "approval rate": ("evaluation", "out_of_fold.approval_rate.value"),
    "selection-rate ratio by race, out of fold": ("fairness", "out_of_fold.attributes.race.selection_rate_ratio.value"),
    "selection-rate ratio by race, hold-out": ("fairness", "holdout.attributes.race.selection_rate_ratio.value"),
    "equalised-odds difference by race": ("fairness", "out_of_fold.attributes.race.equalized_odds_difference.value"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=10)
    count = parser.parse_args().keys
    with tempfile.TemporaryDirectory() as top:
        clone = Path(top) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        pointers = subprocess.run(["git", "ls-files", "data/*.dvc"], cwd=clone, capture_output=True, text=True, check=True).stdout.split()
        subprocess.run(["dvc", "pull", "-q", *pointers], cwd=clone, check=True)
        found: dict[str, list[dict[str, Any]]] = {m: [] for m in MITIGATIONS}
        for n in range(count):
            key = Path(top) / "masking"
            key.write_text(hashlib.sha256(f"study key {n}".encode()).hexdigest())
            for mitigation in MITIGATIONS:
                found[mitigation].append(one(clone, key, mitigation))
                print(n, mitigation, found[mitigation][-1]["gates"], file=sys.stderr, flush=True)
    text = PAGE.read_text(encoding="utf-8")
    tables = f"<!-- measured -->\n{gates_table(found, count)}\n\n{figures_table(found)}\n<!-- end -->"
    PAGE.write_text(re.sub(r"<!-- measured -->.*?<!-- end -->", lambda _: tables, text, flags=re.DOTALL), encoding="utf-8")
    return 0


def one(clone: Path, key: Path, mitigation: str) -> dict[str, Any]:
    """Gates and figures of one run; a gate that says no is an answer, anything else that goes wrong is raised."""
    env = {**os.environ, "COUNTERSIGN_MASKING_KEY_FILE": str(key), "COUNTERSIGN_KEYS": str(key.parent / "keys")}
    words = ["countersign", "run", "loan_approval", "--json", "--set", f"train.mitigation={mitigation}"]
    done = subprocess.run(words, cwd=clone, env=env, capture_output=True, text=True, check=False)
    if done.returncode not in {0, 3}:
        raise RuntimeError(done.stderr)
    answer, _ = json.JSONDecoder().raw_decode(done.stdout)
    reports = {n: json.loads((clone / f"artifacts/loan_approval/{n}.json").read_text()) for n in ("training", "evaluation", "fairness")}
    return {"gates": {g["gate"]: g["says"] for g in answer["gates"]}, "figures": {f: at(reports[r], p) for f, (r, p) in FIGURES.items()}}


def at(report: Any, path: str) -> float:
    for key in path.split("."):
        report = report[key]
    return float(report)


def gates_table(found: dict[str, list[dict[str, Any]]], count: int) -> str:
    def passed(gate: str) -> str:
        return " | ".join(str(sum(r["gates"][gate] == "yes" for r in found[m])) for m in MITIGATIONS)

    lines = [f"| of {count} masking keys, the gate says yes for | {' | '.join(MITIGATIONS)} |", "|---|---|---|---|"]
    lines += [f"| {gate.replace('_', ' ')} | {passed(gate)} |" for gate in GATES]
    every = (str(sum(set(r["gates"].values()) == {"yes"} for r in found[m])) for m in MITIGATIONS)
    return "\n".join([*lines, f"| **every gate** | {' | '.join(every)} |"])


def figures_table(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = [f"| median (lowest to highest) | {' | '.join(MITIGATIONS)} |", "|---|---|---|---|"]
    for figure in FIGURES:
        cells = []
        for m in MITIGATIONS:
            values = [r["figures"][figure] for r in found[m]]
            cells.append(f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
