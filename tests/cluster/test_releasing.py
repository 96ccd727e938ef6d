"""The way of docs/promotion.md on a real cluster, from gates to production and back, with applications that ask all the while.

Three runs of the loan model on its real data pass their gates; one of them approves everybody, which no gate minds. An engineer
submitted them to the cluster, as their seals say, and production takes no others.

Two people approve, a canary is let through by its analysis, another is taken back, the release before comes back by one command.
No request may fail, and every answer must stand in the decision log, once.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cluster.bank import LAPTOP, Bank
from tests.cluster.office import Caller, Office, from_gates
from tests.cluster.real import kubectl, new_space, toy_in, wait
from tests.conftest import ROOT, home_from, lacking
from tests.promote.world import because
from tests.serve import world as served
from workflows.cluster.interface import Phase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]
# A canary in which something broke would be taken back, too.
FOR_WHAT_IT_DECIDES = re.compile(r'the canary was taken back: .*Metric \\?"shift', re.DOTALL)
# As environments/prod.yaml has it, with less patience: several shares one after another, an autoscaler over the Rollout, and groups
# compared. Their limit is wide: in half a minute each has some dozens of decisions.
GROUPS = {"race": ("white", "black")}
LIKE_PROD = {
    "autoscaling": {"enabled": True, "min": 2, "max": 2},
    "canary": {
        "enabled": True, "weights": [25, 50], "seconds": 30,
        "analysis": {
            "window": 30, "interval": 5, "count": 2, "requests": 10, "p99": 2.0, "shift": 0.2,
            "fairness": 0.4, "group": 10, "attributes": list(GROUPS),
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def office(cluster: None, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    del cluster
    if not kubectl("get", "crd", "rollouts.argoproj.io", "--ignore-not-found", "-o", "name"):
        lacking("Argo Rollouts: python infra/cluster up --with promotion")
    name = f"releasing-{os.environ.get('PYTEST_XDIST_WORKER', 'one')}"
    kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "infra/policies"))
    space = new_space(name)
    scratch = tmp_path_factory.mktemp("office")
    try:
        bank = Bank(toy=toy_in(space, home_from(template, scratch)), scratch=scratch)
        yield Office(bank, runs=from_gates, prod={"known_submitter": because(value=True)}, values=LIKE_PROD)
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


def drain(office: Office) -> None:
    """As a node asks its pods to leave: one by one, and told to wait while too few would be left."""
    before = wait(lambda: len(p := office.serving_pods()) == 2 and p, "two pods serve")
    assert office.evict(before[0])
    assert not office.evict(before[1]), "the disruption budget keeps one"
    wait(lambda: len(office.serving_pods()) == 2 and office.evict(before[1]), "the second may leave")
    wait(lambda: len(p := office.serving_pods()) == 2 and not set(p) & set(before), "others serve")


def all_are_logged(office: Office, *callers: Caller) -> None:
    """Nobody was refused, whichever release answered; every answer is in the log, once, and nothing is there twice."""
    for asking in callers:
        assert asking.failed == [], f"of {len(asking.answered)}: {asking.failed}\n{office.space.kubectl('get', 'pods,events')}"
        assert {a["release"]["sequence"] for a in asking.answered} >= {1, 2, 4}
    answered = Counter(a["id"] for asking in callers for a in asking.answered)
    wait(lambda: not answered - office.logged(), "the log has every decision")
    assert max(answered.values()) == max(office.logged().values()) == 1
    checked = office.bank.ask(LAPTOP, "decisions", "--env", "prod", "--json")
    assert checked.code == 0, checked.err + checked.out


def test_from_gates_to_production_and_back(office: Office) -> None:
    bank, good, better, bad = office.bank, office.runs.good, office.runs.better, office.runs.bad
    # Production asks for what served in staging, and for two people.
    early = bank.ask(LAPTOP, "promote", good, "--env", "prod", "--check", "--json")
    assert early.code == 3
    assert "staging" in " ".join(early.json["reasons"])
    assert early.json["submitter"] == office.runs.submitter
    for run in (good, better, bad):
        said = bank.ask(LAPTOP, "promote", run, "--env", "staging", "--json")
        assert said.code == 0, said.err
    name = bank.promote(good, reason="the first")
    shown = bank.waiting(name)
    assert "0 of 1 approvals by validator" in shown["missing"]
    assert "0 of 1 approvals by owner" in shown["missing"]
    assert shown["type-this"] == f"countersign approve {good} --env prod"
    office.approve(good)
    bank.resume(name)
    assert bank.toy.ended(name).phase is Phase.SUCCEEDED, bank.message(name)
    begun = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    # Whoever keeps a connection open stays with a pod past its place behind the Service: that one must send them away in time.
    url, features = office.url, office.runs.features
    with (
        Caller(url, features=features, groups=GROUPS) as caller,
        Caller(url, features=features, groups=GROUPS, keep=True) as pooled,
    ):
        wait(lambda: len(caller.answered) > 20, "decisions are answered")
        assert {a["decision"] for a in caller.answered} == {"approved", "declined"}
        office.approve(better)
        second = office.ask("promote", better, "--reason", "a canary that shows well")
        assert second.code == 0, second.err + second.out
        assert (second.json["sequence"], second.json["state"], second.json["deployed"]["namespace"]) == (2, "done", office.space.name)

        assert office.measured("fairness-race") == {"Successful"}
        wait(lambda: office.scaling().get("ScalingActive") == "True", "the autoscaler has figures of the new pods")

        office.approve(bad)
        refused = office.ask("promote", bad, "--reason", "approves everybody")
        assert refused.code == 3, refused.err + refused.out
        assert FOR_WHAT_IT_DECIDES.search(refused.err + refused.out), refused.err + refused.out

        drain(office)
        back = office.ask("rollback", "--reason", "the drill")
        assert back.code == 0, back.err + back.out
        wait(lambda: {caller.sequence, pooled.sequence} == {back.json["sequence"]}, "what was rolled back to answers")
    all_are_logged(office, caller, pooled)

    one = next(a for a in caller.answered if a["release"]["sequence"] == 2 and a["decision"] == "declined")
    (bank.scratch / "subject").write_text(served.SUBJECT_KEY.hex())
    subject = {"COUNTERSIGN_SUBJECT_KEY_FILE": str(bank.scratch / "subject")}
    again = bank.ask(LAPTOP, "replay", one["id"], "--env", "prod", "--json", cwd=ROOT, env=subject)
    assert again.code == 0, again.err + again.out
    assert again.json["same"] is True

    history = bank.history("prod")
    assert [(r["kind"], r["state"]) for r in history["releases"]] == [
        ("promotion", "done"), ("promotion", "done"), ("promotion", "aborted"), ("rollback", "done"),
    ]  # fmt: skip
    assert history["releases"][-1]["variants"][0]["run"] == good
    served_then = bank.history("prod", "--at", begun)
    assert served_then["serving"] == [1]
    assert sorted(a["name"] for a in served_then["releases"][0]["approved_by"]) == ["olga", "vera"]
