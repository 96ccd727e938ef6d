"""A step that asks for a GPU runs where there is one, says why it waits where there is none, and takes no GPU's node from others.

The node's own GPU is a pretended one: an extended resource that the test writes into its status and takes away again.
Further nodes are pretended, too: objects that the scheduler binds pods to, and that nothing runs on. They carry the taint of
GPU nodes, so that no pod but these tests' can land there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.cluster.real import Space, Toy, kubectl, toy_in, wait
from tests.cluster.test_install import SAFE
from tests.conftest import Home, home_from
from workflows.cluster.interface import Phase

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(600)]
GPU = "nvidia.com/gpu"
LABEL = {"nvidia.com/gpu.present": "true"}
TAINT = {"key": GPU, "value": "present", "effect": "NoSchedule"}
HUGE = {"cpu": "64", "memory": "256Gi", "pods": "110", "ephemeral-storage": "100Gi", GPU: "8"}


@pytest.fixture(scope="module")
def toy(space: Space, template: Any, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The toy pipeline, whose fanned-out step asks for a GPU."""

    scratch = tmp_path_factory.mktemp("gpu")
    home: Home = home_from(template, scratch)
    declared = home.read("workflows/toy.py")
    assert declared.count(b"Resources(timeout=240)") == 1
    home.write("workflows/toy.py", declared.replace(b"Resources(timeout=240)", b"Resources(timeout=600, gpu=1)"))
    home.write("steps/toy.py", home.read("steps/toy.py") + f"\n# {scratch}\n".encode())
    return toy_in(space, home)


def node() -> str:
    """The one real node."""
    names = kubectl("get", "nodes", "-o", "name", "-l", "!countersign/pretended").split()
    assert len(names) == 1, "these tests want a cluster of one node"
    return names[0].removeprefix("node/")


@contextmanager
def labelled(name: str) -> Iterator[None]:
    kubectl("label", "node", name, *(f"{k}={v}" for k, v in LABEL.items()))
    try:
        yield
    finally:
        kubectl("label", "node", name, *(f"{k}-" for k in LABEL))


@contextmanager
def pretended_gpus(name: str, count: int) -> Iterator[None]:
    """The node has so many GPUs, as far as Kubernetes knows."""
    given = {"status": {"capacity": {GPU: str(count)}, "allocatable": {GPU: str(count)}}}
    kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(given))
    try:
        yield
    finally:
        taken = {"status": {part: {GPU: None} for part in ("capacity", "allocatable")}}
        kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(taken))


@contextmanager
def pretended_node(name: str, labels: Mapping[str, str]) -> Iterator[None]:
    """A large, empty node with GPUs and their taint. Nothing runs there: for what is bound to it, see `bound_to`."""
    metadata = {"name": name, "labels": {**labels, "countersign/pretended": "true", "kubernetes.io/os": "linux"}}
    made = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": [TAINT]}}
    try:
        kubectl("create", "-f", "-", given=json.dumps(made))
        beat(name)
        wait(
            lambda: "not-ready" not in kubectl("get", "node", name, "-o", "jsonpath={.spec.taints}"), f"{name} counts as ready", patience=40
        )
        yield
    finally:
        kubectl("delete", "node", name, "--ignore-not-found")


def beat(name: str) -> None:
    """What a kubelet writes of its node every few seconds: a node that is silent for 40 s is given nothing to run."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "Pretended", "message": "a test says so", "lastHeartbeatTime": now}
    status = {"status": {"capacity": HUGE, "allocatable": HUGE, "conditions": [ready]}}
    kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))


def rendered(toy: Toy, **changes: Any) -> dict[str, Any]:
    """The pod that the step's template asks for, as far as the scheduler cares; `changes` are laid over it."""
    templates = toy.space.get("workflowtemplate", "toy")["spec"]["templates"]
    step = next(t for t in templates if t["name"] == "work")
    asked = {"limits": {GPU: step["container"]["resources"]["limits"][GPU]}}
    container = {"name": "main", "image": "localhost/none", "securityContext": SAFE, "resources": asked}
    return {"nodeSelector": step["nodeSelector"], "tolerations": step["tolerations"], "containers": [container], **changes}


@contextmanager
def pod(space: Space, name: str, spec: dict[str, Any]) -> Iterator[str]:
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0, **spec}}
    space.kubectl("create", "-f", "-", given=json.dumps(made))
    try:
        yield name
    finally:
        space.kubectl("delete", "pod", name, "--grace-period=0", "--force", "--ignore-not-found")


def placed(space: Space, name: str) -> tuple[str, str]:
    """The node that a pod is bound to, or why to none, once the scheduler has looked at it."""

    def looked() -> tuple[str, str] | None:
        found = space.get("pod", name)
        said = [c.get("message", "") for c in found["status"].get("conditions", []) if c["type"] == "PodScheduled"]
        where = found["spec"].get("nodeName", "")
        return (where, "") if where else ("", said[0]) if said and said[0] else None

    return wait(looked, f"the scheduler looks at {name}", patience=60)  # type: ignore[no-any-return]


def test_it_waits_and_says_why_and_runs_when_there_is_one(toy: Toy) -> None:
    with ExitStack() as stack:
        stack.enter_context(labelled(node()))
        stack.enter_context(pretended_node("gpu-without-label", {}))
        name = toy.submit()
        try:
            toy.until(name, "pick", Phase.SUCCEEDED)
            waiting = wait(lambda: (n := toy.node(name, "work(0:a)")) and "Insufficient" in n.message and n, "the node says why it waits")
            assert waiting.phase is Phase.PENDING
            assert f"Insufficient {GPU}" in waiting.message
            stack.enter_context(pretended_gpus(node(), 1))
            ended = toy.ended(name)
            assert ended.phase is Phase.SUCCEEDED, ended.message
            raw = toy.space.workflow(name)["status"]["nodes"].values()
            # The pretended node is 30 times the size and empty: the scheduler would have preferred it for each of these.
            assert {n["hostNodeName"] for n in raw if n["type"] == "Pod"} == {node()}
            checked = toy.verify(toy.run_of(name))
            assert (checked["code"], checked["verified"], checked["outcome"]) == (0, True, "done"), checked
        finally:
            toy.space.kubectl("delete", "workflow", name, "--wait=false", check=False)


def test_a_step_whose_node_is_lost_is_tried_again_on_another(toy: Toy) -> None:
    """Kubernetes takes a minute or so to give up the pods of a node that is gone; the next attempts go where a GPU is."""
    with ExitStack() as stack:
        stack.enter_context(pretended_node("gpu-with-label", LABEL))
        name = toy.submit("--set", "pick.at_least=35")  # nothing of the test above is there to reuse
        try:

            def both_bound() -> bool:
                beat("gpu-with-label")
                return len(bound_to(toy.space, name, "gpu-with-label")) == 2

            wait(both_bound, "both are bound to the node", every=3)
            for pod in bound_to(toy.space, name, "gpu-with-label"):
                pretend_to_run(toy.space, pod)
            for task in ("work(0:a)", "work(1:b)"):
                toy.until(name, task, Phase.RUNNING)
            kubectl("delete", "node", "gpu-with-label")
            stack.enter_context(labelled(node()))
            stack.enter_context(pretended_gpus(node(), 2))
            assert toy.ended(name).phase is Phase.SUCCEEDED
            for task in ("work(0:a)", "work(1:b)"):
                lost, done = sorted(toy.attempts(name, task), key=lambda n: str(n.started))
                assert (lost.phase, lost.message, done.phase) == (Phase.ERROR, "pod deleted", Phase.SUCCEEDED)
            toy.sealed(name)
        finally:
            toy.space.kubectl("delete", "workflow", name, "--wait=false", check=False)


def bound_to(space: Space, workflow: str, name: str) -> list[str]:
    """A workflow's pods that are bound to a node."""
    pods = json.loads(space.kubectl("get", "pods", "-l", f"workflows.argoproj.io/workflow={workflow}", "-o", "json"))["items"]
    return [p["metadata"]["name"] for p in pods if p["spec"].get("nodeName") == name]


def pretend_to_run(space: Space, name: str) -> None:
    """What a node's kubelet would write of a pod whose containers have begun."""
    running = {"state": {"running": {}}, "ready": True, "started": True, "restartCount": 0, "image": "", "imageID": ""}
    status = {"status": {"phase": "Running", "containerStatuses": [{"name": c, **running} for c in ("main", "wait")]}}
    space.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))


def test_it_goes_to_the_node_with_gpu_label_and_taint_and_to_no_other(toy: Toy) -> None:
    free: dict[str, Any] = {"resources": {}}
    with pretended_node("gpu-without-label", {}), pretended_node("gpu-with-label", LABEL):
        with pod(toy.space, "as-rendered", rendered(toy)) as name:
            assert placed(toy.space, name) == ("gpu-with-label", "")
        with pod(toy.space, "without-toleration", rendered(toy, tolerations=[])) as name:
            where, why = placed(toy.space, name)
            assert where == ""
            assert "untolerated taint" in why, why
        plain = rendered(toy, tolerations=[], nodeSelector={})
        plain["containers"] = [plain["containers"][0] | free]
        with pod(toy.space, "without-gpu", plain) as name:
            assert placed(toy.space, name) == (node(), ""), "no GPU's node is taken by a step that asks for none"
    with pretended_node("gpu-without-label", {}), pod(toy.space, "no-label-anywhere", rendered(toy)) as name:
        where, why = placed(toy.space, name)
        assert where == ""
        assert "node affinity/selector" in why, why


def test_nothing_is_left_behind(toy: Toy) -> None:
    """Of the tests above, whichever ran before: the node is as it was."""
    del toy
    found = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    assert [n["metadata"]["name"] for n in found] == [node()]
    assert GPU not in {**found[0]["status"]["capacity"], **found[0]["status"]["allocatable"]}
    assert not LABEL.keys() & found[0]["metadata"]["labels"].keys()
