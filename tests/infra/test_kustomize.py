"""What the overlays render to: who may do what, what is bounded, and that nothing secret is committed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import lacking

pytestmark = pytest.mark.kubectl

ROOT = Path(__file__).parents[2]
ARGO = ROOT / "infra/argo"
ENVIRONMENTS = {"local": "countersign", "dev": "dev", "staging": "staging", "prod": "prod"}
"""Overlay -> its namespace."""
INSTALLS = ("controller", "overlays/local/argo", "overlays/local/archive")

Rule = tuple[set[str], ...]
SEES = {"get", "list", "watch"}
ALL = {"create", "delete", "get", "list", "patch", "update", "watch"}
RESULTS: Rule = ({"argoproj.io"}, {"workflowtaskresults"}, {"create", "patch"})
RULES: dict[str, list[Rule]] = {
    "countersign-step": [RESULTS],
    "countersign-sealer": [RESULTS, ({"argoproj.io"}, {"workflows"}, {"get", "patch"})],
    "countersign-submitter": [
        ({"argoproj.io"}, {"workflows"}, {"create", "get", "list", "watch"}),
        ({"argoproj.io"}, {"workflowtemplates"}, {"get"}),
        ({""}, {"configmaps"}, {"get"}, {"countersign"}),
        ({""}, {"pods"}, SEES),
        ({""}, {"pods/log"}, {"get"}),
    ],
    "countersign-publisher": [
        ({""}, {"configmaps"}, {"get", "patch"}, {"countersign"}),
        ({"argoproj.io"}, {"workflowtemplates"}, {"create", "get", "patch"}),
    ],
    "countersign-auditor": [({"argoproj.io"}, {"workflows"}, {"get", "list"})],
    "countersign-viewer": [
        ({"argoproj.io"}, {"workflows"}, SEES),
        ({"argoproj.io"}, {"workflowtemplates", "cronworkflows"}, {"get", "list"}),
        ({""}, {"pods", "events"}, SEES),
        ({""}, {"pods/log"}, {"get"}),
        ({""}, {"secrets"}, {"get"}, {"countersign-artifacts"}),
    ],
    "promoter": [
        ({""}, {"configmaps", "services", "serviceaccounts", "pods"}, ALL),
        ({""}, {"pods/log"}, {"get"}),
        ({"apps"}, {"deployments"}, ALL),
        ({"apps"}, {"replicasets"}, SEES),
        ({"argoproj.io"}, {"rollouts", "analysistemplates"}, ALL),
        ({"autoscaling"}, {"horizontalpodautoscalers"}, ALL),
        ({"policy"}, {"poddisruptionbudgets"}, ALL),
        ({"networking.k8s.io"}, {"networkpolicies", "ingresses"}, ALL),
        ({"monitoring.coreos.com"}, {"servicemonitors"}, ALL),
    ],
}
"""Account -> all that it may do: groups, resources, verbs, and names where only those of that name are meant."""

Objects = list[dict[str, Any]]


@cache
def render(folder: str) -> Objects:
    """The objects of a kustomization, but for Argo's definitions of its own kinds (eleven megabytes)."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        lacking("kubectl")
    if folder in INSTALLS and not (ARGO / "upstream").is_dir():
        lacking("Argo's manifests in infra/argo/upstream (python infra/cluster upstream)")
    done = subprocess.run([kubectl, "kustomize", str(ARGO / folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts = (t for t in done.stdout.split("\n---\n") if "\nkind: CustomResourceDefinition\n" not in f"\n{t}")
    return [yaml.load(t, yaml.CSafeLoader) for t in texts]


def of(objects: Objects, kind: str) -> dict[str, dict[str, Any]]:
    return {o["metadata"]["name"]: o for o in objects if o["kind"] == kind}


def rule_of(raw: dict[str, Any]) -> Rule:
    """A rule as `RULES` lists it."""
    named = [set(raw["resourceNames"])] if raw.get("resourceNames") else []
    return (set(raw["apiGroups"]), set(raw["resources"]), set(raw["verbs"]), *named)


def secrets_in(value: Any) -> Iterator[str]:
    """Names of the Secrets that containers take their environment or files from."""
    if isinstance(value, list):
        for v in value:
            yield from secrets_in(v)
    elif isinstance(value, dict):
        if (ref := value.get("secretKeyRef")) or (ref := value.get("secretRef")):
            yield ref["name"]
        if isinstance(volume := value.get("secret"), dict) and "secretName" in volume:
            yield volume["secretName"]
        for v in value.values():
            yield from secrets_in(v)


@pytest.fixture(params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> Objects:
    return render(f"overlays/{request.param}")


@pytest.mark.parametrize(("overlay", "namespace"), ENVIRONMENTS.items())
def test_everything_of_an_environment_lies_in_its_namespace(overlay: str, namespace: str) -> None:
    objects = render(f"overlays/{overlay}")
    assert list(of(objects, "Namespace")) == [namespace]
    assert {o["metadata"].get("namespace") for o in objects if o["kind"] != "Namespace"} == {namespace}
    assert not [o for o in objects if o["kind"].startswith("Cluster")], "no right of an environment reaches further than it does"


def test_a_namespace_refuses_unsafe_pods_and_is_bounded(environment: Objects) -> None:
    (namespace,) = of(environment, "Namespace").values()
    labels = namespace["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}
    assert int(labels["workflows.argoproj.io/parallelism-limit"]) > 0
    # By this label the policies of infra/policies find it; the local cluster is nobody's environment.
    assert labels.get("countersign/environment", "countersign") == namespace["metadata"]["name"]
    hard = of(environment, "ResourceQuota")["countersign"]["spec"]["hard"]
    assert {"pods", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory", "count/workflows.argoproj.io"} <= set(hard)
    assert hard["persistentvolumeclaims"] == "0"
    (limit,) = of(environment, "LimitRange")["countersign"]["spec"]["limits"]
    assert all({"cpu", "memory"} <= set(limit[k]) for k in ("default", "defaultRequest", "max"))


def test_what_may_run_at_once_has_room(environment: Objects) -> None:
    """A workflow whose pod a quota refuses asks again every second or two, each time with work for the API server.

    A hundred of them with room for thirty-five pods were most of what the API server had to do.
    """
    (namespace,) = of(environment, "Namespace").values()
    hard = of(environment, "ResourceQuota")["countersign"]["spec"]["hard"]
    workflows = int(namespace["metadata"]["labels"]["workflows.argoproj.io/parallelism-limit"])
    assert workflows <= int(hard["pods"])
    assert workflows * (0.25 + 0.01) <= int(hard["requests.cpu"]), "what plans and seals, and Argo's executor beside it"
    assert workflows * (512 + 64) <= int(hard["requests.memory"].removesuffix("Gi")) * 1024


def test_production_has_the_largest_bounds() -> None:
    cpu = {o: int(of(render(f"overlays/{o}"), "ResourceQuota")["countersign"]["spec"]["hard"]["requests.cpu"]) for o in ENVIRONMENTS}
    assert cpu["dev"] < cpu["staging"] < cpu["prod"]


def test_an_account_may_do_what_is_listed_and_nothing_else(environment: Objects) -> None:
    """The table in docs/install.md, and this: exactly these rules, bound to exactly these accounts."""
    assert set(of(environment, "ServiceAccount")) == {*RULES, "default"}
    bound = [b for b in of(environment, "RoleBinding").values() if b["metadata"]["name"] != "argo-server"]
    assert {b["metadata"]["name"]: (b["roleRef"]["kind"], b["roleRef"]["name"]) for b in bound} == {a: ("Role", a) for a in RULES}
    assert all([(s["kind"], s["name"]) for s in b["subjects"]] == [("ServiceAccount", b["metadata"]["name"])] for b in bound)
    for account, expected in RULES.items():
        rules = of(environment, "Role")[account]["rules"]
        assert [rule_of(r) for r in rules] == expected
        assert all(set(r) <= {"apiGroups", "resources", "verbs", "resourceNames"} for r in rules)


def test_who_looks_reads_the_secret_that_artifacts_are_fetched_with_and_no_other(environment: Objects) -> None:
    """Argo's server reads it as whoever asks for an artifact."""
    repositories = of(environment, "ConfigMap")["artifact-repositories"]["data"].values()
    fetched_with = {yaml.safe_load(r)["s3"][k]["name"] for r in repositories for k in ("accessKeySecret", "secretKeySecret")}
    rules = of(environment, "Role")["countersign-viewer"]["rules"]
    assert [set(r["resourceNames"]) for r in rules if "secrets" in r["resources"]] == [fetched_with]
    assert {v for r in rules for v in r["verbs"]} == SEES, "it changes nothing"


def test_only_the_local_server_has_rights_of_its_own() -> None:
    for overlay in ENVIRONMENTS:
        objects = render(f"overlays/{overlay}")
        assert ("argo-server" in of(objects, "Role")) == (overlay == "local")
    (secrets,) = [r for r in of(render("overlays/local"), "Role")["argo-server"]["rules"] if "secrets" in r["resources"]]
    assert secrets["resourceNames"] == ["countersign-artifacts"], "not the signing key, not the store's credentials"


def test_a_step_gets_no_token_by_default(environment: Objects) -> None:
    accounts = of(environment, "ServiceAccount")
    assert accounts["countersign-step"]["automountServiceAccountToken"] is False
    assert accounts["default"]["automountServiceAccountToken"] is False
    # Argo hands on a template's no and not its yes, so whose task needs a token has an account that gives it.
    assert all("automountServiceAccountToken" not in accounts[n] for n in ("promoter", "countersign-sealer"))
    token = accounts["countersign-step"]["metadata"]["annotations"]["workflows.argoproj.io/service-account-token.name"]
    secret = of(environment, "Secret")[token]
    assert secret["metadata"]["annotations"]["kubernetes.io/service-account.name"] == "countersign-step"


@pytest.mark.parametrize("folder", [*(f"overlays/{o}" for o in ENVIRONMENTS), *INSTALLS])
def test_no_secret_has_a_value(folder: str) -> None:
    for name, secret in of(render(folder), "Secret").items():
        assert not secret.get("data"), name
        assert not secret.get("stringData"), name


def test_no_key_is_committed() -> None:
    looks_like_one = re.compile(r"PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\b[0-9a-f]{64}\b")
    files = [p for p in ARGO.rglob("*") if p.is_file() and "upstream" not in p.parts and "workflows" not in p.parts]
    assert files
    assert [p.name for p in files if looks_like_one.search(p.read_text())] == []


def test_every_secret_that_is_used_is_one_that_the_script_makes(environment: Objects) -> None:
    made = set(re.findall(r"^#   ([a-z-]+)  +", (ARGO / "secrets").read_text(), re.MULTILINE))
    repository = yaml.safe_load(of(environment, "ConfigMap")["artifact-repositories"]["data"]["countersign"])
    used = {repository["s3"][k]["name"] for k in ("accessKeySecret", "secretKeySecret")}
    used |= set(secrets_in([o for o in environment if o["kind"] == "WorkflowTemplate"]))
    assert used <= made
    archive = yaml.safe_load(of(render("overlays/local/archive"), "ConfigMap")["workflow-controller-configmap"]["data"]["persistence"])
    assert archive["postgresql"]["passwordSecret"]["name"] in made


def test_the_artifact_repository_is_apart_from_the_evidence(environment: Objects) -> None:
    """Argo overwrites what it writes, so it must not write where content and records lie."""
    settings = of(environment, "ConfigMap")["countersign"]
    assert settings["metadata"]["labels"]["workflows.argoproj.io/configmap-type"] == "Parameter"
    prefix = settings["data"]["store"].split("/", 3)[3]
    repositories = of(environment, "ConfigMap")["artifact-repositories"]
    name = repositories["metadata"]["annotations"]["workflows.argoproj.io/default-artifact-repository"]
    repository = yaml.safe_load(repositories["data"][name])
    assert repository["archiveLogs"] is True
    assert repository["s3"]["keyFormat"].startswith("argo/")
    assert not repository["s3"]["keyFormat"].startswith(f"{prefix}/")
    assert settings["data"]["endpoint"].split("://")[1] == repository["s3"]["endpoint"]
    assert repository["s3"].get("insecure", False) == settings["data"]["endpoint"].startswith("http://")


def test_nothing_is_reachable_that_is_not_needed(environment: Objects) -> None:
    policies = of(environment, "NetworkPolicy")
    assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert set(policies) == {"default-deny", "names", "kubernetes-api", "store"}
    assert not [p for p in policies.values() if p["spec"].get("ingress")], "nobody talks to a step"
    assert all(rule.get("ports") for p in policies.values() for rule in p["spec"].get("egress", ()))


def test_traces_may_leave_where_an_overlay_asks_for_it(tmp_path: Path) -> None:
    """One more policy, for the pods of runs, to one namespace and port; nothing else changes."""
    for name in ("base", "components/traces"):
        shutil.copytree(ARGO / name, tmp_path / name)
    text = "resources: [../base]\ncomponents: [../components/traces]\n"
    (tmp_path / "own").mkdir()
    (tmp_path / "own/kustomization.yaml").write_text(text)
    before, after = of(render("base"), "NetworkPolicy"), of(render(str(tmp_path / "own")), "NetworkPolicy")
    added = after.pop("traces")["spec"]
    assert after == before
    assert added["podSelector"] == before["store"]["spec"]["podSelector"]
    (rule,) = added["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 4318}]
    assert len(rule["to"]) == 1


@pytest.mark.parametrize("folder", INSTALLS)
def test_argo_itself_is_pinned_and_restricted(folder: str) -> None:
    objects = render(folder)
    namespace = of(objects, "Namespace")["argo"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    versions = set()
    for name, deployment in of(objects, "Deployment").items():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            images = [container["image"], *(a.split("=", 1)[1] for a in container.get("args", ()) if a.startswith("--executor-image="))]
            assert not [i for i in images if i.endswith(":latest") or ":" not in i]
            versions |= {i.rsplit(":", 1)[1].removesuffix("-nonroot") for i in images if "postgresql" not in i}
    assert len(versions) == 1, "controller, server and executor are of one release"


@pytest.mark.parametrize("folder", INSTALLS)
def test_every_workflow_runs_restricted_whatever_it_says(folder: str) -> None:
    data = of(render(folder), "ConfigMap")["workflow-controller-configmap"]["data"]
    pod = yaml.safe_load(data["workflowDefaults"])["spec"]["securityContext"]
    assert pod == {
        "runAsNonRoot": True,
        "runAsUser": 8737,
        "runAsGroup": 8737,
        "fsGroup": 8737,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for key in ("mainContainer", "executor"):
        security = yaml.safe_load(data[key])["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
    # Locally tests submit what nobody reviewed. Argo takes any other word than its own for no restriction at all.
    restrictions = yaml.safe_load(data["workflowRestrictions"]) if "workflowRestrictions" in data else None
    assert restrictions == ({"templateReferencing": "Strict"} if folder == "controller" else None)
    assert ("persistence" in data) == folder.endswith("archive")


def test_the_controllers_scale_is_what_the_installing_page_says() -> None:
    """By value: a mistyped number leaves Argo running, only slower or without a bound. A name that is mistyped is missing here."""
    objects = render("controller")
    data = of(objects, "ConfigMap")["workflow-controller-configmap"]["data"]
    assert data["parallelism"] == "300"
    assert {k: yaml.safe_load(data[k]) for k in ("resourceRateLimit", "nodeEvents", "failedPodRestart")} == {
        "resourceRateLimit": {"limit": 20, "burst": 50},
        "nodeEvents": {"enabled": False},
        "failedPodRestart": {"enabled": True, "maxRestarts": 3},
    }
    deployment = of(objects, "Deployment")["workflow-controller"]["spec"]
    assert deployment["replicas"] == 2
    (container,) = deployment["template"]["spec"]["containers"]
    assert [a for a in container["args"] if not a.startswith("--executor-image=")] == [
        "--workflow-workers=128",
        "--pod-cleanup-workers=16",
        "--qps=60",
        "--burst=70",
        "--log-format=json",
    ]
    assert {"name": "DEFAULT_REQUEUE_TIME", "value": "2s"} in container["env"]


@pytest.mark.parametrize("folder", INSTALLS)
def test_argos_server_may_not_read_the_clusters_secrets(folder: str) -> None:
    """Upstream's may, which would make it a way to every signing key."""
    objects = render(folder)
    bound = {b["roleRef"]["name"] for b in of(objects, "ClusterRoleBinding").values() if b["subjects"][0]["name"] == "argo-server"}
    assert bound == {"argo-server-cluster-role"}
    rules = of(objects, "ClusterRole")["argo-server-cluster-role"]["rules"]
    assert {v for r in rules for v in r["verbs"]} == {"get", "list", "watch"}
    assert {g for r in rules for g in r["apiGroups"]} == {"argoproj.io"}
    modes = [a for a in of(objects, "Deployment")["argo-server"]["spec"]["template"]["spec"]["containers"][0]["args"] if "auth-mode" in a]
    assert modes == ["--auth-mode=client"] + ["--auth-mode=server"] * (folder != "controller")


@pytest.mark.parametrize("folder", INSTALLS)
def test_no_account_of_an_environment_has_rights_in_the_cluster(folder: str) -> None:
    subjects = {s["name"] for o in of(render(folder), "ClusterRoleBinding").values() for s in o["subjects"]}
    assert subjects == {"argo", "argo-server"}


def test_every_pipeline_is_installed() -> None:
    listed = yaml.safe_load((ARGO / "workflows/Kustomization").read_text())["resources"]
    assert sorted(listed) == sorted(p.name for p in (ARGO / "workflows").glob("*.yaml"))


def test_schedules_are_installed_in_production_alone() -> None:
    compiled = {p.stem for p in (ARGO / "schedules").glob("*.yaml")} - {"kustomization"}
    assert compiled
    for overlay in ENVIRONMENTS:
        assert set(of(render(f"overlays/{overlay}"), "CronWorkflow")) == (compiled if overlay == "prod" else set())


def test_every_parameter_of_a_form_is_described() -> None:
    forms = {name: t["spec"]["arguments"]["parameters"] for name, t in of(render("overlays/prod"), "WorkflowTemplate").items()}
    assert set(forms) == {"loan-approval", "promote", "rollback"}
    assert [f"{name} {p['name']}" for name, parameters in forms.items() for p in parameters if not p.get("description")] == []
