"""The model of the serving contest in a sealed run, and the same applications in each contestant's own form."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa

from steps.contract import ContractParams, describe
from steps.drift import SketchParams, sketch
from tests.serve import world
from workflows.declare import Kind
from workflows.run.store.local import LocalStore

FEATURES, TREES, LEAVES, ROWS = 30, 200, 31, 8_000
APPLICATIONS = 1_000
NAMES = [f"f{i:02d}" for i in range(FEATURES)]


def model(rng: np.random.Generator) -> tuple[lgb.Booster, Any, Any]:
    data = rng.normal(size=(ROWS, FEATURES)).round(3)
    score = data[:, :8].sum(axis=1) + data[:, 8] * data[:, 9] + rng.normal(size=ROWS) + 4
    label = (score > 0).astype(int)
    settings = {"objective": "binary", "num_leaves": LEAVES, "verbosity": -1, "num_threads": 1, "max_bin": 63, "seed": 1}
    return lgb.train(settings, lgb.Dataset(data, label, feature_name=NAMES), TREES), data, label


def main(top: Path) -> None:
    rng = np.random.default_rng(4)
    booster, data, label = model(rng)
    scores = booster.predict(data, num_threads=1)
    rule = {"kind": "single", "threshold": 0.5, "needs": [], "reason": "a benchmark"}
    rows = pa.table(
        {"subject": [f"s{i}" for i in range(ROWS)], "label": pa.array(label, pa.int8())} | {n: data[:, i] for i, n in enumerate(NAMES)}
    )
    params = ContractParams(
        features={n: {"unit": "none", "words": n} for n in NAMES},  # type: ignore[misc]
        ranges={n: [-20.0, 20.0] for n in NAMES},
        categories={},
        may_be_missing=[],
        ratios=[],
        reasons={n: {"code": n.upper(), "words": f"because of {n}"} for n in NAMES},  # type: ignore[misc]
        most_reasons=4,
        groups={},
        sealed=NAMES[:8],
    )
    oof = pa.table({"label": pa.array(label, pa.int8()), "score": scores})
    values = {
        "model": (Kind.MODEL, booster),
        "decision_rule": (Kind.REPORT, rule),
        "contract": (Kind.REPORT, describe(model=booster, decision_rule=rule, train_rows=rows, params=params).contract),
        "reference": (Kind.TABLE, sketch(train_rows=rows, oof=oof, params=SketchParams(points=1000)).reference),
    }
    (top / "store").mkdir()
    (top / "scratch").mkdir()
    store = LocalStore(content=top / "store", documents=top / "store")
    made = world.sealed(store, world.keep(store, top / "scratch", values))
    (top / "release.json").write_bytes(world.release(made.variant()))
    (top / "environment.json").write_text(json.dumps(world.environment(top, made)))
    booster.save_model(str(top / "model.txt"))
    requests(top, rng.normal(size=(APPLICATIONS, FEATURES)).round(3).tolist())


def requests(top: Path, rows: list[list[float]]) -> None:
    """One JSON a line: as an application, with reasons wanted, as plain fields, and as tensors."""
    named = [dict(zip(NAMES, r, strict=True)) for r in rows]
    ours = [{"subject": f"applicant-{i}", "features": f} for i, f in enumerate(named)]
    tensor = [{"inputs": [{"name": "features", "shape": [1, FEATURES], "datatype": "FP64", "data": r}]} for r in rows]
    forms: dict[str, list[Any]] = {
        "ours": ours,
        "explained": [{**o, "explain": True} for o in ours],
        "plain": named,
        "tensor": tensor,
        "bento": [{"application": f} for f in named],
    }
    for name, listed in forms.items():
        (top / f"{name}.jsonl").write_text("\n".join(map(json.dumps, listed)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
