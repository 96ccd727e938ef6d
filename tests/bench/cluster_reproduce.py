"""A run that the cluster made, made again on this machine and compared, against the steps' own time."""

from __future__ import annotations

import base64
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cluster_world import World, world
from harness import ROOT, CannotMeasure, Contest, Goal, git, scratch, short, timed

ROUNDS = 3
GOAL = 1.2
PIPELINE = "loan_approval"


def contest() -> Contest:
    with scratch() as top, world(top) as here:
        clone = _clone(here, top / "clone")
        env = {**here.env, **_masking_key(here), "COUNTERSIGN_STORE": here.env["COUNTERSIGN_STORE"]}
        run = _run_on_cluster(here, clone, env)
        rounds = [_round(top / f"round{n}", clone, run, env) for n in range(ROUNDS)]
    steps, whole = (statistics.median(r[i] for r in rounds) for i in (0, 1))
    ratio = statistics.median(r[1] / r[0] for r in rounds)
    return Contest(
        title="Reproducing a cluster's run on a laptop",
        about=f"A run of {PIPELINE} that the cluster made, with `countersign reproduce`: its chain is verified, its code, parameters "
        "and data are fetched from the store, every step runs again, and every artifact is compared. The steps' own time is that in "
        f"which at least one was at work, as the records of that second run say, on this machine. Medians of {ROUNDS} rounds, "
        "for the goal of each round's ratio.",
        header=("", "seconds"),
        rows=(("the steps, those side by side counted once", short(steps)), ("countersign reproduce", short(whole))),
        goals=(Goal(what=f"reproduction: at most {GOAL} times the steps' own time", measured=f"{ratio:.2f} times", met=ratio <= GOAL),),
    )


def _clone(here: World, folder: Path) -> Path:
    git(ROOT, "clone", "--quiet", str(ROOT), str(folder))
    pointers = subprocess.run(["git", "ls-files", "data/*.dvc"], cwd=folder, capture_output=True, text=True, check=True).stdout.split()
    timed(["dvc", "pull", "--quiet", *pointers], cwd=folder, env=here.env)
    shutil.rmtree(folder / ".countersign", ignore_errors=True)
    return folder


def _masking_key(here: World) -> Mapping[str, str]:
    """The auditor's copy of the key that the cluster's run used."""
    secret = json.loads(here.kubectl("get", "secret", "countersign-masking-key", "-o", "json"))["data"]
    return {"COUNTERSIGN_MASKING_KEY": base64.b64decode(next(iter(secret.values()))).decode().strip()}


def _run_on_cluster(here: World, clone: Path, env: Mapping[str, str]) -> str:
    """The id of a finished run."""
    timed(_countersign("publish", "--templates", "--namespace", here.namespace), cwd=clone, env=env)
    done = subprocess.run(
        _countersign("submit", PIPELINE, "--namespace", here.namespace, "--json"),
        cwd=clone, env=dict(env), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise CannotMeasure(f"countersign submit: {done.stderr.strip()[-200:]}")
    name = json.loads(done.stdout)["workflow"]
    here.kubectl("wait", "--for=condition=Completed", "--timeout=1200s", f"workflow/{name}", within=1300)
    annotations = json.loads(here.kubectl("get", "workflow", name, "-o", "json"))["metadata"]["annotations"]
    if "countersign/run" not in annotations:
        raise CannotMeasure(f"{name} ended without a sealed run")
    return str(annotations["countersign/run"])


def _round(top: Path, clone: Path, run: str, env: Mapping[str, str]) -> tuple[float, float]:
    """Seconds in which a step was at work, and of the whole command."""
    begun = time.perf_counter()
    done = subprocess.run(
        _countersign("reproduce", run, "--into", str(top), "--json"), cwd=clone, env=dict(env), capture_output=True, text=True, check=False
    )
    whole = time.perf_counter() - begun
    if done.returncode:
        raise CannotMeasure(f"countersign reproduce ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    said = json.loads(done.stdout)
    if said["verdict"] != "bytes":
        raise CannotMeasure(f"the reproduction is not equal byte for byte: {said['verdict']}")
    near = {k: v for k, v in env.items() if k != "COUNTERSIGN_STORE"}
    shown = json.loads(timed(_countersign("show", said["other"], "--json"), cwd=top, env=near).out)
    begun_at = [datetime.fromisoformat(s["started"]) for s in shown["steps"]]
    return covered((at, at + timedelta(seconds=s["seconds"])) for at, s in zip(begun_at, shown["steps"], strict=True)), whole


def covered(spans: Iterable[tuple[datetime, datetime]]) -> float:
    """Seconds that lie in at least one of the spans."""
    total, end = 0.0, datetime.min.replace(tzinfo=UTC)
    for begun, ended in sorted(spans):
        total += max(0.0, (ended - max(begun, end)).total_seconds())
        end = max(end, ended)
    return total


def _countersign(*words: str) -> list[str]:
    return [sys.executable, "-m", "workflows.cli", *words]
