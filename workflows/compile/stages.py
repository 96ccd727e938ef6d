"""What both compilers need to know of a task beyond the plan: its files of code, its parameters as they stand in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows import code
from workflows.declare import Pipeline
from workflows.plan import LOCK, Task
from workflows.run.parameters import read_yaml
from workflows.run.sources.read import is_remote


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """A pipeline's parameter and policy files, as written."""

    params: dict[str, Any]
    policy: dict[str, Any]


def read_files(root: Path, pipeline: Pipeline) -> Files:
    """Both files of a pipeline; a policy file only where there are gates."""
    gated = any(s.gates for s in pipeline.steps)
    return Files(
        params=read_yaml(root / pipeline.params_path, pipeline.params_path) or {},
        policy=read_yaml(root / pipeline.policy_path, pipeline.policy_path) or {} if gated else {},
    )


def stage_name(task: Task) -> str:
    """`loan_approval-train`, or `loan_approval-tune@0`."""
    return f"{task.pipeline.name}-{task.id}"


def dependencies(root: Path, task: Task) -> list[str]:
    """Every file that a change of should run the task again: inputs, local sources and their schemas, code, the lock."""
    sources = [s for s in task.sources if not is_remote(s)]
    found = {p.path for p in task.inputs} | {s.at for s in sources} | {s.schema for s in task.sources if s.schema}
    return sorted({*found, *code.files_of(root, task.step), LOCK})


def always_runs(task: Task) -> bool:
    """Data from elsewhere can change without a file changing."""
    return any(is_remote(s) for s in task.sources)


def parameter_keys(files: Files, task: Task) -> dict[str, list[str]]:
    """File -> keys that the task reads in it."""
    found = {task.pipeline.params_path: [task.step.name]} if task.step.name in files.params else {}
    if task.step.gates:
        found[task.pipeline.policy_path] = sorted(g.name for g in task.step.gates)
    return found
