"""The workflow `promote` on a real cluster: it waits for whoever must approve, and being resumed proves nothing to it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.bank import LAPTOP, SETTINGS, WHY, Bank
from tests.cluster.real import SOURCE, Space, kubectl, new_space, toy_in
from tests.conftest import POLICY, ROOT, home_from, lacking
from tests.promote.world import because, environment
from workflows.cluster.interface import Phase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


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
    found = Bank(toy=toy_in(space, home_from(template, scratch)), scratch=scratch)
    staging = environment(namespace=because(space.name), gates=because(["enough"]))
    staging["approvals"] = [{"role": "vera", "count": 1, "because": WHY}]
    keys = {who: found.key(LAPTOP if who == "pipeline" else who) for who in ("pipeline", "vera", "promoter")}
    found.decide({who: {who: key} for who, key in keys.items()}, {"staging": staging})
    found.install("staging", {})
    return found


def run_in(bank: Bank) -> str:
    """A run that no test has made before."""
    bank.toy.home.write("steps/toy.py", bank.toy.home.read("steps/toy.py") + f"\n# {time.time_ns()}\n".encode())
    said = bank.ask(LAPTOP, "run", "toy", "--json")
    assert said.code == 0, said.err
    return str(said.json["run"])


def test_it_waits_is_approved_and_releases(bank: Bank) -> None:
    run = run_in(bank)
    name = bank.promote(run, reason="the first")
    shown = bank.waiting(name)
    assert shown["type-this"] == f"countersign approve {run} --env staging"
    assert shown["missing"].startswith("0 of 1 approvals by vera")
    approved = bank.ask("vera", *shown["type-this"].split()[1:], "--yes", "--json")
    assert approved.code == 0, approved.err
    bank.resume(name)
    assert bank.toy.ended(name).phase is Phase.SUCCEEDED, bank.message(name)
    last = bank.history("staging")["releases"][-1]
    assert (last["state"], last["reason"], last["variants"][0]["run"]) == ("done", "the first", run)
    assert [a["name"] for a in last["approved_by"]] == ["vera"]
    # Approved already: the next time nobody is waited for, and nothing is done twice.
    again = bank.promote(run)
    assert bank.toy.ended(again).phase is Phase.SUCCEEDED
    suspended = bank.node(again, "Suspend")
    assert suspended is None or suspended["phase"] in {"Skipped", "Omitted"}
    assert bank.history("staging")["releases"][-1]["sequence"] == last["sequence"]


def test_resuming_it_by_hand_gets_nowhere(bank: Bank) -> None:
    run = run_in(bank)
    before = len(bank.history("staging")["releases"])
    name = bank.promote(run)
    bank.resume(name)
    assert bank.toy.ended(name).phase is Phase.FAILED
    assert "0 of 1 approvals by vera" in bank.message(name)
    assert len(bank.history("staging")["releases"]) == before


def test_it_goes_back_by_one_command(bank: Bank) -> None:
    """`deploy: nothing` in this policy: the workflow is started as an operator's command would where it says workflow."""
    runs = approved(bank, 2)
    for run in runs:
        assert bank.toy.ended(bank.promote(run)).phase is Phase.SUCCEEDED
    name = bank.start("rollback", {"reason": "the drill"})
    assert bank.toy.ended(name).phase is Phase.SUCCEEDED, bank.message(name)
    last = bank.history("staging")["releases"][-1]
    assert (last["kind"], last["reason"], last["variants"][0]["run"]) == ("rollback", "the drill", runs[0])


def approved(bank: Bank, count: int) -> list[str]:
    """Runs that may come."""
    runs = [run_in(bank) for _ in range(count)]
    for run in runs:
        assert bank.ask("vera", "approve", run, "--env", "staging", "--yes").code == 0
    return runs


def test_two_at_once_come_one_after_the_other(bank: Bank) -> None:
    runs = approved(bank, 2)
    before = bank.history("staging")["releases"]
    names = [bank.promote(run) for run in runs]
    for name in names:
        assert bank.toy.ended(name).phase is Phase.SUCCEEDED, bank.message(name)
    one, two = bank.history("staging")["releases"][len(before) :]
    assert [one["sequence"], two["sequence"]] == [len(before) + 1, len(before) + 2]
    assert {r["variants"][0]["run"] for r in (one, two)} == set(runs)
    assert {one["state"], two["state"]} == {"done"}
    assert one["ended"] <= two["began"]
    assert [len(bank.toy.attempts(name, "release")) for name in names] == [1, 1], "neither found the other at it"
    begun = [bank.toy.space.workflow(name)["status"] for name in names]
    assert max(s["startedAt"] for s in begun) < min(s["finishedAt"] for s in begun), "both were at it at the same time"


def test_a_challenger_comes_with_its_share(bank: Bank) -> None:
    first, second = approved(bank, 2)
    name = bank.promote(first, challenger=second, share="0.1", reason="which is better?")
    assert bank.toy.ended(name).phase is Phase.SUCCEEDED, bank.message(name)
    last = bank.history("staging")["releases"][-1]
    said = [(v["name"], v["run"], v["share"], v["shadow"]) for v in last["variants"]]
    assert said == [("champion", first, 0.9, False), ("challenger", second, 0.1, False)]


def test_a_run_that_a_gate_refused_waits_for_nobody(bank: Bank) -> None:
    bank.toy.home.write("params/policies/toy.yaml", POLICY.replace("100", "10000"))
    try:
        said = bank.ask(LAPTOP, "run", "toy", "--json")
    finally:
        bank.toy.home.write("params/policies/toy.yaml", POLICY)
    assert said.code == 3, said.err
    name = bank.promote(said.json["run"])
    assert bank.toy.ended(name).phase is Phase.FAILED
    assert "gate enough says no" in bank.message(name)
    assert bank.node(name, "Suspend") is None
