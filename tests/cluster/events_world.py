"""infra/events, installed whole into namespaces of its own on a real cluster, with a pipeline whose template only waits."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.compile.example import DECLARED
from tests.conftest import ROOT
from tests.s3server import free_port
from workflows.compile import events
from workflows.compile.triggers import Triggers

GITHUB = "example-bank/models"
GITLAB = "risk/models"
NUMBERS = itertools.count(1)
NO_FINALIZERS = '{"metadata": {"finalizers": null}}'
BUS_USER = 8737
OVERRIDES = {"train_it.words": 'a "quote", `tick`, {{x}} \\ ü', "train_it.rate": 0.5}
TEMPLATE = {
    "apiVersion": "argoproj.io/v1alpha1",
    "kind": "WorkflowTemplate",
    "metadata": {"name": "an-example"},
    "spec": {
        "entrypoint": "wait",
        "arguments": {
            "parameters": [
                {"name": "code", "value": "of-the-template"},
                {"name": "revision", "value": "of-the-template"},
                {"name": "parameters", "value": "form", "enum": ["form", "code"]},
                {"name": "overrides", "value": "{}"},
            ]
        },
        # It starts no pod, so that hundreds of them are no load.
        "templates": [{"name": "wait", "suspend": {}}],
    },
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the sender of a push sees: 0 where the connection ended without an answer."""

    status: int
    text: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class World:
    """An installation, and how to push to it."""

    namespace: str
    secrets: dict[str, str]
    sensors: tuple[str, ...] = ("an-example-dev", "an-example-staging")
    ports: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def dev(self) -> str:
        return f"{self.namespace}-dev"

    @property
    def staging(self) -> str:
        return f"{self.namespace}-staging"

    def send(self, host: str, body: bytes, headers: dict[str, str], *, method: str = "POST", path: str = events.ENDPOINT) -> Answer:
        address, port = self.ports[host]
        connection = http.client.HTTPConnection(address, port, timeout=30)
        start = time.monotonic()
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has heard enough; its answer may still be read
                connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return Answer(status=response.status, text=response.read().decode().strip(), seconds=time.monotonic() - start)
        except (ConnectionError, http.client.BadStatusLine):
            return Answer(status=0, seconds=time.monotonic() - start)
        finally:
            connection.close()

    def workflows(self, namespace: str) -> dict[str, Any]:
        """Name -> workflow."""
        return {w["metadata"]["name"]: w for w in kubectl_json("get", "workflows", "--namespace", namespace)["items"]}

    def wait_for(self, name: str, namespace: str) -> Any:
        return until(lambda: self.workflows(namespace).get(name), f"workflow {namespace}/{name}")


def kubectl(*words: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(["kubectl", *words], input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(words[:6])}: {done.stderr.strip()[-2000:]}")
    return done.stdout + ("" if check else done.stderr)


def kubectl_json(*words: str) -> Any:
    return json.loads(kubectl(*words, "--output", "json"))


def apply(folder: Path) -> None:
    kubectl("apply", "--server-side", "--force-conflicts", "--kustomize", str(folder))


def until(look: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    """The first answer that is something; a failure that says what was waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.5)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


def install(scratch: Path, world: World, compiled: Mapping[str, str]) -> World:
    """As docs/triggers.md says: controller, secrets, overlay. `compiled`: the manifests of the sensors and sources, by file."""
    copied = _copy(scratch, world, compiled)
    for name in (world.dev, world.staging):
        kubectl("create", "namespace", name)
        kubectl("apply", "--namespace", name, "--filename", "-", stdin=json.dumps(TEMPLATE))
    apply(copied / "overlays/local/controller")
    kubectl(
        "wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{n}.argoproj.io" for n in ("eventbus", "eventsources", "sensors"))
    )
    made = subprocess.run(
        ["python", ROOT / "infra/events/make_secrets.py", "--namespace", world.namespace], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    apply(copied / "overlays/local")
    _disk(scratch, world)
    for host, key in (("github", "secret"), ("gitlab", "token")):
        data = kubectl_json("get", "secret", f"countersign-{host}", "--namespace", world.namespace)["data"]
        world.secrets[host] = base64.b64decode(data[key]).decode()
    ready(world)
    return world


def _disk(scratch: Path, world: World) -> None:
    """Where the cluster has no provisioner, and this machine is its node: a folder of it, for the bus."""
    if kubectl_json("get", "storageclasses")["items"]:
        return
    folder = scratch / "bus"
    folder.mkdir()
    os.chown(folder, BUS_USER, BUS_USER)
    for parent in (scratch, *scratch.parents[:2]):  # pytest lets nobody else in
        parent.chmod(0o755)
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{world.namespace}-bus"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "claimRef": {"namespace": world.namespace, "name": "data-countersign-bus-0"},
            "hostPath": {"path": str(folder), "type": "Directory"},
        },
    }
    kubectl("apply", "--filename", "-", stdin=json.dumps(volume))


def ready(world: World) -> None:
    """Event sources run and every trigger has subscribed: what is pushed before the first time it does is not for it."""
    until(lambda: len(found := _deployments(world)) == 4 and all(found.values()), f"deployments of {world.namespace}", 480)
    for host in events.HOSTS:  # one that started before the bus did ends after some seconds, and is started again
        until(functools.partial(_connected, world, host.name), f"{host.name} to reach the bus", 240)
    for sensor in world.sensors:
        until(functools.partial(_subscribed, world, sensor), f"{sensor} to subscribe", 240)


def _connected(world: World, source: str) -> bool:
    return "Connected to NATS" in kubectl(
        "logs", "--namespace", world.namespace, "--selector", f"eventsource-name={source}", "--tail=-1", check=False
    )


def _subscribed(world: World, sensor: str) -> bool:
    log = kubectl("logs", "--namespace", world.namespace, "--selector", f"sensor-name={sensor}", "--tail=-1", check=False)
    return log.count("Subscribing to subject") >= len(events.HOSTS)


def _deployments(world: World) -> dict[str, bool]:
    found = kubectl_json("get", "deployments", "--namespace", world.namespace, "--selector", "controller!=x,owner-name")["items"]
    return {d["metadata"]["name"]: d["status"].get("readyReplicas", 0) == d["spec"]["replicas"] for d in found}


def of_the_example(world: World) -> dict[str, str]:
    """The triggers of an example that only waits, compiled."""
    triggers = Triggers.model_validate_json(
        json.dumps(
            {
                "repositories": {"github": [GITHUB], "gitlab": [GITLAB]},
                "environments": {"dev": {"namespace": world.dev}, "staging": {"namespace": world.staging}},
                "branches": {
                    "main": {"environment": "dev", "pipelines": {"an_example": {}}},
                    "release": {"environment": "staging", "pipelines": {"an_example": OVERRIDES}},
                },
            }
        )
    )
    return {Path(path).name: text for path, text in events.manifests(triggers, [DECLARED]).items()}


def _copy(scratch: Path, world: World, compiled: Mapping[str, str]) -> Path:
    """The folder with what was compiled in it, and with the test's own names for what a cluster has once."""
    top = scratch / "events"
    shutil.copytree(ROOT / "infra/events", top, ignore=shutil.ignore_patterns("compiled", "__pycache__"))
    (top / "compiled").mkdir()
    for name, text in compiled.items():
        (top / "compiled" / name).write_text(text)
    for file in (f for f in top.rglob("*.yaml") if "upstream" not in f.relative_to(top).parts):
        text = (
            file.read_text().replace(events.NAMESPACE, world.namespace).replace("countersign-webhook-secrets", f"{world.namespace}-secrets")
        )
        file.write_text(text)
    # Here the environments are namespaces of their own.
    overlay = top / "overlays/local/kustomization.yaml"
    overlay.write_text(overlay.read_text().partition("replacements:")[0])
    return top


@contextmanager
def reached(world: World) -> Iterator[World]:
    """The addresses of the event sources: their services' own where this machine is a node, else forwarded ports."""
    forwards = []
    for host in events.HOSTS:
        service = f"{host.name}-eventsource-svc"
        address = kubectl_json("get", "service", service, "--namespace", world.namespace)["spec"]["clusterIP"]
        place = (address, host.port)
        if not any(_open(place) for _ in range(10)):
            place = ("127.0.0.1", free_port())
            words = ["kubectl", "port-forward", "--namespace", world.namespace, f"service/{service}", f"{place[1]}:{host.port}"]
            forwards.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        until(functools.partial(_open, place), f"{host.name} at {place}", 30)
        world.ports[host.name] = place
    try:
        yield world
    finally:
        for process in forwards:
            process.terminate()
            process.wait()


def _open(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=1).close()
    except OSError:
        time.sleep(0.5)
        return False
    return True


def remove(world: World) -> None:
    """Everything but the CRDs, which others may use."""
    for kind in ("sensors", "eventsources", "eventbus"):  # while the controller is still there to take its finalizers away
        kubectl("delete", kind, "--all", "--namespace", world.namespace, "--ignore-not-found", "--timeout=60s", check=False)
        for name in kubectl("get", kind, "--namespace", world.namespace, "--output", "name", check=False).splitlines():
            if "/" in name:  # it was not; the namespace would wait for ever
                kubectl("patch", name, "--namespace", world.namespace, "--type=merge", "--patch", NO_FINALIZERS, check=False)
    for name in (world.dev, world.staging, world.namespace):
        kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false", check=False)
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        kubectl("delete", kind, f"{world.namespace}-secrets", "--ignore-not-found", check=False)
    kubectl("delete", "persistentvolume", f"{world.namespace}-bus", "--ignore-not-found", "--wait=false", check=False)


def new_namespace() -> str:
    """One that no other world of this or another session had: the last one may still be going away."""
    return f"events-test-{os.getpid() % 100000}-{next(NUMBERS)}"
