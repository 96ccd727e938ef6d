"""What infra/argo installed, asked of a real cluster: rights, refusals, a pod on the step image, the archive."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.real import Space, from_server, only_as, token_of
from tests.conftest import lacking
from tests.infra.test_kustomize import RULES, Rule, render, rule_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
NAMESPACE = "countersign"
SERVER = "/api/v1/namespaces/argo/services/https:argo-server:web/proxy"
SAFE = {
    "runAsNonRoot": True,
    "runAsUser": 8737,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
FOUND = "/tmp/found.json"  # noqa: S108 - in its own pod
POSTGRESQL = "localhost/postgresql:15"
COMPILED = sorted(
    p for folder in ("workflows", "schedules") for p in (ROOT / "infra/argo" / folder).glob("*.yaml") if p.name != "kustomization.yaml"
)


def kubectl(*words: str, stdin: Any = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    text = stdin if isinstance(stdin, str) or stdin is None else json.dumps(stdin)
    done = subprocess.run(["kubectl", *words], input=text, capture_output=True, text=True, check=False, timeout=300)
    assert not check or done.returncode == 0, f"kubectl {' '.join(words)}\n{done.stderr}"
    return done


def get(*words: str) -> Any:
    return json.loads(kubectl("get", *words, "-o", "json").stdout)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> None:
    """The cluster that KUBECONFIG names, with Argo and the namespace on it."""
    what = "a cluster with Argo and the local overlay on it; make cluster-up makes one, KUBECONFIG names it"
    if not os.environ.get("KUBECONFIG") or not shutil.which("kubectl"):
        lacking(what)
    if kubectl("get", f"namespace/{NAMESPACE}", "deployment/workflow-controller", "-n", "argo", check=False).returncode:
        lacking(what)


def rules_of(account: str, namespace: str) -> list[Rule]:
    """All that an account may do in a namespace, but for what everybody may ask about themselves."""
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}}
    who = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
    answer = json.loads(kubectl("create", "-f", "-", "-o", "json", "--validate=false", who, stdin=review).stdout)["status"]
    assert not answer.get("incomplete")
    rules = [rule_of(r) for r in answer["resourceRules"]]
    return [r for r in rules if not r[0] & {"authorization.k8s.io", "authentication.k8s.io"}]


@pytest.mark.parametrize("account", [*RULES, "default"])
def test_an_account_may_do_exactly_what_is_listed(account: str) -> None:
    def shown(rules: list[Rule]) -> list[str]:
        return sorted(str([sorted(part) for part in rule]) for rule in rules)

    assert shown(rules_of(account, NAMESPACE)) == shown(RULES.get(account, []))
    for elsewhere in ("argo", "kube-system", "default"):
        assert rules_of(account, elsewhere) == []


@pytest.mark.parametrize(
    ("verb", "what", "accounts"),
    [
        ("create", "workflowtaskresults.argoproj.io", {"countersign-step", "countersign-sealer"}),
        ("patch", "workflows.argoproj.io", {"countersign-sealer"}),
        ("create", "workflows.argoproj.io", {"countersign-submitter"}),
        ("delete", "workflows.argoproj.io", set()),
        ("list", "workflows.argoproj.io", {"countersign-submitter", "countersign-auditor", "countersign-viewer"}),
        ("list", "workflowtemplates.argoproj.io", {"countersign-viewer"}),
        ("update", "workflowtemplates.argoproj.io", set()),
        ("patch", "workflowtemplates.argoproj.io", {"countersign-publisher"}),
        # What the promoter may write by its role, infra/policies keeps from it by name: see test_policies.
        ("patch", "configmap/countersign", {"countersign-publisher", "promoter"}),
        ("patch", "configmaps", {"promoter"}),
        ("get", "configmap/countersign", {"countersign-submitter", "countersign-publisher", "promoter"}),
        ("get", "secrets", set()),
        ("list", "secrets", set()),
        ("get", "secret/countersign-artifacts", {"countersign-viewer"}),
        ("get", "secret/countersign-store", set()),
        ("get", "secret/countersign-signing-key", set()),
        ("get", "pods --subresource=log", {"countersign-submitter", "countersign-viewer", "promoter"}),
        ("create", "pods", {"promoter"}),
        ("create", "pods --subresource=exec", set()),
        ("create", "serviceaccounts --subresource=token", set()),
        ("impersonate", "serviceaccounts", set()),
        ("create", "rolebindings.rbac.authorization.k8s.io", set()),
    ],
)
def test_only_these_accounts_can(verb: str, what: str, accounts: set[str]) -> None:
    def can(account: str) -> bool:
        who = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
        return kubectl("auth", "can-i", verb, *what.split(), "-n", NAMESPACE, who, check=False).stdout.strip() == "yes"

    assert {a for a in RULES if can(a)} == accounts


def pod(**changes: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "localhost/none", "securityContext": SAFE | changes.pop("securityContext", {})}
    container |= changes.pop("container", {})
    spec = {"containers": [container]} | changes
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "refused", "namespace": NAMESPACE}, "spec": spec}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (pod(securityContext={"privileged": True, "allowPrivilegeEscalation": True}), "privileged"),
        (pod(securityContext={"runAsUser": 0}), "runAsUser=0"),
        (pod(securityContext={"runAsNonRoot": None, "runAsUser": None}), "runAsNonRoot"),
        (pod(securityContext={"seccompProfile": None}), "seccompProfile"),
        (pod(securityContext={"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}), "NET_ADMIN"),
        (pod(hostNetwork=True), "host namespaces"),
        (pod(volumes=[{"name": "root", "hostPath": {"path": "/"}}]), "hostPath"),
        (pod(container={"resources": {"limits": {"cpu": "17"}}}), "maximum cpu usage per Container is 16"),
    ],
    ids=["privileged", "root", "maybe-root", "no-seccomp", "capability", "host-network", "host-path", "too-large"],
)
def test_an_unsafe_or_boundless_pod_is_refused(asked: dict[str, Any], why: str) -> None:
    done = kubectl("create", "--dry-run=server", "-f", "-", stdin=asked, check=False)
    assert done.returncode != 0
    assert "forbidden" in done.stderr
    assert why in done.stderr


def test_the_same_pod_is_taken_when_it_is_safe() -> None:
    kubectl("create", "--dry-run=server", "-f", "-", stdin=pod())


@pytest.mark.parametrize("path", COMPILED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_the_api_server_takes_what_was_compiled(path: Path) -> None:
    """Its definitions are stricter than Argo's own linter: it refused a schedule with the name of a day in it."""
    kubectl("create", "--dry-run=server", "--validate=strict", "-n", "default", "-f", str(path))


def test_data_on_volumes_of_the_cluster_is_refused() -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "refused", "namespace": NAMESPACE},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    done = kubectl("create", "-f", "-", stdin=claim, check=False)
    assert done.returncode != 0
    assert "exceeded quota" in done.stderr


def run(workflow: dict[str, Any], seconds: int = 240) -> dict[str, Any]:
    """A finished workflow; it is deleted by whoever wants to."""
    name = json.loads(kubectl("create", "-f", "-", "-o", "json", stdin=workflow).stdout)["metadata"]["name"]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found: dict[str, Any] = get(f"workflow/{name}", "-n", NAMESPACE)
        if found.get("status", {}).get("phase") in {"Succeeded", "Failed", "Error"}:
            return found
        time.sleep(1)
    pytest.fail(f"{name} did not end within {seconds} s: {found.get('status')}")


def hello(script: str) -> dict[str, Any]:
    """A workflow that says little about security: what it runs as is the controller's and the namespace's to say."""
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": "hello-", "namespace": NAMESPACE},
        "spec": {
            "entrypoint": "main",
            "serviceAccountName": "countersign-step",
            "automountServiceAccountToken": False,
            "executor": {"serviceAccountName": "countersign-step"},
            "arguments": {"parameters": [{"name": "image", "valueFrom": {"configMapKeyRef": {"name": "countersign", "key": "image"}}}]},
            "templates": [
                {
                    "name": "main",
                    "container": {
                        "image": "{{workflow.parameters.image}}",
                        "command": ["python", "-c"],
                        "args": [script],
                        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in its own pod
                    },
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                    "outputs": {"parameters": [{"name": "found", "valueFrom": {"path": FOUND}}]},
                }
            ],
        },
    }


LOOKS = """
import importlib.util, json, os, pathlib, shutil, subprocess, sys, boto3, lightgbm, pyarrow
def writes(path):
    try:
        pathlib.Path(path).touch()
    except OSError as error:
        return error.strerror
    return "yes"
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
found = {
    "uid": os.getuid(), "gid": os.getgid(),
    "root": writes("/x"), "venv": writes("/opt/venv/x"), "tmp": writes("/tmp/x"),
    "token": os.path.exists("/var/run/secrets"),
    "capabilities": status["CapEff"].strip(), "no_new_privileges": status["NoNewPrivs"].strip(), "seccomp": status["Seccomp"].strip(),
    "python": list(sys.version_info[:2]), "git": shutil.which("git"), "dvc": shutil.which("dvc"),
    "beside": [name for name in ("dvc", "hera") if importlib.util.find_spec(name)], "cached": lightgbm.__cached__,
    "bootstrap": subprocess.run(
        [sys.executable, "/opt/countersign/with_code.py", "python", "-m", "workflows"], cwd="/work", capture_output=True, text=True
    ).stderr,
}
pathlib.Path("/tmp/found.json").write_text(json.dumps(found))
print("hello from a step")
"""


def test_a_pod_on_the_step_image_is_restricted_and_whole() -> None:
    workflow = run(hello(LOOKS))
    assert workflow["status"]["phase"] == "Succeeded", workflow["status"]
    (node,) = workflow["status"]["nodes"].values()
    found = json.loads(node["outputs"]["parameters"][0]["value"])
    assert (found["uid"], found["gid"]) == (8737, 8737)
    assert (found["root"], found["venv"], found["tmp"]) == ("Read-only file system", "Read-only file system", "yes")
    assert found["token"] is False, "the step's own container has no token"
    assert (found["capabilities"], found["no_new_privileges"], found["seccomp"]) == ("0" * 16, "1", "2")
    assert found["python"] == [3, 11]
    assert found["git"]
    assert (found["dvc"], found["beside"]) == (None, []), "what only a laptop needs is not there"
    assert Path(found["cached"]).name == "__init__.cpython-311.pyc"
    assert found["bootstrap"].startswith("error: COUNTERSIGN_CODE is empty")

    place = f"{SERVER}/artifact-files/{NAMESPACE}/workflows/{workflow['metadata']['name']}/{node['id']}/outputs/main-logs"
    assert "hello from a step" in kubectl("get", "--raw", place).stdout, "its log is kept, and Argo's server shows it"
    kubectl("delete", "workflow", workflow["metadata"]["name"], "-n", NAMESPACE, "--wait=false")


FAILS = """
import pathlib, sys
pathlib.Path("/tmp/found.json").write_text("{}")
sys.exit("what went wrong")
"""


@pytest.fixture(scope="module")
def failed() -> Iterator[tuple[str, str]]:
    """A workflow whose pod failed, and so stays with its log, and the pod's node."""
    workflow = run(hello(FAILS))
    name = workflow["metadata"]["name"]
    assert workflow["status"]["phase"] == "Failed", workflow["status"]
    (node,) = workflow["status"]["nodes"].values()
    yield name, node["id"]
    kubectl("delete", "workflow", name, "-n", NAMESPACE, "--wait=false")


def as_(account: str) -> str:
    """With this Argo's server acts as an account of the namespace: auth mode client, which is all that there is elsewhere."""
    return f"Bearer {token_of(Space(name=NAMESPACE), account)}"


@pytest.mark.parametrize(
    ("account", "sees"),
    [
        ("countersign-viewer", {"workflow", "workflows", "templates", "schedules", "log", "kept log"}),
        ("countersign-submitter", {"workflow", "workflows", "log"}),
        ("countersign-auditor", {"workflow", "workflows"}),
        ("countersign-step", set()),
    ],
)
def test_who_looks_sees_in_argos_ui_what_their_role_says(failed: tuple[str, str], account: str, sees: set[str]) -> None:
    name, node = failed
    pages = {
        "workflow": (f"api/v1/workflows/{NAMESPACE}/{name}", name),
        "workflows": (f"api/v1/workflows/{NAMESPACE}?fields=metadata,items.metadata.name", name),
        "templates": (f"api/v1/workflow-templates/{NAMESPACE}", "loan-approval"),
        "schedules": (f"api/v1/cron-workflows/{NAMESPACE}", "metadata"),
        "log": (f"api/v1/workflows/{NAMESPACE}/{name}/log?logOptions.container=main", "what went wrong"),
        "kept log": (f"artifacts/{NAMESPACE}/{name}/{node}/main-logs", "what went wrong"),
    }
    token = as_(account)
    answers = {page: from_server(path, token=token) for page, (path, _) in pages.items()}
    shown = {page for page, answer in answers.items() if answer.status == 200 and pages[page][1].encode() in answer.data}
    assert shown == sees, {page: (a.status, a.data[:200]) for page, a in answers.items()}


def test_who_may_not_see_a_workflow_is_refused_its_artifacts_and_its_log(failed: tuple[str, str]) -> None:
    name, node = failed
    token = as_("countersign-step")
    for path in (f"artifacts/{NAMESPACE}/{name}/{node}/main-logs", f"api/v1/workflows/{NAMESPACE}/{name}"):
        assert from_server(path, token=token).status == 403, path


def test_argos_command_line_shows_a_submitter_why_a_run_failed(failed: tuple[str, str], tmp_path: Path) -> None:
    """The hint that a failed run ends with names this command."""
    env = os.environ | only_as(Space(name=NAMESPACE), "countersign-submitter", tmp_path)
    words = ["argo", "logs", "-n", NAMESPACE, failed[0]]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, "what went wrong" in done.stdout) == (0, True), done.stdout + done.stderr


def test_argos_server_was_lent_no_secret_of_the_environment_but_one() -> None:
    who = "--as=system:serviceaccount:argo:argo-server"

    def may(secret: str) -> bool:
        return kubectl("auth", "can-i", "get", f"secret/{secret}", "-n", NAMESPACE, who, check=False).stdout.strip() == "yes"

    listed = {s["metadata"]["name"] for s in get("secrets", "-n", NAMESPACE)["items"]}
    assert {"countersign-store", "countersign-artifacts", "countersign-signing-key", "countersign-masking-key"} <= listed
    assert [s for s in sorted(listed) if may(s)] == ["countersign-artifacts"]
    assert kubectl("auth", "can-i", "create", "pods", "--subresource=exec", "-A", who, check=False).stdout.strip() == "no"


def test_secrets_are_made_once_and_never_shown() -> None:
    """The script is asked for a namespace of its own; a second time it changes nothing."""
    namespace = f"countersign-test-{secrets.token_hex(4)}"
    kubectl("create", "namespace", namespace)
    try:
        env = os.environ | {"AWS_ACCESS_KEY_ID": "an-access-key", "AWS_SECRET_ACCESS_KEY": "a-secret-key"}
        words = [str(ROOT / "infra/argo/secrets"), namespace]
        first = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
        made = {s["metadata"]["name"]: s["data"] for s in get("secrets", "-n", namespace)["items"]}
        second = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
        assert {s["metadata"]["name"]: s["data"] for s in get("secrets", "-n", namespace)["items"]} == made
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")
    assert {n: sorted(d) for n, d in made.items()} == {
        "countersign-store": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        "countersign-artifacts": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        "countersign-signing-key": ["signing.pem"],
        "countersign-masking-key": ["masking_key"],
        "countersign-promoter-key": ["signing.pem"],
        "countersign-server-key": ["signing.pem"],
        "countersign-subject-key": ["subject_key"],
    }
    keys = [made[f"countersign-{name}-key"]["signing.pem"] for name in ("signing", "promoter", "server")]
    assert len(set(keys)) == len(keys), "each is somebody else"
    assert first.stdout.count(": made") == second.stdout.count(": kept") == len(made)
    said = first.stdout + first.stderr + second.stdout + second.stderr
    assert "PUBLIC KEY" in said
    assert not [v for v in ("PRIVATE", "a-secret-key", "an-access-key") if v in said]


@pytest.fixture(scope="module")
def archive() -> Iterator[None]:
    """Argo with its archive switched on, as overlays/local/archive has it, and as it was before afterwards."""
    images = {c["image"] for c in get("deployment/workflow-controller", "-n", "argo")["spec"]["template"]["spec"]["containers"]}
    if not all(i.startswith("localhost/") for i in images):
        lacking("a cluster with the local overlay, which the archive's test changes for a while")
    bring_postgresql()
    subprocess.run([str(ROOT / "infra/argo/secrets"), "--archive", "argo"], check=True, capture_output=True)
    added = [o for o in render("overlays/local/archive") if o["metadata"]["name"] == "postgresql"]
    settings = next(o for o in render("overlays/local/archive") if o["metadata"]["name"] == "workflow-controller-configmap")
    only = settings | {"data": {"persistence": settings["data"]["persistence"]}}
    try:
        kubectl(*APPLY, stdin=yaml.safe_dump_all([*added, only]))
        ready("postgresql")
        restart("workflow-controller", "argo-server")
        yield
    finally:
        kubectl(*APPLY, stdin=yaml.safe_dump(settings | {"data": {}}))
        kubectl("delete", "-f", "-", "--ignore-not-found", stdin=yaml.safe_dump_all(added))
        restart("workflow-controller", "argo-server")


APPLY = ("apply", "--server-side", "--force-conflicts", "--field-manager=countersign-archive-test", "-f", "-")


def bring_postgresql() -> None:
    names = [name for node in get("nodes")["items"] for image in node["status"].get("images", ()) for name in image["names"] or ()]
    if POSTGRESQL in names:
        return
    out = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "countersign/images/postgresql.tar"
    subprocess.run([ROOT / "infra/images/build", "--image", "postgresql", out], check=True, capture_output=True)
    subprocess.run([sys.executable, ROOT / "infra/cluster", "load", out], check=True, capture_output=True)


def restart(*deployments: str) -> None:
    """Argo reads whether there is a database only when it starts."""
    for name in deployments:
        kubectl("rollout", "restart", f"deployment/{name}", "-n", "argo")
    for name in deployments:
        ready(name)


def ready(deployment: str) -> None:
    kubectl("rollout", "status", f"deployment/{deployment}", "-n", "argo", "--timeout=180s")


def ask(path: str) -> Any:
    return json.loads(kubectl("get", "--raw", f"{SERVER}{path}").stdout)


@pytest.mark.usefixtures("archive")
@pytest.mark.alone
def test_the_archive_remembers_what_the_cluster_has_forgotten() -> None:
    workflow = run(hello("import pathlib; pathlib.Path('/tmp/found.json').write_text('42')"))
    name, uid = workflow["metadata"]["name"], workflow["metadata"]["uid"]
    assert workflow["status"]["phase"] == "Succeeded", workflow["status"]
    until = time.monotonic() + 60
    while (
        get(f"workflow/{name}", "-n", NAMESPACE)["metadata"]["labels"].get("workflows.argoproj.io/workflow-archiving-status") != "Archived"
    ):
        assert time.monotonic() < until, "not archived within 60 s"
        time.sleep(1)
    kubectl("delete", "workflow", name, "-n", NAMESPACE)
    assert kubectl("get", f"workflow/{name}", "-n", NAMESPACE, check=False).returncode != 0
    listed = ask(f"/api/v1/archived-workflows?listOptions.fieldSelector=metadata.namespace={NAMESPACE}")
    assert uid in {w["metadata"]["uid"] for w in listed["items"]}
    kept = ask(f"/api/v1/archived-workflows/{uid}?namespace={NAMESPACE}")
    (node,) = kept["status"]["nodes"].values()
    assert node["outputs"]["parameters"][0]["value"] == "42"
