"""What a step costs on a cluster, against the same containers under Argo alone and under Metaflow."""

from __future__ import annotations

import statistics
from functools import partial

import cluster_flows as flows
from cluster_world import Ran, World, world
from harness import CannotMeasure, Contest, Goal, Measured, competitors, scratch, short, side_by_side, times, versions

ROUNDS = 1
GOAL = 1.0  # seconds a step, over Argo alone
BESIDE = 2  # pods a workflow, not a step: one plans, one seals
OURS, BARE, METAFLOW = "countersign", "Argo alone", "Metaflow"
KEEPS = {
    OURS: "a signed record a step, of its inputs, code, parameters, environment and outputs, and a seal over all",
    BARE: "nothing but Argo's own status",
    METAFLOW: "its data store; metadata is local to each pod",
}


def contest(shape: flows.Shape, title: str, what: str) -> Contest:
    ran: dict[str, list[Ran]] = {}
    with scratch() as top, world(top) as here:
        here.ours(shape)
        here.bare(shape)
        measured = side_by_side({n: partial(_once, here, shape, n, ran) for n in KEEPS}, ROUNDS)
        argo = here.argo()
    step = {n: statistics.median(r.steps for r in ran[n]) / shape.tasks for n in measured.seconds}
    joins = (
        f"; its join has {flows.METAFLOWS_JOIN['memory']}B and {flows.METAFLOWS_WORKERS} processes to fetch, as 64 kill it"
        if shape.wide
        else ""
    )
    return Contest(
        title=title,
        about=f"{what}; the same image, the same size of pod, the same Argo. Argo alone runs a line of Python in each. Metaflow's is "
        f"what its `argo-workflows create` makes, less its installing of libraries, which the image has{joins}. The whole run is from the "
        "creation of the workflow to its end; a step is the time from the creation of the first step's pod to the end of the last's, "
        f"divided by the number of steps. {'One round' if ROUNDS == 1 else f'Medians of {ROUNDS} rounds'}. Nothing is reused.",
        header=("", "a step", "whole run", "lowest to highest", "pods", "what it keeps"),
        rows=tuple(
            (n, short(step[n]), short(measured.median(n)), measured.spread(n), str(ran[n][0].pods), KEEPS[n]) for n in measured.seconds
        ),
        goals=_goals(shape, measured, step, ran[OURS][0].pods),
        notes=(_which(argo), *(f"{n}: {why}" for n, why in measured.absent.items())),
    )


def _once(here: World, shape: flows.Shape, name: str, ran: dict[str, list[Ran]]) -> float:
    done = _run(here, shape, name)
    ran.setdefault(name, []).append(done)
    return done.seconds


def _run(here: World, shape: flows.Shape, name: str) -> Ran:
    if name == METAFLOW:
        template = f"metaflow{shape.name}"
        return here.run(template if here.has(template) else here.metaflow(shape))
    if name == BARE:
        return here.run(f"bare-{shape.name}")
    return here.run(shape.name, overrides=flows.fresh())


def _goals(shape: flows.Shape, measured: Measured, step: dict[str, float], pods: int) -> tuple[Goal, ...]:
    if OURS not in step or BARE not in step:
        raise CannotMeasure("; ".join(measured.absent.values()))
    what = f"cluster, {f'fan-out of {shape.wide}' if shape.wide else f'chain of {shape.steps}'}"
    extra = pods - shape.tasks
    over = step[OURS] - step[BARE]
    whole = (measured.median(OURS) - measured.median(BARE)) / shape.tasks
    ratio = measured.median(METAFLOW) / measured.median(OURS) if METAFLOW in step else None
    return (
        Goal(
            what=f"{what}: no extra pod a step",
            measured="none; one plans and one seals, once a run" if extra == BESIDE else f"{extra} more",
            met=extra == BESIDE,
        ),
        Goal(
            what=f"{what}: at most {short(GOAL)} a step over Argo alone",
            measured=short(over),
            met=over <= GOAL,
        ),
        Goal(
            what=f"{what}: the same with planning and sealing, once a run, shared out over the steps",
            measured=short(whole),
            met=whole <= GOAL,
        ),
        Goal(
            what=f"{what}: ahead of Metaflow",
            measured="" if ratio is None else f"Metaflow takes {times(ratio)} times as long",
            met=None if ratio is None else ratio > 1,
        ),
    )


def _which(argo: str) -> str:
    try:
        found = versions(competitors() / "python", "metaflow")
    except CannotMeasure as error:
        return f"Argo Workflows {argo}; Metaflow {error}."
    return f"Argo Workflows {argo}, Metaflow {found['metaflow']}."
