"""From declarations to one `dvc.yaml`: a stage a step, on the paths and with the words that the plan says."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from workflows.compile.stages import Files, always_runs, dependencies, parameter_keys, read_files, stage_name
from workflows.declare import Pipeline, Step, in_order
from workflows.plan import Port, Task

ITEM = "${item}"  # DVC's own variable in a `foreach`
HEAD = "# Generated from workflows/*.py. Do not edit: change the declaration, then run: countersign compile\n"


def dvc_yaml(root: Path, pipelines: list[Pipeline]) -> str:
    """The text of `dvc.yaml` for all pipelines, in the order given."""
    stages: dict[str, Any] = {}
    for p in pipelines:
        files = read_files(root, p)
        for s in in_order(p):
            stages |= _stage(root, files, p, s)
    return HEAD + dump({"stages": stages})


def dump(value: Any) -> str:
    """YAML as DVC writes it, but with lines of any length."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096
    out = io.StringIO()
    yaml.dump(value, out)
    return out.getvalue()


def _stage(root: Path, files: Files, pipeline: Pipeline, step: Step) -> dict[str, Any]:
    if step.fan_out is None:
        task = Task(pipeline=pipeline, step=step)
        return {stage_name(task): _body(root, files, task)}
    # The plan, asked about an item called `${item}`, gives the very template that DVC fills in.
    body = _body(root, files, Task(pipeline=pipeline, step=step, item=ITEM))
    return {f"{pipeline.name}-{step.name}": {"foreach": list(step.fan_out.over), "do": body}}


def _body(root: Path, files: Files, task: Task) -> dict[str, Any]:
    body: dict[str, Any] = {"cmd": " ".join(task.command)}
    if task.step.description:
        body["desc"] = task.step.description.replace("${", "\\${")
    body["deps"] = dependencies(root, task)
    if keys := parameter_keys(files, task):
        body["params"] = [{path: names} for path, names in keys.items()]
    outs = sorted(task.outputs, key=lambda p: p.path)
    for key, ports in (("outs", [p for p in outs if not _shown(p)]), ("metrics", [p for p in outs if p.artifact.metric])):
        if ports:
            body[key] = [p.path for p in ports]
    if plots := [p for p in outs if p.artifact.plot and not p.artifact.metric]:
        body["plots"] = [{p.path: _axes(p)} for p in plots]
    if always_runs(task):
        body["always_changed"] = True
    return body


def _shown(port: Port) -> bool:
    return port.artifact.metric or port.artifact.plot is not None


def _axes(port: Port) -> dict[str, str]:
    plot = port.artifact.plot
    return {"x": plot.x, "y": plot.y} if plot else {}
