"""Talks to a cluster through kubectl, the one that was built if there is one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.cluster import programs
from infra.cluster.process import attempt, run
from infra.cluster.settings import Places
from workflows.errors import BadInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Kube:
    """A cluster as a kubeconfig names it."""

    kubectl: Path
    kubeconfig: str

    @property
    def env(self) -> dict[str, str]:
        return {"KUBECONFIG": self.kubeconfig}

    def do(self, *words: str | Path, stdin: str | None = None) -> str:
        return run(self.kubectl, *words, stdin=stdin, env=self.env)

    def attempt(self, *words: str | Path, seconds: float = 30) -> subprocess.CompletedProcess[str]:
        return attempt(self.kubectl, *words, env=self.env, seconds=seconds)

    def get(self, *words: str) -> Any | None:
        """The object or list as JSON; None where there is no such thing, or no answer."""
        done = self.attempt("get", *words, "-o", "json", "--request-timeout=10s")
        return None if done.returncode else json.loads(done.stdout)

    def apply(self, manifests: str) -> None:
        """All of the text's objects, as ours: fields that others set are left alone."""
        self.do("apply", "--server-side", "--force-conflicts", "--field-manager=countersign", "-f", "-", stdin=manifests)

    def answers(self) -> bool:
        return self.attempt("get", "--raw=/readyz", "--request-timeout=5s").returncode == 0

    def nodes(self) -> dict[str, bool]:
        """Each node's name, and whether it is ready."""
        listed = self.get("nodes") or {"items": []}
        return {n["metadata"]["name"]: is_ready(n) for n in listed["items"]}

    def deployments(self, namespace: str = "") -> dict[str, tuple[int, int]]:
        """`namespace/name` with how many pods are available, and how many are wanted."""
        where = ("--namespace", namespace) if namespace else ("--all-namespaces",)
        items = (self.get("deployments", *where) or {"items": []})["items"]
        return {f"{d['metadata']['namespace']}/{d['metadata']['name']}": counts(d) for d in items}


def is_ready(node: Any) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ()))


def counts(deployment: Any) -> tuple[int, int]:
    """Pods of the newest revision that are available, and those wanted; none count before the controller has looked."""
    status, wanted = deployment.get("status", {}), int(deployment["spec"].get("replicas", 1))
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return 0, wanted
    return min(int(status.get("availableReplicas", 0)), int(status.get("updatedReplicas", 0))), wanted


def connect(places: Places, kubeconfig: str) -> Kube:
    built = programs.program(places, "kubectl")
    found = built if built.exists() else shutil.which("kubectl")
    if not found:
        raise BadInput("kubectl is not installed", hint="install it, or build it: python infra/cluster programs kubectl")
    return Kube(kubectl=Path(found), kubeconfig=kubeconfig)


def from_environment() -> str:
    return os.environ.get("KUBECONFIG", "")
