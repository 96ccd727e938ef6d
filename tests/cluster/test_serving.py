"""What a model server does on a real cluster while something is broken, or everybody asks at once: it goes on, or says clearly why not."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bank import Bank
from tests.cluster.office import GOOD, NAME, Caller, Office
from tests.cluster.real import kubectl, new_space, toy_in, wait
from tests.conftest import ROOT, home_from
from tests.promote.world import because

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(600)]
SPACE = "serving"
ANYBODY = {"deploy": because("helm"), "approvals": [], "after": because(None), "released_by": because("anyone")}
AUTOMATIC = {"enabled": True, "min": 2, "max": 3, "cpu": 60}


@pytest.fixture(scope="module")
def office(cluster: None, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    del cluster
    space = new_space(SPACE)
    scratch = tmp_path_factory.mktemp("serving")
    bank = Bank(toy=toy_in(space, home_from(template, scratch)), scratch=scratch)
    values = {"canary": {"enabled": False}, "autoscaling": AUTOMATIC, "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}}}
    office = Office(bank, policed=False, prod=ANYBODY, values=values)
    (scratch / "values.json").write_text(json.dumps(office.values))
    words = ["promote", GOOD, "--env", "prod", "--values", str(scratch / "values.json"), "--json"]
    said = bank.ask("promoter", *words, env={"COUNTERSIGN_CHART": str(ROOT / "infra/charts/model-server")})
    assert said.code == 0, said.err + said.out
    yield office
    kubectl("delete", "namespace", SPACE, "--wait=false")


@pytest.fixture
def caller(office: Office) -> Iterator[Caller]:
    """Two pods serve, and somebody asks all the while; afterwards every answer is in the log, once."""
    wait(lambda: len(office.serving_pods()) >= 2, "two pods serve", patience=120)
    with Caller(office.url) as asking:
        wait(lambda: len(asking.answered) > 20, "decisions are answered", patience=60)
        yield asking
    answered = Counter(a["id"] for a in asking.answered)
    assert max(answered.values()) == 1
    wait(lambda: not answered - office.logged(), "the log has every decision", patience=120)
    assert max(office.logged().values()) == 1


def go_on(caller: Caller, count: int = 40) -> None:
    there = len(caller.answered)
    wait(lambda: len(caller.answered) > there + count, "decisions are answered on", patience=60)


def processes_of(pod: dict[str, Any]) -> list[int]:
    """The server's processes, as this node sees them."""
    uid = pod["metadata"]["uid"]
    found = []
    for entry in Path("/proc").iterdir():
        try:
            ours = entry.name.isdigit() and b"workflows.serve" in (entry / "cmdline").read_bytes()
            if ours and any(u in (entry / "cgroup").read_text() for u in (uid, uid.replace("-", "_"))):
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended
    return found


def test_kill_9_and_it_comes_back(office: Office, caller: Caller) -> None:
    name = office.serving_pods()[0]
    pod = office.space.get("pod", name)
    killed = processes_of(pod)
    assert killed
    at = time.time()
    for process in killed:
        os.kill(process, signal.SIGKILL)
    wait(
        lambda: restarts(office, name) == restarts_of(pod) + 1 and name in office.serving_pods(), "the same pod serves again", patience=120
    )
    go_on(caller)
    # What was on its way to it is lost to whoever asked, who sees that at once; nobody else notices.
    late = [f for f in caller.failed if float(f.split()[0]) > at + 20]
    assert late == []


def restarts(office: Office, name: str) -> int:
    return restarts_of(office.space.get("pod", name))


def restarts_of(pod: dict[str, Any]) -> int:
    return sum(int(c["restartCount"]) for c in pod["status"]["containerStatuses"])


def test_while_the_store_is_away_it_decides_on_and_the_log_follows(office: Office, caller: Caller) -> None:
    kubectl("-n", "store", "scale", "deployment", "s3", "--replicas=0")
    try:
        kubectl("-n", "store", "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=s3", "--timeout=60s", check=False)
        go_on(caller, 100)
        assert len(office.serving_pods()) >= 2, "what is loaded needs no store"
    finally:
        kubectl("-n", "store", "scale", "deployment", "s3", "--replicas=1")
        kubectl("-n", "store", "rollout", "status", "deployment", "s3", "--timeout=120s")
    go_on(caller)
    assert caller.failed == []


def test_a_model_that_was_changed_in_the_store_is_not_served(office: Office, caller: Caller) -> None:
    toy = office.bank.toy
    key = toy.key_of(str(caller.answered[-1]["model"]))
    kept = toy.client.get_object(Bucket=toy.bucket, Key=key)
    data, noted = kept["Body"].read(), kept["Metadata"]
    toy.client.put_object(Bucket=toy.bucket, Key=key, Body=data[:-9] + b"x" + data[-8:], Metadata=noted)
    try:
        old = office.serving_pods()
        assert office.evict(old[0])
        new = wait(lambda: set(office.pods()) - set(old), "another pod starts", patience=60).pop()
        wait(lambda: "not ready" in office.space.kubectl("logs", new, check=False), "it says that it is not ready", patience=90)
        assert "changed" in office.space.kubectl("logs", new)
        go_on(caller)
        assert new not in office.serving_pods()
    finally:
        toy.client.put_object(Bucket=toy.bucket, Key=key, Body=data, Metadata=noted)
    wait(lambda: new in office.serving_pods(), "it looks again, and serves", patience=120)
    assert caller.failed == []


def test_a_peak_brings_pods_and_its_end_takes_them(office: Office, caller: Caller) -> None:
    # Two minutes of patience before pods are taken is right for a bank, and long for a test.
    office.space.patch("hpa", NAME, {"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 10}}}})
    wait(lambda: wanted(office) == 2, "metrics-server has seen them idle", patience=120)
    with ExitStack() as crowd:
        many = [crowd.enter_context(Caller(office.url, pause=0)) for _ in range(4)]
        wait(lambda: wanted(office) == 3 and len(office.serving_pods()) == 3, "a third pod serves", patience=180)
    wait(lambda: wanted(office) == 2 and len(office.pods()) == 2, "two are left", patience=240)
    go_on(caller)
    assert [c.failed for c in (*many, caller)] == [[]] * 5
    caller.answered += [a for c in many for a in c.answered]  # these, too, must be in the log


def wanted(office: Office) -> int:
    return int(office.space.get("hpa", NAME)["status"].get("desiredReplicas", 0))
