"""Submitting a pipeline: a workflow whose name says what it would do, so that the same submission twice is one workflow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflows.cluster.interface import ENVIRONMENT, PIPELINE, REVISION, Phase, Submission, Submitted, Workflows
from workflows.declare import Pipeline, problems_of
from workflows.errors import BadInput, Problem
from workflows.names import argo_name, workflow_name
from workflows.prove import canonical
from workflows.run import parameters

TITLE = "workflows.argoproj.io/title"
SHORT = 12  # digits of a commit that a person compares by eye
NEEDED = frozenset({"code", "revision", "parameters", "overrides"})
"""Arguments that a template must take for what is passed to it to have an effect."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be run."""

    pipeline: Pipeline
    overrides: Mapping[str, Any]
    """`step.parameter` -> value, checked against the code."""
    code: str
    """`sha256:md5:size` of the archive."""
    revision: str
    """The commit, with `-dirty` behind it where the code differs; empty where there is none."""
    clean: str | None
    """The commit, where it alone says what the code is."""
    environment: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    def submission(self, again: int) -> Submission:
        """The workflow to be made, for the so many-eth time."""
        plain = {"code": self.code, "revision": self.revision, "parameters": "code"}
        labels = {PIPELINE: argo_name(self.pipeline.name)}
        labels |= {REVISION: self.clean[:40]} if self.clean else {}
        labels |= {ENVIRONMENT: self.environment} if self.environment else {}
        return Submission(
            name=workflow_name(
                self.pipeline.name,
                commit=self.clean,
                code=self.code.partition(":")[0],
                overrides=self.overrides,
                again=again,
            ),
            template=argo_name(self.pipeline.name),
            arguments={**plain, "overrides": canonical.encode(dict(self.overrides)).decode()},
            labels=labels,
            annotations={TITLE: self._title(), **self.annotations},
        )

    def _title(self) -> str:
        where = f"at {self.revision[:SHORT]}" if self.revision else "from a folder outside git"
        changed = " with changes" if self.revision and not self.clean else ""
        return f"{self.pipeline.name} {where}{changed}"


def check(root: Path, pipeline: Pipeline, overrides: Mapping[str, Any]) -> None:
    """`BadInput` lists all that is wrong with a declaration, its parameters, its policies and these overrides, before anything runs."""
    if problems := problems_of(pipeline):
        raise BadInput(*problems)
    parameters.read(root, pipeline, overrides)


def submit(workflows: Workflows, request: Request, publish: Callable[[], object], *, again: bool = False) -> Submitted:
    """Make the workflow, unless it is there already; with `again`, make one more of the same.

    `publish` is called before, and only if, a workflow is made: its pods find the code where they look for it.
    """
    first = request.submission(0)
    if not again and (there := workflows.get(first.name)):
        return Submitted(name=first.name, created=False, phase=there.phase)
    fits(workflows, request.pipeline)
    publish()
    for n in itertools.count(1 if again else 0):
        submission = request.submission(n)
        if workflows.submit(submission):
            return Submitted(name=submission.name, created=True, phase=Phase.PENDING)
        if not again:  # someone was faster, by a moment
            there = workflows.get(submission.name)
            return Submitted(name=submission.name, created=False, phase=there.phase if there else Phase.PENDING)
    raise AssertionError  # a count never ends


def fits(workflows: Workflows, pipeline: Pipeline) -> None:
    """`BadInput` where the cluster's template of a pipeline is not that of the code which it is to run."""
    name = argo_name(pipeline.name)
    where = f"WorkflowTemplate {name}, {workflows.place}"
    hint = "bring it up to date: countersign publish --templates"
    template = workflows.template(name)
    if template is None:
        raise BadInput(
            Problem(what="the pipeline is not on this cluster", where=where),
            hint="right namespace and context? --namespace and --context name others; else put it there: countersign publish --templates",
        )
    wanted = {argo_name(s.name) for s in pipeline.steps}
    problems = [Problem(what=f"has no task {t}, which the pipeline has here", where=where) for t in sorted(wanted - template.templates)]
    extra = template.templates - wanted - {"plan", "seal", "pipeline"}
    problems += [Problem(what=f"has a task {t}, which the pipeline has not here", where=where) for t in sorted(extra)]
    problems += [Problem(what=f"takes no argument {a}", where=where) for a in sorted(NEEDED - template.defaults.keys())]
    if problems:
        raise BadInput(*problems, hint=hint)
