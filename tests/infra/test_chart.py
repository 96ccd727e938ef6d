"""The chart of the model server: what it renders, what it refuses, and that what is generated from it is fresh."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import lacking
from tests.infra.test_kustomize import render as kustomized
from tests.serve import world as served
from tests.serve.process import Server, serving
from workflows.serve.server import LAST_ANSWERS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "infra/charts/model-server"
GOLDEN = ROOT / "tests/golden/charts"
RELEASE = '{"pipeline":"loan_approval","release":{"environment":"prod","sequence":7,"sha256":null},"variants":[]}'
GIVEN = {"pipeline": "loan_approval", "release": RELEASE, "image": {"tag": "v1"}, "code": f"{'1' * 64}:{'2' * 32}:3"}
MEASURED = 583 * 2.0**20  # bytes, as docs/benchmarks.md has them
DRAIN = 5  # seconds, the server's own
CASES: dict[str, dict[str, Any]] = {
    "deployment": {},
    "canary": {"canary": {"enabled": True, "analysis": {"attributes": ["race", "sex"]}}},
    "rollback": {"canary": {"enabled": True}, "rollback": True},
    "everything": {
        "ingress": {"enabled": True, "host": "decisions.example.org", "tlsSecret": "decisions-tls", "className": "nginx"},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "log": {"mode": "batched"},
        "env": {"COUNTERSIGN_HOST": "::"},
        "networkPolicy": {"callers": {"kubernetes.io/metadata.name": "applications"}, "storePorts": [7070]},
        "image": {"digest": f"sha256:{'a' * 64}", "pullSecrets": ["registry"]},
        "nodeSelector": {"disk": "ssd"},
        "tracing": {"endpoint": "http://collector.monitoring.svc:4318"},
    },
}


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "infra/charts/generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


def helm(*words: str, given: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    program = shutil.which("helm")
    if not program:
        lacking("helm: make cluster-up builds it")
    said = json.dumps(given) if given is not None else None
    return subprocess.run([program, *words], input=said, capture_output=True, text=True, check=False)


def render(more: dict[str, Any]) -> str:
    done = helm("template", "loan-approval", str(CHART), "--namespace", "prod", "--values", "-", given=merged(GIVEN, more))
    assert done.returncode == 0, done.stderr
    return done.stdout


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {k: merged(one[k], v) if isinstance(v, dict) and isinstance(one.get(k), dict) else v for k, v in other.items()}
    return {**one, **both}


@pytest.mark.parametrize("case", CASES)
def test_snapshot(case: str) -> None:
    """To accept a change: COUNTERSIGN_WRITE_GOLDEN=1 pytest tests/infra/test_chart.py, and read the difference in git."""
    text, path = render(CASES[case]), GOLDEN / f"{case}.yaml"
    if os.environ.get("COUNTERSIGN_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_as_the_restricted_profile_wants_it(case: str) -> None:
    for o in yaml.safe_load_all(render(CASES[case])):
        pod = o["spec"] if o["kind"] == "Pod" else o.get("spec", {}).get("template", {}).get("spec")
        if not pod:
            continue
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for c in pod["containers"]:
            assert c["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            assert {"cpu", "memory"} <= set(c["resources"]["limits"])


def test_what_a_server_is_told_is_the_text_that_was_approved() -> None:
    (deployment,) = [o for o in yaml.safe_load_all(render({})) if o["kind"] == "Deployment"]
    template = deployment["spec"]["template"]
    assert template["metadata"]["annotations"]["countersign/release"] == RELEASE
    (volume,) = [v for v in template["spec"]["volumes"] if v["name"] == "release"]
    assert volume["downwardAPI"]["items"][0]["fieldRef"]["fieldPath"] == "metadata.annotations['countersign/release']"


def test_whoever_installs_is_shown_the_command_for_the_releases_environment() -> None:
    done = helm("install", "x", str(CHART), "--namespace", "elsewhere", "--dry-run=client", "--values", "-", given=GIVEN)
    assert "countersign history --env prod\n" in f"{done.stdout}\n", done.stderr


def test_a_rollback_takes_no_steps() -> None:
    (rollout,) = [o for o in yaml.safe_load_all(render(CASES["rollback"])) if o["kind"] == "Rollout"]
    assert rollout["spec"]["strategy"]["canary"]["steps"] == []


def test_traces_go_to_the_collector_and_nowhere_else_and_only_where_one_is_named() -> None:
    def of(more: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        objects = [o for o in yaml.safe_load_all(render(more)) if o]
        (deployment,) = [o for o in objects if o["kind"] == "Deployment"]
        policy = next(o for o in objects if o["kind"] == "NetworkPolicy")
        env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
        return [e["value"] for e in env if e["name"].startswith("OTEL_")], policy["spec"]["egress"]

    none, plain = of({})
    assert none == []
    there = "http://collector.monitoring.svc:4318"
    sent, egress = of({"tracing": {"endpoint": there}})
    assert (sent, egress[:-1]) == ([there], plain)
    to = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert egress[-1] == {"to": to, "ports": [{"protocol": "TCP", "port": 4318}]}
    _, anywhere = of({"tracing": {"endpoint": there, "port": 443, "collector": ""}})
    assert anywhere[-1] == {"ports": [{"protocol": "TCP", "port": 443}]}


@pytest.mark.parametrize(("drain", "send"), [({}, 25), ({"grace": 180, "seconds": 10}, 140), ({"grace": 30}, 5)])
def test_a_pod_that_ends_has_its_time_for_the_log(drain: dict[str, int], send: int) -> None:
    """Until it is ended by force it has let go on what goes on, and tried to reach the store for as long as there is time."""
    (deployment,) = [o for o in yaml.safe_load_all(render({"drain": drain})) if o["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = int(next(e["value"] for e in container["env"] if e["name"] == "COUNTERSIGN_SEND"))
    assert given == send
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"] + DRAIN + LAST_ANSWERS
    if pod["terminationGracePeriodSeconds"] >= 60:
        assert before + given + 5 <= pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("case", ["deployment", "canary"])
def test_what_cannot_load_is_not_ready_and_is_not_killed_for_it(case: str) -> None:
    (workload,) = [o for o in yaml.safe_load_all(render(CASES[case])) if o["kind"] in {"Deployment", "Rollout"}]
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    asked = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
    assert asked == {"startup": "/v2/health/live", "liveness": "/v2/health/live", "readiness": "/v2/health/ready"}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Kubernetes' rule for labels, for the two forms that these policies have."""
    exist = [e["key"] for e in selector.get("matchExpressions", ()) if e["operator"] == "Exists"]
    return selector.get("matchLabels", {}).items() <= labels.items() and all(k in labels for k in exist)


def lets_through(policies: list[dict[str, Any]], one: dict[str, str], other: dict[str, str], port: str) -> bool:
    """Whether a pod with the labels `one` may talk to one beside it with `other`, on a port: both must be let."""

    def lets(way: str, peers: str, whose: dict[str, str], to: dict[str, str]) -> bool:
        rules = [r for p in policies if selects(p["spec"]["podSelector"], whose) for r in p["spec"].get(way, ())]
        return any(
            port in [p["port"] for p in r["ports"]]
            and any("namespaceSelector" not in p and selects(p["podSelector"], to) for p in r.get(peers, [{"podSelector": {}}]))
            for r in rules
        )

    return lets("egress", "to", one, other) and lets("ingress", "from", other, one)


@pytest.mark.kubectl
@pytest.mark.parametrize("case", ["deployment", "canary"])
def test_what_asks_the_server_whether_it_is_ready_reaches_it(case: str) -> None:
    """Where the network enforces policies, too: else helm test would take back each promotion."""
    made = [o for o in yaml.safe_load_all(render(CASES[case])) if o]
    policies = [o for o in [*made, *kustomized("overlays/prod")] if o["kind"] == "NetworkPolicy"]
    (hook,) = [o for o in made if o["kind"] == "Pod"]
    (workload,) = [o for o in made if o["kind"] in {"Deployment", "Rollout"}]
    asking, server = hook["metadata"]["labels"], workload["spec"]["template"]["metadata"]["labels"]
    assert lets_through(policies, asking, server, "http")
    assert not lets_through(policies, asking, server, "metrics")
    assert not lets_through(policies, {"app": "other"}, server, "http"), "a pod that no policy opens"


@pytest.mark.parametrize(
    ("sequence", "pipeline", "code", "said"),
    [(7, "loan_approval", 0, "200"), (8, "loan_approval", 1, "loan_approval, version 7"), (7, "fraud", 1, "no such model")],
)
def test_helm_test_asks_for_this_release_and_no_other(asked: Server, sequence: int, pipeline: str, code: int, said: str) -> None:
    """What its pod runs, word for word, against a server of release 7."""
    release = {"pipeline": pipeline, "release": {"environment": "prod", "sequence": sequence, "sha256": None}, "variants": []}
    (hook,) = [o for o in yaml.safe_load_all(render({"pipeline": pipeline, "release": json.dumps(release)})) if o["kind"] == "Pod"]
    (container,) = hook["spec"]["containers"]
    env = {e["name"]: e["value"] for e in container["env"]}
    assert env["URL"].startswith("http://loan-approval.prod.svc:80/")
    there = env["URL"].replace("loan-approval.prod.svc:80", f"127.0.0.1:{asked.port}")
    words = [sys.executable, *container["command"][1:], *container["args"]]
    done = subprocess.run(words, env={"URL": there, "TRIES": "1"}, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    top = tmp_path_factory.mktemp("asked")
    (top / "run").mkdir()
    with serving(top, served.make(top / "run")) as server:
        yield server


@pytest.mark.kubectl
@pytest.mark.parametrize("environment", ["dev", "staging", "prod"])
def test_an_environments_bounds_have_room_for_its_server(environment: str) -> None:
    """At its most pods, and once more while one release follows another; a claim of a volume would never be bound."""
    values = yaml.safe_load((CHART / f"environments/{environment}.yaml").read_text())
    made = [o for o in yaml.safe_load_all(render(merged(values, {"code": GIVEN["code"]}))) if o]
    (workload,) = [o for o in made if o["kind"] in {"Deployment", "Rollout"}]
    pod = workload["spec"]["template"]["spec"]
    most = [o["spec"]["maxReplicas"] for o in made if o["kind"] == "HorizontalPodAutoscaler"]
    pods = 2 * max(most, default=workload["spec"].get("replicas", 1))
    quotas = [o for o in kustomized(f"overlays/{environment}") if o["kind"] == "ResourceQuota"]
    (hard,) = [q["spec"]["hard"] for q in quotas]
    (container,) = pod["containers"]
    for kind, size in ((kind, size) for kind in ("requests", "limits") for size in ("cpu", "memory")):
        assert pods * amount(container["resources"][kind][size]) <= amount(hard[f"{kind}.{size}"]), (kind, size)
    claims = [v["name"] for v in pod["volumes"] if {"ephemeral", "persistentVolumeClaim"} & set(v)]
    assert len(claims) <= int(hard["persistentvolumeclaims"]), claims
    assert amount(container["resources"]["requests"]["memory"]) >= MEASURED, "what a server takes under load"


def amount(text: str) -> float:
    """Kubernetes' quantities, as far as these files have them."""
    units = {"m": 1e-3, "Mi": 2.0**20, "Gi": 2.0**30}
    number = text.rstrip("mMGi")
    return float(number) * units.get(text.removeprefix(number), 1.0)


def test_a_group_that_nobody_was_approved_of_does_not_drop_out() -> None:
    (analysis,) = [o for o in yaml.safe_load_all(render(CASES["canary"])) if o["kind"] == "AnalysisTemplate"]
    queries = {m["name"]: m["provider"]["prometheus"]["query"] for m in analysis["spec"]["metrics"]}
    assert set(queries) == {"requests", "errors", "p99", "shift", "fairness-race", "fairness-sex"}
    assert " or 0 * sum by (group)" in queries["fairness-race"]
    for m in analysis["spec"]["metrics"]:
        assert "len(result) == 0 || isNaN(result[0])" in m["failureCondition"], "no answer says no"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"unknown": 1}, "'unknown' not allowed"),
        ({"log": {"mode": "sometimes"}}, "/log/mode"),
        ({"log": {"size": "1 GB"}}, "/log/size"),
        ({"replicas": 0}, "/replicas"),
        ({"tracing": {"endpoint": "collector:4318"}}, "/tracing/endpoint"),
        ({"image": {"digest": "sha256:1"}}, "/image/digest"),
        ({"code": "main"}, "/code"),
        ({"release": "loan"}, "/release"),
        ({"canary": {"analysis": {"errors": 2}}}, "/canary/analysis/errors"),
        ({"canary": {"enabled": True, "seconds": 120}}, "a window of 300 (canary.analysis.window) would look back"),
        ({"drain": {"grace": 19}}, "it takes 20 at least"),
        ({"release": ""}, "the promoter sets it"),
        ({"image": {"tag": ""}}, "image.digest or image.tag"),
        ({"ingress": {"enabled": True, "host": "x.example.org"}}, "ingress.tlsSecret"),
    ],
)
def test_values_that_are_refused(more: dict[str, Any], said: str) -> None:
    done = helm("template", "x", str(CHART), "--values", "-", given=merged(GIVEN, more))
    assert done.returncode != 0
    assert said in done.stderr, done.stderr


@pytest.mark.parametrize("environment", ["dev", "staging", "prod"])
def test_lint(environment: str) -> None:
    values = CHART / "environments" / f"{environment}.yaml"
    done = helm("lint", "--strict", str(CHART), "--values", str(values), "--values", "-", given=GIVEN)
    assert done.returncode == 0, done.stdout + done.stderr


def test_schema_and_readme_are_fresh() -> None:
    for path, text in generator().texts(CHART).items():
        assert path.read_text() == text, "python infra/charts/generate.py infra/charts/model-server"


def test_a_value_without_a_word_about_it_is_an_error() -> None:
    made = generator()
    with pytest.raises(made.Undescribed, match=r"line 3: a.c has no comment"):
        made.describe("# what a is\na:\n  c: 1\n")
    (a,) = made.describe("# what a is\na:\n  # what c is\n  # [minimum 1] [enum x y]\n  c: 1\n")
    assert (a.text, a.below[0].text, a.below[0].rules) == ("what a is", "what c is", {"minimum": "1", "enum": "x y"})


def test_a_stale_file_is_found(tmp_path: Path) -> None:
    shutil.copytree(CHART, tmp_path / "model-server")
    words = ["python", str(ROOT / "infra/charts/generate.py"), "--check", str(tmp_path / "model-server")]
    assert subprocess.run(words, check=False, capture_output=True).returncode == 0
    with (tmp_path / "model-server/values.yaml").open("a") as file:
        file.write("# One more.\nmore: 1\n")
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "values.schema.json is stale" in done.stderr
