"""The loan-approval pipeline as a person runs it: first time, after a change, and again with nothing changed."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from pathlib import Path

from harness import ROOT, Contest, Goal, environment, git, scratch, short, timed

ROUNDS = 3
COLD, WARM, UNCHANGED = "cold: nothing in the store", "warm: one parameter of the last step changed", "unchanged"
RUN = ["countersign", "run", "loan_approval"]


def contest() -> Contest:
    seconds: dict[str, list[float]] = {COLD: [], WARM: [], UNCHANGED: []}
    with scratch() as top:
        env = environment(top)
        # One masking key for all rounds: it decides the split, and with it how long a search takes.
        (top / "masking").write_text(bytes(range(32)).hex())
        env["COUNTERSIGN_MASKING_KEY_FILE"] = str(top / "masking")
        for turn in range(ROUNDS):
            clone = _clone(top / f"clone{turn}", env)
            seconds[COLD].append(_run(clone, env))
            seconds[UNCHANGED].append(_run(clone, env))
            params = clone / "params/loan_approval.yaml"
            params.write_text(params.read_text().replace("title: Loan approval", f"title: Loan approval {turn}"))
            seconds[WARM].append(_run(clone, env))
    medians = {n: statistics.median(s) for n, s in seconds.items()}
    return Contest(
        title="The loan-approval pipeline",
        about="Sixteen tasks on 1,989 applications, records on, from `countersign run loan_approval` to its end. Environment and data "
        "are there.",
        header=("", "seconds"),
        rows=tuple((n, short(s)) for n, s in medians.items()),
        goals=(
            Goal(what="`make run` cold: under 3 minutes", measured=short(medians[COLD]), met=medians[COLD] < 180),
            Goal(what="`make run` unchanged: under 5 s", measured=short(medians[UNCHANGED]), met=medians[UNCHANGED] < 5),
        ),
    )


def _clone(folder: Path, env: dict[str, str]) -> Path:
    git(ROOT, "clone", "--quiet", str(ROOT), str(folder))
    pointers = subprocess.run(["git", "ls-files", "data/*.dvc"], cwd=folder, capture_output=True, text=True, check=True).stdout.split()
    timed(["dvc", "pull", "--quiet", *pointers], cwd=folder, env=env)
    shutil.rmtree(folder / ".countersign", ignore_errors=True)
    return folder


def _run(clone: Path, env: dict[str, str]) -> float:
    return timed(RUN, cwd=clone, env=env).seconds
