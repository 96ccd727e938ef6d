"""The port to a cluster that has Argo Workflows: what submitting, watching and publishing need of it, and nothing else.

Two adapters: the Kubernetes API (`kube`) and the Argo Server's API (`server`). `connect` chooses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from workflows.prove import digest

API_VERSION = "argoproj.io/v1alpha1"
CONFIG = "countersign"
"""The ConfigMap that says what an installation runs: store, image, published code."""

# What this project notes on a workflow.
PIPELINE = "countersign/pipeline"  # label
REVISION = "countersign/revision"  # label; only where the code is exactly that commit
ENVIRONMENT = "countersign/environment"  # label
SUBMITTER = "countersign/submitter"  # annotation: the account that created it. The API server holds it to that (infra/policies)
RUN = "countersign/run"  # annotation, by the exit handler; as a label, too, so that a run's workflow is found: `run_label`
ROOT = "countersign/root"  # likewise
OUTCOME = "countersign/outcome"  # likewise


LONGEST_LABEL = 63


def run_label(run: str) -> str:
    """A run's id as a label's value. Kubernetes allows 63 characters; of a longer one, the start and a digest."""
    return run if len(run) <= LONGEST_LABEL else f"{run[: LONGEST_LABEL - 13]}-{digest.of_bytes(run.encode()).sha256[:12]}"


class Phase(StrEnum):
    """Argo's words for how far a workflow or a node is."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    ERROR = "Error"
    SKIPPED = "Skipped"
    OMITTED = "Omitted"

    @property
    def ended(self) -> bool:
        return self not in {Phase.PENDING, Phase.RUNNING}

    @property
    def bad(self) -> bool:
        return self in {Phase.FAILED, Phase.ERROR}


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A workflow to be made from a WorkflowTemplate."""

    name: str
    template: str
    arguments: Mapping[str, str]
    """Only those that are not to be as the template has them."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def manifest(self, namespace: str, account: str | None = None) -> dict[str, Any]:
        """The Workflow as Kubernetes takes it: what `kubectl create` would be given. `account` is who submits it."""
        return {
            "apiVersion": API_VERSION,
            "kind": "Workflow",
            "metadata": {
                "name": self.name,
                "namespace": namespace,
                "labels": dict(self.labels),
                "annotations": {**self.annotations, **({SUBMITTER: account} if account else {})},
            },
            "spec": {
                "workflowTemplateRef": {"name": self.template},
                "arguments": {"parameters": [{"name": k, "value": v} for k, v in self.arguments.items()]},
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One node of a workflow's graph: a pod, or what groups or retries pods."""

    id: str
    name: str
    """What a person sees: `train`, or `tune(0:a)` for the first item of a fan-out."""
    kind: str
    """`Pod`, `Retry`, `DAG`, `TaskGroup`, ..."""
    phase: Phase
    message: str
    started: datetime | None
    finished: datetime | None
    exit_code: int | None
    outputs: Mapping[str, str]
    children: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A workflow as it is at one moment."""

    name: str
    namespace: str
    uid: str
    template: str
    """The WorkflowTemplate that it was made from; empty where it was made from none."""
    phase: Phase
    message: str
    started: datetime | None
    finished: datetime | None
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    nodes: tuple[Node, ...]
    version: str
    """Kubernetes' version of the object: where to go on watching."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """What came of a submission."""

    name: str
    created: bool
    """False where a workflow of this name was there already: the same submission was made before."""
    phase: Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A workflow in a list: no nodes."""

    name: str
    phase: Phase
    labels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A WorkflowTemplate as the cluster has it."""

    name: str
    defaults: Mapping[str, str | None]
    """Every argument; None where its value comes from elsewhere, such as the ConfigMap."""
    templates: frozenset[str]
    """Names of the tasks' templates."""


class Workflows(Protocol):
    """What can be done through either API."""

    @property
    def namespace(self) -> str:
        """The namespace that everything here is in."""

    @property
    def place(self) -> str:
        """Where that is, for messages."""

    def submit(self, submission: Submission) -> bool:
        """Create the workflow, with the account that does as its submitter; false where one of this name is there already."""

    def get(self, name: str) -> Progress | None:
        """The workflow as it is now; None where there is none."""

    def watch(self, progress: Progress) -> Iterator[Progress | None]:
        """Each later state of a workflow, as long as one connection lasts; None where it was deleted, and then the end."""

    def list(self, labels: Mapping[str, str]) -> Sequence[Listed]:
        """All workflows with these labels, archived ones too where the API shows them."""

    def template(self, name: str) -> Template | None:
        """A WorkflowTemplate; None where there is none of this name."""

    def configuration(self) -> Mapping[str, str] | None:
        """The ConfigMap's values; None where they cannot be read through this API. `BadInput` where there is none."""


class Cluster(Workflows, Protocol):
    """What can be done through the Kubernetes API only."""

    def annotate(self, name: str, annotations: Mapping[str, str]) -> None:
        """Note these on a workflow, beside what is noted there."""

    def configure(self, values: Mapping[str, str]) -> None:
        """Set these keys of the ConfigMap, leaving its others; `BadInput` where it is absent."""

    def apply(self, manifest: Mapping[str, Any]) -> str:
        """Bring a WorkflowTemplate or CronWorkflow to what the manifest says; `kind/name`."""
