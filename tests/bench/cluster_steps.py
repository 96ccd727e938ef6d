"""What a step costs on a cluster, against the same containers under Argo alone and under Metaflow."""

from __future__ import annotations

import itertools
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
_number = itertools.count(1)


def contest(shape: flows.Shape, title: str, what: str) -> Contest:
    with scratch() as top, world(top) as here:
        measured, pods = _measure(here, shape)
        argo = here.argo()
    return Contest(
        title=title,
        about=f"{what}; the same image, the same size of pod, the same Argo. Argo alone runs a line of Python in each. Metaflow's is "
        "what its `argo-workflows create` makes, less its installing of libraries, which the image has. Seconds from the creation of "
        "the workflow to its end, with all that comes before the first step and after the last; a step's cost is that divided by the "
        f"number of steps. {'One round' if ROUNDS == 1 else f'Medians of {ROUNDS} rounds'}. Nothing is reused.",
        header=("", "seconds", "lowest to highest", "a step", "pods", "what it keeps"),
        rows=tuple((n, *_cells(n, shape, measured, pods), KEEPS[n]) for n in KEEPS if measured.has(n)),
        goals=_goals(shape, measured, pods),
        notes=(_which(argo), *(f"{n}: {why}" for n, why in measured.absent.items())),
    )


def _measure(here: World, shape: flows.Shape) -> tuple[Measured, dict[str, int]]:
    here.ours(shape)
    here.bare(shape)
    pods: dict[str, int] = {}

    def once(name: str) -> float:
        ran = _run(here, shape, name)
        pods[name] = ran.pods
        return ran.seconds

    return side_by_side({n: partial(once, n) for n in KEEPS}, ROUNDS), pods


def _run(here: World, shape: flows.Shape, name: str) -> Ran:
    if name == METAFLOW:
        template = f"metaflow{shape.name}"
        if not here.has(template):
            template = here.metaflow(shape)
        return here.run(template)
    if name == BARE:
        return here.run(f"bare-{shape.name}")
    return here.run(shape.name, overrides=f'{{"step0.seed": {next(_number)}}}')


def _cells(name: str, shape: flows.Shape, measured: Measured, pods: dict[str, int]) -> tuple[str, str, str, str]:
    seconds = measured.median(name)
    return short(seconds), measured.spread(name), short(seconds / shape.tasks), str(pods[name])


def _goals(shape: flows.Shape, measured: Measured, pods: dict[str, int]) -> tuple[Goal, ...]:
    what = f"cluster, {shape.name} of {shape.steps or shape.wide}"
    extra = pods[OURS] - shape.tasks
    over = (measured.median(OURS) - measured.median(BARE)) / shape.tasks
    ratio = measured.median(METAFLOW) / measured.median(OURS) if measured.has(METAFLOW) else None
    return (
        Goal(
            what=f"{what}: no extra pod a step",
            measured=f"{extra} more for the whole run: one plans, one seals" if extra == BESIDE else f"{extra} more",
            met=extra == BESIDE,
        ),
        Goal(what=f"{what}: at most {short(GOAL)} a step over Argo alone", measured=short(over), met=over <= GOAL),
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
