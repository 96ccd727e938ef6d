"""Which files a push must touch to be about a pipeline: its declaration, steps, parameters, policy, requirements and data pointers.

A list of exact paths is enough. A file that none of them is can begin to matter only by a change of one of them: a step
imports it, a declaration or a schema names it.
"""

from __future__ import annotations

from collections.abc import Iterable

from workflows.compile.interface import Declared
from workflows.declare import Source
from workflows.plan import LOCK

POINTER = ".dvc"


def paths_of(declared: Declared) -> tuple[str, ...]:
    """Paths from the repository's root, sorted."""
    pipeline = declared.pipeline
    found = {LOCK, f"workflows/{pipeline.name}.py", pipeline.params_path}
    if any(s.gates for s in pipeline.steps):
        found.add(pipeline.policy_path)
    for facts in declared.steps.values():
        found.update(facts.files)
    for source in (i for s in pipeline.steps for i in s.inputs if isinstance(i, Source) and not i.remote):
        found.update((source.at, source.at + POINTER))
    return tuple(sorted(found))


def touches(declared: Declared, changed: Iterable[str]) -> bool:
    """Whether a change of these files is about the pipeline."""
    return not set(paths_of(declared)).isdisjoint(changed)
