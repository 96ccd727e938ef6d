"""A push becomes exactly one run, or none: on a real cluster, through Argo Events, with what the sender sees."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from tests.cluster.events_world import (
    GITLAB,
    OVERRIDES,
    Answer,
    World,
    install,
    kubectl,
    kubectl_json,
    new_namespace,
    of_the_example,
    reached,
    ready,
    remove,
    until,
)
from tests.compile import pushes
from tests.compile.example import DECLARED, people
from tests.compile.pushes import commit, commit_id, github, gitlab
from tests.conftest import lacking
from workflows import names
from workflows.compile import events, schedules
from workflows.declare import Pipeline, Schedule

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]

OURS = "steps/example.py"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if shutil.which("kubectl") is None or "workflows.argoproj.io" not in kubectl("get", "crds", "--output", "name", check=False):
        lacking("a cluster with Argo Workflows (make cluster-up, or KUBECONFIG)")
    made = World(namespace=new_namespace(), secrets={})
    try:
        installed = install(tmp_path_factory.mktemp("events"), made, of_the_example(made))
        with reached(installed) as there:
            yield there
    finally:
        remove(made)


def push(world: World, body: dict[str, Any], **how: Any) -> Answer:
    """As GitHub sends it."""
    data = pushes.as_bytes(body)
    return world.send("github", data, pushes.github_headers(data, world.secrets["github"], **how))


def push_gitlab(world: World, body: dict[str, Any]) -> Answer:
    return world.send("gitlab", pushes.as_bytes(body), pushes.gitlab_headers(world.secrets["gitlab"]))


def touching(seed: object) -> dict[str, Any]:
    return commit(seed, modified=[OURS])


@pytest.fixture
def unchanged(world: World, request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing but what is pushed afterwards came of the test's pushes.

    Sensors take events in order, so when each of them has made a workflow of a later push, they have seen the test's.
    """
    before = {ns: set(world.workflows(ns)) for ns in (world.dev, world.staging)}
    yield
    seed = f"after {request.node.name}"
    expected = {world.dev: set[str](), world.staging: set[str]()}
    for branch, namespace, overrides in (("main", world.dev, {}), ("release", world.staging, OVERRIDES)):
        for make, send in ((github, push), (gitlab, push_gitlab)):
            body = make(touching(f"{seed} {branch} {send.__name__}"), branch=branch)
            assert send(world, body).status == 200
            expected[namespace].add(names.workflow_name("an_example", commit=body["after"], overrides=overrides))
    for namespace, made in expected.items():
        for name in made:
            world.wait_for(name, namespace)
        assert set(world.workflows(namespace)) - before[namespace] == made


# --- A push that is meant


def test_a_push_becomes_one_workflow_at_its_commit_with_its_branchs_environment(world: World) -> None:
    body = github(commit("one", modified=["README.md"]), touching("two"), pusher={"name": "Ada <x>; rm -rf / {{y}}", "email": "a@b"})
    answer = push(world, body)
    assert (answer.status, answer.text) == (200, "success")
    sha = commit_id("two")
    made = world.wait_for(f"an-example-{sha[:12]}", world.dev)
    labels, notes = made["metadata"]["labels"], made["metadata"]["annotations"]
    assert labels["countersign/pipeline"] == "an-example"
    assert labels["countersign/environment"] == "dev"
    assert labels["countersign/revision"] == sha
    assert notes["countersign/branch"] == "main"
    assert notes["countersign/submitter"] == f"system:serviceaccount:{world.namespace}:countersign-sensor-dev"
    assert notes["countersign/repository"] == "example-bank/models"
    assert notes["countersign/pushed-by"] == "Ada__x___rm_-rf_/___y__"
    assert notes["countersign/delivery"] == "72d3162e-cc78-11e3-81ab-4c9367dc0958"
    assert arguments(made) == {"code": "", "revision": sha, "parameters": "code", "overrides": "{}"}
    assert made["spec"]["workflowTemplateRef"] == {"name": "an-example"}
    assert [n for n in world.workflows(world.staging) if sha[:12] in n] == []


def test_argo_takes_the_workflow_and_its_arguments_stand_over_the_templates(world: World) -> None:
    body = github(touching("taken"))
    assert push(world, body).status == 200
    name = f"an-example-{body['after'][:12]}"
    world.wait_for(name, world.dev)
    running = until(lambda: (w := world.workflows(world.dev)[name]).get("status", {}).get("phase") == "Running" and w, f"{name} to run")
    assert running["status"]["storedWorkflowTemplateSpec"]["templates"][0]["name"] == "wait"
    assert arguments(running)["revision"] == body["after"]


def test_a_branch_with_parameters_of_its_own_has_them_and_the_name_that_submit_would_give(world: World) -> None:
    body = github(touching("release"), branch="release")
    assert push(world, body).status == 200
    made = world.wait_for(names.workflow_name("an_example", commit=body["after"], overrides=OVERRIDES), world.staging)
    assert json.loads(arguments(made)["overrides"]) == OVERRIDES
    assert made["metadata"]["labels"]["countersign/environment"] == "staging"


def test_a_push_to_gitlab_does_the_same(world: World) -> None:
    body = gitlab(touching("gitlab"))
    answer = push_gitlab(world, body)
    assert (answer.status, answer.text) == (200, "success")
    made = world.wait_for(f"an-example-{body['after'][:12]}", world.dev)
    assert arguments(made)["revision"] == body["after"]
    assert made["metadata"]["annotations"]["countersign/repository"] == GITLAB
    assert made["metadata"]["annotations"]["countersign/delivery"] == "13792a34-cac6-4fda-95a8-c58e00a3954e"


def test_gitlab_does_not_say_that_a_push_was_forced_so_it_runs(world: World) -> None:
    """What keeps it from happening is the branch's protection there, as docs/triggers.md says."""
    body = gitlab(touching("rewritten"), before=commit_id("gone by that push"))
    assert push_gitlab(world, body).status == 200
    assert arguments(world.wait_for(f"an-example-{body['after'][:12]}", world.dev))["revision"] == body["after"]


def arguments(workflow: dict[str, Any]) -> dict[str, str]:
    return {p["name"]: p["value"] for p in workflow["spec"]["arguments"]["parameters"]}


# --- The same push again


@pytest.mark.usefixtures("unchanged")
def test_an_event_that_is_delivered_again_changes_nothing(world: World) -> None:
    body = github(touching("again"))
    name = f"an-example-{body['after'][:12]}"
    kubectl("create", "--namespace", world.dev, "--filename", "-", stdin=json.dumps(by_hand(name)))  # as `countersign submit` would have
    before = world.workflows(world.dev)[name]["metadata"]["uid"]
    answers = [push(world, body), push(world, body, delivery="another"), push(world, body)]
    assert {a.status for a in answers} == {200}
    push(world, github(touching("behind it")))
    world.wait_for(f"an-example-{commit_id('behind it')[:12]}", world.dev)
    assert world.workflows(world.dev)[name]["metadata"]["uid"] == before
    kubectl("delete", "workflow", name, f"an-example-{commit_id('behind it')[:12]}", "--namespace", world.dev)


def test_ten_deliveries_at_once_make_one_workflow(world: World) -> None:
    body = github(touching("ten at once"))
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: push(world, body, delivery=f"delivery-{n}"), range(10)))
    assert {a.status for a in answers} == {200}
    name = f"an-example-{body['after'][:12]}"
    uid = world.wait_for(name, world.dev)["metadata"]["uid"]
    until(lambda: refusals(world, name) >= 9, "nine refusals", 180)
    assert world.workflows(world.dev)[name]["metadata"]["uid"] == uid


def refusals(world: World, name: str) -> int:
    logs = kubectl("logs", "--namespace", world.namespace, "--selector", "sensor-name=an-example-dev", "--tail=-1")
    return len(re.findall(rf'failed to trigger actions.*workflows.argoproj.io \\"{name}\\" already exists', logs))


def by_hand(name: str) -> dict[str, Any]:
    spec = {"workflowTemplateRef": {"name": "an-example"}}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": name}, "spec": spec}


# --- Refused at the door


@pytest.mark.usefixtures("unchanged")
def test_a_push_that_github_did_not_sign_is_refused(world: World) -> None:
    body = pushes.as_bytes(github(touching("unsigned")))
    signed = pushes.github_headers(body, world.secrets["github"])
    missing = {k: v for k, v in signed.items() if not k.startswith("X-Hub")}
    tries = {
        "wrong secret": pushes.github_headers(body, "not the secret of this hook"),
        "empty secret": pushes.github_headers(body, ""),
        "no signature": missing,
        "empty signature": missing | {"X-Hub-Signature-256": ""},
        "signature of something else": pushes.github_headers(body + b" ", world.secrets["github"]),
        "cut signature": signed | {"X-Hub-Signature-256": signed["X-Hub-Signature-256"][:-2]},
        "gitlab's token": missing | {"Authorization": f"Bearer {world.secrets['gitlab']}"},
    }
    answers = {what: world.send("github", body, headers) for what, headers in tries.items()}
    assert {what: a.status for what, a in answers.items()} == dict.fromkeys(tries, 400)
    assert answers["wrong secret"].text == "payload signature check failed"
    assert answers["no signature"].text == "missing signature"


@pytest.mark.usefixtures("unchanged")
def test_a_push_without_gitlabs_token_is_refused(world: World) -> None:
    body = pushes.as_bytes(gitlab(touching("no token")))
    plain = {"Content-Type": "application/json", "X-Gitlab-Event": "Push Hook"}
    tries = {
        "wrong token": pushes.gitlab_headers("not the token of this hook"),
        "no token": plain,
        "empty token": plain | {"Authorization": "Bearer "},
        "another scheme": plain | {"Authorization": f"Basic {world.secrets['gitlab']}"},
        # What GitLab calls its secret token, which Argo Events does not look at here.
        "right token, wrong header": plain | {"X-Gitlab-Token": world.secrets["gitlab"]},
        "right token and more": pushes.gitlab_headers(world.secrets["gitlab"] + "x"),
    }
    assert {what: world.send("gitlab", body, headers).status for what, headers in tries.items()} == dict.fromkeys(tries, 401)


@pytest.mark.usefixtures("unchanged")
def test_twenty_megabytes_are_refused_and_cost_nothing(world: World) -> None:
    before = restarts(world)
    huge = github(touching("huge"), padding="x" * (20 * MIB))
    answer = push(world, huge)
    # It stops reading after 1 MiB, so a sender that is still writing may lose the connection before it reads the answer.
    assert answer.status in {400, 0}
    if answer.status:
        assert "request body too large" in answer.text
    assert push_gitlab(world, gitlab(touching("huge"), padding="x" * (20 * MIB))).status in {400, 0}
    assert restarts(world) == before


def restarts(world: World) -> dict[str, int]:
    pods = kubectl_json("get", "pods", "--namespace", world.namespace, "--selector", "eventsource-name")["items"]
    return {p["metadata"]["name"]: s["restartCount"] for p in pods for s in p["status"]["containerStatuses"]}


@pytest.mark.usefixtures("unchanged")
def test_what_is_no_push_at_all_is_refused(world: World) -> None:
    for data in (b"", b"{", b"[]", b"\xff\xfe"):
        assert world.send("github", data, pushes.github_headers(data, world.secrets["github"])).status == 400
    body = pushes.as_bytes(github(touching("elsewhere")))
    signed = pushes.github_headers(body, world.secrets["github"])
    assert world.send("github", body, signed, path="/").status == 404
    assert world.send("github", b"", {}, method="GET").status == 400


def test_the_largest_push_that_is_taken_goes_all_the_way(world: World) -> None:
    body = github(touching("large"), padding="")
    body["padding"] = "x" * (events.LIMIT - len(pushes.as_bytes(body)))
    assert len(pushes.as_bytes(body)) == events.LIMIT
    answer = push(world, body)
    assert answer.status == 200, answer
    world.wait_for(f"an-example-{body['after'][:12]}", world.dev)


# --- Taken, and nothing comes of it

NOT_MEANT = {
    "touches nothing of the pipeline": github(commit("aside", modified=["README.md", "docs/x.md"])),
    "another repository": github(touching("other repository"), repository="someone/models"),
    "a fork of the same name": github(touching("fork"), repository="someone/example-bank/models"),
    "a branch that is not mapped": github(touching("unmapped"), branch="feature/x"),
    "a branch whose name begins alike": github(touching("alike"), branch="main-2"),
    "a tag of the branch's name": github(touching("tag"), ref="refs/tags/main"),
    "a deleted branch": pushes.deleted(),
    "a forced push": github(touching("forced"), forced=True),
    "a commit that is none": github(touching("strange"), after="../../x"),
    "no repository": {k: v for k, v in github(touching("none")).items() if k != "repository"},
}


@pytest.mark.usefixtures("unchanged")
def test_pushes_that_are_not_meant_are_taken_and_run_nothing(world: World) -> None:
    for what, body in NOT_MEANT.items():
        assert push(world, body).status == 200, what
    assert push(world, {"zen": "Keep it logically awesome.", "hook_id": 1}, event="ping").status == 200
    assert push(world, github(touching("not a push")), event="pull_request").status == 200
    for body in (gitlab(commit("aside", modified=["README.md"])), gitlab(after=pushes.ZERO), gitlab(touching("t"), object_kind="tag_push")):
        assert push_gitlab(world, body).status == 200


# --- Many


def test_two_hundred_pushes_in_a_minute_all_become_workflows(world: World, record_testsuite_property: Any) -> None:
    """They are created at the sensor's pace; how many of them run at once is Argo's own setting."""
    before = set(world.workflows(world.dev))
    bodies = [github(touching(f"many {n}")) for n in range(200)]
    expected = {f"an-example-{b['after'][:12]}" for b in bodies}
    start = time.monotonic()
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda b: push(world, b), bodies))
        sent = time.monotonic() - start
        assert sent < 60
        assert {a.status for a in answers} == {200}
        until(lambda: expected <= set(world.workflows(world.dev)), "200 workflows")
        done = time.monotonic() - start
        made = world.workflows(world.dev)
        assert set(made) - before == expected
        assert len({arguments(made[n])["revision"] for n in expected}) == 200
    finally:  # they would go on waiting, and Argo counts them among what runs
        kubectl("delete", "workflows", "--namespace", world.dev, "--ignore-not-found", *expected)
    assert done > 200 / 5 * 0.9  # five a second
    for name, value in (("sent in", sent), ("all there after", done), ("slowest answer", max(a.seconds for a in answers))):
        record_testsuite_property(name, round(value, 1))


# --- What breaks in between


def test_a_push_while_the_sensor_is_away_is_not_lost(world: World) -> None:
    before = kubectl("get", "pods", "--namespace", world.namespace, "--selector", "sensor-name=an-example-dev", "--output", "name").split()
    kubectl("delete", "--namespace", world.namespace, *before, "--wait=false")
    body = github(touching("sensor away"))
    assert push(world, body).status == 200
    world.wait_for(f"an-example-{body['after'][:12]}", world.dev)
    ready(world)


def test_after_the_bus_was_lost_the_sender_is_told_and_then_it_goes_on(world: World) -> None:
    """While the bus is away a push is answered with 500, so that GitHub shows it as failed; then all is as before.

    Nobody restarts anything: the bus knows its streams again from its disk.
    """
    kubectl("delete", "pod", "countersign-bus-0", "--namespace", world.namespace, "--wait=true")
    answers: dict[str, int] = {}

    def one_more_is_taken() -> bool:
        body = github(touching(f"bus {len(answers)}"))
        answers[f"an-example-{body['after'][:12]}"] = push(world, body).status
        return 200 in answers.values()

    until(one_more_is_taken, "the event source to find the bus again")
    assert set(answers.values()) <= {200, 500}
    taken = {name for name, status in answers.items() if status == 200}
    until(lambda: taken <= set(world.workflows(world.dev)), f"{taken} to become workflows")
    ready(world)


# --- What each part may do


def test_a_sensor_can_create_workflows_in_its_environment_and_nothing_else(world: World) -> None:
    """In its own environment only, and it can neither read nor change what it created."""

    def may(verb: str, what: str, namespace: str, account: str) -> bool:
        who = f"system:serviceaccount:{world.namespace}:{account}"
        return kubectl("auth", "can-i", verb, what, "--namespace", namespace, "--as", who, check=False).strip().startswith("yes")

    account = "countersign-sensor-dev"
    assert may("create", "workflows.argoproj.io", world.dev, account)
    for verb in ("get", "list", "watch", "update", "patch", "delete"):
        assert not may(verb, "workflows.argoproj.io", world.dev, account)
    for what in ("secrets", "pods", "configmaps", "workflowtemplates.argoproj.io", "cronworkflows.argoproj.io", "serviceaccounts/token"):
        for verb in ("get", "create"):
            assert not may(verb, what, world.dev, account)
    assert not may("create", "workflows.argoproj.io", world.staging, account)
    assert not may("create", "workflows.argoproj.io", world.namespace, account)
    for verb in ("get", "create"):
        assert not may(verb, "secrets", world.namespace, "countersign-source")
        assert not may(verb, "workflows.argoproj.io", world.dev, "countersign-source")


def test_a_web_hooks_secret_that_would_check_nothing_is_not_let_in(world: World) -> None:
    for name, data in (
        ("countersign-github", {"secret": ""}),
        ("countersign-github", {"other": "x" * 40}),
        ("countersign-gitlab", {"token": "short"}),
    ):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": world.namespace}, "stringData": data}
        said = kubectl("replace", "--filename", "-", stdin=json.dumps(secret), check=False)
        assert "the secret of a web hook is missing or shorter than 22 bytes" in said, said
    assert kubectl_json("get", "secret", "countersign-github", "--namespace", world.namespace)["data"]["secret"]


# --- By the clock


def test_a_schedule_names_its_runs_after_the_time_they_were_due(world: World) -> None:
    schedule = Schedule(cron=("* * * * *",), time_zone="Europe/Zurich", champion=people, compared="auc")
    pipeline: Pipeline = replace(DECLARED.pipeline, schedule=schedule)
    kubectl("apply", "--namespace", world.staging, "--filename", "-", stdin=schedules.cron_workflow(pipeline, schedule))
    try:
        name = until(
            lambda: next((n for n in world.workflows(world.staging) if re.fullmatch(r"an-example-\d{10}", n)), None), "a scheduled run", 150
        )
        made = until(
            lambda: (w := world.workflows(world.staging)[name]).get("status", {}).get("phase") == "Running" and w, f"{name} to run"
        )
        due = int(name.rpartition("-")[2])
        assert due % 60 == 0
        given = made["metadata"]["annotations"]["workflows.argoproj.io/scheduled-time"]
        assert made["metadata"]["labels"]["countersign/pipeline"] == "an-example"
        assert datetime.fromisoformat(given).timestamp() == due
    finally:
        kubectl("delete", "cronworkflow", "an-example", "--namespace", world.staging)
