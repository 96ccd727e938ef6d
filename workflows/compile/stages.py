"""What a task depends on, as DVC sees it: files and keys of parameter files. Pure, like the plan."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from workflows.compile.interface import Declared
from workflows.declare import Source, Step
from workflows.plan import LOCK, Task


def stage_name(task: Task) -> str:
    """`loan_approval-train`, or `loan_approval-tune@0`: DVC's own name for one item of a `foreach`."""
    return f"{task.pipeline.name}-{task.id}"


def command(task: Task) -> str:
    """The words of the command as one line, the same in every shell."""
    return shlex.join(task.command)


def dependencies(declared: Declared, task: Task) -> list[str]:
    """Every file that a change of should run the task again: inputs, local sources and their schemas, code, the lock."""
    found = {LOCK, *(p.path for p in task.inputs)}
    for step in decisive(declared, task.step):
        found.update(declared.steps[step.name].files)
        found.update(s.at for s in _sources(step) if not s.remote)
    return sorted(found)


def parameter_keys(declared: Declared, step: Step) -> dict[str, list[str]]:
    """File -> keys in it that decide what the step computes, both sorted."""
    steps = decisive(declared, step)
    keys = {
        declared.pipeline.params_path: sorted(s.name for s in steps if declared.steps[s.name].params),
        declared.pipeline.policy_path: sorted(g.name for s in steps for g in s.gates),
    }
    return {path: names for path, names in sorted(keys.items()) if names}


def always_runs(declared: Declared, step: Step) -> bool:
    """Data from elsewhere can change without a file changing."""
    return any(s.remote for d in decisive(declared, step) for s in _sources(d))


def decisive(declared: Declared, step: Step) -> Sequence[Step]:
    """The steps whose code, parameters and sources decide what `step` computes: itself, or all where it states the lineage."""
    return declared.pipeline.steps if step.lineage else (step,)


def _sources(step: Step) -> list[Source]:
    return [i for i in step.inputs if isinstance(i, Source)]
