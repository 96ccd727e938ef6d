"""A namespace of the cluster that KUBECONFIG names, workflows in it, and how long they take."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import cluster_flows as flows
from harness import ROOT, CannotMeasure, competitors, environment, timed

sys.path.insert(0, str(ROOT))

NAMESPACE = "benching"
PATIENCE = 1800  # seconds for a workflow to end
BESIDE = {"plan", "seal"}  # templates of ours that are no steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """A workflow that ended well."""

    name: str
    seconds: float
    """From its creation to its end."""
    steps: float
    """From the creation of its first step's pod to the end of its last's, whatever comes before and after; whole seconds."""
    pods: int


@dataclass(frozen=True, kw_only=True)
class World:
    """A namespace, and what a laptop sets to work with it."""

    namespace: str
    image: str
    env: Mapping[str, str]
    top: Path

    def kubectl(self, *words: str, given: object = None, within: float = 120) -> str:
        text = None if given is None else json.dumps(given)
        done = subprocess.run(
            ["kubectl", "-n", self.namespace, *words], input=text, capture_output=True, text=True, check=False, timeout=within
        )
        if done.returncode:
            raise CannotMeasure(f"kubectl {words[0]}: {done.stderr.strip()[-300:]}")
        return done.stdout

    def apply(self, template: Mapping[str, Any]) -> None:
        self.kubectl("apply", "--validate=false", "-f", "-", given=template)

    def argo(self) -> str:
        """The version of Argo Workflows here."""
        words = ("get", "deployment", "--all-namespaces", "--field-selector", "metadata.name=workflow-controller", "-o", "json")
        deployments = json.loads(self.kubectl(*words))["items"]
        images = [c["image"] for d in deployments for c in d["spec"]["template"]["spec"]["containers"]]
        return images[0].rpartition(":")[2] if images else "of unknown version"

    def has(self, template: str) -> bool:
        return bool(self.kubectl("get", "workflowtemplate", template, "--ignore-not-found", "-o", "name"))

    def start(self, template: str, *each: Mapping[str, str]) -> list[str]:
        """Workflows of a template, all at once, one for each set of arguments; their names."""
        items = [flows.workflow(template, arguments) for arguments in each]
        made = self.kubectl("create", "-o", "name", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": items})
        return [line.rpartition("/")[2] for line in made.split()]

    def end(self, names: list[str], begun: float) -> list[Ran]:
        """Wait until these have ended, well. They were created at `begun`, and their seconds are those until the last of them ended."""
        words = [f"workflow/{n}" for n in names]
        self.kubectl("wait", "--for=condition=Completed", f"--timeout={PATIENCE}s", *words, within=PATIENCE + 60)
        seconds = time.perf_counter() - begun
        return [self._ran(n, seconds) for n in names]

    def run(self, template: str, **arguments: str) -> Ran:
        """One workflow, timed by this machine's clock."""
        begun = time.perf_counter()
        return self.end(self.start(template, arguments), begun)[0]

    def _ran(self, name: str, seconds: float) -> Ran:
        status = json.loads(self.kubectl("get", "workflow", name, "-o", "json"))["status"]
        if status["phase"] != "Succeeded":
            said = {
                f"{n['displayName']}: {n['message'].splitlines()[0][:200]}"
                for n in status["nodes"].values()
                if n.get("message") and n["phase"] != "Succeeded"
            }
            raise CannotMeasure(f"{name}: {status['phase']}: {'; '.join(sorted(said)[:3]) or status.get('message', '')}")
        pods = [n for n in status["nodes"].values() if n["type"] == "Pod"]
        steps = [n for n in pods if n["templateName"] not in BESIDE]
        first, last = (min(n["startedAt"] for n in steps), max(n["finishedAt"] for n in steps))
        spent = (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
        return Ran(name=name, seconds=seconds, steps=spent, pods=len(pods))

    def ours(self, shape: flows.Shape) -> None:
        """Declared, compiled and published, as a person does it."""
        folder = flows.ours(self.top / shape.name, shape)
        for words in (["compile"], ["publish", "--templates", "--namespace", self.namespace]):
            timed([sys.executable, "-m", "workflows.cli", *words], cwd=folder, env=self.env)

    def bare(self, shape: flows.Shape) -> None:
        self.apply(flows.bare(shape, self.image))

    def metaflow(self, shape: flows.Shape) -> str:
        """Created by Metaflow's own command; the template's name."""
        folder = flows.metaflow(self.top / f"metaflow-{shape.name}", shape)
        store = {
            "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{self.env['COUNTERSIGN_STORE'].removeprefix('s3://').split('/')[0]}/metaflow",
            "METAFLOW_S3_ENDPOINT_URL": self.env["AWS_ENDPOINT_URL_S3"],
        }
        settings = {
            "METAFLOW_KUBERNETES_NAMESPACE": self.namespace,
            "METAFLOW_KUBERNETES_SERVICE_ACCOUNT": flows.ACCOUNT,
            "METAFLOW_KUBERNETES_SECRETS": "countersign-store",
            "METAFLOW_KUBERNETES_CONTAINER_IMAGE": self.image,
        }
        words = ["flow.py", "--quiet", "--metadata", "local", "--datastore", "s3", "argo-workflows", "create", "--only-json"]
        env = {**self.env, **environment(self.top, competitors()), **store, **settings, "NO_PROXY": "*", "no_proxy": "*"}
        python = [str(competitors() / "python"), *words, "--max-workers", str(flows.AT_ONCE)]
        done = subprocess.run(python, cwd=folder, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotMeasure(f"argo-workflows create ended with {done.returncode}: {done.stderr.strip()[-200:]}")
        template = flows.fitted(done.stdout, self.image, {**store, "AWS_DEFAULT_REGION": self.env["AWS_REGION"]})
        self.apply(template)
        return str(template["metadata"]["name"])


@contextmanager
def world(top: Path) -> Iterator[World]:
    """A namespace of our own, as the tests make one, gone afterwards; `CannotMeasure` where there is no cluster."""
    if not os.environ.get("KUBECONFIG") or not shutil.which("kubectl"):
        raise CannotMeasure("needs a cluster with the project installed: make cluster-up, and KUBECONFIG and PATH as it says")
    from tests.cluster.real import kubectl, new_space, store_environment

    try:
        space = new_space(NAMESPACE)
    except AssertionError as error:
        raise CannotMeasure(f"needs a cluster with the project installed: {str(error)[-200:]}") from error
    try:
        image = str(space.get("configmap", "countersign")["data"]["image"])
        env = {**environment(top), **store_environment(space), "NO_PROXY": "*", "no_proxy": "*", "PATH": os.environ["PATH"]}
        yield World(namespace=NAMESPACE, image=image, env=env, top=top)
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--timeout=110s")
