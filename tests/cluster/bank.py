"""A bank on a real cluster: people with keys of their own at a laptop, an environment's promoter, and the workflows that ask it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.cluster.real import SOURCE, Toy, kubectl, wait

WHY = "so that a test can see it"
SETTINGS = "countersign-promotion"
PARAMETER = {"workflows.argoproj.io/configmap-type": "Parameter"}
LAPTOP = "the laptop"
"""Whoever runs pipelines; everybody else has keys in a folder named after them."""


@dataclass(kw_only=True)
class Bank:
    """A namespace that counts as an environment, and who works with it."""

    toy: Toy
    scratch: Path

    @property
    def policy(self) -> Path:
        return self.scratch / "environments.yaml"

    def key(self, who: str) -> str:
        return str(self.ask(who, "keys", "show", "--json").json["key"])

    def ask(self, who: str, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Any:
        keys = {} if who == LAPTOP else {"COUNTERSIGN_KEYS": str(self.scratch / f"keys-of-{who}")}
        policy = {"COUNTERSIGN_POLICY": str(self.policy)} if self.policy.exists() else {}
        return self.toy.home.ask(*words, cwd=cwd, within=900, env={**self.toy.env, **keys, **policy, **(env or {})})

    def decide(self, roles: Mapping[str, Mapping[str, str]], environments: dict[str, Any]) -> None:
        """Write the policy: for each role the keys of its members, by their names."""
        said = {r: {"because": WHY, "members": [{"key": key, "name": n} for n, key in keys.items()]} for r, keys in roles.items()}
        YAML().dump({"roles": said, "environments": environments}, self.policy)

    def install(self, environment: str, values: dict[str, Any]) -> None:
        """What an administrator does once: the promoter's key, and its settings."""
        key = (self.scratch / "keys-of-promoter/signing.pem").read_text()
        space = self.toy.space
        settings = space.get("configmap", "countersign")["data"]
        image = json.loads(kubectl("-n", SOURCE, "get", "configmap", SETTINGS, "-o", "json"))["data"]["image"]
        data = {k: settings[k] for k in ("store", "endpoint", "region")}
        data |= {"image": image, "environment": environment}
        data |= {"environments.yaml": self.policy.read_text(), "values.yaml": json.dumps(values)}
        self.apply("Secret", "countersign-promoter-key", stringData={"signing.pem": key})
        self.apply("ConfigMap", SETTINGS, labels=PARAMETER, data=data)

    def apply(self, kind: str, name: str, *, labels: dict[str, str] | None = None, **said: Any) -> None:
        o = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": labels or {}}, **said}
        self.toy.space.kubectl("apply", "-f", "-", given=json.dumps(o))

    def promote(self, run: str, **arguments: str) -> str:
        return self.start("promote", {"run": run, **arguments})

    def start(self, template: str, arguments: dict[str, str]) -> str:
        """As the submitter's account, and with nothing but arguments."""
        parameters = [{"name": k, "value": v} for k, v in arguments.items()]
        spec = {"workflowTemplateRef": {"name": template}, "arguments": {"parameters": parameters}}
        name = f"{template}-{time.time_ns()}"
        o = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": name}, "spec": spec}
        space = self.toy.space
        space.kubectl("create", "-f", "-", "--as", f"system:serviceaccount:{space.name}:countersign-submitter", given=json.dumps(o))
        return name

    def node(self, name: str, kind: str) -> dict[str, Any] | None:
        nodes = self.toy.space.workflow(name).get("status", {}).get("nodes", {}).values()
        return next((n for n in nodes if n["type"] == kind), None)

    def waiting(self, name: str) -> dict[str, str]:
        """What the node that waits for approval shows, once it does."""
        node = wait(lambda: (n := self.node(name, "Suspend")) and n["phase"] == "Running" and n, f"{name} waits for approval")
        return {p["name"]: p["value"] for p in node["inputs"]["parameters"]}

    def resume(self, name: str) -> None:
        """As the button in the UI does it, too."""
        self.waiting(name)
        words = ["argo", "resume", name, "-n", self.toy.space.name]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    def message(self, name: str) -> str:
        nodes = self.toy.space.workflow(name)["status"]["nodes"].values()
        return " ".join(str(n.get("message", "")) for n in nodes if n["type"] == "Pod")

    def history(self, environment: str, *words: str) -> Any:
        said = self.ask(LAPTOP, "history", "--env", environment, "--json", *words)
        assert said.code == 0, said.err
        return said.json
