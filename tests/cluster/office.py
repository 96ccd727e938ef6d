"""Production on a real cluster: an environment's namespace with all its policies, runs in its store, an application that asks."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq
import pytest
import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.cluster import audited
from tests.cluster.bank import LAPTOP, Bank
from tests.cluster.real import admit, kubectl, only_as
from tests.conftest import ROOT
from tests.promote.world import because, environment
from tests.serve import world as served
from tests.serve.logs import SIGNER
from tests.serve.process import metrics_of
from workflows.cluster import publishing
from workflows.prove import canonical
from workflows.prove.signature import Keyring, Signer, private_pem
from workflows.run.store.interface import Store
from workflows.run.store.open import open_store
from workflows.serve import chain as chains
from workflows.serve.shipping import content_of

NAME = "loan-approval"
GOOD, BETTER, BAD = "loan-approval-aaaaaaaaaaaa", "loan-approval-bbbbbbbbbbbb", "loan-approval-cccccccccccc"
ROLES = {"promoter": "promoter", "validator": "vera", "owner": "olga"}
"""Who is what; each has a key in a folder of their own."""
SERVER = Ed25519PrivateKey.from_private_bytes(bytes(range(100, 132)))


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What may be promoted, and applications to ask about."""

    good: str
    better: str
    bad: str
    """It approves everybody."""
    keys: Mapping[str, str]
    """Ids of the keys that signed them, and their PEM."""
    submitter: str = ""
    """The account that submitted them to the cluster; nothing where nobody did."""
    gates: tuple[str, ...]
    features: Sequence[Mapping[str, Any]]
    """Applications that the good one approves, and others that it declines, by turns."""


def small(bank: Bank, store: Store) -> Runs:
    """Runs of a small model, sealed by these tests: quickly there, for what is not about how a model came to be."""
    for run, training in ((GOOD, {}), (BETTER, {"profile": {"seed": 2}}), (BAD, {"threshold": 0.001})):
        made = served.make(bank.scratch / run, run=run, training=training)
        for path in sorted(p for p in (made.store.content / "files/md5").rglob("*") if p.is_file()):
            store.put_content(path)
        for folder in ("records", "runs"):
            for name, data in made.store.list_documents(folder).items():
                store.put_document(f"{folder}/{name}", data)
    store.put_document(f"keys/{SIGNER.keyid}.pem", SIGNER.public_pem)
    features = (served.FEATURES, served.DECLINED)
    names = {"good": GOOD, "better": BETTER, "bad": BAD}
    return Runs(**names, keys={SIGNER.keyid: SIGNER.public_pem.decode()}, gates=("performance",), features=features)


def from_gates(bank: Bank, store: Store) -> Runs:
    """Runs of the loan model on its real data, each through all of its gates.

    A laptop computes them. An engineer with an account of her own submits them to the cluster, which reuses every result.
    """
    (bank.scratch / "loan").mkdir()
    home, space = audited.prepared(bank.scratch / "loan"), bank.toy.space
    space.patch("secret", "countersign-masking-key", {"stringData": {"masking_key": audited.MASKING}})
    submitter = admit(space, "engineer")
    (bank.scratch / "engineer").mkdir()
    engineer = {**bank.toy.env, **only_as(space, "engineer", bank.scratch / "engineer")}

    def ask(*words: str, env: Mapping[str, str] = engineer) -> Any:
        said = home.ask(*words, "--json", within=audited.LONG, env=env)
        assert said.code == 0, said.err + said.out
        return said.json

    ask("publish", "--templates", "--namespace", space.name, env=bank.toy.env)
    # Where it counts as an environment, the API server refuses a workflow that names somebody else as its submitter.
    kubectl("label", "namespace", space.name, "countersign/environment=dev", "--overwrite")
    changes = {"good": (), "better": ("--set", "train.profile.seed=2"), "bad": ("--set", "train.threshold=0.001")}
    workflows: dict[str, str] = {}
    features: list[dict[str, Any]] = []
    for name, change in changes.items():
        ask("run", "loan_approval", *change)
        features = features or by_turns(home.path / "artifacts/loan_approval")
        workflows[name] = ask("submit", "loan_approval", *change, "--namespace", space.name)["workflow"]
    runs = {name: ask("watch", workflow, "--namespace", space.name) for name, workflow in workflows.items()}
    assert {r["outcome"] for r in runs.values()} == {"reused"}, runs
    names, gates = {name: r["run"] for name, r in runs.items()}, tuple(g["gate"] for g in runs["good"]["gates"])
    keys = {Path(n).stem: pem.decode() for n, pem in store.list_documents("keys").items()}
    return Runs(**names, keys=keys, submitter=submitter, gates=gates, features=features)


def by_turns(artifacts: Path) -> list[dict[str, Any]]:
    """Applications of a run's hold-out, one that it approved and one that it declined by turns."""
    rows = pq.read_table(artifacts / "holdout_rows.parquet").drop_columns(["subject", "label"]).to_pylist()
    decisions = pq.read_table(artifacts / "predictions.parquet")["decision"].to_pylist()
    sides = [[r for r, d in zip(rows, decisions, strict=True) if d == side] for side in ("approved", "declined")]
    return [r for pair in zip(*sides, strict=False) for r in pair]


class Caller:
    """An application that asks for decisions all the time, and notes what it is answered.

    `keep`: over one connection for as long as the server leaves it open, as clients with a pool do; else over a new one each time.
    `groups`: attribute -> the groups that applicants say, two applicants each by turns: of each group one is approved, one declined.
    """

    def __init__(
        self,
        url: str,
        *,
        pause: float = 0.05,
        features: Sequence[Mapping[str, Any]] = (served.FEATURES, served.DECLINED),
        keep: bool = False,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.url, self.pause, self.features, self.stop = url, pause, features, threading.Event()
        self.groups = groups or {}
        self.headers = {"content-type": "application/json"} | ({} if keep else {"connection": "close"})
        self.pool = urllib3.PoolManager(maxsize=1, retries=False, timeout=10)
        self.answered: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        """That each answer took."""
        self.failed: list[str] = []
        self.thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(30)

    def _work(self) -> None:
        n = 0
        while not self.stop.wait(self.pause):
            n += 1
            groups = {"groups": {a: names[n // 2 % len(names)] for a, names in self.groups.items()}} if self.groups else {}
            body = json.dumps({"subject": f"applicant-{n}", "features": self.features[n % len(self.features)], **groups}).encode()
            begun = time.monotonic()
            try:
                answer = self.pool.request("POST", f"{self.url}/v1/decisions", body=body, headers=self.headers)
            except urllib3.exceptions.HTTPError as error:
                self.failed.append(f"{time.time():.1f} {error}")
                continue
            if answer.status != HTTPStatus.OK:
                self.failed.append(f"{time.time():.1f} {answer.status} {answer.data[:500]!r}")
                continue
            self.answered.append(answer.json())
            self.seconds.append(time.monotonic() - begun)

    @property
    def sequence(self) -> int:
        """The release that answered last."""
        return int(self.answered[-1]["release"]["sequence"])


def is_ready(pod: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


class Office:
    """A namespace that counts as production, and three runs in its store, which `runs` brings there.

    `policed`: with all that the API server refuses there, so that only the promoter's account releases. `prod` and `values` change
    the policy of the environment and the chart's values.
    """

    def __init__(
        self,
        bank: Bank,
        *,
        runs: Callable[[Bank, Store], Runs] = small,
        policed: bool = True,
        prod: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        self.bank, self.space = bank, bank.toy.space
        with pytest.MonkeyPatch.context() as patch:
            for key, value in bank.toy.env.items():
                patch.setenv(key, value)
            self.store = open_store(ROOT, bank.toy.env["COUNTERSIGN_STORE"])
            packed = publishing.pack(ROOT)
            publishing.put_code(self.store, packed)
            self.runs = runs(bank, self.store)
            self.store.put_document(f"keys/{Signer(SERVER).keyid}.pem", Signer(SERVER).public_pem)
        self._decide(prod or {})
        self.values = {**self._values(packed.code), **(values or {})}
        bank.install("prod", self.values)
        self._equip()
        if policed:
            kubectl("label", "namespace", self.space.name, "countersign/environment=prod", "--overwrite")

    def _decide(self, more: Mapping[str, Any]) -> None:
        people = {role: {who: self.bank.key(who)} for role, who in ROLES.items()}
        pipeline = {f"pipeline {n}": key for n, key in enumerate(self.runs.keys, 1)}
        common = {"pipelines": {"loan_approval": "model"}, "gates": because(list(self.runs.gates))}
        staging = environment(approvals=[], released_by=because("anyone"), **common)
        usual = {"deploy": because("workflow"), "after": because("staging"), "longest_minutes": because(10)}
        prod = environment(namespace=because(self.space.name), **{**common, **usual, **more})
        self.bank.decide({"pipeline": pipeline, **people}, {"staging": staging, "prod": prod})

    def _values(self, code: str) -> dict[str, Any]:
        settings = self.space.get("configmap", "countersign")["data"]
        repository, _, digest = settings["image"].partition("@")
        analysis = {"window": 30, "interval": 5, "count": 2, "requests": 10, "p99": 2.0, "shift": 0.2}
        return {
            "image": {"repository": repository, "digest": digest}, "code": code,
            "store": {"url": settings["store"], "endpoint": settings["endpoint"], "region": settings["region"]},
            "autoscaling": {"enabled": False}, "replicas": 2, "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
            "networkPolicy": {"storePorts": [7070]}, "drain": {"seconds": 3, "grace": 30},
            "canary": {"enabled": True, "weights": [50], "seconds": 30, "analysis": analysis},
        }  # fmt: skip

    def _equip(self) -> None:
        """What an administrator of production adds: keys of the server, keys to trust, registries to take images from."""
        secrets = {
            "countersign-subject-key": {"subject_key": served.SUBJECT_KEY.hex()},
            "countersign-server-key": {"signing.pem": private_pem(SERVER).decode()},
        }
        for name, data in secrets.items():
            self.bank.apply("Secret", name, data={k: base64.b64encode(v.encode()).decode() for k, v in data.items()})
        self.bank.apply("ConfigMap", "countersign-trusted-keys", data={f"{key}.pem": pem for key, pem in self.runs.keys.items()})
        self.bank.apply("ConfigMap", "countersign-registries", data={"allowed": "localhost/\n"})

    @property
    def url(self) -> str:
        return f"http://{self.space.get('service', NAME)['spec']['clusterIP']}"

    def approve(self, run: str) -> None:
        for who in (ROLES["validator"], ROLES["owner"]):
            said = self.bank.ask(who, "approve", run, "--env", "prod", "--yes", "--json")
            assert said.code == 0, said.err

    def ask(self, *words: str) -> Any:
        """The promoter, through whoever may submit to it; to the end."""
        return self.bank.ask(LAPTOP, *words, "--env", "prod", "--wait", "--json")

    def pods(self, *, ready: bool = False) -> list[str]:
        """The names of the servers that are to stay; `ready`: of those that serve."""
        found = json.loads(self.space.kubectl("get", "pods", "-l", "app.kubernetes.io/name=model-server", "-o", "json"))["items"]
        stay = [p for p in found if "deletionTimestamp" not in p["metadata"]]
        return sorted(p["metadata"]["name"] for p in stay if not ready or is_ready(p))

    def serving_pods(self) -> list[str]:
        return self.pods(ready=True)

    def metrics(self, pod: str) -> dict[str, float]:
        return metrics_of(kubectl("get", "--raw", f"/api/v1/namespaces/{self.space.name}/pods/{pod}:9090/proxy/metrics"))

    def measured(self, metric: str) -> set[str]:
        """What the analyses of canaries so far said of a metric, as Argo Rollouts names it."""
        runs = json.loads(self.space.kubectl("get", "analysisruns", "-o", "json"))["items"]
        return {m["phase"] for run in runs for m in run["status"]["metricResults"] if m["name"] == metric}

    def scaling(self) -> dict[str, str]:
        """The autoscaler's conditions, and whether each holds."""
        status = self.space.get("horizontalpodautoscaler", NAME)["status"]
        return {c["type"]: c["status"] for c in status.get("conditions", [])}

    def evict(self, pod: str) -> bool:
        """As a node is drained; whether the disruption budget lets it."""
        o = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": self.space.name}}
        where = f"/api/v1/namespaces/{self.space.name}/pods/{pod}/eviction"
        words = ["kubectl", "create", "--raw", where, "-f", "-"]
        done = subprocess.run(words, input=json.dumps(o), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0 or "disruption budget" in done.stderr, done.stderr
        return done.returncode == 0

    def logged(self) -> Counter[str]:
        """The decisions in production's log, as far as it is in the store, by id."""
        keys = Keyring({Signer(SERVER).keyid: SERVER.public_key()})
        found: Counter[str] = Counter()
        for envelope in self.store.list_documents("decisions/prod").values():
            batch = chains.open_batch(envelope, keys).batch
            data = content_of(self.store, batch)
            assert data is not None, batch
            found.update(canonical.read(body)["id"] for body in chains.bodies(batch, data))
        return found
