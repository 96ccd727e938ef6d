"""`params/triggers.yaml`: which push runs which pipeline, in which environment, with which parameters. Read and checked here.

The sensors are compiled from it, and `countersign reconcile` looks for lost events by the same lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from workflows.declare import Pipeline
from workflows.errors import BadInput, Problem
from workflows.prove import canonical
from workflows.run import parameters

PATH = "params/triggers.yaml"

# What Kubernetes takes as a name, and as the start of the names that are made from an environment's.
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Short = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$")]
# Characters that need no escape in a regular expression but the dot, and none that a shell, YAML or a label would stumble over.
Repository = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+$")]
BranchName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_./-]{0,98}[A-Za-z0-9_])?$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Repositories(_Model):
    """`owner/name` of the repositories that may ask for a run."""

    github: tuple[Repository, ...] = ()
    gitlab: tuple[Repository, ...] = ()


class Environment(_Model):
    """Where a pipeline runs."""

    namespace: Label


class Branch(_Model):
    """What a push to a branch runs."""

    environment: str
    pipelines: dict[str, dict[str, Any]] = Field(min_length=1)
    """Pipeline -> parameters that differ there, written as for `--set`: `step.parameter: value`."""


class Triggers(_Model):
    """The whole file."""

    repositories: Repositories
    environments: dict[Short, Environment]
    branches: dict[BranchName, Branch]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mapped:
    """One pipeline that a push to one branch runs."""

    branch: str
    environment: str
    namespace: str
    pipeline: str
    overrides: Mapping[str, Any]
    """`step.parameter` -> value, as `--set` would give it."""


def read(root: Path) -> Triggers | None:
    """The file of a checkout; None where there is none. `BadInput` names everything in it that cannot be right by itself."""
    if not (root / PATH).exists():
        return None
    try:
        # Through JSON, where strict still takes a list for a tuple: YAML has no tuples.
        triggers = Triggers.model_validate_json(canonical.encode(parameters.read_yaml(root / PATH, PATH)))
    except canonical.NotCanonical as error:
        raise BadInput(Problem(what=f"holds a value that JSON has no form for: {error}", where=PATH)) from None
    except ValidationError as error:
        raise BadInput(*(_problem(e) for e in error.errors())) from None
    if problems := _contradictions(triggers):
        raise BadInput(*problems)
    return triggers


def mapped(triggers: Triggers) -> tuple[Mapped, ...]:
    """Every pipeline that some push runs, sorted by branch and pipeline."""
    return tuple(
        Mapped(
            branch=branch,
            environment=b.environment,
            namespace=triggers.environments[b.environment].namespace,
            pipeline=pipeline,
            overrides=overrides,
        )
        for branch, b in triggers.branches.items()
        for pipeline, overrides in b.pipelines.items()
    )


def problems_with(root: Path, triggers: Triggers, pipelines: Iterable[Pipeline]) -> list[Problem]:
    """What does not fit the checkout: pipelines and parameters that do not exist, values that a step refuses."""
    known = {p.name: p for p in pipelines}
    found = []
    for m in mapped(triggers):
        where = f"{PATH}: branches.{m.branch}.pipelines.{m.pipeline}"
        if m.pipeline not in known:
            found.append(Problem(what="no such pipeline", where=where, expected=f"one of {', '.join(sorted(known))}"))
            continue
        try:
            parameters.read(root, known[m.pipeline], m.overrides)
        except BadInput as error:
            found += [Problem(what=str(p), where=where) for p in error.problems]
    return found


def _problem(error: Any) -> Problem:
    missing = error["type"] == "missing"
    path = ".".join(str(part) for part in error["loc"])
    return Problem(what=error["msg"], where=f"{PATH}: {path}" if path else PATH, got="" if missing else repr(error["input"])[:80])


def _contradictions(triggers: Triggers) -> list[Problem]:
    """What is well formed and still cannot be meant."""
    found = [
        Problem(
            what="no such environment",
            where=f"{PATH}: branches.{n}.environment",
            expected=_one_of(triggers.environments),
            got=repr(b.environment),
        )
        for n, b in triggers.branches.items()
        if b.environment not in triggers.environments
    ]
    if triggers.branches and not (triggers.repositories.github or triggers.repositories.gitlab):
        found.append(Problem(what="branches are mapped but no repository may ask", where=f"{PATH}: repositories"))
    owners: dict[str, str] = {}
    for name, e in triggers.environments.items():
        if owners.setdefault(e.namespace, name) != name:
            found.append(Problem(what=f"environments {owners[e.namespace]} and {name} share a namespace", where=f"{PATH}: environments"))
    return found or _ambiguous(triggers)


def _ambiguous(triggers: Triggers) -> list[Problem]:
    """A workflow is named after pipeline and commit: two branches of one environment must not want two things under one name."""
    seen: dict[tuple[str, str], Mapped] = {}
    found = []
    for m in mapped(triggers):
        first = seen.setdefault((m.environment, m.pipeline), m)
        if canonical.encode(first.overrides) != canonical.encode(m.overrides):
            found.append(
                Problem(
                    what=f"{m.pipeline} would run with other parameters than from branch {first.branch}, in the same environment",
                    where=f"{PATH}: branches.{m.branch}",
                    expected="the same parameters, or another environment",
                )
            )
    return found


def _one_of(names: Iterable[str]) -> str:
    return f"one of {', '.join(names)}" if names else "an entry under environments"
