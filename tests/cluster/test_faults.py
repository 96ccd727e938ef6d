"""What must be true after something broke: no wrong result, nothing lost, and a message that says what to do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.real import Space, Toy, kubectl, new_space, toy_in, wait
from tests.conftest import Home
from workflows.cluster.interface import Phase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
SLOW = ("--set", "work.mode=slow", "--set", "work.seconds=25")


@pytest.fixture(scope="module")
def space(cluster: None) -> Iterator[Space]:
    del cluster
    name = f"faults-{os.environ.get('PYTEST_XDIST_WORKER', 'one')}"
    yield new_space(name)
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def toy(space: Space, home: Home) -> Iterator[Toy]:
    # Each test has results of its own: nothing that an earlier one computed, in this session or another, is there to reuse.
    found = toy_in(space, home)
    home.write("steps/toy.py", home.read("steps/toy.py") + f"\n# {time.time_ns()}\n".encode())
    yield found
    for name in found.submitted:
        space.kubectl("delete", "workflow", name, "--wait=false", check=False)


def sound(toy: Toy, name: str, outcome: str = "done") -> str:
    """A workflow's run is sealed, verifies byte for byte, and came to this."""
    run = toy.run_of(name)
    checked = toy.verify(run)
    assert (checked["code"], checked["verified"], checked["outcome"]) == (0, True, outcome), checked
    return run


# --- Pods, controller, store


def test_a_pod_killed_in_the_middle_is_run_again(toy: Toy) -> None:
    name = toy.submit(*SLOW)
    toy.space.kubectl("delete", "pod", toy.pod_of(name, "work(0:a)"), "--grace-period=0", "--force")
    assert toy.ended(name).phase is Phase.SUCCEEDED
    run = sound(toy, name)
    assert [s["outcome"] for s in toy.steps(run) if s["task"] == "work@a"][-1] == "done"


def test_a_pod_that_is_told_to_end_leaves_a_record_and_is_run_again(toy: Toy) -> None:
    name = toy.submit(*SLOW)
    pod = toy.pod_of(name, "work(0:a)")
    wait(lambda: "started" in toy.space.kubectl("logs", pod, "-c", "main", check=False), "the step has begun")
    toy.space.kubectl("delete", "pod", pod, "--wait=false")
    assert toy.ended(name).phase is Phase.SUCCEEDED
    assert [s["outcome"] for s in toy.steps(sound(toy, name)) if s["task"] == "work@a"] == ["failed", "done"]


@pytest.mark.alone
def test_a_killed_controller_loses_nothing(toy: Toy) -> None:
    name = toy.submit(*SLOW)
    toy.until(name, "work(0:a)", Phase.RUNNING)
    kubectl("-n", "argo", "delete", "pod", "-l", "app=workflow-controller", "--grace-period=0", "--force")
    assert toy.ended(name).phase is Phase.SUCCEEDED
    assert len(toy.steps(sound(toy, name))) == 4


@pytest.mark.alone
def test_a_store_that_is_away_for_half_a_minute(toy: Toy) -> None:
    name = toy.submit(*SLOW)
    toy.until(name, "work(0:a)", Phase.RUNNING)
    kubectl("-n", "store", "scale", "deployment", "s3", "--replicas=0")
    try:
        time.sleep(30)
    finally:
        kubectl("-n", "store", "scale", "deployment", "s3", "--replicas=1")
        kubectl("-n", "store", "rollout", "status", "deployment", "s3", "--timeout=120s")
    assert toy.ended(name).phase is Phase.SUCCEEDED
    sound(toy, name)


# --- Objects in the store


@pytest.mark.parametrize("how", ["truncated", "replaced", "missing"])
def test_an_object_that_is_not_what_was_made(toy: Toy, how: str) -> None:
    name = toy.submit()
    toy.until(name, "pick", Phase.SUCCEEDED)
    key = toy.key_of(toy.digest_of(name, "pick", "ages"))
    data = toy.client.get_object(Bucket=toy.bucket, Key=key)["Body"].read()
    if how == "missing":
        toy.client.delete_object(Bucket=toy.bucket, Key=key)
    else:
        body = data[:-9] if how == "truncated" else data[:-9] + b"x" + data[-8:]
        toy.client.put_object(Bucket=toy.bucket, Key=key, Body=body)
    ended = toy.ended(name)
    assert ended.phase is Phase.FAILED
    failed = toy.node(name, "work(0:a)")
    assert failed.exit_code == 4
    assert "artifact toy/ages" in failed.message
    run = toy.run_of(name)
    assert toy.verify(run)["code"] == 4, "what was made is not there any more, and verify says so"
    # Nothing wrong was kept: with the object gone the same submission computes it anew.
    again = toy.submit("--again")
    assert toy.ended(again).phase is Phase.SUCCEEDED
    sound(toy, again)


def test_a_deleted_record_is_missed(toy: Toy) -> None:
    name = toy.submit()
    toy.until(name, "pick", Phase.SUCCEEDED)
    toy.client.delete_object(Bucket=toy.bucket, Key=f"{toy.prefix}records/{toy.digest_of(name, 'pick', 'record')}")
    assert toy.ended(name).phase is Phase.FAILED
    failed = toy.node(name, "work(0:a)")
    assert failed.exit_code == 4
    assert "record missing from the store" in failed.message


def test_an_input_that_changes_while_its_step_runs(toy: Toy) -> None:
    name = toy.submit(*SLOW)
    pod = toy.pod_of(name, "work(0:a)")
    wait(lambda: "started" in toy.space.kubectl("logs", pod, "-c", "main", check=False), "the step has begun")
    toy.space.kubectl("exec", pod, "-c", "main", "--", "python", "-c", "open('/work/artifacts/toy/ages.parquet','ab').write(b'x')")
    assert toy.ended(name).phase is Phase.FAILED
    failed = toy.node(name, "work(0:a)")
    assert (failed.exit_code, "toy/ages: input changed while the step ran" in failed.message) == (4, True)
    assert sound(toy, name, "failed")


# --- Memory and disk


def test_out_of_memory_is_tried_again_and_then_said(toy: Toy) -> None:
    toy.home.write(
        "steps/toy.py", toy.home.read("steps/toy.py").replace(b"raise MemoryError", b"bytearray(4 * 1024**3)[:] = b'x' * 4 * 1024**3")
    )
    name = toy.submit("--set", "work.mode=memory")
    assert toy.ended(name).phase is Phase.FAILED
    failed = toy.node(name, "work(0:a)")
    assert failed.exit_code == 137
    assert "OOMKilled" in failed.message
    problems = [p for s in toy.steps(sound(toy, name, "failed")) if s["task"].startswith("work@") for p in s["problems"]]
    assert any("OOMKilled" in p for p in problems), problems


def test_a_full_disk_leaves_nothing_half_written(toy: Toy) -> None:
    manifest = json.loads(toy.space.kubectl("get", "workflowtemplate", "toy", "-o", "json"))
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
    assert toy.ended(name).phase is Phase.FAILED
    failed = toy.node(name, "work(0:a)")
    assert failed.exit_code == 75
    assert "no room left on the disk" in failed.message
    sound(toy, name, "failed")


# --- Rights and keys


@pytest.mark.parametrize(
    ("secret", "code", "says"),
    [
        ("countersign-store", 2, "AWS_ACCESS_KEY_ID"),
        ("countersign-signing-key", 2, "cannot read the signing key"),
    ],
)
def test_a_missing_secret_is_said_and_does_not_hang(toy: Toy, secret: str, code: int, says: str) -> None:
    with toy.space.without("secret", secret):
        name = toy.submit()
        assert toy.ended(name).phase in {Phase.FAILED, Phase.ERROR}
    failed = toy.node(name, "plan")
    assert failed.exit_code == code
    assert says in failed.message


def test_wrong_credentials_are_said(toy: Toy) -> None:
    kept = toy.space.get("secret", "countersign-store")["data"]
    name = ""
    try:
        toy.space.patch("secret", "countersign-store", {"stringData": {"AWS_SECRET_ACCESS_KEY": "wrong"}})
        name = toy.submit()
        assert toy.ended(name).phase is Phase.FAILED
    finally:
        toy.space.patch("secret", "countersign-store", {"data": kept})
    failed = toy.node(name, "plan")
    assert failed.exit_code == 2
    assert "SignatureDoesNotMatch" in failed.message


def test_a_step_without_its_rights_ends_by_its_time_limit(toy: Toy) -> None:
    """Argo's executor asks for ever when it may not report; the step's own limit ends that."""
    manifest = toy.space.get("workflowtemplate", "toy")
    plan = next(t for t in manifest["spec"]["templates"] if t["name"] == "plan")
    plan["activeDeadlineSeconds"] = 60
    plan["retryStrategy"]["limit"] = "0"
    toy.space.replace(manifest)
    with toy.space.without("rolebinding", "countersign-step"):
        name = toy.submit()
        ended = toy.ended(name)
    assert ended.phase in {Phase.FAILED, Phase.ERROR}


# --- Changes, doubles, hands


def test_a_template_that_changes_in_a_run_changes_nothing_in_it(toy: Toy) -> None:
    name = toy.submit(*SLOW)
    toy.until(name, "work(0:a)", Phase.RUNNING)
    manifest = toy.space.get("workflowtemplate", "toy")
    join = next(t for t in manifest["spec"]["templates"] if t["name"] == "join")
    join["container"]["args"] = ["python", "-m", "workflows.run.driver", "toy", "nothing"]
    toy.space.replace(manifest)
    assert toy.ended(name).phase is Phase.SUCCEEDED
    sound(toy, name)


def test_two_identical_submissions_at_once_are_one(toy: Toy) -> None:
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda _: toy.ask("submit", "toy", "--namespace", toy.space.name, "--json"), range(2)))
    assert [s.code for s in said] == [0, 0]
    names = {s.json["workflow"] for s in said}
    assert len(names) == 1
    assert sorted(s.json["created"] for s in said) == [False, True]
    toy.submitted.extend(names)
    assert toy.ended(names.pop()).phase is Phase.SUCCEEDED


def test_stopped_by_hand_and_retried(toy: Toy) -> None:
    name = toy.submit(*SLOW)
    toy.until(name, "work(0:a)", Phase.RUNNING)
    toy.space.patch("workflow", name, {"spec": {"shutdown": "Stop"}})
    assert toy.ended(name).phase in {Phase.FAILED, Phase.ERROR}
    first = sound(toy, name, "failed")
    argo(toy, "retry", name)
    assert toy.ended(name).phase is Phase.SUCCEEDED
    second = wait(lambda: (r := toy.run_of(name)) != first and r, "the second run is noted")
    assert second == f"{first}-2"
    sound(toy, name)
    assert toy.verify(first)["verified"], "the first run is as it was"


def test_suspended_and_resumed_by_hand(toy: Toy) -> None:
    name = toy.submit()
    toy.space.patch("workflow", name, {"spec": {"suspend": True}})
    time.sleep(10)
    assert not toy.workflow(name).phase.ended
    toy.space.patch("workflow", name, {"spec": {"suspend": None}})
    assert toy.ended(name).phase is Phase.SUCCEEDED
    sound(toy, name)


def test_a_gate_that_says_no_ends_the_workflow_with_its_evidence(toy: Toy) -> None:
    toy.home.write("params/policies/toy.yaml", toy.home.read("params/policies/toy.yaml").replace(b"at_least: 100", b"at_least: 1000"))
    name = toy.submit()
    assert toy.ended(name).phase is Phase.FAILED
    refused = toy.node(name, "join")
    assert refused.exit_code == 3
    assert "gate enough" in refused.message
    assert "expected at least 1000, got 240" in refused.message
    sound(toy, name, "refused")


def argo(toy: Toy, *words: str) -> None:
    import subprocess

    done = subprocess.run(["argo", *words, "-n", toy.space.name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
