"""Asking the cluster's promoter: one workflow of a kind at a time, made from the template, with arguments and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.cluster.fake_api import FakeApi
from tests.conftest import Home
from tests.promote.world import WHY, because, environment
from workflows.cluster import connect
from workflows.cluster.interface import Phase, Workflows
from workflows.errors import BadInput
from workflows.promote import submitting


@pytest.fixture
def workflows(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Workflows:
    monkeypatch.setenv("ARGO_SERVER", api.url.removeprefix("http://"))
    monkeypatch.setenv("ARGO_SECURE", "false")
    api.template("promote", [])
    return connect.workflows(None, "lab")


def ask(workflows: Workflows, **arguments: str) -> tuple[str, bool]:
    done = submitting.submit(workflows, "promote", "prod", {"run": "toy-0123456789ab", "reason": "", **arguments})
    return done.name, done.created


def test_the_same_twice_is_one_workflow_until_it_has_ended(workflows: Workflows, api: FakeApi) -> None:
    name, created = ask(workflows)
    assert created
    assert ask(workflows) == (name, False)
    other, _ = ask(workflows, reason="another")
    assert other != name
    api.change(name, {"phase": "Failed"})
    again, created = ask(workflows)
    assert (again, created) == (name.removesuffix("-1") + "-2", True)
    made = api.objects["workflows", name]
    assert made["spec"] == {
        "workflowTemplateRef": {"name": "promote"}, "arguments": {"parameters": [{"name": "run", "value": "toy-0123456789ab"}]},
    }  # fmt: skip
    assert made["metadata"]["labels"]["countersign/environment"] == "prod"


def test_without_the_template_it_says_who_installs_it(workflows: Workflows) -> None:
    with pytest.raises(BadInput, match="no WorkflowTemplate rollback"):
        submitting.submit(workflows, "rollback", "prod", {"pipeline": "toy"})


def test_promote_asks_where_the_policy_says_so(home: Home, api: FakeApi, tmp_path: Path) -> None:
    lab = replace(home, env={**home.env, "KUBECONFIG": api.kubeconfig(tmp_path / "kubeconfig")})
    run = lab.run()["run"]
    key = lab.ask("keys", "show", "--json").json["key"]
    prod = environment(gates=because(["enough"]), deploy=because("workflow"), namespace=because("lab"))
    prod["approvals"] = [{"role": "owner", "count": 1, "because": WHY}]
    roles = {"pipeline": {"because": WHY, "members": [{"key": key, "name": "here"}]}}
    roles |= {name: {"because": WHY, "members": []} for name in ("promoter", "owner")}
    YAML().dump({"roles": roles, "environments": {"prod": prod}}, lab.path / "params/environments.yaml")
    api.template("promote", [])
    said = lab.ask("promote", run, "--env", "prod", "--reason", "the first", "--json")
    assert said.code == 0, said.err
    assert (said.json["namespace"], said.json["phase"], said.json["created"]) == ("lab", Phase.PENDING, True)
    arguments = api.objects["workflows", said.json["workflow"]]["spec"]["arguments"]["parameters"]
    assert {a["name"]: a["value"] for a in arguments} == {"run": run, "reason": "the first"}
    # What no approval would mend is said here, and nobody is asked.
    lab.write("params/environments.yaml", lab.read("params/environments.yaml").replace(b"- enough", b"- fair"))
    refused = lab.ask("promote", run, "--env", "prod", "--json")
    assert refused.code == 3
    assert "gate fair was not judged" in json.dumps(refused.json["problems"])
