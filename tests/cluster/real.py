"""A real cluster as the tests use it: kubectl, the store's folder on the node, and the toy pipeline in a namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
import urllib3
from kubernetes.client import CustomObjectsApi
from kubernetes.config import new_client_from_config

from tests.conftest import ROOT, Home, Said
from workflows.cluster.following import ON_EXIT, SEAL
from workflows.cluster.interface import Phase
from workflows.cluster.reading import progress

SLOW = ("--set", "work.mode=slow", "--set", "work.seconds=25")
PATIENCE = 300.0  # seconds for a workflow to come to where a test wants it
SOURCE = "countersign"  # the namespace whose secrets and settings tests copy
SERVERS = ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields")
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
SECRETS = ("countersign-store", "countersign-signing-key", "countersign-masking-key", "countersign-artifacts")


def kubectl(*words: str, given: str | None = None, check: bool = True) -> str:
    done = subprocess.run(["kubectl", *words], input=given, capture_output=True, text=True, check=False, timeout=120)
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(words)}: {done.stderr}")
    return done.stdout


@cache
def _objects(kubeconfig: str) -> CustomObjectsApi:
    return CustomObjectsApi(new_client_from_config(kubeconfig))


def wait(what: Callable[[], Any], why: str, *, patience: float = PATIENCE, every: float = 0.5) -> Any:
    """What `what` answers once it is true-ish; the reason as an assertion where it never is."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(every)
    raise AssertionError(f"not within {patience:.0f} s: {why}")


def server_address() -> str:
    """Where Argo's server listens."""
    service = json.loads(kubectl("-n", "argo", "get", "service", "argo-server", "-o", "json"))
    return f"{service['spec']['clusterIP']}:2746"


def from_server(path: str, *, method: str = "GET", body: Any = None, token: str = "") -> urllib3.BaseHTTPResponse:
    """What Argo's server answers a browser, byte for byte. Its certificate is one that it made itself."""
    headers = {"Authorization": token} if token else {}
    with urllib3.PoolManager(cert_reqs="CERT_NONE") as pool, pytest.warns(urllib3.exceptions.InsecureRequestWarning):
        return pool.request(method, f"https://{server_address()}/{path}", json=body, headers=headers)


@dataclass(frozen=True, kw_only=True)
class Space:
    """A namespace that pipelines run in, as `infra/argo` makes it."""

    name: str

    def kubectl(self, *words: str, given: str | None = None, check: bool = True) -> str:
        return kubectl("-n", self.name, *words, given=given, check=check)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def workflow(self, name: str) -> dict[str, Any]:
        """As `get`, for whoever looks again and again: over one connection, not by a program each time."""
        objects = _objects(os.environ["KUBECONFIG"])
        answer: Any = objects.get_namespaced_custom_object("argoproj.io", "v1alpha1", self.name, "workflows", name, _request_timeout=60)
        found: dict[str, Any] = answer
        return found

    def patch(self, kind: str, name: str, change: Mapping[str, Any]) -> None:
        self.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps(change))

    def replace(self, changed: Mapping[str, Any]) -> None:
        """Put an object that was read and changed back, without what the server wrote, which `apply` notes and trips over."""
        own = {k: v for k, v in changed["metadata"].items() if k not in SERVERS}
        own["annotations"] = {k: v for k, v in own.get("annotations", {}).items() if k != LAST_APPLIED}
        self.kubectl("apply", "-f", "-", given=json.dumps({**changed, "metadata": own}))

    @contextmanager
    def without(self, kind: str, name: str) -> Iterator[None]:
        """While this lasts, the object is not there."""
        kept = self.get(kind, name)
        self.kubectl("delete", kind, name)
        try:
            yield
        finally:
            self.replace(kept)

    @contextmanager
    def told(self, secret: str, values: Mapping[str, str]) -> Iterator[None]:
        """While this lasts, a Secret says something else."""
        kept = self.get("secret", secret)["data"]
        self.patch("secret", secret, {"stringData": values})
        try:
            yield
        finally:
            self.patch("secret", secret, {"data": kept})


@dataclass(kw_only=True)
class Toy:
    """A checkout of the toy pipeline, its template in a namespace, and the store that both use."""

    home: Home
    space: Space
    env: dict[str, str]
    bucket: str
    prefix: str
    client: Any
    submitted: list[str] = field(default_factory=list)

    def ask(self, *words: str) -> Said:
        return self.home.ask(*words, env=self.env)

    def submit(self, *words: str) -> str:
        """Submit, and the workflow's name."""
        said = self.ask("submit", "toy", "--namespace", self.space.name, "--json", *words)
        assert said.code == 0, said.err + said.out
        self.submitted.append(said.json["workflow"])
        return self.submitted[-1]

    def workflow(self, name: str) -> Any:
        return progress(self.space.workflow(name))

    def attempts(self, name: str, shown: str) -> list[Any]:
        """The pod nodes of a task, `work(0:a)` or `seal`: with retries, one an attempt."""
        called = f"{name}{ON_EXIT}" if shown == SEAL else shown
        return [n for n in self.workflow(name).nodes if n.kind == "Pod" and (n.name == called or n.name.startswith(f"{called}("))]

    def node(self, name: str, shown: str) -> Any:
        """The newest of these."""
        found = self.attempts(name, shown)
        return max(found, key=lambda n: n.started.timestamp() if n.started else 0.0) if found else None

    def until(self, name: str, shown: str, *phases: Phase) -> Any:
        """Wait until a task's newest pod is in one of these phases."""

        def there() -> Any:
            node = self.node(name, shown)
            return node if node and node.phase in phases else None

        return wait(there, f"{shown} of {name} is {phases}")

    def suspend_after(self, name: str, shown: str) -> None:
        """Suspend a workflow by hand while this task is at work, and wait until that is done."""
        self.until(name, shown, Phase.PENDING, Phase.RUNNING)
        self.argo("suspend", name)
        self.until(name, shown, Phase.SUCCEEDED)

    def ended(self, name: str) -> Any:
        return wait(lambda: (w := self.workflow(name)).phase.ended and w, f"{name} ends")

    def pod_of(self, name: str, shown: str) -> str:
        """The name of a task's running pod."""
        node = self.until(name, shown, Phase.RUNNING)
        pods = json.loads(self.space.kubectl("get", "pods", "-l", f"workflows.argoproj.io/workflow={name}", "-o", "json"))["items"]
        found = [p for p in pods if p["metadata"]["annotations"].get("workflows.argoproj.io/node-id") == node.id]
        assert len(found) == 1, [p["metadata"]["name"] for p in pods]
        return str(found[0]["metadata"]["name"])

    def begun(self, name: str, shown: str) -> str:
        """The name of a task's running pod, once its step has begun."""
        pod = self.pod_of(name, shown)
        wait(lambda: "started" in self.space.kubectl("logs", pod, "-c", "main", check=False), f"{shown} of {name} has begun")
        return pod

    def argo(self, *words: str) -> None:
        done = subprocess.run(["argo", *words, "-n", self.space.name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def runs(self) -> list[dict[str, Any]]:
        return list(self.ask("show", "--json").json["runs"])

    def run_of(self, name: str) -> str:
        """The run that a workflow's exit handler noted."""
        return str(self.space.workflow(name)["metadata"]["annotations"]["countersign/run"])

    def planned_run(self, name: str) -> str:
        """The run that a workflow's first task put out, noted or not."""
        return str(self.node(name, "plan").outputs["run"])

    def verify(self, run: str) -> Any:
        said = self.ask("verify", run, "--json")
        return {**said.json, "code": said.code}

    def sealed(self, name: str, outcome: str = "done") -> str:
        """A workflow's run, once it is seen that it is sealed, verifies byte for byte, and came to this."""
        run = self.run_of(name)
        checked = self.verify(run)
        assert (checked["code"], checked["verified"], checked["outcome"]) == (0, True, outcome), checked
        return run

    def steps(self, run: str) -> list[dict[str, Any]]:
        return list(self.ask("show", run, "--json").json["steps"])

    def digest_of(self, name: str, task: str, artifact: str) -> str:
        return str(self.node(name, task).outputs[artifact])

    def key_of(self, sha256: str) -> str:
        """Where the object with this content lies in the bucket."""
        for key in self.content():
            if self.client.head_object(Bucket=self.bucket, Key=key)["Metadata"].get("sha256") == sha256:
                return key
        raise AssertionError(f"no object with sha256 {sha256}")

    def content(self) -> set[str]:
        """Where content lies in the bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}files/md5/")
        return {entry["Key"] for page in pages for entry in page.get("Contents", [])}

    def delete_record(self, sha256: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}records/{sha256}")


def new_space(name: str) -> Space:
    """A namespace like `countersign`, with its secrets and settings, and a store of its own."""
    with tempfile.TemporaryDirectory(dir=ROOT / "infra/argo") as folder:
        (Path(folder) / "kustomization.yaml").write_text(
            f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: {name}\nresources:\n- ../overlays/local\n"
        )
        kubectl("apply", "--server-side", "--force-conflicts", "-k", folder)
    space = Space(name=name)
    for secret in SECRETS:
        found = json.loads(kubectl("-n", SOURCE, "get", "secret", secret, "-o", "json"))
        found["metadata"] = {"name": secret, "labels": found["metadata"].get("labels", {})}
        space.kubectl("apply", "-f", "-", given=json.dumps(found))
    settings = json.loads(kubectl("-n", SOURCE, "get", "configmap", "countersign", "-o", "json"))["data"]
    # What tests left in a store before is nothing to these.
    space.patch("configmap", "countersign", {"data": {**settings, "store": f"s3://{_bucket(settings)}/{name}-{time.time_ns()}"}})
    return space


def token_of(space: Space, account: str) -> str:
    return space.kubectl("create", "token", account, "--duration=1h").strip()


def only_as(space: Space, account: str, folder: Path) -> dict[str, str]:
    """The environment of someone who has this account of the namespace, and no other way in."""
    raw = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    raw["users"][0]["user"] = {"token": token_of(space, account)}
    (folder / "kubeconfig").write_text(json.dumps(raw))
    return {"KUBECONFIG": str(folder / "kubeconfig")}


def admit(space: Space, who: str) -> str:
    """Give somebody an account of the namespace's own, with the right to submit; how the API server names it."""
    space.kubectl("create", "serviceaccount", who)
    space.kubectl("create", "rolebinding", who, "--role=countersign-submitter", f"--serviceaccount={space.name}:{who}")
    return f"system:serviceaccount:{space.name}:{who}"


def _bucket(settings: Mapping[str, str]) -> str:
    return settings["store"].removeprefix("s3://").split("/")[0]


def store_environment(space: Space) -> dict[str, str]:
    """What a laptop sets to reach the store of a namespace from the node."""
    import base64

    settings = space.get("configmap", "countersign")["data"]
    secret = space.get("secret", "countersign-store")["data"]
    address = json.loads(kubectl("-n", "store", "get", "service", "s3", "-o", "json"))["spec"]["clusterIP"]
    return {
        "COUNTERSIGN_STORE": settings["store"],
        "AWS_ENDPOINT_URL_S3": f"http://{address}:7070",
        "AWS_REGION": settings["region"],
        **{k: base64.b64decode(v).decode() for k, v in secret.items()},
        "KUBECONFIG": os.environ["KUBECONFIG"],
    }


def store_client(env: Mapping[str, str]) -> Any:
    """The store as boto3 reaches it, given what a laptop sets."""
    session = boto3.session.Session(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], region_name=env["AWS_REGION"])
    return session.client("s3", endpoint_url=env["AWS_ENDPOINT_URL_S3"])


def toy_in(space: Space, home: Home) -> Toy:
    """The toy pipeline installed in a namespace, and a checkout to submit it from."""
    said = home.ask("compile")
    assert said.code == 0, said.err
    manifest = home.path / "infra/argo/workflows/toy.yaml"
    space.kubectl("apply", "-f", str(manifest))
    env = store_environment(space)
    bucket, _, prefix = env["COUNTERSIGN_STORE"].removeprefix("s3://").partition("/")
    return Toy(home=home, space=space, env=env, bucket=bucket, prefix=f"{prefix}/", client=store_client(env))
