"""What every contestant runs on the cluster, told in its own words: steps that do next to nothing, in pods of the same size."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import project

LIMITS = {"cpu": "1", "memory": "512Mi"}
METAFLOWS_JOIN = {**LIMITS, "memory": "2Gi"}
METAFLOWS_WORKERS = 4  # processes that fetch from S3; it begins 64 of them, which even 2 GiB do not hold
AT_ONCE = 10  # pods of one workflow
ACCOUNT = "countersign-step"
STARTS = """
class SeedParams(Params):
    seed: int = Field(description="Makes a run another than those before, so that nothing of them is reused")


class Made0(NamedTuple):
    n0: Report


def step0(*, params: SeedParams) -> Made0:
    return Made0({"n": params.seed})
"""
MODULE = f'''"""Steps that do next to nothing."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from steps.types import Params, Report

{STARTS}'''
FAN = """

class Worked(NamedTuple):
    part: Report


def work(*, n0: Report, item: str) -> Worked:
    return Worked({"n": n0["n"] + int(item)})


class Joined(NamedTuple):
    total: Report


def join(*, part: tuple[Report, ...]) -> Joined:
    return Joined({"n": sum(p["n"] for p in part)})
"""
IMPORTS = "from workflows.declare import Artifact, FanOut, Kind, Pipeline, Resources, Step\n"
PIPELINE = """
pipeline = Pipeline(
    name="{name}",
    steps=({steps}),
    results=({result},),
    parallelism={at_once},
)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A workflow: a chain of `steps`, or with `wide` one step, then that many side by side, then one that joins them."""

    name: str
    steps: int = 0
    wide: int = 0

    @property
    def tasks(self) -> int:
        """Steps that do the work."""
        return self.wide + 2 if self.wide else self.steps


def workflow(template: str, arguments: Mapping[str, str]) -> dict[str, Any]:
    """A workflow of a template, as `argo submit --from` makes it."""
    parameters = [{"name": k, "value": v} for k, v in arguments.items()]
    spec = {"workflowTemplateRef": {"name": template}, "arguments": {"parameters": parameters}}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"generateName": f"{template}-"}, "spec": spec}


def fresh() -> str:
    """The workflow parameter `overrides` that makes a run of ours another than any before."""
    return json.dumps({"step0.seed": time.time_ns() // 1000})


# --- Ours


def ours(folder: Path, shape: Shape) -> Path:
    """A checkout with this pipeline, its manifest to be compiled."""
    module = MODULE + (FAN if shape.wide else "".join(_step(i) for i in range(1, shape.steps)))
    return project(folder, shape.name, module, _declaration(shape), params="step0:\n  seed: 0\n")


def _step(i: int) -> str:
    made = f"\n\nclass Made{i}(NamedTuple):\n    n{i}: Report\n"
    return f'{made}\n\ndef step{i}(*, n{i - 1}: Report) -> Made{i}:\n    return Made{i}({{"n": n{i - 1}["n"] + 1}})\n'


def _declaration(shape: Shape) -> str:
    small = f'resources=Resources(cpu="{LIMITS["cpu"]}", memory="{LIMITS["memory"]}")'

    def step(name: str, inputs: str, output: str, more: str = "") -> str:
        run = f"steps.{shape.name}:{name}"
        return f'\n        Step(name="{name}", run="{run}", inputs=({inputs}), outputs=({output},), {more}{small}),'

    if shape.wide:
        names = ["n0", "part", "total"]
        fan = f'fan_out=FanOut(name="item", over={tuple(str(i) for i in range(shape.wide))}), '
        listed = [step("step0", "", "n0"), step("work", "n0,", "part", fan), step("join", "part,", "total")]
    else:
        names = [f"n{i}" for i in range(shape.steps)]
        listed = [step(f"step{i}", f"n{i - 1}," if i else "", f"n{i}") for i in range(shape.steps)]
    artifacts = "".join(f'{n} = Artifact(name="{n}", kind=Kind.REPORT)\n' for n in names)
    made = PIPELINE.format(name=shape.name, steps="".join(listed) + "\n    ", result=names[-1], at_once=AT_ONCE)
    return f"{IMPORTS}\n{artifacts}{made}"


# --- Argo alone


def bare(shape: Shape, image: str) -> dict[str, Any]:
    """The WorkflowTemplate that a person writes by hand: the same image, the same tasks, a line of Python in each."""
    first = _bare_container("step0", "open('/work/n', 'w').write('0')", image, [])
    add = "import os; open('/work/n', 'w').write(str(int(os.environ['n']) + int(os.environ['item'])))"
    one = _bare_container("work", add, image, ["n", "item"])
    total = "import json, os; open('/work/n', 'w').write(str(sum(map(int, json.loads(os.environ['n'])))))"
    join = _bare_container("join", total, image, ["n"])
    if shape.wide:
        tasks = [_bare_task("step0", "step0"), _bare_task("work", "work", after="step0", item="{{item}}")]
        tasks[1]["withItems"] = list(range(shape.wide))
        tasks.append(_bare_task("join", "join", after="work"))
    else:
        tasks = [_bare_task("step0", "step0")]
        tasks += [_bare_task(f"step{i}", "work", after=f"step{i - 1}", item="1") for i in range(1, shape.steps)]
    return _template(f"bare-{shape.name}", [{"name": "pipeline", "dag": {"tasks": tasks}}, first, one, join])


def idle(name: str, pods: int, image: str) -> dict[str, Any]:
    """So many pods one after the other, each a line of Python."""
    tasks = [_bare_task("step0", "step0")]
    tasks += [{**_bare_task(f"step{i}", "step0"), "dependencies": [f"step{i - 1}"]} for i in range(1, pods)]
    first = _bare_container("step0", "open('/work/n', 'w').write('0')", image, [])
    return _template(name, [{"name": "pipeline", "dag": {"tasks": tasks}}, first])


def _template(name: str, templates: list[dict[str, Any]]) -> dict[str, Any]:
    spec = {"entrypoint": "pipeline", "archiveLogs": True, "parallelism": AT_ONCE, **ACCOUNTS, "templates": templates}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "WorkflowTemplate", "metadata": {"name": name}, "spec": spec}


ACCOUNTS = {"serviceAccountName": ACCOUNT, "automountServiceAccountToken": False, "executor": {"serviceAccountName": ACCOUNT}}


def _bare_container(name: str, code: str, image: str, inputs: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "inputs": {"parameters": [{"name": i} for i in inputs]},
        "outputs": {"parameters": [{"name": "n", "valueFrom": {"path": "/work/n"}}]},
        "volumes": [{"name": "work", "emptyDir": {}}],
        "container": {
            "image": image,
            "command": ["python", "-c", code],
            "env": [{"name": i, "value": f"{{{{inputs.parameters.{i}}}}}"} for i in inputs],
            "resources": {"requests": LIMITS, "limits": LIMITS},
            "volumeMounts": [{"name": "work", "mountPath": "/work"}],
        },
    }


def _bare_task(name: str, template: str, *, after: str = "", item: str = "") -> dict[str, Any]:
    task: dict[str, Any] = {"name": name, "template": template}
    if after:
        parameters = [{"name": "n", "value": f"{{{{tasks.{after}.outputs.parameters.n}}}}"}]
        parameters += [{"name": "item", "value": item}] if item else []
        task |= {"dependencies": [after], "arguments": {"parameters": parameters}}
    return task


# --- Metaflow


def metaflow(folder: Path, shape: Shape) -> Path:
    """A flow of this shape. Metaflow wants a first step called start, a last one called end, and no join to be the last."""
    folder.mkdir(parents=True)
    lines = ["from metaflow import FlowSpec, step", "", f"class Metaflow{shape.name.capitalize()}(FlowSpec):"]
    if shape.wide:
        bodies = {
            "start": ["self.n = 0", f"self.items = list(range({shape.wide}))", "self.next(self.work, foreach='items')"],
            "work": ["self.n += self.input", "self.next(self.join)"],
            "join": ["self.n = sum(i.n for i in inputs)", "self.next(self.end)"],
            "end": ["pass"],
        }
    else:
        names = ["start", *(f"step{i}" for i in range(1, shape.steps - 1)), "end"]
        after = [*(f"self.next(self.{n})" for n in names[1:]), "pass"]
        bodies = {n: ["self.n = 0" if n == "start" else "self.n += 1", a] for n, a in zip(names, after, strict=True)}
    for name, body in bodies.items():
        lines += ["    @step", f"    def {name}(self{', inputs' if name == 'join' else ''}):", *(f"        {b}" for b in body), ""]
    (folder / "flow.py").write_text("\n".join([*lines, "if __name__ == '__main__':", f"    Metaflow{shape.name.capitalize()}()", ""]))
    return folder


def fitted(created: str, image: str, environment: dict[str, str]) -> dict[str, Any]:
    """What Metaflow created, fitted to this cluster: the image has its libraries, nothing is installed, the root is read-only."""
    template: dict[str, Any] = _without_nulls(json.loads(created))
    template["metadata"].pop("namespace", None)
    spec = template["spec"]
    spec |= {"archiveLogs": True, **ACCOUNTS}
    given = {**environment, "METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1", "METAFLOW_S3_WORKER_COUNT": str(METAFLOWS_WORKERS), "HOME": "/work"}
    for t in spec["templates"]:
        if "container" not in t:
            continue
        container = t["container"]
        container["image"] = image
        container["workingDir"] = "/work"
        limits = METAFLOWS_JOIN if t["name"] == "join" else LIMITS
        container["resources"] = {"requests": limits, "limits": limits}
        container["env"] = [e for e in container.get("env", []) if e["name"] not in given and (e.get("value") or e.get("valueFrom"))]
        container["env"] += [{"name": k, "value": v} for k, v in given.items()]
        container["volumeMounts"] = [*container.get("volumeMounts", []), *({"name": n, "mountPath": f"/{n}"} for n in ("tmp", "work"))]
        t["volumes"] = [*t.get("volumes", []), *({"name": n, "emptyDir": {}} for n in ("tmp", "work"))]
    return template


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value
