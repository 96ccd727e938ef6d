"""The whole way on a real cluster: a model server by the chart, a canary that analysis lets through, one that it takes back, a rollback.

Decisions are asked for all the while; none may be lost.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from ruamel.yaml import YAML

from tests.cluster.real import Space, kubectl, new_space, store_environment, wait
from tests.conftest import ROOT, Home, Said, lacking, make_home
from tests.promote.world import because, environment
from tests.serve import world as served
from tests.serve.logs import SIGNER
from workflows.cluster import publishing
from workflows.run.store.open import open_store

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
WHY = "so that a test can see it"
NAME = "loan-approval"
GOOD, BETTER, BAD = "loan-approval-aaaaaaaaaaaa", "loan-approval-bbbbbbbbbbbb", "loan-approval-cccccccccccc"


class Caller:
    """An application that asks for decisions all the time, and notes what it is answered."""

    def __init__(self, url: str) -> None:
        self.url, self.stop = url, threading.Event()
        self.answered: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self.thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(30)

    def _work(self) -> None:
        features = [served.FEATURES, served.DECLINED]
        n = 0
        while not self.stop.wait(0.05):
            n += 1
            body = json.dumps({"subject": f"applicant-{n}", "features": features[n % 2]}).encode()
            request = urllib.request.Request(f"{self.url}/v1/decisions", data=body, headers={"content-type": "application/json"})  # noqa: S310
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                    self.answered.append(json.loads(answer.read()))
            except (OSError, urllib.error.HTTPError) as error:
                self.failed.append(f"{time.time():.1f} {error}")


class Office:
    """A namespace that counts as staging, three runs in its store, and a promoter at a laptop."""

    def __init__(self, space: Space, home: Home, scratch: Path) -> None:
        self.space, self.home, self.scratch = space, home, scratch
        self.env = store_environment(space)
        with pytest.MonkeyPatch.context() as patch:
            for key, value in self.env.items():
                patch.setenv(key, value)
            self.store = open_store(ROOT, self.env["COUNTERSIGN_STORE"])
            packed = publishing.pack(ROOT)
            publishing.put_code(self.store, packed)
            for run, training in ((GOOD, {}), (BETTER, {"profile": {"seed": 2}}), (BAD, {"threshold": 0.001})):
                self._keep(scratch, run, training)
        self.keyid = self.ask("keys", "show", "--json").json["key"]
        self._configure(packed.code)

    def _keep(self, scratch: Path, run: str, training: dict[str, Any]) -> None:
        made = served.make(scratch / run, run=run, training=training)
        for path in sorted(p for p in (made.store.content / "files/md5").rglob("*") if p.is_file()):
            self.store.put_content(path)
        for folder in ("records", "runs"):
            for name, data in made.store.list_documents(folder).items():
                self.store.put_document(f"{folder}/{name}", data)
        self.store.put_document(f"keys/{SIGNER.keyid}.pem", SIGNER.public_pem)

    def _configure(self, code: str) -> None:
        members = {"pipeline": SIGNER.keyid, "promoter": self.keyid}
        roles = {role: {"because": WHY, "members": [{"key": key, "name": role}]} for role, key in members.items()}
        staging = environment(
            namespace=because(self.space.name), deploy=because("helm"), pipelines={"loan_approval": "model"},
            gates=because(["performance"]), approvals=[], longest_minutes=because(6),
        )  # fmt: skip
        YAML().dump({"roles": roles, "environments": {"staging": staging}}, self.scratch / "policy.yaml")
        settings = self.space.get("configmap", "countersign")["data"]
        repository, _, digest = settings["image"].partition("@")
        store = {"url": settings["store"], "endpoint": settings["endpoint"], "region": settings["region"]}
        analysis = {"window": 30, "interval": 5, "count": 2, "requests": 10, "p99": 2.0, "shift": 0.2}
        values = {
            "image": {"repository": repository, "digest": digest}, "code": code, "store": store,
            "autoscaling": {"enabled": False}, "replicas": 2, "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
            "networkPolicy": {"storePorts": [7070]}, "drain": {"seconds": 3, "grace": 30},
            "canary": {"enabled": True, "weights": [50], "seconds": 30, "analysis": analysis},
        }  # fmt: skip
        YAML().dump(values, self.scratch / "values.yaml")
        secrets = {
            "countersign-subject-key": {"subject_key": served.SUBJECT_KEY.hex()},
            "countersign-server-key": {"signing.pem": (self.home.path.parent / "keys/signing.pem").read_text()},
        }
        for name, data in secrets.items():
            encoded = {k: base64.b64encode(v.encode()).decode() for k, v in data.items()}
            self._apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded})
        trusted = {"pipeline.pem": SIGNER.public_pem.decode()}
        self._apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "countersign-trusted-keys"}, "data": trusted})

    def _apply(self, o: dict[str, Any]) -> None:
        self.space.kubectl("apply", "-f", "-", given=json.dumps(o))

    def ask(self, *words: str) -> Said:
        where = {"COUNTERSIGN_POLICY": str(self.scratch / "policy.yaml"), "COUNTERSIGN_CHART": str(ROOT / "infra/charts/model-server")}
        return self.home.ask(*words, within=900, **{**self.env, **where})

    def release(self, *words: str) -> Said:
        return self.ask(*words, "--env", "staging", "--values", str(self.scratch / "values.yaml"), "--json")

    @property
    def url(self) -> str:
        return f"http://{self.space.get('service', NAME)['spec']['clusterIP']}"


@pytest.fixture(scope="module")
def office(cluster: None, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    import shutil

    del cluster
    if not kubectl("get", "crd", "rollouts.argoproj.io", "--ignore-not-found", "-o", "name"):
        lacking("Argo Rollouts: python infra/cluster up --with promotion")
    name = f"releasing-{os.environ.get('PYTEST_XDIST_WORKER', 'one')}"
    kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "infra/policies"))
    space = new_space(name)
    scratch = tmp_path_factory.mktemp("office")
    shutil.copytree(template, scratch / "repo")
    found = Office(space, make_home(scratch / "repo", scratch), scratch)
    # From a laptop an administrator releases; the label that lets only the promoter's account do so comes with test_promotion.
    yield found
    kubectl("delete", "namespace", name, "--wait=false")


def test_a_release_a_canary_a_bad_one_and_back(office: Office) -> None:
    first = office.release("promote", GOOD, "--reason", "the first")
    assert first.code == 0, first.err + first.out
    assert (first.json["sequence"], first.json["state"]) == (1, "done")
    assert first.json["deployed"]["namespace"] == office.space.name

    with Caller(office.url) as caller:
        wait(lambda: len(caller.answered) > 20, "decisions are answered", patience=60)
        second = office.release("promote", BETTER, "--reason", "a canary that shows well")
        assert second.code == 0, second.err + second.out
        bad = office.release("promote", BAD, "--reason", "approves everybody")
        assert bad.code == 3, bad.err + bad.out
        assert "the canary was taken back" in " ".join(bad.json["problems"])
        back = office.release("rollback", "--reason", "the drill")
        assert back.code == 0, back.err + back.out
        wait(lambda: caller.answered[-1]["release"]["sequence"] == back.json["sequence"], "what was rolled back to answers", patience=60)
    assert caller.failed == [], f"{len(caller.failed)} of {len(caller.answered)}: {caller.failed[:5]}"

    history = office.ask("history", "--env", "staging", "--json").json
    assert [(r["kind"], r["state"]) for r in history["releases"]] == [
        ("promotion", "done"), ("promotion", "done"), ("promotion", "aborted"), ("rollback", "done"),
    ]  # fmt: skip
    assert history["releases"][-1]["variants"][0]["run"] == GOOD
    seen = {a["release"]["sequence"] for a in caller.answered}
    assert seen >= {1, 2, 4}
