"""Declarations -> `dvc.yaml`: a stage for each step, on the paths and with the words that the plan says. DVC is not used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from workflows.compile.interface import Declared
from workflows.compile.stages import always_runs, command, dependencies, parameter_keys, stage_name
from workflows.compile.text import dump
from workflows.declare import Step, in_order
from workflows.plan import Port, Task

PATH = "dvc.yaml"
COMMENT = "Generated from workflows/*.py. Do not edit: change the declaration, then run: countersign compile"
ITEM = "${item}"  # DVC's own variable in a `foreach`
MARK = "countersign-item"  # stands for it where text is escaped or quoted


def dvc_yaml(pipelines: Iterable[Declared]) -> str:
    """The text of `dvc.yaml`. The same declarations, in any order, give the same bytes."""
    stages: dict[str, Any] = {}
    for declared in sorted(pipelines, key=lambda d: d.pipeline.name):
        for step in in_order(declared.pipeline):
            stages |= _stage(declared, step)
    return dump({"stages": stages}, COMMENT)


def _stage(declared: Declared, step: Step) -> dict[str, Any]:
    task = Task(pipeline=declared.pipeline, step=step)
    if step.fan_out is None:
        return {stage_name(task): _literal(_body(declared, task))}
    # The plan, asked about an item, gives the very template that DVC fills in.
    body = _body(declared, replace(task, item=MARK))
    return {stage_name(task): {"foreach": list(step.fan_out.over), "do": _filled(_literal(body))}}


def _body(declared: Declared, task: Task) -> dict[str, Any]:
    made = sorted(task.outputs, key=lambda p: p.path)
    body = {
        "desc": task.step.description,
        "cmd": command(task),
        "deps": dependencies(declared, task),
        "params": [{path: keys} for path, keys in parameter_keys(declared, task.step).items()],
        "outs": [p.path for p in made if not p.artifact.metric and not p.artifact.plot],
        "metrics": [p.path for p in made if p.artifact.metric and not p.artifact.plot],
        "plots": [{p.path: _axes(p)} for p in made if p.artifact.plot],
        "always_changed": always_runs(declared, task.step),
    }
    return {k: v for k, v in body.items() if v}


def _axes(port: Port) -> dict[str, str]:
    plot = port.artifact.plot
    if plot is None:
        return {}
    return {"x": plot.x, "y": plot.y, **({"template": "bar_horizontal"} if plot.bars else {})}


def _literal(value: Any) -> Any:
    """Texts in which DVC finds nothing to fill in."""
    return _each(value, lambda text: text.replace("${", "\\${"))


def _filled(value: Any) -> Any:
    return _each(value, lambda text: text.replace(MARK, ITEM))


def _each(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {_each(k, change): _each(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [_each(v, change) for v in value]
    return change(value) if isinstance(value, str) else value
