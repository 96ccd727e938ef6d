"""What a model server does on a real cluster while something is broken, or everybody asks at once: it goes on, or says clearly why not."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bank import Bank
from tests.cluster.office import GOOD, NAME, Caller, Office
from tests.cluster.real import kubectl, new_space, toy_in, wait
from tests.conftest import ROOT, home_from
from tests.promote.world import because
from tests.serve import hostile
from tests.serve import world as served
from tests.serve.process import ask, total

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(600)]
SPACE = "serving"
ANYBODY = {"deploy": because("helm"), "approvals": [], "after": because(None), "released_by": because("anyone")}
AUTOMATIC = {"enabled": True, "min": 2, "max": 3, "cpu": 60}
APPLICATION = {"subject": "somebody", "features": served.FEATURES}
SIZE = 32 * 1024**2  # of the log's volume: as an emptyDir, it is evicted with its pod where it takes more
# The server clears away what it has sent, and would have room again: it is filled for as long as that goes on.
FILL = f"""
import os, time

def taken():
    while True:
        try:
            return sum(e.stat().st_blocks * 512 for e in os.scandir("/log"))
        except FileNotFoundError:
            pass

end = time.time() + 15
with open("/log/filler", "wb", 0) as filler:
    while time.time() < end:
        while taken() < 0.95 * {SIZE}:
            filler.write(bytes(65536))
        time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def office(cluster: None, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    del cluster
    space = new_space(SPACE)
    scratch = tmp_path_factory.mktemp("serving")
    bank = Bank(toy=toy_in(space, home_from(template, scratch)), scratch=scratch)
    values = {
        "canary": {"enabled": False}, "autoscaling": AUTOMATIC, "log": {"size": f"{SIZE >> 20}Mi"},
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
    }  # fmt: skip
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
        assert restarts(office, new) == 0, "it is alive, and looks again by itself"
    finally:
        toy.client.put_object(Bucket=toy.bucket, Key=key, Body=data, Metadata=noted)
    wait(lambda: new in office.serving_pods(), "it looks again, and serves", patience=120)
    assert restarts(office, new) == 0
    assert caller.failed == []


@pytest.fixture
def steady(office: Office) -> Iterator[Office]:
    """Two pods, whatever the load: what they count is compared."""
    office.space.patch("hpa", NAME, {"spec": {"maxReplicas": AUTOMATIC["min"]}})
    wait(lambda: len(office.pods()) == len(office.serving_pods()) == AUTOMATIC["min"], "two pods serve", patience=240)
    yield office
    office.space.patch("hpa", NAME, {"spec": {"maxReplicas": AUTOMATIC["max"]}})


def count(office: Office, series: str, *pods: str) -> int:
    """The sum over all label values that begin so, of these pods or all."""
    return sum(total(office.metrics(pod), series) for pod in pods or office.pods())


def requests(office: Office, status: str) -> int:
    return count(office, f'countersign_requests_total{{route="/v1/decisions",status="{status}')


def ask_at(address: tuple[str, int], path: str, body: Any = None) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection(*address, timeout=20)) as over:
        return ask(over, path, body)


def test_a_logs_disk_is_full_and_then_it_is_not(steady: Office, caller: Caller) -> None:
    """The pod refuses, takes itself out, decides nothing that it does not log, and comes back by itself."""
    office, pod = steady, steady.serving_pods()[0]
    there = office.space.get("pod", pod)
    address = (there["status"]["podIP"], 8080)
    at = time.time()
    office.space.kubectl("exec", pod, "--", "python", "-c", FILL)
    try:
        wait(lambda: pod not in office.serving_pods(), "it takes itself out", patience=60)
        out = time.time()
        for _ in range(20):
            status, said = ask_at(address, "/v1/decisions", APPLICATION)
            assert (status, said["title"]) == (503, "not decided")
            assert "nothing was decided" in said["detail"]
        assert ask_at(address, "/v2/health/ready")[1]["why"] == ["the decision log cannot be written"]
        assert ask_at(address, "/v2/health/live")[0] == 200
        go_on(caller, 100)
        then = lengths(office, pod)
        while time.time() < at + 75:  # a node looks once a minute whether a volume is over its limit
            go_on(caller, 100)
        assert lengths(office, pod) == then
        assert restarts(office, pod) == restarts_of(there), "full, it is neither killed nor evicted"
    finally:
        office.space.kubectl("exec", pod, "--", "rm", "/log/filler")
    wait(lambda: pod in office.serving_pods(), "it serves again by itself", patience=60)
    status, said = ask_at(address, "/v1/decisions", APPLICATION)
    assert status == 200
    caller.answered.append(said)  # this one, too, must be in the log
    go_on(caller, 100)
    assert [f for f in caller.failed if "503" not in f or not at < float(f.split()[0]) < out + 5] == []
    caller.pause = 60
    # Nobody asks for a while, so that what was decided and what was logged can be compared.
    wait(lambda: (now := lengths(office, pod)) and now[0] - then[0] == now[1] - then[1] > 0, "the log has what was decided", patience=20)
    checked = office.bank.ask("promoter", "decisions", "--env", "prod", "--json")
    assert checked.code == 0, checked.err + checked.out


def lengths(office: Office, pod: str) -> tuple[int, int]:
    """How many decisions a pod has made, and how long its log is, as it says every two seconds."""
    measured = office.metrics(pod)
    return total(measured, "countersign_decisions_total"), total(measured, "countersign_log_records{")


def test_slow_ones_and_those_who_hang_up(steady: Office, caller: Caller) -> None:
    """More than may be worked on at once, a byte at a time: each is sent away in time, and nobody else notices."""
    address, body = (steady.url.removeprefix("http://"), 80), json.dumps(APPLICATION).encode()
    before, quick = {s: requests(steady, s) for s in ("408", "499", "5")}, len(caller.seconds)
    with ThreadPoolExecutor() as pool:
        slow = [pool.submit(hostile.slow, address, body, 600), pool.submit(hostile.slow, address, body, 50, head_only=True)]
        for n in range(60):
            hostile.hang_up(address, body, sent=10 + 5 * n, rudely=n % 2 == 0)
        bodies, heads = (s.result() for s in slow)
    assert {e.status for e in bodies} == {408}
    assert {e.status for e in heads} == {0}
    assert max(e.seconds for e in (*bodies, *heads)) < 30
    more = {s: requests(steady, s) - n for s, n in before.items()}
    assert more.pop("499") > 0
    assert more == {"408": 600, "5": 0}
    go_on(caller)
    seconds = sorted(caller.seconds[quick:])
    assert seconds[len(seconds) // 2] < 0.2
    assert seconds[-1] < 3
    assert caller.failed == []


def test_ten_thousand_broken_applications(steady: Office, caller: Caller) -> None:
    address, before = (steady.url.removeprefix("http://"), 80), {s: requests(steady, s) for s in ("400", "422", "5")}
    named = count(steady, "countersign_refused_applications_total")
    answered = hostile.pour(address, json.dumps(APPLICATION).encode(), 10_000)
    assert set(answered) <= {200, 400, 422}
    assert answered[400] + answered[422] >= 10_000
    assert {s: requests(steady, s) - n for s, n in before.items()} == {"400": answered[400], "422": answered[422], "5": 0}
    assert count(steady, "countersign_refused_applications_total") - named == answered[422]
    status, said = ask_at(address, "/v1/decisions", APPLICATION)
    assert status == 200
    caller.answered.append(said)
    assert caller.failed == []


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_it_answers_as_it_says(office: Office, caller: Caller, mode: str) -> None:
    from schemathesis import GenerationMode

    from tests.serve.described import answers_as_it_says

    asked = answers_as_it_says(office.url, GenerationMode(mode))
    assert asked["/v1/decisions"] >= 25
    go_on(caller)
    assert caller.failed == []


def test_a_node_is_drained_that_has_nowhere_to_send_its_pods(office: Office, caller: Caller) -> None:
    """`kubectl drain` itself: it takes one pod, waits while the disruption budget keeps the other, and ends once there is room."""
    old = office.serving_pods()
    node = office.space.get("pod", old[0])["spec"]["nodeName"]
    office.space.kubectl("label", "pods", *old, f"countersign/drained={SPACE}")
    words = ["kubectl", "drain", node, f"--pod-selector=countersign/drained={SPACE}", "--delete-emptydir-data", "--timeout=240s"]
    drain = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait(lambda: len(left(office, old)) < len(old), "one pod is evicted", patience=60)
        go_on(caller, 200)  # the drain asks again every five seconds
        assert len(left(office, old)) == len(old) - 1
        assert drain.poll() is None
        assert set(office.serving_pods()) == left(office, old), "another one has no node to go to"
    finally:
        kubectl("uncordon", node)
    said, _ = drain.communicate(timeout=300)
    assert drain.returncode == 0, said
    assert "violate the pod's disruption budget" in said
    wait(lambda: len(office.serving_pods()) >= 2 and not left(office, old), "others serve", patience=120)
    go_on(caller)
    assert caller.failed == []


def left(office: Office, old: list[str]) -> set[str]:
    return set(old) & set(office.pods())


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
