"""From a pipeline's schedule to an Argo CronWorkflow, which starts the pipeline's template.

Argo names each run after the time it was due, `<pipeline>-<seconds since 1970>`: two controllers that both think it is
time make one run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hera.workflows import CronWorkflow, Parameter
from hera.workflows import models as m

from workflows import cron
from workflows.compile.dvc import COMMENT
from workflows.compile.text import dump, kustomization
from workflows.declare import Pipeline, Schedule
from workflows.errors import BadInput, Problem
from workflows.names import argo_name

FOLDER = "infra/argo/schedules"
LONGEST = 63 - len("-4294967295")
"""Argo appends the time to the name, and the result is a label."""
CONTROLLER = "system:serviceaccount:argo:argo"
"""Argo's controller, which creates the workflows of a schedule. Where it has another account, the admission policies name it, too."""
HISTORY = 5
"""Workflows of each outcome that are left to look at. What ran is kept by the runs' own records."""


def manifests(pipelines: Iterable[Pipeline]) -> dict[str, str]:
    """Path -> text of every schedule's manifest, with the kustomization that names them. `BadInput` where Argo would not take one."""
    texts = {f"{argo_name(p.name)}.yaml": cron_workflow(p, p.schedule) for p in pipelines if p.schedule}
    if not texts:
        return {}
    return {f"{FOLDER}/{name}": text for name, text in {**texts, "kustomization.yaml": kustomization(texts, COMMENT)}.items()}


def cron_workflow(pipeline: Pipeline, schedule: Schedule) -> str:
    """The text of the manifest. `BadInput` where Argo would not take it."""
    name = argo_name(pipeline.name)
    if len(name) > LONGEST:
        raise BadInput(Problem(what="too long a name for a pipeline with a schedule", where=name, expected=f"at most {LONGEST} characters"))
    labels = {"app.kubernetes.io/part-of": "countersign", "countersign/pipeline": name}
    built: Any = CronWorkflow(
        name=name,
        labels=labels,
        annotations={"workflows.argoproj.io/description": schedule.description},
        schedules=[cron.in_numbers(line) for line in schedule.cron],
        timezone=schedule.time_zone,
        concurrency_policy=schedule.overlap.value,
        starting_deadline_seconds=schedule.deadline,
        successful_jobs_history_limit=HISTORY,
        failed_jobs_history_limit=HISTORY,
        workflow_template_ref=m.WorkflowTemplateRef(name=name),
        arguments=[Parameter(name="parameters", value="code")],  # of the code that runs, not of what the template was compiled with
    ).build()
    # Hera's class has no field for it.
    built.spec.workflow_metadata = m.ObjectMeta(labels=labels, annotations={"countersign/submitter": CONTROLLER})
    return dump(built.model_dump(exclude_none=True, by_alias=True), COMMENT)
