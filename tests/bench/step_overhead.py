"""What a step costs beyond its own work, on a chain of trivial steps, with whatever record each contestant keeps."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import chain
from harness import CannotMeasure, Contest, Goal, competitors, environment, scratch, short, side_by_side, timed, times, versions

LONG, BRIEF, ROUNDS = 50, 5, 3
GOAL = 0.030  # seconds a step, our own runner
RUNNER, THROUGH_DVC, PLAIN_DVC = "countersign run", "countersign through dvc repro", "dvc repro"
METAFLOW, SNAKEMAKE, REDUN, KEDRO = "Metaflow", "Snakemake", "redun", "Kedro"
KEEPS = {
    RUNNER: "a process a step; a signed record of inputs, code, parameters, environment and outputs",
    THROUGH_DVC: "a process a step; the same records, and DVC's lock",
    PLAIN_DVC: "a process a step; DVC's lock",
    METAFLOW: "a process a step; its local metadata and data store",
    SNAKEMAKE: "a process a step; its metadata folder",
    REDUN: "one process; a SQLite database of calls and values",
    KEDRO: "one process; nothing, values stay in memory",
}


def contest() -> Contest:
    with scratch() as top:
        runs = {name: {n: _contestant(name, top, n) for n in (LONG, BRIEF)} for name in KEEPS}
        long = side_by_side({name: r[LONG] for name, r in runs.items()}, ROUNDS)
        brief = side_by_side({name: r[BRIEF] for name, r in runs.items() if name not in long.absent}, ROUNDS)
    step = {name: (long.median(name) - brief.median(name)) / (LONG - BRIEF) for name in long.seconds if brief.has(name)}
    rows = [
        (name, short(step[name]), times(step[name] / step[RUNNER]), short(long.median(name)), long.spread(name), KEEPS[name])
        for name in step
    ]
    rows += [(name, "", "", why, "", KEEPS[name]) for name, why in {**long.absent, **brief.absent}.items()]
    return Contest(
        title="Cost of a step",
        about=f"A chain of {LONG} steps, each adding one to a number that the step before it made, from an empty state. "
        f"A step's cost is the slope between a chain of {LONG} and one of {BRIEF}, so that starting the program does not count; "
        f"the whole run is the command from start to end. Medians of {ROUNDS} rounds, one contestant after the other in each.",
        header=("", "a step", "times ours", f"whole run of {LONG}", "lowest to highest", "isolation; what it keeps"),
        rows=tuple(rows),
        goals=(_fast_enough(step), _ahead(step)),
        notes=(_which(),),
    )


def _fast_enough(step: dict[str, float]) -> Goal:
    return Goal(what=f"our own runner: at most {short(GOAL)} a step", measured=short(step[RUNNER]), met=step[RUNNER] <= GOAL)


def _ahead(step: dict[str, float]) -> Goal:
    others = [n for n in (PLAIN_DVC, METAFLOW, SNAKEMAKE) if n in step]
    ratios = [step[n] / step[RUNNER] for n in others]
    measured = ", ".join(f"{n} {times(r)} times" for n, r in zip(others, ratios, strict=True))
    met = min(ratios) > 1.5 if len(others) == 3 else None
    return Goal(what="our own runner well ahead of dvc repro, Metaflow and Snakemake", measured=measured, met=met)


REPRO = ["dvc", "repro", "--quiet"]


def _which() -> str:
    found = versions(Path(sys.executable), "dvc")
    try:
        found |= versions(competitors() / "python", "metaflow", "snakemake", "redun", "kedro")
    except CannotMeasure as error:
        return f"DVC {found['dvc']}; the others {error}."
    return "Versions: " + ", ".join(f"{n} {v}" for n, v in found.items()) + "."


def _contestant(name: str, top: Path, n: int) -> Callable[[], float]:
    make, words, leaves = {
        RUNNER: (chain.ours, ["python", "-m", "workflows.cli", "run", "chain"], [".countersign", ".dvc", "artifacts"]),
        THROUGH_DVC: (chain.ours_through_dvc, REPRO, [".countersign", ".dvc/cache", ".dvc/tmp", "artifacts", "dvc.lock"]),
        PLAIN_DVC: (chain.plain_dvc, REPRO, [".dvc/cache", ".dvc/tmp", "dvc.lock", *(f"n{i}" for i in range(n))]),
        METAFLOW: (chain.metaflow, ["python", "flow.py", "--quiet", "run", "--max-workers", "2"], [".metaflow"]),
        SNAKEMAKE: (chain.snakemake, ["snakemake", "--cores", "2", "--quiet", "all"], [".snakemake", *(f"n{i}" for i in range(n))]),
        REDUN: (chain.redun, ["redun", "--config", "config", "run", "flow.py", "main"], ["config"]),
        KEDRO: (chain.kedro, ["python", "flow.py"], []),
    }[name]  # fmt: skip
    return partial(_once, name, make, top / f"{name.replace(' ', '-')}-{n}", words=words, leaves=leaves, n=n)


def _once(name: str, make: Callable[[Path, int], Path], folder: Path, *, words: list[str], leaves: list[str], n: int) -> float:
    if not folder.exists():
        make(folder, n)
    for path in (folder / leaf for leaf in leaves):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    theirs = (competitors(),) if name in {METAFLOW, SNAKEMAKE, REDUN, KEDRO} else ()
    return timed(words, cwd=folder, env=environment(folder.parent, *theirs)).seconds
