"""The workflow `promote` on a real cluster: it waits for whoever must approve, and being resumed proves nothing to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.cluster.real import SOURCE, Space, Toy, kubectl, new_space, toy_in, wait
from tests.conftest import POLICY, ROOT, lacking, make_home
from tests.promote.world import because, environment
from workflows.cluster.interface import Phase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
WHY = "so that a test can see it"
SETTINGS = "countersign-promotion"
PARAMETER = {"workflows.argoproj.io/configmap-type": "Parameter"}


class Bank:
    """A namespace that counts as staging, with a promoter, and people with keys of their own at a laptop."""

    def __init__(self, toy: Toy, scratch: Path) -> None:
        self.toy, self.scratch, self.space = toy, scratch, toy.space
        keys = {who: self.ask(who, "keys", "show", "--json").json["key"] for who in ("", "vera", "promoter")}
        roles = {who or "pipeline": {"because": WHY, "members": [{"key": k, "name": who or "the laptop"}]} for who, k in keys.items()}
        staging = environment(namespace=because(self.space.name), gates=because(["enough"]))
        staging["approvals"] = [{"role": "vera", "count": 1, "because": WHY}]
        self.policy = scratch / "environments.yaml"
        YAML().dump({"roles": roles, "environments": {"staging": staging}}, self.policy)
        self.install()

    def install(self) -> None:
        """What an administrator does once: the promoter's key, its settings, an empty list of what may serve."""
        key = (self.scratch / "keys-of-promoter/signing.pem").read_text()
        settings = self.space.get("configmap", "countersign")["data"]
        image = json.loads(kubectl("-n", SOURCE, "get", "configmap", SETTINGS, "-o", "json"))["data"]["image"]
        data = {k: settings[k] for k in ("store", "endpoint", "region")}
        data |= {"image": image, "environment": "staging", "environments.yaml": self.policy.read_text(), "values.yaml": "{}"}
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "countersign-promoter-key"},
            "stringData": {"signing.pem": key},
        }
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": SETTINGS, "labels": PARAMETER}, "data": data}
        for o in (secret, config):
            self.space.kubectl("apply", "-f", "-", given=json.dumps(o))

    def ask(self, who: str, *words: str) -> Any:
        keys = {"COUNTERSIGN_KEYS": str(self.scratch / f"keys-of-{who}")} if who else {}
        policy = {"COUNTERSIGN_POLICY": str(self.policy)} if hasattr(self, "policy") else {}
        return self.toy.home.ask(*words, **{**self.toy.env, **keys, **policy})

    def promote(self, run: str, **arguments: str) -> str:
        return self.start("promote", {"run": run, **arguments})

    def start(self, template: str, arguments: dict[str, str]) -> str:
        parameters = [{"name": k, "value": v} for k, v in arguments.items()]
        spec = {"workflowTemplateRef": {"name": template}, "arguments": {"parameters": parameters}}
        name = f"{template}-{time.time_ns()}"
        o = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": name}, "spec": spec}
        submitter = f"system:serviceaccount:{self.space.name}:countersign-submitter"
        self.space.kubectl("create", "-f", "-", "--as", submitter, given=json.dumps(o))
        return name

    def node(self, name: str, kind: str) -> dict[str, Any] | None:
        nodes = self.space.get("workflow", name).get("status", {}).get("nodes", {}).values()
        return next((n for n in nodes if n["type"] == kind), None)

    def waiting(self, name: str) -> dict[str, Any]:
        return dict(wait(lambda: (n := self.node(name, "Suspend")) and n["phase"] == "Running" and n, f"{name} waits for approval"))

    def resume(self, name: str) -> None:
        """As the button in the UI does it, too."""
        self.waiting(name)
        words = ["argo", "resume", name, "-n", self.space.name]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    def message(self, name: str) -> str:
        nodes = self.space.get("workflow", name)["status"]["nodes"].values()
        return " ".join(str(n.get("message", "")) for n in nodes if n["type"] == "Pod")

    def history(self) -> Any:
        said = self.ask("", "history", "--env", "staging", "--json")
        assert said.code == 0, said.err
        return said.json


@pytest.fixture(scope="module")
def space(cluster: None) -> Iterator[Space]:
    del cluster
    if not shutil.which("argo"):
        lacking("argo: make cluster-up builds it")
    if not kubectl("-n", SOURCE, "get", "configmap", SETTINGS, "--ignore-not-found", "-o", "name"):
        lacking("the promoter's image: python infra/cluster up --with promotion")
    kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "infra/policies"))
    name = f"promoting-{os.environ.get('PYTEST_XDIST_WORKER', 'one')}"
    found = new_space(name)
    kubectl("label", "namespace", name, "countersign/environment=staging", "--overwrite")
    yield found
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def bank(space: Space, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """One for all tests: an environment's releases are one chain, signed by one promoter."""
    scratch = tmp_path_factory.mktemp("bank")
    shutil.copytree(template, scratch / "repo")
    return Bank(toy_in(space, make_home(scratch / "repo", scratch)), scratch)


def run_in(bank: Bank) -> str:
    """A run that no test has made before."""
    bank.toy.home.write("steps/toy.py", bank.toy.home.read("steps/toy.py") + f"\n# {time.time_ns()}\n".encode())
    said = bank.ask("", "run", "toy", "--json")
    assert said.code == 0, said.err
    return str(said.json["run"])


def test_it_waits_is_approved_and_releases(bank: Bank) -> None:
    run = run_in(bank)
    name = bank.promote(run, reason="the first")
    node = bank.waiting(name)
    shown = {p["name"]: p["value"] for p in node["inputs"]["parameters"]}
    assert shown["type-this"] == f"countersign approve {run} --env staging"
    assert shown["missing"].startswith("0 of 1 approvals by vera")
    approved = bank.ask("vera", *shown["type-this"].split()[1:], "--yes", "--json")
    assert approved.code == 0, approved.err
    bank.resume(name)
    assert bank.toy.ended(name).phase is Phase.SUCCEEDED, bank.message(name)
    last = bank.history()["releases"][-1]
    assert (last["state"], last["reason"], last["variants"][0]["run"]) == ("done", "the first", run)
    assert [a["name"] for a in last["approved_by"]] == ["vera"]
    # Approved already: the next time nobody is waited for, and nothing is done twice.
    again = bank.promote(run)
    assert bank.toy.ended(again).phase is Phase.SUCCEEDED
    suspended = bank.node(again, "Suspend")
    assert suspended is None or suspended["phase"] in {"Skipped", "Omitted"}
    assert bank.history()["releases"][-1]["sequence"] == last["sequence"]


def test_resuming_it_by_hand_gets_nowhere(bank: Bank) -> None:
    run = run_in(bank)
    before = len(bank.history()["releases"])
    name = bank.promote(run)
    bank.resume(name)
    assert bank.toy.ended(name).phase is Phase.FAILED
    assert "0 of 1 approvals by vera" in bank.message(name)
    assert len(bank.history()["releases"]) == before


def test_it_goes_back_by_one_command(bank: Bank) -> None:
    """`deploy: nothing` in this policy: the workflow is started as an operator's command would where it says workflow."""
    runs = [run_in(bank), run_in(bank)]
    for run in runs:
        assert bank.ask("vera", "approve", run, "--env", "staging", "--yes").code == 0
        assert bank.toy.ended(bank.promote(run)).phase is Phase.SUCCEEDED
    name = bank.start("rollback", {"reason": "the drill"})
    assert bank.toy.ended(name).phase is Phase.SUCCEEDED, bank.message(name)
    last = bank.history()["releases"][-1]
    assert (last["kind"], last["reason"], last["variants"][0]["run"]) == ("rollback", "the drill", runs[0])


def test_a_run_that_a_gate_refused_waits_for_nobody(bank: Bank) -> None:
    bank.toy.home.write("params/policies/toy.yaml", POLICY.replace("100", "10000"))
    try:
        said = bank.ask("", "run", "toy", "--json")
    finally:
        bank.toy.home.write("params/policies/toy.yaml", POLICY)
    assert said.code == 3, said.err
    name = bank.promote(said.json["run"])
    assert bank.toy.ended(name).phase is Phase.FAILED
    assert "gate enough says no" in bank.message(name)
    assert bank.node(name, "Suspend") is None
