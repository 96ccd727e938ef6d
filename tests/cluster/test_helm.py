"""Helm as the promoter drives it, on a real cluster, with a chart of one pod: brought, taken back, killed half-way, put right."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.real import kubectl, wait
from tests.conftest import ROOT, lacking
from workflows.errors import Temporary
from workflows.promote.deployer import NotServed
from workflows.promote.helm import APPROVED, Helm
from workflows.prove import canonical, digest
from workflows.prove.release import State

pytestmark = pytest.mark.cluster
SPACE = "helmed"
IMAGE = "localhost/pause:3.10.1"
TEMPLATE = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: "{{ .Release.Name }}"}
spec:
  progressDeadlineSeconds: 20
  strategy: {rollingUpdate: {maxUnavailable: 0}}
  selector: {matchLabels: {app: "{{ .Release.Name }}"}}
  template:
    metadata:
      labels: {app: "{{ .Release.Name }}"}
      annotations: {countersign/release: {{ .Values.release | quote }}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - {name: c, image: "{{ .Values.image }}", imagePullPolicy: Never}
{{- if .Values.held }}
---
apiVersion: v1
kind: Pod
metadata:
  name: "{{ .Release.Name }}-held"
  annotations: {helm.sh/hook: pre-rollback}
spec:
  restartPolicy: Never
  containers:
    - {name: c, image: "{{ .Values.held }}", args: ["-version"], envFrom: [{configMapRef: {name: go}}]}
{{- end }}
{{- if .Values.tested }}
---
apiVersion: v1
kind: Pod
metadata:
  name: "{{ .Release.Name }}-test"
  annotations: {helm.sh/hook: test, helm.sh/hook-delete-policy: before-hook-creation}
spec:
  restartPolicy: Never
  containers:
    - {name: c, image: "{{ .Values.tested }}", args: {{ .Values.asks | toJson }}}
{{- end }}
"""


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("helm"):
        lacking("helm: make cluster-up builds it")
    folder = tmp_path_factory.mktemp("chart")
    (folder / "templates").mkdir()
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: tiny\nversion: 0.1.0\n")
    (folder / "values.yaml").write_text("release: ''\nimage: ''\n")
    (folder / "templates/deployment.yaml").write_text(TEMPLATE)
    return folder


@pytest.fixture
def helm(cluster: None, chart: Path) -> Iterator[Helm]:  # noqa: ARG001
    kubectl("delete", "namespace", SPACE, "--ignore-not-found")
    kubectl("create", "namespace", SPACE)
    yield Helm(release="loan-approval", namespace=SPACE, chart=chart, minutes=3)
    kubectl("delete", "namespace", SPACE, "--wait=false")


def values(sequence: int, image: str = IMAGE) -> dict[str, Any]:
    release = {"release": {"environment": "prod", "sequence": sequence, "sha256": str(sequence) * 64}, "pipeline": "loan_approval"}
    return {"release": canonical.encode(release).decode(), "image": image}


def approved() -> list[str]:
    return sorted(json.loads(kubectl("-n", SPACE, "get", "configmap", APPROVED, "-o", "json"))["data"])


def running() -> str:
    found = json.loads(kubectl("-n", SPACE, "get", "deployment", "loan-approval", "-o", "json"))
    return str(found["spec"]["template"]["metadata"]["annotations"]["countersign/release"])


def test_it_is_brought_and_known_again(helm: Helm) -> None:
    assert helm.installed() is None
    assert helm.heal("1" * 64) == ""
    done = helm.deploy(values(1))
    assert (done.release, done.namespace, done.revision) == ("loan-approval", SPACE, 1)
    assert done.values == digest.of_bytes(canonical.encode(values(1))).sha256
    there = helm.installed()
    assert there
    assert (there.release, there.deployed) == ("1" * 64, done)
    for n in (2, 3, 4):
        assert helm.deploy(values(n)).revision == n
    assert approved() == ["loan-approval.2", "loan-approval.3", "loan-approval.4"], "three, of which two may still have pods"
    secrets = kubectl("-n", SPACE, "get", "secrets", "-o", "name")
    assert "helm" not in secrets, "the promoter needs no right to read secrets"


def test_what_does_not_start_is_taken_back(helm: Helm) -> None:
    helm.deploy(values(1))
    with pytest.raises(NotServed) as caught:
        helm.deploy(values(2, image="localhost/no-such-image:1"))
    assert caught.value.state is State.FAILED
    for n in (3, 4):
        with pytest.raises(NotServed):
            helm.deploy(values(n, image=f"localhost/no-such-image:{n}"))
    assert approved() == ["loan-approval.1", "loan-approval.3", "loan-approval.4"], "what serves stays, or its next pod is refused"
    assert running() == values(1)["release"]
    there = helm.installed()
    assert there
    assert there.release == "1" * 64


def test_what_its_own_test_refuses_is_taken_back(helm: Helm) -> None:
    tested = {"tested": program(), "asks": ["-version"]}
    refused = {"tested": program(), "asks": ["-conf", "/there-is-none"]}
    with pytest.raises(NotServed, match="helm test: ") as caught:
        helm.deploy({**values(1), **refused})
    assert caught.value.state is State.FAILED
    assert helm.installed() is None, "with nothing before it, it is taken away"
    before = helm.deploy({**values(2), **tested})
    with pytest.raises(NotServed, match="helm test: ") as caught:
        helm.deploy({**values(3), **refused})
    assert caught.value.state is State.FAILED
    assert caught.value.deployed
    assert caught.value.deployed.revision == before.revision + 1
    assert running() == values(2)["release"]
    there = helm.installed()
    assert there
    assert there.release == "2" * 64


def program() -> str:
    """An image whose program can end, and fail: the cluster's own name server."""
    return kubectl("-n", "kube-system", "get", "deployment", "coredns", "-o", "jsonpath={.spec.template.spec.containers[0].image}")


def test_what_never_started_is_taken_away(helm: Helm) -> None:
    with pytest.raises(NotServed):
        helm.deploy(values(1, image="localhost/no-such-image:1"))
    assert helm.installed() is None
    assert helm.deploy(values(2)).revision >= 1


def killed_upgrade(helm: Helm, given: dict[str, Any], tmp_path: Path) -> None:
    """A promotion that is killed while Helm waits for pods that never come."""
    (tmp_path / "values.json").write_text(json.dumps(given))
    killed(helm, "deploy(json.loads(pathlib.Path(sys.argv[2]).read_text()))", str(tmp_path / "values.json"))


def killed(helm: Helm, does: str, *words: str) -> None:
    """What a `Helm` does, in a process group that is killed once Helm is at it."""
    text = (
        "import json, pathlib, sys; from workflows.promote.helm import Helm;"
        f"Helm(release='loan-approval', namespace='{SPACE}', chart=pathlib.Path(sys.argv[1]), minutes=3).{does}"
    )
    words = (sys.executable, "-c", text, str(helm.chart), *words)
    process = subprocess.Popen(words, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait(lambda: (helm._status() or "").startswith("pending-"), "Helm is at it", patience=60, every=0.2)
        time.sleep(1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_first_install_that_was_killed_is_found_and_taken_away(helm: Helm, tmp_path: Path) -> None:
    killed_upgrade(helm, values(1, image="localhost/no-such-image:1"), tmp_path)
    assert helm.installed() is None
    assert helm.heal("1" * 64) == "Helm was at pending-install, with nothing before it: it was taken away"
    assert helm.deploy(values(2)).revision >= 1


def test_an_upgrade_that_was_killed_is_found_and_put_back(helm: Helm, tmp_path: Path) -> None:
    helm.deploy(values(1))
    killed_upgrade(helm, values(2, image="localhost/no-such-image:1"), tmp_path)
    with pytest.raises(Temporary, match="another operation"):
        helm.deploy(values(3))
    assert helm.heal("2" * 64) == "Helm was at pending-upgrade: it went back to revision 1"
    assert running() == values(1)["release"]
    there = helm.installed()
    assert there
    assert there.release == "1" * 64
    assert helm.heal("2" * 64) == ""


def test_a_rollback_that_was_killed_is_brought_to_its_end_and_not_to_what_it_left(helm: Helm) -> None:
    # Its hook waits for a ConfigMap.
    helm.deploy({**values(1), "held": program()})
    helm.deploy(values(2))
    killed(helm, "_back(1)")
    kubectl("-n", SPACE, "delete", "pod", "loan-approval-held", "--now")
    kubectl("-n", SPACE, "create", "configmap", "go", "--from-literal=GO=1")
    assert helm.heal("3" * 64) == "Helm was at pending-rollback: what it was going back to was brought again"
    assert running() == values(1)["release"]
    there = helm.installed()
    assert there
    assert there.release == "1" * 64
