"""A hundred small workflows submitted at once: how long until all have ended, and what the controller needs for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cluster_flows as flows
from cluster_world import World, world
from harness import CannotMeasure, Contest, Goal, Measured, scratch, short, side_by_side

SMALL = flows.Shape(name="small", steps=1)
COUNT, ROUNDS = 100, 1
PODS = 3  # of our smallest workflow: one plans, one works, one seals
LIMIT = 512  # MB
CLEAR_PEAK = "5"  # see clear_refs in proc(5)
OURS, BARE = "countersign", f"Argo alone, {PODS} pods a workflow"
SECONDS_A_POD = 1.0


def contest() -> Contest:
    with scratch() as top, world(top) as here:
        here.ours(SMALL)
        here.apply(flows.idle("bare-small", PODS, here.image))
        peaks: dict[str, float] = {}
        measured = side_by_side({n: partial(_once, here, n, peaks) for n in (BARE, OURS)}, ROUNDS)
    if not measured.has(OURS, BARE):
        raise CannotMeasure("; ".join(measured.absent.values()))
    return Contest(
        title="A hundred workflows at once",
        about=f"{COUNT} workflows created by one request, each of {PODS} pods, one after the other: ours plans a run, does one step and "
        f"seals; Argo alone runs a line of Python in each. Seconds until the last has ended. Memory is the controller's peak meanwhile.",
        header=("", "seconds", "pods a second", "controller's memory"),
        rows=tuple(
            (n, short(measured.median(n)), f"{COUNT * PODS / measured.median(n):.2f}", f"{peaks[n]:.0f} MB" if n in peaks else "")
            for n in (OURS, BARE)
        ),
        goals=_goals(measured, peaks),
    )


def _goals(measured: Measured, peaks: dict[str, float]) -> tuple[Goal, ...]:
    over = (measured.median(OURS) - measured.median(BARE)) / (COUNT * PODS)
    ratio = measured.median(OURS) / measured.median(BARE)
    return (
        Goal(
            what=f"{COUNT} workflows at once: at most {short(SECONDS_A_POD)} a pod over Argo alone",
            measured=f"{short(over)}; {ratio:.2f} of its time",
            met=over <= SECONDS_A_POD,
        ),
        Goal(
            what=f"{COUNT} workflows at once: the controller within {LIMIT} MB",
            measured=f"{peaks[OURS]:.0f} MB" if OURS in peaks else "",
            met=peaks[OURS] < LIMIT if OURS in peaks else None,
        ),
    )


def _once(here: World, name: str, peaks: dict[str, float]) -> float:
    peak = _peak()
    begun = time.perf_counter()
    if name == OURS:
        names = here.start(SMALL.name, *({"overrides": flows.fresh()} for _ in range(COUNT)))
    else:
        names = here.start("bare-small", *({} for _ in range(COUNT)))
    done = here.end(names, begun)
    if wrong := [d.name for d in done if d.pods != PODS]:
        raise CannotMeasure(f"not of {PODS} pods: {', '.join(wrong)}")
    if peak:
        peaks[name] = peak()
    return done[0].seconds


def _peak() -> Callable[[], float] | None:
    """Forget the peak of the controller's memory so far; what it has been since, in MB. None where it runs on another machine."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().split(b"\0")[0].endswith(b"workflow-controller"):
                (process / "clear_refs").write_text(CLEAR_PEAK)
                return partial(_highest, process / "status")
        except OSError:
            continue
    return None


def _highest(status: Path) -> float:
    found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(found.split()[1]) / 1024
