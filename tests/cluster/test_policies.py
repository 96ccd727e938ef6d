"""What the cluster itself refuses, on the real API server: each policy lets through what is right and refuses what is not."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.real import kubectl, wait

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
SPACE = "policed"
DIGEST = f"registry.example.org/countersign/steps@sha256:{'a' * 64}"
RELEASE = '{"pipeline":"loan_approval","release":{"environment":"prod","sequence":7,"sha256":null},"variants":[]}'
ACCOUNT = f"system:serviceaccount:{SPACE}:"
ARGO = "system:serviceaccount:argo:argo"


@pytest.fixture(scope="module", autouse=True)
def space(cluster: None) -> Iterator[None]:  # noqa: ARG001
    """A namespace that counts as production, with its settings."""
    kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "infra/policies"))
    kubectl("apply", "-f", "-", given=json.dumps(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE, "labels": {"countersign/environment": "prod"}}}
    ))  # fmt: skip
    settings = {
        "countersign-registries": {"allowed": "registry.example.org/countersign/"},
        "countersign": {"image": DIGEST, "code": "c", "revision": "r"},
    }
    for name, data in settings.items():
        kubectl("apply", "-f", "-", given=json.dumps(config_map(name, data)))
    kubectl("apply", "--server-side", "--as", f"{ACCOUNT}promoter", "--as-group", "system:masters", "-f", "-",
            given=json.dumps(config_map("countersign-approved", {"loan-approval.7": RELEASE})))  # fmt: skip
    for account in ("promoter", "default"):
        kubectl("-n", SPACE, "create", "serviceaccount", account, check=False)
    # A policy takes a moment until every part of the API server knows it.
    wait(lambda: "named by digest" in tried(pod(image="busybox"))[1], "the policies hold", patience=60)
    yield
    kubectl("delete", "namespace", SPACE, "--wait=false")


def config_map(name: str, data: dict[str, str] | None) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": SPACE}, **({"data": data} if data else {})}


def tried(o: dict[str, Any], *, by: str = "admin") -> tuple[bool, str]:
    """Whether the API server would take it, and what it says; nothing is kept. Rights are no question here: everybody is given all."""
    words = ["kubectl", "create", "--dry-run=server", "-f", "-", "--as", by, "--as-group", "system:masters"]
    done = subprocess.run(words, input=json.dumps(o), capture_output=True, text=True, check=False, timeout=60)
    return done.returncode == 0, done.stderr


def pod(*, image: str = DIGEST, name: str = "model-server", release: str | None = RELEASE, **spec: Any) -> dict[str, Any]:
    annotations = {"annotations": {"countersign/release": release}} if release is not None else {}
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": SPACE, "labels": {"app.kubernetes.io/name": name}, **annotations},
        "spec": {"containers": [{"name": "c", "image": image}], **spec},
    }  # fmt: skip


def deployment(kind: str = "Deployment", replicas: int = 1, **how: Any) -> dict[str, Any]:
    made = pod(**how)
    labels = made["metadata"]["labels"]
    count = {} if kind == "DaemonSet" else {"replicas": replicas}
    return {
        "apiVersion": "argoproj.io/v1alpha1" if kind == "Rollout" else "apps/v1", "kind": kind,
        "metadata": {"name": "d", "namespace": SPACE},
        "spec": {**count, "selector": {"matchLabels": labels}, "template": template_of(made)},
    }  # fmt: skip


def replication_controller(**how: Any) -> dict[str, Any]:
    made = pod(**how)
    spec = {"selector": made["metadata"]["labels"], "template": template_of(made)}
    return {"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "c", "namespace": SPACE}, "spec": spec}


def job(kind: str = "Job", **how: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"template": template_of(pod(restartPolicy="Never", **how))}
    if kind == "CronJob":
        spec = {"schedule": "0 5 * * *", "jobTemplate": {"spec": spec}}
    return {"apiVersion": "batch/v1", "kind": kind, "metadata": {"name": "j", "namespace": SPACE}, "spec": spec}


def template_of(made: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {k: v for k, v in made["metadata"].items() if k in {"labels", "annotations"}}, "spec": made["spec"]}


def other(**spec: Any) -> dict[str, Any]:
    """A pod that serves nothing."""
    return pod(name="other", release=None, **spec)


def container(**how: Any) -> list[dict[str, Any]]:
    return [{"name": "more", "image": DIGEST, **how}]


def variable(name: str) -> dict[str, Any]:
    """For a container: one value of a Secret, as a variable."""
    return {"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}]}


def variables(name: str) -> dict[str, Any]:
    """For a container: all values of a Secret, as variables."""
    return {"envFrom": [{"secretRef": {"name": name}}]}


def volumes(name: str) -> dict[str, list[dict[str, Any]]]:
    """The two ways in which a Secret may lie in a pod's volume."""
    return {
        "secret": [{"name": "s", "secret": {"secretName": name}}],
        "projected": [{"name": "s", "projected": {"sources": [{"secret": {"name": name}}]}}],
    }


def workflow(template: str = "loan-approval", arguments: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    parameters = [{"name": k, "value": v} for k, v in (arguments or {}).items()]
    said = {"workflowTemplateRef": {"name": template}, "arguments": {"parameters": parameters}, **spec}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "w", "namespace": SPACE}, "spec": said}


def of(account: str, o: dict[str, Any] | None = None) -> dict[str, Any]:
    """A workflow that names its submitter."""
    made = o or workflow()
    return {**made, "metadata": {**made["metadata"], "annotations": {"countersign/submitter": account}}}


def cron(o: dict[str, Any]) -> dict[str, Any]:
    spec = {"schedules": ["0 5 * * *"], "workflowSpec": o["spec"]}
    return {**o, "kind": "CronWorkflow", "spec": spec}


def template(name: str = "loan-approval", **spec: Any) -> dict[str, Any]:
    one = {"name": "main", "container": {"image": DIGEST, "command": ["true"]}}
    said = {"entrypoint": "main", "templates": [{**one, **spec.pop("one", {})}], **spec}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "WorkflowTemplate", "metadata": {"name": name, "namespace": SPACE}, "spec": said}


SUBMITTER, PUBLISHER = f"{ACCOUNT}countersign-submitter", f"{ACCOUNT}countersign-publisher"
SUBJECTS, PROMOTERS = "countersign-subject-key", "countersign-promoter-key"
UNAPPROVED, NO_KEY = "no release that was approved", "only the account promoter is given the key"
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an image by tag": (pod(image="registry.example.org/countersign/steps:v1"), "admin", "named by digest"),
    "an image from elsewhere": (pod(image=f"docker.io/x/y@sha256:{'a' * 64}"), "admin", "images here come from"),
    "a registry whose name begins alike": (
        pod(image=f"registry.example.org/countersigned@sha256:{'a' * 64}"),
        "admin",
        "images here come from",
    ),
    "an init container's image": (pod(initContainers=[{"name": "i", "image": "busybox"}]), "admin", "named by digest"),
    "a model that was not approved": (pod(release=RELEASE.replace("7", "8")), "admin", UNAPPROVED),
    "a model server without a release": (pod(release=None), "admin", UNAPPROVED),
    "a release under another label": (pod(name="other", release="{}"), "admin", UNAPPROVED),
    **{
        f"whoever reads the subjects' key in a volume, {way}": (other(volumes=v), "admin", UNAPPROVED)
        for way, v in volumes(SUBJECTS).items()
    },
    "whoever reads the key of the log": (other(volumes=volumes("countersign-server-key")["secret"]), "admin", UNAPPROVED),
    "whoever is given the subjects' key as a variable": (other(containers=container(**variable(SUBJECTS))), "admin", UNAPPROVED),
    "whoever is given all of it": (other(containers=container(**variables(SUBJECTS))), "admin", UNAPPROVED),
    "an init container that is": (other(initContainers=container(**variable(SUBJECTS))), "admin", UNAPPROVED),
    "a deployment of what was not approved": (deployment(release="{}"), "admin", UNAPPROVED),
    **{
        f"a {kind} of it": (deployment(kind, release="{}"), "admin", UNAPPROVED)
        for kind in ("StatefulSet", "DaemonSet", "ReplicaSet", "Rollout")
    },
    "a ReplicationController of it": (replication_controller(release="{}"), "admin", UNAPPROVED),
    **{f"a {kind} of it": (job(kind, release="{}"), "admin", UNAPPROVED) for kind in ("Job", "CronJob")},
    "a workflow with templates of its own": (workflow(templates=[{"name": "x"}]), SUBMITTER, "brings arguments only"),
    "a workflow of no template": ({**workflow(), "spec": {"arguments": {}}}, SUBMITTER, "made from one of the namespace's own"),
    "a template of the whole cluster": (workflow(workflowTemplateRef={"name": "x", "clusterScope": True}), SUBMITTER, "namespace's own"),
    "another way in": (workflow("promote", entrypoint="release"), SUBMITTER, "brings arguments only"),
    "another account": (workflow(serviceAccountName="promoter"), SUBMITTER, "brings arguments only"),
    "a pod patch": (workflow(podSpecPatch="{}"), SUBMITTER, "brings arguments only"),
    "an exit handler": (workflow(onExit="x"), SUBMITTER, "brings arguments only"),
    "an image of one's own": (workflow(arguments={"image": "evil"}), SUBMITTER, "may repeat it, and not choose: image"),
    "code of one's own": (workflow(arguments={"code": "evil"}), SUBMITTER, "may repeat it, and not choose: code"),
    "a commit of one's own": (workflow(arguments={"revision": "a" * 40}), SUBMITTER, "may repeat it, and not choose: revision"),
    "a schedule with an image": (cron(workflow(arguments={"image": "evil"})), SUBMITTER, "may repeat it, and not choose: image"),
    "what promote does not take": (workflow("promote", arguments={"policy": "x"}), SUBMITTER, "promote takes run, challenger"),
    "what rollback does not take": (workflow("rollback", arguments={"run": "x"}), SUBMITTER, "rollback takes pipeline and reason"),
    "a workflow in another's name": (
        of("vera@bank"),
        SUBMITTER,
        f"names who creates a workflow, {SUBMITTER}, or is left out; got vera@bank",
    ),
    "a promotion in another's name": (of("vera@bank", workflow("promote")), SUBMITTER, "names who creates a workflow"),
    "an administrator's in another's name": (of(SUBMITTER), "admin", "names who creates a workflow, admin"),
    "a workflow of nobody's name": (of(""), SUBMITTER, "names who creates a workflow"),
    "CI's own rollback": (template("rollback"), PUBLISHER, "installed by an administrator"),
    "CI's own promote": (template("promote"), PUBLISHER, "installed by an administrator"),
    "CI's template that runs as the promoter": (template(serviceAccountName="promoter"), PUBLISHER, "installed by an administrator"),
    "a step of it that does": (template(one={"serviceAccountName": "promoter"}), PUBLISHER, "installed by an administrator"),
    "an account that is chosen later": (
        template(serviceAccountName="{{workflow.parameters.x}}"),
        PUBLISHER,
        "installed by an administrator",
    ),
    "CI's pod patch": (template(one={"podSpecPatch": "{}"}), PUBLISHER, "installed by an administrator"),
    "a pod as the promoter": (pod(name="x", release=None, serviceAccountName="promoter"), SUBMITTER, "only Argo runs pods as the promoter"),
    **{f"a pod with the promoter's key in a volume, {way}": (other(volumes=v), ARGO, NO_KEY) for way, v in volumes(PROMOTERS).items()},
    "a pod that is given the promoter's key": (other(containers=container(**variable(PROMOTERS))), ARGO, NO_KEY),
}
TAKEN: dict[str, tuple[dict[str, Any], str]] = {
    "a pod of what was approved": (pod(), "admin"),
    "a deployment of it": (deployment(), "admin"),
    "a Rollout of it": (deployment("Rollout"), "admin"),
    "a pod that reads the keys and serves it": (pod(volumes=volumes(SUBJECTS)["secret"]), "admin"),
    "a job that serves nothing": (job(name="x", release=None), "admin"),
    "one that is scaled to nothing": (deployment(release="{}", replicas=0), "admin"),
    "a pod that serves nothing": (pod(name="x", release=None), "admin"),
    "a submission": (workflow(arguments={"overrides": "{}"}), SUBMITTER),
    "one that says what is installed": (workflow(arguments={"image": DIGEST, "code": "c", "revision": "r"}), SUBMITTER),
    "one that names its submitter": (of(SUBMITTER), SUBMITTER),
    "a promotion": (workflow("promote", arguments={"run": "toy-0123456789ab", "reason": "x"}), SUBMITTER),
    "a rollback": (workflow("rollback", arguments={"pipeline": "loan_approval", "reason": "x"}), SUBMITTER),
    "CI's pipeline": (template(serviceAccountName="countersign-step"), PUBLISHER),
    "an administrator's promote": (template("promote", serviceAccountName="promoter"), "admin"),
    "Argo's pod as the promoter": (pod(name="x", release=None, serviceAccountName="promoter"), ARGO),
}
TAKEN["Argo's pod as the promoter"][0]["metadata"]["labels"]["workflows.argoproj.io/workflow"] = "promote-x"


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused(what: str) -> None:
    o, by, why = REFUSED[what]
    taken, said = tried(o, by=by)
    assert not taken
    assert "denied" in said, said
    assert why in said, said


@pytest.mark.parametrize("what", TAKEN)
def test_it_is_taken(what: str) -> None:
    o, by = TAKEN[what]
    taken, said = tried(o, by=by)
    assert taken, said


@pytest.mark.parametrize(("image", "why"), [("busybox", "named by digest"), (f"docker.io/x@sha256:{'a' * 64}", "images here come from")])
def test_an_image_as_a_volume_is_held_to_the_same(image: str, why: str) -> None:
    """Where the API server knows such volumes; one that does not leaves them out, and then nothing of the image is there to run."""
    o = other(volumes=[{"name": "v", "image": {"reference": image}}])
    words = ["kubectl", "create", "--dry-run=server", "-o", "json", "-f", "-"]
    done = subprocess.run(words, input=json.dumps(o), capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 0:
        assert [v for v in json.loads(done.stdout)["spec"]["volumes"] if v["name"] == "v"] == []
    else:
        assert why in done.stderr


@pytest.fixture(scope="module")
def beside(space: None) -> str:  # noqa: ARG001
    """A pod that is there, and that no node starts."""
    made = other(schedulingGates=[{"name": "countersign/never"}])
    made["metadata"]["name"] = "beside"
    kubectl("apply", "-f", "-", given=json.dumps(made))
    return f"/api/v1/namespaces/{SPACE}/pods/{made['metadata']['name']}"


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"image": "busybox"}, "named by digest"),
        (variable(SUBJECTS), UNAPPROVED),
        (variables(PROMOTERS), NO_KEY),
        ({}, ""),
    ],
)
def test_what_is_put_into_a_pod_that_runs_is_held_to_the_same(beside: str, how: dict[str, Any], why: str) -> None:
    o = json.loads(kubectl("get", "--raw", beside))
    o["spec"]["ephemeralContainers"] = container(**how)
    words = ["kubectl", "replace", "--raw", f"{beside}/ephemeralcontainers?dryRun=All", "-f", "-"]
    done = subprocess.run(words, input=json.dumps(o), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode == 0) is (not why), done.stderr
    assert why in done.stderr


@pytest.fixture(scope="module")
def promoting(space: None) -> str:  # noqa: ARG001
    """A pod of the promoter's, as Argo makes it, that no node starts."""
    made = other(serviceAccountName="promoter", schedulingGates=[{"name": "countersign/never"}])
    made["metadata"]["name"] = "promoting"
    made["metadata"]["labels"]["workflows.argoproj.io/workflow"] = "promote-x"
    kubectl("create", "--as", ARGO, "--as-group", "system:masters", "-f", "-", given=json.dumps(made))
    return f"/api/v1/namespaces/{SPACE}/pods/{made['metadata']['name']}"


@pytest.mark.parametrize("by", ["admin", f"{ACCOUNT}promoter"])
def test_nobody_puts_a_container_into_the_promoters_pod(promoting: str, by: str) -> None:
    o = json.loads(kubectl("get", "--raw", promoting))
    o["spec"]["ephemeralContainers"] = container()
    words = [
        "kubectl",
        "replace",
        "--raw",
        f"{promoting}/ephemeralcontainers?dryRun=All",
        "-f",
        "-",
        "--as",
        by,
        "--as-group",
        "system:masters",
    ]
    done = subprocess.run(words, input=json.dumps(o), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "only Argo runs pods as the promoter" in done.stderr


@pytest.fixture(scope="module")
def served(space: None) -> Iterator[str]:  # noqa: ARG001
    """A Deployment of what was approved, scaled to nothing."""
    made = deployment(replicas=0)
    made["metadata"]["name"] = "served"
    kubectl("create", "--as", "admin", "--as-group", "system:masters", "-f", "-", given=json.dumps(made))
    yield made["metadata"]["name"]
    kubectl("-n", SPACE, "delete", "deployment", made["metadata"]["name"], "--wait=false")


@pytest.mark.parametrize(("replicas", "release", "taken"), [(1, "{}", False), (1, RELEASE, True), (0, "{}", True)])
def test_a_deployment_that_is_there_is_not_changed_to_what_was_not_approved(
    served: str, replicas: int, release: str, *, taken: bool
) -> None:
    change = {"spec": {"replicas": replicas, "template": {"metadata": {"annotations": {"countersign/release": release}}}}}
    words = ["kubectl", "patch", "deployment", served, "-n", SPACE, "--type=merge", "-p", json.dumps(change), "--dry-run=server"]
    done = subprocess.run(
        [*words, "--as", "admin", "--as-group", "system:masters"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode == 0) is taken, done.stderr
    assert taken or UNAPPROVED in done.stderr


CHANGES: list[Callable[[dict[str, Any]], Any]] = [
    lambda o: o["data"].update({"loan-approval.8": "{}"}),
    lambda o: o.pop("data"),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("by", ["admin", SUBMITTER, PUBLISHER, "system:serviceaccount:elsewhere:promoter"])
def test_nobody_but_the_promoter_says_what_is_approved(by: str, change: Callable[[dict[str, Any]], Any]) -> None:
    o = json.loads(kubectl("-n", SPACE, "get", "configmap", "countersign-approved", "-o", "json"))
    change(changed := copy.deepcopy(o))
    words = ["kubectl", "replace", "--dry-run=server", "-f", "-", "--as", by, "--as-group", "system:masters"]
    done = subprocess.run(words, input=json.dumps(changed), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert f"only the account promoter of {SPACE}" in done.stderr
    words = [
        "kubectl",
        "-n",
        SPACE,
        "delete",
        "configmap",
        "countersign-approved",
        "--dry-run=server",
        "--as",
        by,
        "--as-group",
        "system:masters",
    ]
    kept = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert "only the account promoter" in kept.stderr


def test_installing_again_changes_nothing_in_it(space: None) -> None:  # noqa: ARG001
    o = json.loads(kubectl("-n", SPACE, "get", "configmap", "countersign-approved", "-o", "json"))
    o["metadata"]["labels"] = {"installed": "again"}
    o["metadata"].pop("managedFields", None)
    words = ["replace", "--dry-run=server", "-f", "-", "--as", "admin", "--as-group", "system:masters"]
    assert "replaced" in kubectl(*words, given=json.dumps(o))


def test_the_promoter_does(space: None) -> None:  # noqa: ARG001
    o = json.loads(kubectl("-n", SPACE, "get", "configmap", "countersign-approved", "-o", "json"))
    o["data"]["loan-approval.8"] = "{}"
    words = ["replace", "--dry-run=server", "-f", "-", "--as", f"{ACCOUNT}promoter", "--as-group", "system:masters"]
    assert "replaced" in kubectl(*words, given=json.dumps(o))


@pytest.mark.parametrize("by", [f"{ACCOUNT}promoter", PUBLISHER])
@pytest.mark.parametrize("name", ["countersign-promotion", "countersign-trusted-keys", "artifact-repositories"])
def test_neither_the_promoter_nor_ci_writes_the_promoters_rules(name: str, by: str) -> None:
    taken, said = tried(config_map(name, {"environments.yaml": "x"}), by=by)
    assert not taken
    assert "is for administrators to say" in said
    assert tried(config_map(name, {"environments.yaml": "x"}))[0]


@pytest.mark.parametrize(("by", "may"), [(PUBLISHER, True), (f"{ACCOUNT}promoter", False), (SUBMITTER, False), ("admin", True)])
def test_what_was_published_is_for_ci_to_say(by: str, *, may: bool) -> None:
    change = ["patch", "configmap", "countersign", "-n", SPACE, "--type=merge", "-p", '{"data":{"code":"d"}}', "--dry-run=server"]
    done = subprocess.run(["kubectl", *change, "--as", by, "--as-group", "system:masters"], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is may, done.stderr
    assert may or "for administrators to say" in done.stderr


@pytest.mark.parametrize(("by", "may"), [(PUBLISHER, False), (f"{ACCOUNT}promoter", False), (SUBMITTER, False), ("admin", True)])
def test_where_images_come_from_is_for_administrators_to_say(by: str, *, may: bool) -> None:
    change = ["patch", "configmap", "countersign-registries", "-n", SPACE, "--type=merge", "-p", '{"data":{"allowed":"x/"}}']
    words = ["kubectl", *change, "--dry-run=server", "--as", by, "--as-group", "system:masters"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode == 0) is may, done.stderr
    assert may or "for administrators to say" in done.stderr


@pytest.fixture(scope="module")
def submitted(space: None) -> Iterator[None]:  # noqa: ARG001
    """Two workflows that stay as they are: one that names who submitted it, and one that names nobody."""
    for name, made in {"somebodys": of("admin", workflow(suspend=True)), "nobodys": workflow(suspend=True)}.items():
        made["metadata"]["name"] = name
        kubectl("create", "--as", "admin", "--as-group", "system:masters", "-f", "-", given=json.dumps(made))
    yield
    kubectl("-n", SPACE, "delete", "workflow", "somebodys", "nobodys", "--wait=false")


@pytest.mark.parametrize("by", ["admin", "vera@bank", ARGO])
@pytest.mark.parametrize(
    ("name", "annotations", "taken"),
    [
        ("somebodys", {"countersign/submitter": "vera@bank"}, False),
        ("somebodys", {"countersign/submitter": None}, False),
        ("nobodys", {"countersign/submitter": "vera@bank"}, False),
        ("nobodys", {"countersign/submitter": "admin"}, False),
        ("somebodys", {"countersign/run": "toy-0123456789ab"}, True),
        ("nobodys", {"countersign/run": "toy-0123456789ab"}, True),
    ],
    ids=["replaced", "removed", "added", "added, and true", "another word on it", "another word where none was"],
)
@pytest.mark.usefixtures("submitted")
def test_who_submitted_a_workflow_stays_as_it_was(name: str, annotations: dict[str, str | None], by: str, *, taken: bool) -> None:
    """Whoever changes it: an administrator, whose the change would make it, and the controller, which has its own to write."""
    change = ["patch", "workflow", name, "-n", SPACE, "--type=merge", "-p", json.dumps({"metadata": {"annotations": annotations}})]
    words = ["kubectl", *change, "--dry-run=server", "--as", by, "--as-group", "system:masters"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode == 0) is taken, done.stderr
    assert taken or "who submitted a workflow stays as it was" in done.stderr
