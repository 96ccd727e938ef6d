"""Sensors: which pushes they pass, what they make of them. Lua runs the filters here, Argo Events itself in tests/cluster."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

from tests.compile import pushes
from tests.compile.example import DECLARED, people
from tests.compile.pushes import commit, github, gitlab
from tests.compile.test_compile import GOLDEN, both_readers
from workflows import names
from workflows.compile import events, schedules
from workflows.compile.triggers import Triggers
from workflows.declare import Overlap, Schedule

OURS = "steps/example.py"
OVERRIDES = {"train_it.words": 'a "quote", `tick`, {{x}} \\ ü', "train_it.rate": 0.5}
TRIGGERS = Triggers.model_validate_json(
    json.dumps(
        {
            "repositories": {"github": ["example-bank/models"], "gitlab": ["risk/models", "risk/team.a/models"]},
            "environments": {"dev": {"namespace": "countersign-dev"}, "staging": {"namespace": "countersign-staging"}},
            "branches": {
                "main": {"environment": "dev", "pipelines": {"an_example": {}}},
                "release/1.x": {"environment": "staging", "pipelines": {"an_example": OVERRIDES}},
            },
        }
    )
)
SCHEDULE = Schedule(
    cron=("0 5 * * mon", "30 17 1 * *"),
    time_zone="Europe/Zurich",
    champion=people,
    compared="auc",
    overlap=Overlap.REPLACE,
    deadline=0,
    description="yes",
)
TEXTS = events.manifests(TRIGGERS, [DECLARED])
FILES = {path.removeprefix(f"{events.FOLDER}/"): text for path, text in TEXTS.items()}
GOLDENS = {
    **{f"events/{name}": text for name, text in FILES.items()},
    "an-example-schedule.yaml": schedules.cron_workflow(DECLARED.pipeline, SCHEDULE),
}


@pytest.mark.parametrize("name", sorted(GOLDENS))
def test_golden(name: str) -> None:
    """To accept a change: COUNTERSIGN_WRITE_GOLDEN=1 pytest tests/compile, and read the difference in git."""
    path = GOLDEN / name
    if os.environ.get("COUNTERSIGN_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(GOLDENS[name])
    assert GOLDENS[name] == path.read_text()


def test_both_yaml_readers_see_the_same() -> None:
    for text in GOLDENS.values():
        for document in text.split("---\n"):
            both_readers(document)


# --- What a sensor passes: its data filters as Argo Events documents them, its script by Lua 5.1, which Argo Events' own Lua is


@functools.cache
def sensors() -> list[dict[str, Any]]:
    return [yaml.safe_load(text) for name, text in FILES.items() if name.startswith("sensor-")]


def passed(host: str, body: dict[str, Any]) -> list[str]:
    """Names of the events that a push is taken for."""
    event = pushes.as_event(host, body)
    found = [d for s in sensors() for d in s["spec"]["dependencies"] if d["eventSourceName"] == host]
    return [d["name"] for d in found if all(holds(f, event) for f in d["filters"]["data"]) and script(d["filters"]["script"], event)]


def holds(condition: dict[str, Any], event: dict[str, Any]) -> bool:
    value: Any = event
    for key in condition["path"].split("."):
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    found = any(re.search(p, text) for p in condition["value"])
    return found is (condition.get("comparator", "=") != "!=")


def script(text: str, event: dict[str, Any]) -> bool:
    """Argo Events gives a script a table without what is null, and takes only `true` for a yes."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.globals().event = table(lua, event)
    return lua.execute(text) is True


def table(lua: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return lua.table_from({k: table(lua, v) for k, v in value.items() if v is not None})
    if isinstance(value, list):
        return lua.table_from([table(lua, v) for v in value])
    return value


MAIN = ["github-an-example-main"]
RELEASE = [n for s in sensors() for d in s["spec"]["dependencies"] if (n := d["name"]).startswith("github-an-example-release")]
TOUCHING = commit(modified=[OURS])
ASIDE = commit(modified=["README.md"], added=["docs/x.md"], removed=["steps/other.py"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (github(TOUCHING), MAIN),
        (github(commit(added=["params/an_example.yaml"])), MAIN),
        (github(commit(removed=["data/example/branches.parquet.dvc"])), MAIN),
        (github(commit(modified=["requirements.lock"])), MAIN),
        (github(commit(modified=["params/policies/an_example.yaml"])), MAIN),
        (github(commit(modified=["workflows/an_example.py"])), MAIN),
        (github(TOUCHING, ASIDE), MAIN),
        (github(TOUCHING, branch="release/1.x"), RELEASE),
        # Told too little to know: taken for touching.
        (github(), MAIN),
        (github(ASIDE, commits=None), MAIN),
        (github(*[ASIDE] * 2048), MAIN),
        (github(commit(modified=[f"docs/{i}.md" for i in range(3000)])), MAIN),
        (github({k: v for k, v in ASIDE.items() if k != "modified"}), MAIN),
        (github(ASIDE, before=pushes.ZERO, created=True), MAIN),
        # Not meant.
        (github(ASIDE), []),
        (github(*[ASIDE] * 2047), []),
        (github(commit(modified=["steps/example.py.txt", "x/steps/example.py", "Steps/Example.py"])), []),
        (github(TOUCHING, branch="other"), []),
        (github(TOUCHING, branch="main2"), []),
        (github(TOUCHING, branch="release/1xx"), []),
        (github(TOUCHING, ref="refs/tags/main"), []),
        (github(TOUCHING, ref="main"), []),
        (github(TOUCHING, ref="refs/heads/main\nrefs/heads/x"), []),
        (github(TOUCHING, repository="example-bank/models-fork"), []),
        (github(TOUCHING, repository="other/example-bank/models"), []),
        (github(TOUCHING, repository="EXAMPLE-BANK/models"), []),
        (github(TOUCHING, forced=True), []),
        (github(TOUCHING, forced=None), []),
        (github(TOUCHING, after=pushes.ZERO), []),
        (github(TOUCHING, after="6113728f27ae"), []),
        (github(TOUCHING, after="$(touch /tmp/x); #"), []),
        (pushes.deleted(), []),
        ({k: v for k, v in github(TOUCHING).items() if k != "repository"}, []),
        ({k: v for k, v in github(TOUCHING).items() if k != "forced"}, []),
        ({k: v for k, v in github(TOUCHING).items() if k != "deleted"}, []),
        ({"zen": "Design for failure.", "hook_id": 1}, []),
    ],
)
def test_what_github_pushes(body: dict[str, Any], expected: list[str]) -> None:
    assert passed("github", body) == expected


GITLAB_MAIN = ["gitlab-an-example-main"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (gitlab(TOUCHING), GITLAB_MAIN),
        (gitlab(TOUCHING, repository="risk/team.a/models"), GITLAB_MAIN),
        (gitlab(*[ASIDE] * 20, total_commits_count=21), GITLAB_MAIN),
        (gitlab(ASIDE, total_commits_count=None), GITLAB_MAIN),
        (gitlab(), GITLAB_MAIN),
        (gitlab(ASIDE, before=pushes.ZERO), GITLAB_MAIN),
        (gitlab(ASIDE), []),
        (gitlab(TOUCHING, repository="risk/teamxa/models"), []),
        (gitlab(TOUCHING, repository="example-bank/models"), []),
        (gitlab(TOUCHING, branch="other"), []),
        (gitlab(TOUCHING, object_kind="tag_push"), []),
        (gitlab(TOUCHING, object_kind="merge_request"), []),
        (gitlab(after=pushes.ZERO), []),
    ],
)
def test_what_gitlab_pushes(body: dict[str, Any], expected: list[str]) -> None:
    assert passed("gitlab", body) == expected


def test_gitlab_does_not_say_that_a_push_was_forced_so_it_runs() -> None:
    """What keeps it from happening is the branch's protection there, as docs/triggers.md says."""
    rewritten = pushes.commit_id("gone by that push")
    assert passed("gitlab", gitlab(TOUCHING, before=rewritten)) == GITLAB_MAIN
    assert passed("github", github(TOUCHING, before=rewritten, forced=True)) == []


def test_one_host_is_not_taken_for_the_other() -> None:
    assert passed("gitlab", github(TOUCHING)) == []
    assert passed("github", gitlab(TOUCHING)) == []


# --- What a sensor makes


def test_a_name_is_the_one_that_submit_gives_the_same_run() -> None:
    """A push and `countersign submit` of the same commit, with the same parameters, meet under one name."""
    sha = pushes.commit_id("any")
    for s in sensors():
        for t in s["spec"]["triggers"]:
            made = {p["dest"]: p["src"]["dataTemplate"] for p in t["template"]["k8s"]["parameters"]}["metadata.name"]
            overridden = s["metadata"]["name"] == "an-example-staging"
            expected = names.workflow_name("an_example", commit=sha, overrides=OVERRIDES if overridden else {})
            assert rendered(made, sha) == expected
            assert overridden is (sha[:12] not in expected)


def rendered(template: str, sha: str) -> str:
    """The two forms of our own templates, as Go's would come out."""
    stem, _, rest = template.partition("{{ ")
    if rest == ".Input.body.after | trunc 12 }}":
        return stem + sha[:12]
    quoted = r'("(?:[^"\\]|\\.)*")'
    match = re.fullmatch(rf"print {quoted} \.Input\.body\.after {quoted} \| sha256sum \| trunc 12 }}}}", rest)
    assert match, rest
    return stem + hashlib.sha256((json.loads(match[1]) + sha + json.loads(match[2])).encode()).hexdigest()[:12]


def test_a_workflow_gets_the_commit_and_the_parameters_of_its_branch() -> None:
    for s in sensors():
        for t in s["spec"]["triggers"]:
            workflow = t["template"]["k8s"]["source"]["resource"]
            given = {p["name"]: p["value"] for p in workflow["spec"]["arguments"]["parameters"]}
            staging = s["metadata"]["name"] == "an-example-staging"
            assert json.loads(given["overrides"]) == (OVERRIDES if staging else {})
            assert workflow["metadata"]["namespace"] == ("countersign-staging" if staging else "countersign-dev")
            assert (given["code"], given["parameters"]) == ("", "code")
            place = [p["name"] for p in workflow["spec"]["arguments"]["parameters"]].index("revision")
            filled = {p["dest"]: p["src"]["dataTemplate"] for p in t["template"]["k8s"]["parameters"]}
            assert filled[f"spec.arguments.parameters.{place}.value"] == "{{ .Input.body.after }}"


def test_nothing_that_a_person_wrote_reaches_a_workflow_as_it_is() -> None:
    """Every template takes the commit, whose form a filter has checked, or replaces what is not plain."""
    for s in sensors():
        for t in s["spec"]["triggers"]:
            for p in t["template"]["k8s"]["parameters"]:
                text = p["src"]["dataTemplate"]
                fields = set(re.findall(r"\.Input\.[\w.]+", text.replace('index .Input.body "X-', "")))
                assert fields <= {".Input.body.after"} or text.startswith('{{ regexReplaceAll "[^A-Za-z0-9._@/-]" ('), text
                assert "dataKey" not in p["src"]


def test_a_sensor_may_create_workflows_in_its_environment_and_nothing_else() -> None:
    for environment, namespace in (("dev", "countersign-dev"), ("staging", "countersign-staging")):
        account, role, binding = yaml.safe_load_all(FILES[f"access-{environment}.yaml"])
        assert role["rules"] == [{"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["create"]}]
        assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == namespace
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": "countersign-events"}]
    used = {s["spec"]["template"]["serviceAccountName"]: s["metadata"]["name"] for s in sensors()}
    assert used == {"countersign-sensor-dev": "an-example-dev", "countersign-sensor-staging": "an-example-staging"}


def test_no_event_source_listens_without_a_secret() -> None:
    one, other = (yaml.safe_load(FILES[f"source-{h}.yaml"])["spec"] for h in ("github", "gitlab"))
    assert one["github"]["push"]["webhookSecret"] == {"name": "countersign-github", "key": "secret"}
    assert other["webhook"]["push"]["authSecret"] == {"name": "countersign-gitlab", "key": "token"}


def test_names_stay_unique_and_fit_a_label_however_long_or_strange_the_branch_is() -> None:
    strange = ["a/b", "a-b", "a.b", "A-b", "x" * 100, "x" * 99 + "y"]
    raw = TRIGGERS.model_dump(mode="json")
    raw["branches"] = {b: {"environment": "dev", "pipelines": {"an_example": {}}} for b in strange}
    text = events.manifests(Triggers.model_validate_json(json.dumps(raw)), [DECLARED])[f"{events.FOLDER}/sensor-an-example-dev.yaml"]
    found = [d["name"] for d in yaml.safe_load(text)["spec"]["dependencies"]]
    assert len(set(found)) == len(found) == 2 * len(strange)
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", n) for n in found)


def test_a_schedule_says_when_in_which_zone_and_what_becomes_of_missed_runs() -> None:
    spec = yaml.safe_load(GOLDENS["an-example-schedule.yaml"])["spec"]
    assert (spec["schedules"], spec["timezone"]) == (["0 5 * * 1", "30 17 1 * *"], "Europe/Zurich")
    assert (spec["concurrencyPolicy"], spec["startingDeadlineSeconds"]) == ("Replace", 0)
    given = {p["name"]: p["value"] for p in spec["workflowSpec"]["arguments"]["parameters"]}
    assert given == {"parameters": "code"}
