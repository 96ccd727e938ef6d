"""Asking the promoter of an environment: a workflow, for whoever may not release with their own hands.

Nothing that is asked is believed there; that it is looked at here before saves a wait, and nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from workflows.cluster.interface import ENVIRONMENT, Phase, Progress, Submission, Submitted, Workflows
from workflows.errors import BadInput, NotVerified, Problem
from workflows.promote.ledger import Entry
from workflows.promote.promoting import Promoted, holder_of
from workflows.prove import canonical, digest

PROMOTE, ROLLBACK = "promote", "rollback"
AGAIN = "the same command again"


def submit(workflows: Workflows, template: str, environment: str, arguments: Mapping[str, str]) -> Submitted:
    """Make the workflow; where one of the same is on its way, it is that one."""
    if workflows.template(template) is None:
        raise BadInput(
            Problem(what=f"no WorkflowTemplate {template}", where=workflows.place),
            hint="an administrator installs it: kubectl apply --server-side -k infra/argo/overlays/ENVIRONMENT",
        )
    given = {k: v for k, v in arguments.items() if v}
    same = digest.tagged("ask-promoter", template, environment, canonical.encode(given))[:12]
    for n in itertools.count(1):
        name = f"{template}-{same}-{n}"
        there = workflows.get(name)
        if there is not None and not there.phase.ended:
            return Submitted(name=name, created=False, phase=there.phase)
        if there is None and workflows.submit(_submission(name, template, environment, given)):
            return Submitted(name=name, created=True, phase=Phase.PENDING)
    raise AssertionError  # a count never ends


def came_of(ended: Progress, releases: Sequence[Entry]) -> Promoted:
    """What a workflow that succeeded brought to its environment: the release that it put out, and not whichever is the newest now."""
    put_out = {n.outputs["release"] for n in ended.nodes if n.outputs.get("release")}
    found = [e for e in releases if e.sha256 in put_out]
    if len(found) != 1:
        got = ", ".join(sorted(put_out)) or "none"
        raise NotVerified(Problem(what="the release that the workflow names is not among the environment's", where=ended.name, got=got))
    return Promoted(entry=found[0], unchanged=found[0].begun.holder != holder_of(ended.uid))


def _submission(name: str, template: str, environment: str, given: Mapping[str, str]) -> Submission:
    title = f"{template} {given.get('run') or given.get('pipeline', '')} in {environment}"
    return Submission(
        name=name,
        template=template,
        arguments=given,
        labels={ENVIRONMENT: environment},
        annotations={"workflows.argoproj.io/title": title},
    )
