"""The local cluster itself: a second `up` changes nothing, and what was ended comes back with it.

It is not taken down here: other tests use it. COUNTERSIGN_TEST_CLUSTER_DOWN=1 does that as well, and brings it up again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import FlexibleChecksumError

from infra.cluster import around, down, images, loading, memory, network, node, programs, services
from infra.cluster.kube import Kube, connect
from infra.cluster.settings import BUCKET, NAME, ROOT, Places

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(1800)]
PLACES = Places.from_environment()
DAEMONS = ("containerd", "kubelet", "kube-proxy")


def ask(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    here = {k: v for k, v in os.environ.items() if k != "KUBECONFIG"}
    return subprocess.run(
        [sys.executable, str(ROOT / "infra/cluster"), *words], env={**here, **env}, capture_output=True, text=True, check=False, cwd="/"
    )


def up() -> str:
    said = ask("--on", "local", "up", "--no-step-image")
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def state() -> dict[str, Any]:
    said = ask("--on", "local", "status", "--json")
    answer: dict[str, Any] = json.loads(said.stdout)
    assert (said.returncode == 0) == answer["up"]
    return answer


def pids() -> dict[str, int | None]:
    return {n: d.pid() for n, d in node.daemons(PLACES).items()}


@pytest.fixture(scope="module")
def local() -> Kube:
    """The local cluster, which must be up already: no test starts an hour of work that nobody asked for."""
    if not PLACES.kubeconfig.exists() or os.geteuid() != 0:
        message = "no local cluster is here, or not as root: make cluster-up"
        (pytest.fail if os.environ.get("COUNTERSIGN_TEST_ALL") else pytest.skip)(message)
    up()
    return connect(PLACES, str(PLACES.kubeconfig))


def pods(kube: Kube) -> dict[str, str]:
    """Each pod that stays, and its identity."""
    items = (kube.get("pods", "--all-namespaces") or {"items": []})["items"]
    owned = [p for p in items if p["metadata"]["namespace"] in {"kube-system", "store"}]
    return {p["metadata"]["name"]: p["metadata"]["uid"] for p in owned}


def wait_until(what: str, holds: Any, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(1)


@contextmanager
def pod(kube: Kube, name: str, program: str, args: list[str]) -> Iterator[None]:
    """One of the cluster's own programs in a pod of its own; gone afterwards."""
    image = next(i for i in (*images.NODE_IMAGES, *images.SERVICE_IMAGES) if i.name == program)
    spec = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "main",
                "image": image.reference,
                "args": args,
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    kube.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}))
    try:
        yield
    finally:
        kube.do("delete", "pod", name, "-n", "default", "--now")


def phase_of(kube: Kube, name: str) -> str:
    found = kube.get("pod", name, "-n", "default")
    return str(found["status"]["phase"]) if found else ""


@pytest.mark.usefixtures("local")
def test_status_names_every_part_and_all_are_up() -> None:
    answer = state()
    assert answer["cluster"] == "local"
    assert {p["part"] for p in answer["parts"]} >= {
        "network",
        *DAEMONS,
        "API server",
        f"node {NAME}",
        "kube-system/coredns",
        "store/s3",
        "S3",
    }
    assert answer["up"], answer


def test_a_second_up_changes_nothing(local: Kube) -> None:
    before = pids(), pods(local)
    out = up()
    assert (pids(), pods(local)) == before
    for phase in ("network", "control plane", *DAEMONS, "node images", "images", "API server", "node", "CoreDNS", "S3"):
        lines = [line for line in out.splitlines() if line.startswith(f"  {phase:<24}")]
        assert len(lines) == 1, phase
        assert "already" in lines[0], lines
    assert str(PLACES.kubeconfig) in out


@pytest.mark.parametrize("name", DAEMONS)
def test_what_was_killed_comes_back_and_no_pod_is_lost(local: Kube, name: str) -> None:
    before, pod_ids = pids(), pods(local)
    killed = before[name]
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    wait_until(f"{name} is gone", lambda: node.daemons(PLACES)[name].pid() is None, 20)
    part = next(p for p in state()["parts"] if p["part"] == name)
    assert (part["up"], "not running" in part["detail"]) == (False, True)
    up()
    after = pids()
    assert after[name] not in {None, killed}
    assert {n: after[n] for n in DAEMONS if n != name} == {n: before[n] for n in DAEMONS if n != name}
    assert pods(local) == pod_ids
    wait_until("all is up", lambda: state()["up"])


def test_an_up_that_was_interrupted_goes_on(local: Kube) -> None:
    """Ended in the middle of starting kubelet: no half-started thing is left that a second `up` could not take over."""
    node.daemons(PLACES)["kubelet"].stop()
    words = [sys.executable, str(ROOT / "infra/cluster"), "--on", "local", "up", "--no-step-image"]
    first = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={k: v for k, v in os.environ.items() if k != "KUBECONFIG"})
    with first:
        assert first.stdout is not None
        next(line for line in first.stdout if line.startswith("  node images"))
        first.kill()
    up()
    assert all(pids().values())
    assert local.nodes() == {NAME: True}


def test_the_network_is_made_whole_again(local: Kube) -> None:
    """A pod whose cable was pulled and a fence that was opened: both as they were after `up`. The pod is the test's own."""
    with pod(local, "unplugged", "pause", []):
        wait_until("the pod runs", lambda: phase_of(local, "unplugged") == "Running")
        notes = (f.read_text() for f in network.CNI_RESULTS.glob(f"{NAME}-*"))
        (cable,) = network.cables_in(next(n for n in notes if '"unplugged"' in n))
        subprocess.run(["ip", "link", "set", cable, "nomaster"], check=True)
        subprocess.run(["iptables", "-w", "-D", *network.fence_rules()[-1]], check=True)
        assert network.loose_ends() == [cable]
        assert not network.holds(PLACES)
        out = up()
        assert "set up" in next(line for line in out.splitlines() if line.startswith("  network "))
        assert network.loose_ends() == []
        assert network.holds(PLACES)
    wait_until("all is up", lambda: state()["up"])


def test_the_store_answers_from_the_node_and_lies_on_its_disk(local: Kube) -> None:
    url = services.store_url(local)
    assert url is not None
    s3 = services.client(local, url)
    key = f"cluster-test/{time.time_ns()}"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"as it was")
    try:
        path = PLACES.store / "data" / BUCKET / key
        assert path.read_bytes() == b"as it was"
        path.write_bytes(b"as it is!")
        with pytest.raises(FlexibleChecksumError):  # damage arrives, and S3's own checksum tells
            s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    finally:
        s3.delete_object(Bucket=BUCKET, Key=key)


def test_pods_find_services_by_name_and_nothing_beyond_the_machine(local: Kube) -> None:
    """`versitygw admin` needs no more than an address to say whether it reaches one: the store then refuses its keys."""

    def last_words(name: str, endpoint: str) -> str:
        words = ["admin", "--access", "a", "--secret", "b", "--endpoint-url", endpoint, "list-buckets"]
        with pod(local, name, "versitygw", words):
            wait_until(f"{name} ends", lambda: phase_of(local, name) in {"Succeeded", "Failed"})
            return local.do("logs", name, "-n", "default")

    inside = last_words("finds-the-store", "http://s3.store.svc:7070")
    assert "XAdminUserNotFound" in inside, inside
    outside = last_words("finds-nothing", "http://203.0.113.1:80")
    assert "no route to host" in outside, "refused by the fence at once, instead of going unanswered"


def test_load_brings_an_image_into_the_cluster(local: Kube, tmp_path: Path) -> None:
    image = images.Image(name="loaded-by-a-test", group="pause", program="pause")
    archive = images.write_archive(image, programs.program(PLACES, "pause"), tmp_path)
    said = ask("--on", "local", "load", str(archive))
    assert (said.returncode, said.stdout.strip()) == (0, image.reference)
    try:
        listed = loading.ctr(PLACES, "images", "ls")
        (line,) = [x for x in listed.splitlines() if x.startswith(f"{image.reference} ")]
        assert f"{loading.PIN_LABEL}=pinned" in line
    finally:
        loading.ctr(PLACES, "images", "rm", image.reference)
    assert local.answers()


@pytest.mark.usefixtures("local")
def test_env_is_what_a_shell_needs() -> None:
    out = ask("--on", "local", "env").stdout
    told = subprocess.run(
        ["bash", "-c", f"{out}\nkubectl get --raw=/readyz && command -v argo && echo $AWS_ENDPOINT_URL"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert told[0] == "ok" or told[0].startswith("ok")
    assert told[-1].startswith("http://198.19.")


@pytest.mark.skipif(not os.environ.get(around.MAY_END), reason=f"takes the cluster away: set {around.MAY_END}=1")
@pytest.mark.last
@pytest.mark.usefixtures("local")
def test_down_leaves_nothing_behind() -> None:
    said = ask("--on", "local", "down")
    assert said.returncode == 0, said.stdout + said.stderr
    assert not PLACES.state.exists()
    assert network.owner() is None
    assert not list(down.leftover_processes(PLACES))
    assert not down.pod_cgroups()
    assert not memory.mounts_below(PLACES.state)
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in rules.splitlines() if "KUBE-" in line or network.FENCE in line]
    assert ask("--on", "local", "down").returncode == 0, "a second time is done at once"
