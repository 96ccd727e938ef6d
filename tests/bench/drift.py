"""Drift of a hundred features between two tables of 356,000 rows: the same Kolmogorov-Smirnov test by three libraries."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from harness import ROOT, CannotMeasure, Contest, Done, Goal, competitors, environment, scratch, short, side_by_side, timed, times, versions

ROWS, COLUMNS = 356_000, 100
ROUNDS = 3
EXACT, SCRATCH, STEP, ALIBI, EVIDENTLY = (
    "ours, exact: the reference was counted beforehand, once",
    "ours, exact, from scratch: counting the reference as well",
    "ours, the step: the reference is a sketch of 10,000 points a feature",
    "alibi-detect's TabularDrift",
    "Evidently's DataDriftPreset, set to the same test",
)
MAKE = """
import sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
rows, columns = map(int, sys.argv[1:3])
for side, name in enumerate(("reference", "current")):
    rng = np.random.default_rng(side)
    table = pa.table({f"f{i:03d}": rng.normal(0.02 * side * (i % 7 == 0), 1, rows) for i in range(columns)})
    pq.write_table(table, f"{name}.parquet")
"""
HEAD = """
import json, resource, sys, time, warnings
warnings.filterwarnings("ignore")
def done(begun, p_values):
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("\\n" + json.dumps({"seconds": seconds, "peak": peak, "p": p_values}))
"""
OURS = """
sys.path.insert(0, sys.argv[1])
import os
import numpy as np, pyarrow.parquet as pq
from concurrent.futures import ThreadPoolExecutor
from scipy.stats import kstwo
from steps import stability as s
a, b = pq.read_table("reference.parquet"), pq.read_table("current.parquet")
def count(name):
    return s.counted(a[name].to_numpy())
def one(name, then):
    now = s.counted(b[name].to_numpy())
    return s.kolmogorov_smirnov(then, now), s.population_stability(*s.binned(then, now, 10))
begun = time.perf_counter()
with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
    known = list(pool.map(count, a.column_names))
    begun = time.perf_counter() if sys.argv[2] == "known" else begun
    found = list(pool.map(one, a.column_names, known))
sizes = np.full(len(found), a.num_rows)
p = s.kolmogorov_smirnov_p(np.array([f[0] for f in found]), sizes, sizes)
done(begun, dict(zip(a.column_names, p.tolist())))
"""
SKETCH = """
sys.path.insert(0, sys.argv[1])
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from scipy.stats import kstwo
from steps.drift import DriftParams, SketchParams, drift, sketch
def rows(name):
    t = pq.read_table(f"{name}.parquet")
    label = pa.array((np.arange(t.num_rows) % 9 == 0).astype(np.int8))
    return t.append_column("label", label), pa.table({"label": label, "score": np.linspace(0, 1, t.num_rows)})
then, oof = rows("reference")
reference = sketch(train_rows=then, oof=oof, params=SketchParams(points=10_000)).reference
del then
now, predictions = rows("current")
params = DriftParams(detector="scipy", categorical_up_to=8, bins=10, correction="fdr", threshold=0.05)
begun = time.perf_counter()
found = drift(reference=reference, holdout_rows=now, predictions=predictions, params=params).drift["features"]
done(begun, {n: None for n in found})
"""
THEIRS_ALIBI = """
import numpy as np, pyarrow.parquet as pq
from alibi_detect.cd import TabularDrift
a, b = (pq.read_table(f"{n}.parquet") for n in ("reference", "current"))
names = a.column_names
x, y = (np.column_stack([t[n].to_numpy() for n in names]) for t in (a, b))
begun = time.perf_counter()
found = TabularDrift(x, categories_per_feature={}).predict(y, drift_type="feature")["data"]
done(begun, dict(zip(names, map(float, found["p_val"]))))
"""
THEIRS_EVIDENTLY = """
import pandas as pd
from evidently import Dataset, Report
from evidently.presets import DataDriftPreset
a, b = (pd.read_parquet(f"{n}.parquet") for n in ("reference", "current"))
begun = time.perf_counter()
found = Report([DataDriftPreset(num_method="ks")]).run(Dataset.from_pandas(b), Dataset.from_pandas(a)).dict()
done(begun, {m["config"]["column"]: float(m["value"]) for m in found["metrics"] if "column" in m["config"]})
"""


def contest() -> Contest:
    last: dict[str, dict[str, object]] = {}
    with scratch() as top:
        env = environment(top) | {"TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
        timed([sys.executable, "-c", MAKE, str(ROWS), str(COLUMNS)], cwd=top, env=env)
        ask = partial(_ask, top, env, last)
        measured = side_by_side(
            {
                EXACT: partial(ask, EXACT, script=OURS, python=sys.executable, word="known"),
                SCRATCH: partial(ask, SCRATCH, script=OURS, python=sys.executable, word="scratch"),
                STEP: partial(ask, STEP, script=SKETCH, python=sys.executable),
                ALIBI: partial(ask, ALIBI, script=THEIRS_ALIBI, python=sys.executable),
                EVIDENTLY: partial(_evidently, ask),
            },
            ROUNDS,
        )
    ours = measured.median(SCRATCH)
    peaks = {n: float(str(last[n]["peak"])) for n in measured.seconds}
    apart = {n: _apart(last[SCRATCH]["p"], last[n]["p"]) for n in (ALIBI, EVIDENTLY) if measured.has(n)}
    faster = measured.median(EVIDENTLY) / ours if measured.has(EVIDENTLY) else None
    return Contest(
        title="Drift",
        about=f"Two tables of {ROWS:,} rows and {COLUMNS} numbers. Two-sample Kolmogorov-Smirnov with asymptotic p-values; ours computes "
        "the population stability index as well. Loading and imports are not counted. Memory is the process's peak, tables included.",
        header=("", "seconds", "times ours", "peak memory"),
        rows=tuple((n, short(measured.median(n)), times(measured.median(n) / ours), f"{peaks[n]:.0f} MB") for n in measured.seconds),
        goals=(
            Goal(
                what="drift, exact and from scratch: at least 40 times faster than Evidently",
                measured=f"{faster:.0f} times" if faster else "",
                met=None if faster is None else faster >= 40,
            ),
            Goal(what="drift: within 2 GB", measured=f"{peaks[SCRATCH]:.0f} MB", met=peaks[SCRATCH] < 2048),
            Goal(
                what="drift: the same p-values as alibi-detect and Evidently",
                measured=", ".join(f"{d:.1e} apart at most" for d in apart.values()),
                met=max(apart.values()) < 1e-6 if len(apart) > 1 else None,
            ),
        ),
        notes=(f"Versions: {', '.join(f'{n} {v}' for n, v in _versions().items())}. alibi-detect keeps p-values in single precision.",),
    )


def _ask(
    top: Path, env: dict[str, str], last: dict[str, dict[str, object]], name: str, *, script: str, python: str, word: str = ""
) -> float:
    done: Done = timed([python, "-c", HEAD + script, str(ROOT), word], cwd=top, env=env)
    last[name] = json.loads(done.out.strip().splitlines()[-1])
    return float(str(last[name]["seconds"]))


def _evidently(ask: partial[float]) -> float:
    return ask(EVIDENTLY, script=THEIRS_EVIDENTLY, python=str(competitors() / "python"))


def _apart(ours: object, theirs: object) -> float:
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    return max(abs(float(ours[n]) - float(theirs[n])) for n in ours)


def _versions() -> dict[str, str]:
    found = versions(Path(sys.executable), "alibi-detect", "scipy", "numpy")
    try:
        return found | versions(competitors() / "python", "evidently")
    except CannotMeasure:
        return found
