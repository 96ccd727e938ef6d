"""What must be true after a part broke: no wrong result, nothing lost, and a message that says what to do."""

from __future__ import annotations

import time
from copy import deepcopy
from functools import partial

import pytest

from tests.cluster.real import SLOW, Toy, kubectl, wait
from workflows.cluster.interface import Phase
from workflows.declare import Resources

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
SLOWER = ("--set", "work.mode=slow", "--set", "work.seconds=60")  # still at work when it is killed
RECENT = 10  # seconds: that a pod vanished within them, Argo does not take for an end


def test_a_pod_killed_in_the_middle_is_run_again(toy: Toy) -> None:
    name = toy.submit(*SLOWER)
    pod = toy.begun(name, "work(0:a)")
    toy.until(name, "work(0:a)", Phase.RUNNING)  # one that vanishes before Argo knows that it runs is made again as the same attempt
    time.sleep(RECENT + 2)
    toy.space.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
    assert toy.ended(name).phase is Phase.SUCCEEDED
    run = toy.sealed(name)
    assert len(toy.attempts(name, "work(0:a)")) == 2
    assert [s["outcome"] for s in toy.steps(run) if s["task"] == "work@a"][-1] == "done"


def test_a_pod_that_is_told_to_end_leaves_a_record_and_is_run_again(toy: Toy) -> None:
    name = toy.submit(*SLOWER)
    toy.space.kubectl("delete", "pod", toy.begun(name, "work(0:a)"), "--wait=false")
    assert toy.ended(name).phase is Phase.SUCCEEDED
    assert [s["outcome"] for s in toy.steps(toy.sealed(name)) if s["task"] == "work@a"] == ["failed", "done"]


@pytest.mark.alone
def test_a_killed_controller_loses_nothing(toy: Toy) -> None:
    name = toy.submit(*SLOW)
    toy.until(name, "work(0:a)", Phase.RUNNING)
    kubectl("-n", "argo", "delete", "pod", "-l", "app=workflow-controller", "--grace-period=0", "--force")
    assert toy.ended(name).phase is Phase.SUCCEEDED
    assert len(toy.steps(toy.sealed(name))) == 4


@pytest.mark.alone
def test_a_store_that_is_away_for_half_a_minute(toy: Toy) -> None:
    """From before a step puts its output there until after it said that it waits."""
    name = toy.submit(*SLOW)
    pods = [toy.begun(name, shown) for shown in ("work(0:a)", "work(1:b)")]
    kubectl("-n", "store", "scale", "deployment", "s3", "--replicas=0")
    try:
        for pod in pods:
            wait(partial(waits_for_the_store, toy, pod), f"{pod} says that it waits")
        time.sleep(30)
    finally:
        kubectl("-n", "store", "scale", "deployment", "s3", "--replicas=1")
        kubectl("-n", "store", "rollout", "status", "deployment", "s3", "--timeout=120s")
    assert toy.ended(name).phase is Phase.SUCCEEDED
    assert [len(toy.attempts(name, shown)) for shown in ("work(0:a)", "work(1:b)")] == [1, 1], "nothing was computed twice"
    toy.sealed(name)


def waits_for_the_store(toy: Toy, pod: str) -> bool:
    return "the store is away; trying again" in toy.space.kubectl("logs", pod, "-c", "main", check=False)


def test_out_of_memory_is_tried_again_and_then_said(toy: Toy) -> None:
    toy.home.write(
        "steps/toy.py", toy.home.read("steps/toy.py").replace(b"raise MemoryError", b"bytearray(4 * 1024**3)[:] = b'x' * 4 * 1024**3")
    )
    name = toy.submit("--set", "work.mode=memory")
    assert toy.ended(name).phase is Phase.FAILED
    tried = toy.attempts(name, "work(0:a)")
    assert [n.exit_code for n in tried] == [137] * (Resources().retries + 1)
    assert all("OOMKilled" in n.message for n in tried)
    problems = [p for s in toy.steps(toy.sealed(name, "failed")) if s["task"].startswith("work@") for p in s["problems"]]
    assert any("OOMKilled" in p for p in problems), problems


def test_a_step_that_takes_too_long_is_ended_and_not_tried_again(toy: Toy) -> None:
    """It would take as long again. Its own exit code says that it may be repeated, as on a laptop, where a person decides."""
    manifest = toy.space.get("workflowtemplate", "toy")
    template = next(t for t in manifest["spec"]["templates"] if t["name"] == "work")
    template["activeDeadlineSeconds"] = 20
    toy.space.replace(manifest)
    name = toy.submit(*SLOWER)
    assert toy.ended(name).phase is Phase.FAILED
    (ended,) = toy.attempts(name, "work(0:a)")
    assert "longer than the specified deadline" in ended.message
    assert "work@a" in {s["task"] for s in toy.steps(toy.sealed(name, "failed")) if s["outcome"] == "failed"}


def test_a_full_disk_leaves_nothing_half_written(toy: Toy) -> None:
    whole = toy.space.get("workflowtemplate", "toy")
    manifest = deepcopy(whole)
    template = next(t for t in manifest["spec"]["templates"] if t["name"] == "work")
    template["volumes"] = [
        v if v["name"] != "work" else {"name": "work", "emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}} for v in template["volumes"]
    ]
    template["retryStrategy"]["limit"] = "1"
    toy.space.replace(manifest)
    toy.home.write(
        "steps/toy.py", toy.home.read("steps/toy.py").replace(b'return Worked({"which"', b'return Worked({"much": "x" * 9_000_000, "which"')
    )
    name = toy.submit()
    toy.until(name, "pick", Phase.SUCCEEDED)
    before = toy.content()
    assert toy.ended(name).phase is Phase.FAILED
    failed = toy.node(name, "work(0:a)")
    assert failed.exit_code == 75
    assert "no room left on the disk" in failed.message
    tries = [[n.exit_code for n in toy.attempts(name, task)] for task in ("work(0:a)", "work(1:b)")]
    assert [75, 75] in tries, "who may hope for more room is tried again"
    toy.sealed(name, "failed")
    assert toy.content() == before
    assert "Uploads" not in toy.client.list_multipart_uploads(Bucket=toy.bucket, Prefix=toy.prefix)
    toy.space.replace(whole)
    again = toy.submit("--again")
    assert toy.ended(again).phase is Phase.SUCCEEDED
    toy.sealed(again)
