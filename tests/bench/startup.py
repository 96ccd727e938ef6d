"""What a step pays before its own work begins: imports."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from harness import ROOT, Contest, Goal, environment, scratch, short, side_by_side, timed, times

ROUNDS = 9
BARE = "python -c pass"
CONTESTANTS = {
    BARE: "pass",
    "countersign: the driver": "import workflows.run.driver",
    "countersign: the driver, ready to run a step of tables": "import workflows.run.single, pyarrow.parquet",
    "countersign: the command line": "import workflows.cli",
    "DVC": "import dvc.repo",
    "Hera": "import hera.workflows",
    "LightGBM": "import lightgbm",
    "Fairlearn": "import fairlearn.metrics",
    "alibi-detect": "import alibi_detect.cd",
}
DRIVER = "countersign: the driver"


def contest() -> Contest:
    with scratch() as top:
        env = environment(top) | {"PYTHONPATH": str(ROOT), "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
        measured = side_by_side({n: partial(_start, code, top, env) for n, code in CONTESTANTS.items()}, ROUNDS)
    bare = measured.median(BARE)
    beyond = measured.median(DRIVER) - bare
    heaviest = max(measured.median(n) for n in ("LightGBM", "Fairlearn", "alibi-detect"))
    return Contest(
        title="Start of the driver",
        about="From nothing to imported, in a fresh process. The driver imports neither DVC nor Hera nor any library of a step; "
        "a step imports what it uses, when it uses it.",
        header=("", "seconds", "beyond bare Python", "times bare Python"),
        rows=tuple(
            (n, short(measured.median(n)), short(max(measured.median(n) - bare, 0.0)), times(measured.median(n) / bare))
            for n in CONTESTANTS
        ),
        goals=(
            Goal(what="the driver starts in under half a second beyond Python", measured=short(beyond), met=beyond < 0.5),
            Goal(
                what="and costs less than the libraries it leaves to the steps",
                measured=f"{short(beyond)} against {short(heaviest)}",
                met=beyond < heaviest,
            ),
        ),
    )


def _start(code: str, folder: Path, env: dict[str, str]) -> float:
    return timed([sys.executable, "-c", code], cwd=folder, env=env).seconds
