"""The WorkflowTemplates `promote` (check, wait for whoever must approve, release) and `rollback`, for every pipeline and environment.

Nothing that their submitter says decides: a run, a challenger, a share and a reason; a pipeline. Where it is, by what it judges, with
which values it deploys and which image it is, stands in a ConfigMap that only administrators write. Its code is in its image:
CI, which publishes the pipelines' code, must not be able to publish the promoter's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hera.workflows import Container, Env, Parameter, Steps, Suspend, WorkflowTemplate
from hera.workflows import Step as ArgoStep
from hera.workflows import models as m

from workflows.compile import argo
from workflows.compile.dvc import COMMENT
from workflows.compile.text import dump

FOLDER = "infra/argo/promotion"
NAME, BACK = "promote", "rollback"
ACCOUNT = "promoter"
KEY = "promoter-key"
CODE = "/opt/countersign/code"
"""Where the promoter's image has the project's code."""
FILES = "/etc/countersign"
SETTINGS = "countersign-promotion"
ASKED = {"check": ("run", "challenger", "share"), "release": ("run", "challenger", "share", "reason"), "back": ("pipeline", "reason")}
"""Task -> parameters of the workflow that it is told."""
RELEASE_TIMEOUT = 3 * 3600
"""Seconds: a policy's `longest_minutes` twice, for what a dead release left and for the release itself, and time to verify runs."""
ASKED_AT = Env(name="COUNTERSIGN_ASKED_AT", value="{{workflow.creationTimestamp.RFC3339}}")
"""A rollback that waits its turn must know what ended since: what it was to take away may be gone."""
WAITING = 7 * 24 * 3600  # seconds that it waits for whoever must approve


def manifests() -> dict[str, str]:
    """Path -> text of the manifests."""
    made = {NAME: _promote(), BACK: _rollback()}
    return {f"{FOLDER}/{name}.yaml": dump(template.to_dict(), COMMENT) for name, template in made.items()}


def _promote() -> WorkflowTemplate:
    check, release = _task("check", ("state", "command", "missing"), token=False), _task("release", ("release", "sequence"), token=True)
    wait = Suspend(
        name="approval",
        duration=str(WAITING),
        inputs=[
            Parameter(name="type-this", description="What whoever may approve types; then: argo resume, or Resume here"),
            Parameter(name="missing", description="What is missing; resuming without it gets nowhere"),
        ],
    )
    about = "Bring a model to this environment: verified, approved, recorded"
    with _template(NAME, about, _asked(), [check, wait, release]) as template, Steps(name=NAME):
        ArgoStep(name="check", template="check")
        ArgoStep(
            name="approval",
            template="approval",
            when="{{steps.check.outputs.parameters.state}} == wait",
            arguments=[
                Parameter(name="type-this", value="{{steps.check.outputs.parameters.command}}"),
                Parameter(name="missing", value="{{steps.check.outputs.parameters.missing}}"),
            ],
        )
        ArgoStep(name="release", template="release")
    return template


def _rollback() -> WorkflowTemplate:
    """One task: whoever is on call waits for no approval, only for a release that is on its way."""
    back = _task("back", ("release", "sequence"), token=True, more=[ASKED_AT])
    asked = [
        Parameter(name="pipeline", value="", description="Which pipeline's server; empty: the only one that serves here"),
        Parameter(name="reason", value="", description="Why; it is recorded"),
    ]
    with _template(BACK, "Go back to what served here before: verified anew, recorded", asked, [back]) as template, Steps(name=BACK):
        ArgoStep(name="back", template="back")
    return template


def _template(name: str, about: str, asked: list[Parameter], templates: list[Any]) -> WorkflowTemplate:
    return WorkflowTemplate(
        name=name,
        entrypoint=name,
        annotations={"workflows.argoproj.io/description": about},
        labels={"app.kubernetes.io/part-of": "countersign"},
        arguments=[*asked, _image()],
        security_context=m.PodSecurityContext(
            run_as_non_root=True, run_as_user=argo.USER, fs_group=argo.USER, seccomp_profile=m.SeccompProfile(type="RuntimeDefault")
        ),
        service_account_name=ACCOUNT,
        automount_service_account_token=False,
        executor=m.ExecutorConfig(service_account_name=argo.STEP_ACCOUNT),
        archive_logs=True,
        pod_gc=m.PodGC(strategy="OnPodSuccess"),
        ttl_strategy=m.TTLStrategy(seconds_after_completion=30 * 24 * 3600),
        templates=templates,
    )


def _asked() -> list[Parameter]:
    """What whoever submits it says; the admission policy lets nothing else through."""
    return [
        Parameter(name="run", description="Id of the run to promote"),
        Parameter(name="challenger", value="", description="A second run, which must pass all the same"),
        Parameter(name="share", value="0", description="The challenger's share of the decisions; 0: it looks on, in shadow"),
        Parameter(name="reason", value="", description="Why; it is recorded"),
    ]


def _image() -> Parameter:
    """What an installation says once."""
    return Parameter(
        name="image",
        description="The promoter: the steps' environment with code, chart, helm and kubectl in it",
        value_from=m.ValueFrom(config_map_key_ref=m.ConfigMapKeySelector(name=SETTINGS, key="image")),
    )


def _task(what: str, outputs: tuple[str, ...], *, token: bool, more: Sequence[Env] = ()) -> Container:
    setting = argo.Setting(config=SETTINGS, signing=KEY, workdir=CODE)
    pod = argo.pod(what, ("python", "-m", "workflows.promote", what), argo.IMAGE, [*_env(ASKED[what]), *more], setting)
    pod["volumes"] = [*pod["volumes"], m.Volume(name="promotion", config_map=m.ConfigMapVolumeSource(name=SETTINGS))]
    pod["volume_mounts"] = [*pod["volume_mounts"], m.VolumeMount(name="promotion", mount_path=FILES, read_only=True)]
    return Container(
        **pod,
        outputs=[argo.put_out(name, name) for name in outputs],
        resources=argo.SMALL,
        active_deadline_seconds=RELEASE_TIMEOUT if token else argo.BESIDE_TIMEOUT,
        retry_strategy=argo.retries(argo.BESIDE_RETRIES),
        service_account_name=ACCOUNT,
        automount_service_account_token=token,
        # Releases of an environment come one after another; whoever waits for approval keeps nobody waiting.
        synchronization=m.Synchronization(mutexes=[m.Mutex(name=NAME)]) if token else None,
    )


def _env(asked: tuple[str, ...]) -> list[Any]:
    return [
        *(Env(name=f"COUNTERSIGN_{n.upper()}", value=f"{{{{workflow.parameters.{n}}}}}") for n in asked),
        Env(name="COUNTERSIGN_POLICY", value=f"{FILES}/environments.yaml"),
        Env(name="COUNTERSIGN_VALUES", value=f"{FILES}/values.yaml"),
        argo.configured("COUNTERSIGN_ENVIRONMENT", "environment", SETTINGS),
    ]
