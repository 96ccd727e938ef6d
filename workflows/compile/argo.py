"""From a declaration to an Argo WorkflowTemplate, built with Hera's objects and written by us.

Hera's own `to_yaml` corrupts manifests whose lines hold more `{{` than `}}`, so the dictionary is dumped here and read
back to see that nothing was lost.
"""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin

from hera.workflows import DAG, Container, Env, Parameter, Resources, RetryStrategy, WorkflowTemplate
from hera.workflows import Task as DagTask
from hera.workflows import models as m

from workflows.compile.dvc import COMMENT
from workflows.compile.interface import Declared
from workflows.compile.text import dump
from workflows.declare import Artifact, Pipeline, Step, in_order, upstream
from workflows.errors import BadInput, Problem
from workflows.plan import Task
from workflows.run.parameters import OVERRIDE, parse_value

OUTPUTS = "/tmp/countersign/outputs"  # noqa: S108  # a path in the step's own container, on a volume of its own
WORKDIR = "/work"
MAX_TASKS = 200  # Argo's limits since 4.0
MAX_PARAMETERS = 500
RETRY = "asInt(lastRetry.exitCode) in [75, 137] || lastRetry.status == 'Error'"
"""Only what may pass by itself: our exit code for temporary failures, out-of-memory kills, lost nodes."""
ENTRY = "pipeline"


def manifest_path(pipeline: Pipeline) -> str:
    """The manifest's file, from the folder of all manifests."""
    return f"{argo_name(pipeline.name)}.yaml"


def workflow_template(declared: Declared) -> str:
    """The text of a pipeline's manifest. `BadInput` where Argo would not take it."""
    manifest = _template(declared).to_dict()
    _within_limits(declared.pipeline, manifest)
    return dump(manifest, COMMENT)


def argo_name(name: str) -> str:
    """Kubernetes allows no underscore."""
    return name.replace("_", "-")


def _within_limits(pipeline: Pipeline, manifest: dict[str, Any]) -> None:
    counts = {
        "steps": (len(pipeline.steps), MAX_TASKS - 1),
        "parameters": (len(manifest["spec"].get("arguments", {}).get("parameters", [])), MAX_PARAMETERS),
    }
    problems = [
        Problem(what=f"too many {what} for one Argo workflow", where=pipeline.name, expected=f"at most {most}", got=str(n))
        for what, (n, most) in counts.items()
        if n > most
    ]
    if problems:
        raise BadInput(*problems)


def _template(declared: Declared) -> WorkflowTemplate:
    pipeline = declared.pipeline
    containers = {s.name: _container(declared, s) for s in in_order(pipeline)}
    with (
        WorkflowTemplate(
            name=argo_name(pipeline.name),
            entrypoint=ENTRY,
            annotations={"workflows.argoproj.io/description": pipeline.description},
            labels={"app.kubernetes.io/part-of": "countersign"},
            arguments=[p for s in in_order(pipeline) for p in _arguments(declared, s)],
            security_context=m.PodSecurityContext(
                run_as_non_root=True, run_as_user=8737, fs_group=8737, seccomp_profile=m.SeccompProfile(type="RuntimeDefault")
            ),
            automount_service_account_token=False,
            pod_gc=m.PodGC(strategy="OnPodSuccess"),
            ttl_strategy=m.TTLStrategy(seconds_after_completion=7 * 24 * 3600),
            templates=list(containers.values()),
        ) as template,
        DAG(name=ENTRY),
    ):
        for s in in_order(pipeline):
            _task(pipeline, s, containers[s.name])
    return template


def _task(pipeline: Pipeline, step: Step, container: Container) -> None:
    makers = pipeline.makers()
    arguments = [
        Parameter(name=_port(i), value=f"{{{{tasks.{argo_name(makers[i.name].name)}.outputs.parameters.{_port(i)}}}}}")
        for i in step.inputs
        if isinstance(i, Artifact)
    ]
    if step.fan_out:
        arguments.append(Parameter(name="item", value="{{item}}"))
    DagTask(
        name=argo_name(step.name),
        template=container.name,
        arguments=arguments or None,
        dependencies=[argo_name(u.name) for u in upstream(pipeline, step)] or None,
        with_items=list(step.fan_out.over) if step.fan_out else None,
    )


def _port(artifact: Artifact) -> str:
    return argo_name(artifact.name)


def _container(declared: Declared, step: Step) -> Container:
    item = "{{inputs.parameters.item}}" if step.fan_out else None
    words = Task(pipeline=declared.pipeline, step=step, item=item).command
    inputs = [Parameter(name=_port(i), description=i.description or None) for i in step.inputs if isinstance(i, Artifact)]
    inputs += [Parameter(name="item")] if step.fan_out else []
    return Container(
        name=argo_name(step.name),
        image=step.resources.image,
        command=list(words[:3]),
        args=list(words[3:]),
        working_dir=WORKDIR,
        env=_environment(declared, step),
        inputs=inputs or None,
        # A default, because a reference to an output of a step that was skipped is an error since Argo 4.0.7.
        outputs=[Parameter(name=_port(a), value_from=m.ValueFrom(path=f"{OUTPUTS}/{a.name}", default="")) for a in step.made],
        resources=_resources(step),
        active_deadline_seconds=step.resources.timeout,
        retry_strategy=_retries(step),
        security_context=m.SecurityContext(
            allow_privilege_escalation=False, read_only_root_filesystem=True, capabilities=m.Capabilities(drop=["ALL"])
        ),
        volumes=[
            m.Volume(name="tmp", empty_dir=m.EmptyDirVolumeSource()),
            m.Volume(name="work", empty_dir=m.EmptyDirVolumeSource()),
        ],
        volume_mounts=[m.VolumeMount(name="tmp", mount_path="/tmp"), m.VolumeMount(name="work", mount_path=f"{WORKDIR}/artifacts")],  # noqa: S108
        node_selector={"nvidia.com/gpu.present": "true"} if step.resources.gpu else None,
        tolerations=[m.Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")] if step.resources.gpu else None,
        annotations={"workflows.argoproj.io/display-name": step.description or step.name.replace("_", " ")},
    )


def _retries(step: Step) -> RetryStrategy | None:
    if not step.resources.retries:
        return None
    backoff = m.Backoff(duration="10s", factor=m.IntOrString(2), max_duration="10m")
    return RetryStrategy(limit=step.resources.retries, retry_policy="Always", expression=RETRY, backoff=backoff)


def _resources(step: Step) -> Resources:
    r = step.resources
    gpus = r.gpu or None
    return Resources(cpu_request=r.cpu, cpu_limit=r.cpu, memory_request=r.memory, memory_limit=r.memory, gpus=gpus)


def _environment(declared: Declared, step: Step) -> list[Env]:
    """Parameters reach the container as data, never as text pasted into a command."""
    given = declared.steps[step.name].section
    found = [Env(name=f"{OVERRIDE}{step.name}__{k}", value=f"{{{{workflow.parameters.{_argument(step, k)}}}}}") for k in given]
    return [*found, Env(name="COUNTERSIGN_OUTPUTS", value=OUTPUTS), Env(name="COUNTERSIGN_IMAGE", value=step.resources.image)]


def _argument(step: Step, key: str) -> str:
    return f"{argo_name(step.name)}-{key}"


def _arguments(declared: Declared, step: Step) -> list[Parameter]:
    facts = declared.steps[step.name]
    fields = facts.params.model_fields if facts.params else {}
    return [
        Parameter(
            name=_argument(step, key),
            value=_written(value),
            description=(fields[key].description if key in fields else None) or None,
            enum=_choices(fields[key].annotation) if key in fields else None,
        )
        for key, value in facts.section.items()
    ]


def _choices(annotation: Any) -> list[str] | None:
    """What the Argo UI offers as a list."""
    if annotation is bool:
        return ["true", "false"]
    is_literal = str(get_origin(annotation)).endswith("Literal")
    return [_written(v) for v in get_args(annotation)] if is_literal else None


def _written(value: Any) -> str:
    """A parameter's value as text that reads back to the same value."""
    return value if isinstance(value, str) and _reads_back(value) else json.dumps(value)


def _reads_back(text: str) -> bool:
    try:
        return parse_value(text) == text  # type: ignore[no-any-return]  # of two texts
    except BadInput:
        return False
