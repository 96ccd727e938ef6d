"""Who submitted a run on a real cluster: the API server says it, the seal signs it, and their approval does not count."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.cluster.bank import LAPTOP, WHY, Bank
from tests.cluster.real import Space, admit, kubectl, new_space, only_as, toy_in, wait
from tests.conftest import ROOT, home_from, lacking
from tests.promote.world import because, environment
from workflows.cluster.interface import Submission

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
REFUSED = "whoever made the run does not approve it"


@pytest.fixture(scope="module")
def space(cluster: None) -> Iterator[Space]:
    """A namespace that counts as an environment, with a person who has an account of her own there."""
    del cluster
    if not shutil.which("argo"):
        lacking("argo: make cluster-up builds it")
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "infra/policies/workflows.yaml"))
    found = new_space("submitter")
    admit(found, "vera")
    kubectl("label", "namespace", found.name, "countersign/environment=staging", "--overwrite")
    # A policy takes a moment until every part of the API server knows it.
    wait(lambda: "names who creates" in _tried(found, "somebody@bank"), "the policy holds", patience=60)
    yield found
    kubectl("delete", "namespace", found.name, "--wait=false")


def _tried(space: Space, account: str) -> str:
    """What the API server says to a workflow in the name of this account."""
    made = Submission(name="tried", template="toy", arguments={}).manifest(space.name, account)
    words = ["kubectl", "create", "--dry-run=server", "-f", "-"]
    return subprocess.run(words, input=json.dumps(made), capture_output=True, text=True, check=False, timeout=60).stderr


@pytest.fixture(scope="module")
def bank(space: Space, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """Two validators, one of them with an account on the cluster."""
    scratch = tmp_path_factory.mktemp("bank")
    home = home_from(template, scratch)
    home.write("steps/toy.py", home.read("steps/toy.py") + f"\n# {time.time_ns()}\n".encode())
    found = Bank(toy=toy_in(space, home), scratch=scratch)
    staging = environment(
        namespace=because(space.name), runs_by=because("anyone"), released_by=because("anyone"), known_submitter=because(value=True),
        approvals=[{"role": "validator", "count": 1, "because": WHY}],
    )  # fmt: skip
    members = [
        {"key": found.key("vera"), "name": "vera", "accounts": [f"system:serviceaccount:{space.name}:vera"]},
        {"key": found.key("victor"), "name": "victor"},
    ]
    roles = {"validator": {"because": WHY, "members": members}}
    YAML().dump({"roles": roles, "environments": {"staging": staging}}, found.policy)
    return found


def test_whoever_submits_a_run_does_not_approve_it(bank: Bank, space: Space, tmp_path: Path) -> None:
    vera = f"system:serviceaccount:{space.name}:vera"
    said = bank.ask(LAPTOP, "submit", "toy", "--namespace", space.name, "--wait", "--json", env=only_as(space, "vera", tmp_path))
    assert said.code == 0, said.err
    run = said.json["run"]
    assert space.workflow(said.json["workflow"])["metadata"]["annotations"]["countersign/submitter"] == vera
    checked = bank.ask(LAPTOP, "verify", run, "--json").json
    assert (checked["verified"], checked["submitter"]) == (True, vera)

    hers = bank.ask("vera", "approve", run, "--env", "staging", "--yes")
    assert (hers.code, f"{vera}, which is you, submitted the run" in hers.err) == (0, True), hers.err
    looked = bank.ask(LAPTOP, "promote", run, "--env", "staging", "--check", "--json").json
    assert (looked["allowed"], looked["waiting"]) == (False, True)
    assert [w["why_not"] for w in looked["approvals"]] == [REFUSED]
    refused = bank.ask(LAPTOP, "promote", run, "--env", "staging")
    assert refused.code == 3, refused.err

    assert bank.ask("victor", "approve", run, "--env", "staging", "--yes").code == 0
    done = bank.ask(LAPTOP, "promote", run, "--env", "staging", "--json")
    assert done.code == 0, done.err
    assert done.json["state"] == "done"


def test_a_run_of_which_nobody_says_who_submitted_it_is_not_promoted(bank: Bank, space: Space) -> None:
    """As from Argo's form, which has no field for an annotation."""
    assert bank.ask(LAPTOP, "publish", "--namespace", space.name).code == 0
    manifest = Submission(name="by-the-form", template="toy", arguments={}).manifest(space.name)
    space.kubectl("create", "-f", "-", given=json.dumps(manifest))
    bank.toy.ended("by-the-form")
    run = bank.toy.run_of("by-the-form")
    assert bank.ask(LAPTOP, "verify", run, "--json").json["submitter"] is None
    bank.ask("victor", "approve", run, "--env", "staging", "--yes")
    looked = bank.ask(LAPTOP, "promote", run, "--env", "staging", "--check", "--json").json
    assert (looked["allowed"], looked["waiting"]) == (False, False)
    assert "nobody says who submitted the run" in looked["reasons"][0]
