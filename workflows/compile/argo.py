"""From a declaration to an Argo WorkflowTemplate, built with Hera's objects and written by us.

Hera's own `to_yaml` corrupts manifests whose lines hold more `{{` than `}}`, so the dictionary is dumped here and read
back to see that nothing was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args, get_origin

from hera.workflows import (
    DAG,
    ConfigMapEnv,
    Container,
    Env,
    NoneArchiveStrategy,
    Parameter,
    Resources,
    RetryStrategy,
    SecretEnv,
    WorkflowTemplate,
)
from hera.workflows import Artifact as ArgoArtifact
from hera.workflows import Task as DagTask
from hera.workflows import models as m

from workflows.compile.dvc import COMMENT
from workflows.compile.interface import Declared
from workflows.compile.text import dump
from workflows.declare import Artifact, Kind, Pipeline, Step, in_order, upstream
from workflows.declare import Resources as Declared_
from workflows.errors import BadInput, Problem
from workflows.names import argo_name
from workflows.plan import Task, port
from workflows.run.parameters import OVERRIDE, written

OUTPUTS = "/tmp/countersign/outputs"  # noqa: S108  # a path in the step's own container, on a volume of its own
WORKDIR = "/work"
MAX_TASKS = 200  # Argo's limits since 4.0
MAX_PARAMETERS = 500
RETRY = "(asInt(lastRetry.exitCode) in [75, 137] || lastRetry.status == 'Error') && !(lastRetry.message contains 'the specified deadline')"
"""What may pass by itself: our exit code for temporary failures, a kill (out of memory, for one), a lost node or an executor's trouble.

A step that is ended by its time limit would most likely take as long again.
"""
ENTRY = "pipeline"
PLAN = "plan"
SEAL = "seal"
PLANNED = ("plan", "code")
"""What the first task hands to every other."""
BESIDE = (
    Parameter(
        name="parameters",
        value="form",
        enum=["form", "code"],
        description="form: the parameters below; code: those of the params file in the code, whatever stands below",
    ),
    Parameter(name="overrides", value="{}", description='Applied last: JSON object of step.parameter -> value, as {"train.device": "gpu"}'),
)
FOR_PLAN = ("code", "revision", "parameters", "overrides")
"""Workflow parameters that the first task reads beside the steps' own."""
BOOTSTRAP = "/opt/countersign/with_code.py"
KEYS = "/keys"
CONFIG = "countersign"
IMAGE = "{{workflow.parameters.image}}"
CARRIED = "COUNTERSIGN_GIVEN_"
STEP_ACCOUNT = "countersign-step"
SEALER_ACCOUNT = "countersign-sealer"
USER = 8737
SMALL = Resources(cpu_request="250m", cpu_limit="1", memory_request="512Mi", memory_limit="1Gi")
BESIDE_TIMEOUT = 1800  # seconds
BESIDE_RETRIES = 3
PLAN_RETRIES = 7
"""About twenty minutes: a push is heard before CI has published what was pushed."""


def manifest_path(pipeline: Pipeline) -> str:
    """The manifest's file, from the folder of all manifests."""
    return f"{argo_name(pipeline.name)}.yaml"


def workflow_template(declared: Declared) -> str:
    """The text of a pipeline's manifest. `BadInput` where Argo would not take it."""
    manifest = _template(declared).to_dict()
    _within_limits(declared.pipeline, manifest)
    return dump(manifest, COMMENT)


def _within_limits(pipeline: Pipeline, manifest: dict[str, Any]) -> None:
    counts = {
        "steps": (len(pipeline.steps), MAX_TASKS - 3),
        "parameters": (len(manifest["spec"].get("arguments", {}).get("parameters", [])), MAX_PARAMETERS),
    }
    problems = [
        Problem(what=f"too many {what} for one Argo workflow", where=pipeline.name, expected=f"at most {most}", got=str(n))
        for what, (n, most) in counts.items()
        if n > most
    ]
    taken = {ENTRY, PLAN, SEAL}
    problems += [
        Problem(what=f"a step may not be called {s.name}: the workflow has a template of that name", where=f"{pipeline.name}.{s.name}")
        for s in pipeline.steps
        if argo_name(s.name) in taken
    ]
    if problems:
        raise BadInput(*problems)


def _template(declared: Declared) -> WorkflowTemplate:
    pipeline = declared.pipeline
    containers = {s.name: _container(pipeline, s) for s in in_order(pipeline)}
    beside = [_planning(declared), _sealing(pipeline)]
    with (
        WorkflowTemplate(
            name=argo_name(pipeline.name),
            entrypoint=ENTRY,
            on_exit=SEAL,
            annotations={"workflows.argoproj.io/description": pipeline.description},
            labels={"app.kubernetes.io/part-of": "countersign"},
            arguments=[*_from_config_map(), *BESIDE, *(p for s in in_order(pipeline) for p in _arguments(declared, s))],
            parallelism=pipeline.parallelism,
            security_context=m.PodSecurityContext(
                run_as_non_root=True, run_as_user=USER, fs_group=USER, seccomp_profile=m.SeccompProfile(type="RuntimeDefault")
            ),
            service_account_name=STEP_ACCOUNT,
            automount_service_account_token=False,
            executor=m.ExecutorConfig(service_account_name=STEP_ACCOUNT),
            archive_logs=True,
            pod_gc=m.PodGC(strategy="OnPodSuccess"),
            ttl_strategy=m.TTLStrategy(seconds_after_completion=7 * 24 * 3600),
            templates=[*containers.values(), *beside],
        ) as template,
        DAG(name=ENTRY),
    ):
        DagTask(name=PLAN, template=PLAN)
        for s in in_order(pipeline):
            _task(pipeline, s, containers[s.name])
    return template


def _from_config_map() -> list[Parameter]:
    """What an installation sets once for all runs; whoever submits may name another code or image, and it is recorded."""
    described = {
        "code": "Code to run, sha256:md5:size of an archive in the store; empty: what was published for the commit under revision",
        "revision": "Git commit of the code, with -dirty behind it where the code differs from that",
        "image": "Image of every step that names none itself",
    }
    return [
        Parameter(
            name=key,
            description=text,
            value_from=m.ValueFrom(config_map_key_ref=m.ConfigMapKeySelector(name=CONFIG, key=key)),
        )
        for key, text in described.items()
    ]


def _task(pipeline: Pipeline, step: Step, container: Container) -> None:
    makers = pipeline.makers()
    arguments = [Parameter(name=n, value=f"{{{{tasks.{PLAN}.outputs.parameters.{n}}}}}") for n in PLANNED]
    arguments += [
        Parameter(name=_port(i), value=f"{{{{tasks.{argo_name(makers[i.name].name)}.outputs.parameters.{_port(i)}}}}}")
        for i in step.inputs
        if isinstance(i, Artifact)
    ]
    if step.fan_out:
        arguments.append(Parameter(name="item", value="{{item}}"))
    DagTask(
        name=argo_name(step.name),
        template=container.name,
        arguments=arguments,
        dependencies=[argo_name(u.name) for u in upstream(pipeline, step)] or [PLAN],
        with_items=list(step.fan_out.over) if step.fan_out else None,
    )


def _port(artifact: Artifact) -> str:
    return argo_name(artifact.name)


def _container(pipeline: Pipeline, step: Step) -> Container:
    item = "{{inputs.parameters.item}}" if step.fan_out else None
    task = Task(pipeline=pipeline, step=step, item=item)
    read = [i for i in step.inputs if isinstance(i, Artifact)]
    carried = [Env(name=f"{CARRIED}{i.name}", value=f"{{{{inputs.parameters.{_port(i)}}}}}") for i in read]
    inputs = [Parameter(name="plan", description="Digest of the run's plan"), Parameter(name="code")]
    inputs += [Parameter(name=_port(i), description=i.description or None) for i in read]
    inputs += [Parameter(name="item")] if step.fan_out else []
    planned = [
        Env(name="COUNTERSIGN_PLAN", value="{{inputs.parameters.plan}}"),
        Env(name="COUNTERSIGN_CODE", value="{{inputs.parameters.code}}"),
    ]
    image = IMAGE if step.resources.image == Declared_().image else step.resources.image
    return Container(
        **pod(argo_name(step.name), task.command, image, [*planned, *carried, _traced()], Setting(secrets=step.secrets)),
        inputs=inputs,
        # A default, because a reference to an output of a step that was skipped is an error since Argo 4.0.7.
        outputs=[*(put_out(_port(a), a.name) for a in step.made), put_out("record", "record"), *_for_people(pipeline, step)],
        resources=_resources(step),
        active_deadline_seconds=step.resources.timeout,
        retry_strategy=retries(step.resources.retries),
        node_selector={"nvidia.com/gpu.present": "true"} if step.resources.gpu else None,
        tolerations=[m.Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")] if step.resources.gpu else None,
    )


def _planning(declared: Declared) -> Container:
    """The first task. It alone gets the parameters, as data, never as text pasted into a command."""
    pipeline = declared.pipeline
    given = [
        Env(name=f"{OVERRIDE}{s.name}__{k}", value=f"{{{{workflow.parameters.{argument(s, k)}}}}}")
        for s in in_order(pipeline)
        for k in declared.steps[s.name].section
    ]
    code = [Env(name=f"COUNTERSIGN_{n.upper()}", value=f"{{{{workflow.parameters.{n}}}}}") for n in FOR_PLAN]
    secrets = tuple(sorted({x for s in pipeline.steps for x in s.secrets}))
    words = ("python", "-m", "workflows.cluster", "plan", pipeline.name)
    return Container(
        **pod(PLAN, words, IMAGE, [*code, *given], Setting(secrets=secrets)),
        outputs=[put_out(n, n) for n in (*PLANNED, "run")],
        resources=SMALL,
        active_deadline_seconds=BESIDE_TIMEOUT,
        retry_strategy=retries(PLAN_RETRIES),
    )


def _sealing(pipeline: Pipeline) -> Container:
    """The exit handler: it runs whatever happened, under an account of its own that may annotate the workflow."""
    env: list[Any] = [
        Env(name="COUNTERSIGN_CODE", value="{{workflow.parameters.code}}"),
        Env(name="COUNTERSIGN_REVISION", value="{{workflow.parameters.revision}}"),
        Env(name="COUNTERSIGN_FAILURES", value="{{workflow.failures}}"),
        Env(name="COUNTERSIGN_WORKFLOW_NAME", value="{{workflow.name}}"),
        Env(name="COUNTERSIGN_NAMESPACE", value="{{workflow.namespace}}"),
        configured("COUNTERSIGN_LOCK_DAYS", "lock_days"),
        configured("COUNTERSIGN_LOCK_MODE", "lock_mode"),
        _traced(),
    ]
    words = ("python", "-m", "workflows.cluster", "seal", pipeline.name)
    return Container(
        **pod(SEAL, words, IMAGE, env, Setting()),
        outputs=[put_out(n, n) for n in ("run", "root", "outcome")],
        resources=SMALL,
        active_deadline_seconds=BESIDE_TIMEOUT,
        retry_strategy=retries(BESIDE_RETRIES),
        service_account_name=SEALER_ACCOUNT,
        automount_service_account_token=True,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Which secrets a pod gets, where its settings come from, with which key it signs, and where it works."""

    secrets: tuple[str, ...] = ()
    config: str = CONFIG
    signing: str = "signing-key"
    workdir: str = WORKDIR


def pod(name: str, words: tuple[str, ...], image: str, env: list[Any], setting: Setting) -> dict[str, Any]:
    """What every pod has: the project's code by digest, the store, keys as files, folders it may write, and nothing else."""
    keys = [(setting.signing, "COUNTERSIGN_SIGNING_KEY_FILE", "signing.pem")]
    keys += [(argo_name(s), f"COUNTERSIGN_{s.upper()}_FILE", s) for s in setting.secrets]
    return {
        "name": name,
        "image": image,
        "command": ["python", BOOTSTRAP],
        "args": list(words),
        "working_dir": setting.workdir,
        "env": [
            *env,
            *_store(setting.config),
            *(Env(name=variable, value=f"{KEYS}/{key}/{file}") for key, variable, file in keys),
            Env(name="COUNTERSIGN_WORKFLOW", value="{{workflow.uid}}"),
            Env(name="COUNTERSIGN_IMAGE", value=image),
            Env(name="COUNTERSIGN_OUTPUTS", value=OUTPUTS),
            Env(name="COUNTERSIGN_MESSAGE", value="/dev/termination-log"),
            Env(name="HOME", value="/tmp"),  # noqa: S108  # a volume of this pod's own
        ],
        "security_context": m.SecurityContext(
            allow_privilege_escalation=False, read_only_root_filesystem=True, capabilities=m.Capabilities(drop=["ALL"])
        ),
        "volumes": [
            m.Volume(name="tmp", empty_dir=m.EmptyDirVolumeSource()),
            m.Volume(name="work", empty_dir=m.EmptyDirVolumeSource()),
            *(_key_volume(key) for key, _, _ in keys),
        ],
        "volume_mounts": [
            m.VolumeMount(name="tmp", mount_path="/tmp"),  # noqa: S108  # a volume of the pod
            m.VolumeMount(name="work", mount_path=WORKDIR),
            *(m.VolumeMount(name=key, mount_path=f"{KEYS}/{key}", read_only=True) for key, _, _ in keys),
        ],
    }


def _key_volume(key: str) -> m.Volume:
    # Optional: a pod without it would wait for ever; the driver says what is missing and ends.
    secret = m.SecretVolumeSource(secret_name=f"countersign-{key}", optional=True, default_mode=0o440)
    return m.Volume(name=key, secret=secret)


def _store(config: str) -> list[Any]:
    found: list[Any] = [
        configured("COUNTERSIGN_STORE", "store", config),
        configured("AWS_ENDPOINT_URL_S3", "endpoint", config),
        configured("AWS_REGION", "region", config),
    ]
    found += [
        SecretEnv(name=key, secret_name="countersign-store", secret_key=key, optional=True)  # noqa: S106  # a name, no password
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    ]
    return found


def _traced() -> ConfigMapEnv:
    """Where a pod that adds to the run sends its spans, if anywhere."""
    return configured("OTEL_EXPORTER_OTLP_ENDPOINT", "traces")


def configured(variable: str, key: str, config: str = CONFIG) -> ConfigMapEnv:
    """A variable from what an installation says once."""
    return ConfigMapEnv(name=variable, config_map_name=config, config_map_key=key, optional=True)


def put_out(name: str, file: str) -> Parameter:
    """An output parameter that the program writes as a file."""
    return Parameter(name=name, value_from=m.ValueFrom(path=f"{OUTPUTS}/{file}", default=""))


def _for_people(pipeline: Pipeline, step: Step) -> list[ArgoArtifact]:
    """Pages, verdicts and metrics as Argo's own artifacts too, for whoever looks in its UI. The store's copy is the one that counts."""
    wanted = {a.name for a in pipeline.results if a.kind in {Kind.REPORT, Kind.PAGE}} | ({step.verdicts.name} if step.verdicts else set())
    found = [a for a in step.made if not step.fan_out and (a.name in wanted or a.metric)]
    return [
        ArgoArtifact(name=_port(a), path=f"{WORKDIR}/{port(pipeline, a, None).path}", archive=NoneArchiveStrategy(), optional=True)
        for a in found
    ]


def retries(limit: int) -> RetryStrategy | None:
    """Only what may pass by itself is tried again: after 10 s, 20 s, 40 s, and so on to ten minutes.

    No `max_duration`: it counts from the start of the first attempt, so a step that works for longer would never get a second.
    """
    if not limit:
        return None
    backoff = m.Backoff(duration="10s", factor=m.IntOrString(2), cap="10m")
    return RetryStrategy(limit=limit, retry_policy="Always", expression=RETRY, backoff=backoff)


def _resources(step: Step) -> Resources:
    r = step.resources
    gpus = r.gpu or None
    return Resources(cpu_request=r.cpu, cpu_limit=r.cpu, memory_request=r.memory, memory_limit=r.memory, gpus=gpus)


def argument(step: Step, key: str) -> str:
    return f"{argo_name(step.name)}-{key}"


def _arguments(declared: Declared, step: Step) -> list[Parameter]:
    facts = declared.steps[step.name]
    fields = facts.params.model_fields if facts.params else {}
    return [
        Parameter(
            name=argument(step, key),
            value=written(value),
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
    return [written(v) for v in get_args(annotation)] if is_literal else None
