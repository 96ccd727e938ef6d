"""Every way to start a pipeline on a real cluster, and what a person sees of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.real import Space, Toy, from_server, only_as, server_address, token_of, toy_in, wait
from tests.cluster.test_commands import commit_of, plain, row, terminal
from tests.conftest import Home, git, home_from
from workflows.cluster.interface import Phase, Submission
from workflows.prove.anchor import State

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def toy(space: Space, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The toy pipeline, published by `countersign publish`, code of its own so that nothing is there to reuse."""

    scratch = tmp_path_factory.mktemp("submit")
    home = home_from(template, scratch)
    home.write("steps/toy.py", home.read("steps/toy.py") + f"\n# {time.time_ns()}\n".encode())
    found = toy_in(space, home)
    git(home.path, "add", "-A")
    git(home.path, "commit", "-qm", "compiled")
    space.kubectl("delete", "workflowtemplate", "toy")
    said = home.ask("publish", "--templates", "--namespace", space.name, env=found.env)
    assert said.code == 0, said.err
    assert "applied    WorkflowTemplate/toy" in said.out
    return found


@dataclass(frozen=True, kw_only=True)
class Server:
    """The Argo Server, as someone with the right to submit and nothing else reaches it."""

    address: str
    token: str
    namespace: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "ARGO_SERVER": self.address,
            "ARGO_TOKEN": self.token,
            "ARGO_NAMESPACE": self.namespace,
            "ARGO_INSECURE_SKIP_VERIFY": "true",
        }


@pytest.fixture(scope="module")
def server(space: Space) -> Server:
    return Server(address=server_address(), token=f"Bearer {token_of(space, 'countersign-submitter')}", namespace=space.name)


@dataclass(frozen=True, kw_only=True)
class Ways:
    """Workflows of one commit, each started in another way, at about the same time."""

    submit: str
    argo: str
    kubectl: str
    ui: str


@pytest.fixture(scope="module")
def ways(toy: Toy, server: Server) -> Ways:
    submit = toy.submit()
    argo = subprocess.run(
        ["argo", "submit", "-n", toy.space.name, "--from", "workflowtemplate/toy", "-p", "pick-at_least=35", "-o", "name"],
        capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(toy.home.path.parent)},
    )  # fmt: skip
    assert argo.returncode == 0, argo.stderr
    manifest = Submission(name="by-hand", template="toy", arguments={}).manifest(toy.space.name)
    del manifest["spec"]["arguments"]
    toy.space.kubectl("create", "-f", "-", given=json.dumps(manifest))
    status, form = by_the_form(server, "work-seconds=0.0")
    assert status == 200, form
    return Ways(submit=submit, argo=argo.stdout.strip(), kubectl="by-hand", ui=form["metadata"]["name"])


def by_the_form(server: Server, *parameters: str) -> tuple[int, Any]:
    """What the UI sends when someone fills in a template's form, and the answer."""
    options = {"generateName": "toy-form-", "parameters": parameters}
    body = {"namespace": server.namespace, "resourceKind": "WorkflowTemplate", "resourceName": "toy", "submitOptions": options}
    return asked(server, "POST", f"workflows/{server.namespace}/submit", body)


def asked(server: Server, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    answer = from_server(f"api/v1/{path}", method=method, body=body, token=server.token)
    return answer.status, answer.json()


# --- The same run, however it is started


@pytest.mark.parametrize("way", ["submit", "argo", "kubectl", "ui"])
def test_every_way_leads_to_a_sealed_run_that_verifies(toy: Toy, ways: Ways, way: str) -> None:
    name = getattr(ways, way)
    done = toy.ended(name)
    assert done.phase is Phase.SUCCEEDED, done.message
    # What another of them had computed by then is reused.
    assert done.annotations["countersign/outcome"] in {"done", "reused"}
    run = toy.run_of(name)
    checked = toy.verify(run)
    assert (checked["code"], checked["verified"], checked["root"]) == (0, True, done.annotations["countersign/root"])


def test_no_two_workflows_write_into_one_run(toy: Toy, ways: Ways) -> None:
    names = [ways.submit, ways.argo, ways.kubectl, ways.ui]
    for n in names:
        toy.ended(n)
    assert len({toy.run_of(n) for n in names}) == len(names)
    # The form's and kubectl's parameters are the code's, so all but argo's are attempts at one plan.
    plans = {"-".join(toy.run_of(n).split("-")[:2]) for n in (ways.submit, ways.kubectl, ways.ui)}
    assert len(plans) == 1


def test_records_say_which_commit_ran(toy: Toy, ways: Ways) -> None:
    toy.ended(ways.submit)
    done = toy.workflow(ways.submit)
    assert done.name == f"toy-{commit_of(toy.home)[:12]}"
    assert done.labels["countersign/revision"] == commit_of(toy.home)
    assert done.annotations["workflows.argoproj.io/title"] == f"toy at {commit_of(toy.home)[:12]}"


def test_watching_an_ended_workflow_ends_as_a_local_run(toy: Toy, ways: Ways) -> None:
    toy.ended(ways.submit)
    said = toy.ask("watch", ways.submit, "--namespace", toy.space.name)
    assert said.code == 0, said.err
    for task in ("plan", "pick", "work(0:a)", "work(1:b)", "join", "seal"):
        assert row(task, "done") in said.err
    assert "Passed: every gate said yes." in said.out
    assert f"run        {toy.run_of(ways.submit)}" in said.out


def test_a_cluster_s_run_ends_with_the_words_and_the_values_of_a_local_one(toy: Toy, ways: Ways) -> None:
    toy.ended(ways.submit)
    watch = ("watch", ways.submit, "--namespace", toy.space.name)
    local, there = toy.home.run(), toy.ask(*watch, "--json").json
    own = {"run", "root", "unchanged", "outcome"}  # what another way of the four had computed by then was reused
    assert {k: v for k, v in local.items() if k not in own} == {k: v for k, v in there.items() if k in local and k not in own}
    assert (len(local["gates"]), len(local["artifacts"])) == (1, 5)

    def gates(out: str) -> list[str]:
        return [line for line in out.splitlines() if line.startswith("  gate ")]

    assert gates(toy.home.ask("run", "toy").out) == gates(toy.ask(*watch).out) != []


def test_a_task_is_called_what_the_pipeline_calls_it(toy: Toy, ways: Ways) -> None:
    toy.ended(ways.submit)
    shown = {re.sub(r"\(\d+\)$", "", n.name) for n in toy.workflow(ways.submit).nodes if n.kind == "Pod"}
    assert shown == {"plan", "pick", "work(0:a)", "work(1:b)", "join", f"{ways.submit}.onExit"}


@pytest.mark.usefixtures("toy")
def test_the_form_describes_its_fields_and_offers_their_choices(server: Server) -> None:
    status, template = asked(server, "GET", f"workflow-templates/{server.namespace}/toy")
    assert status == 200, template
    form = {p["name"]: p for p in template["spec"]["arguments"]["parameters"]}
    assert form["pick-at_least"] == {"name": "pick-at_least", "value": "0", "description": "Smallest age kept, years"}
    assert form["work-mode"] == {"name": "work-mode", "value": "fine", "enum": ["fine", "bad", "boom", "nan", "slow", "held", "memory"]}


# --- Once, or again


def test_the_same_twice_is_one_workflow(toy: Toy, ways: Ways) -> None:
    toy.ended(ways.submit)
    said = toy.ask("submit", "toy", "--namespace", toy.space.name)
    assert (said.code, f"already there: {ways.submit} (Succeeded)" in said.out) == (0, True), said.err
    waited = toy.ask("submit", "toy", "--namespace", toy.space.name, "--wait", "--json")
    assert (waited.code, waited.json["created"], waited.json["workflow"]) == (0, False, ways.submit)


def test_again_is_a_new_workflow_that_reuses_what_was_computed(toy: Toy, ways: Ways) -> None:
    toy.ended(ways.submit)
    said = toy.ask("submit", "toy", "--namespace", toy.space.name, "--again", "--wait", "--json")
    assert said.code == 0, said.err
    assert said.json["workflow"] not in {ways.submit, ways.argo, ways.kubectl, ways.ui}
    assert said.json["run"] != toy.run_of(ways.submit)
    assert {s["outcome"] for s in toy.steps(said.json["run"])} == {"reused"}


def test_two_people_submit_the_same_at_once(toy: Toy) -> None:
    words = ("-m", "workflows.cli", "submit", "toy", "--namespace", toy.space.name, "--set", "pick.at_least=31", "--json")
    said = [toy.home.finish(p) for p in [toy.home.start(*words, env=toy.env) for _ in range(3)]]
    assert [s.code for s in said] == [0, 0, 0], [s.err for s in said]
    assert len({s.json["workflow"] for s in said}) == 1
    assert sorted(s.json["created"] for s in said) == [False, False, True]
    toy.space.kubectl("delete", "workflow", said[0].json["workflow"], "--wait=false")


# --- What can be wrong


def test_a_gate_that_says_no_ends_with_3_and_its_evidence(toy: Toy) -> None:
    said = toy.ask("submit", "toy", "--namespace", toy.space.name, "--set", "pick.at_least=45", "--set", "work.mode=fine", "--wait")
    assert said.code == 0, said.err  # 50 years, twice, are exactly enough
    policy = toy.home.read("params/policies/toy.yaml")
    try:
        toy.home.write("params/policies/toy.yaml", policy.replace(b"at_least: 100", b"at_least: 1000"))
        said = toy.ask("submit", "toy", "--namespace", toy.space.name, "--wait")
    finally:
        toy.home.write("params/policies/toy.yaml", policy)
    assert said.code == 3, said.err
    assert "the files differ from commit" in said.err
    assert row("join", "refused") in said.err
    assert "gate enough" in said.err
    assert "Refused: a gate said no." in said.out
    assert "total 240 (>= 1000)" in said.out


def test_a_step_that_fails_ends_with_its_code(toy: Toy) -> None:
    said = toy.ask("submit", "toy", "--namespace", toy.space.name, "--set", "work.mode=bad", "--wait")
    assert said.code == 2, said.err
    assert "too few ages" in said.err
    assert "Failed: a step did not finish." in said.out


def test_a_wrong_parameter_starts_nothing(toy: Toy) -> None:
    before = toy.space.kubectl("get", "workflows", "-o", "name")
    said = toy.ask("submit", "toy", "--namespace", toy.space.name, "--set", "pick.at_least=many", "--set", "nope.x=1")
    assert (said.code, "no step nope" in said.err, "pick.at_least" in said.err) == (2, True, True)
    assert toy.space.kubectl("get", "workflows", "-o", "name") == before


@pytest.mark.parametrize(("given", "where"), [("pick-at_least=many", "pick.at_least"), ("work-mode=nonsense", "work.mode")])
def test_a_wrong_parameter_in_the_form_fails_in_the_first_task_with_words(toy: Toy, server: Server, given: str, where: str) -> None:
    """Argo's server takes both: a field's choices are the page's own."""
    status, made = by_the_form(server, given)
    assert status == 200, made
    name = made["metadata"]["name"]
    assert toy.ended(name).phase is Phase.FAILED
    said = toy.ask("watch", name, "--namespace", toy.space.name)
    assert said.code == 2
    assert where in said.err


def test_a_wrong_context_and_a_wrong_namespace(toy: Toy) -> None:
    said = toy.ask("submit", "toy", "--context", "elsewhere")
    assert (said.code, "no context elsewhere" in said.err) == (2, True)
    said = toy.ask("submit", "toy", "--namespace", "nowhere")
    assert (said.code, "the ConfigMap countersign is missing" in said.err) == (2, True)


def test_a_pipeline_that_was_not_published_there(toy: Toy) -> None:
    with toy.space.without("workflowtemplate", "toy"):
        said = toy.ask("submit", "toy", "--namespace", toy.space.name, "--again")
    assert (said.code, "publish --templates" in said.err) == (2, True)


# --- Whoever may submit, and nothing else


def test_the_right_to_submit_is_enough(toy: Toy, space: Space, tmp_path: Path) -> None:
    env = {**toy.env, **only_as(space, "countersign-submitter", tmp_path)}
    del env["COUNTERSIGN_STORE"]  # the ConfigMap says it
    said = toy.home.ask("submit", "toy", "--namespace", toy.space.name, "--set", "pick.at_least=32", "--json", env=env)
    assert (said.code, said.json["created"]) == (0, True), said.err
    published = toy.home.ask("publish", "--namespace", toy.space.name, env=env)
    assert (published.code, "forbidden" in published.err) == (2, True)
    space.kubectl("delete", "workflow", said.json["workflow"], "--wait=false")


def test_the_right_to_publish_is_enough_and_starts_nothing(toy: Toy, space: Space, tmp_path: Path) -> None:
    env = {**toy.env, **only_as(space, "countersign-publisher", tmp_path)}
    with toy.space.without("workflowtemplate", "toy"):
        said = toy.home.ask("publish", "--templates", "--namespace", toy.space.name, env=env)
        assert said.code == 0, said.err
        assert space.get("workflowtemplate", "toy")["spec"]["entrypoint"] == "pipeline"
        assert space.get("configmap", "countersign")["data"]["revision"] == commit_of(toy.home)
    refused = toy.home.ask("submit", "toy", "--namespace", toy.space.name, "--again", env=env)
    assert (refused.code, "forbidden" in refused.err) == (2, True)


def test_the_right_to_audit_is_enough_and_changes_nothing(toy: Toy, space: Space, ways: Ways, tmp_path: Path) -> None:
    toy.ended(ways.submit)
    env = {**toy.env, **only_as(space, "countersign-auditor", tmp_path)}
    said = toy.home.ask("verify", toy.run_of(ways.submit), "--namespace", toy.space.name, "--json", env=env)
    assert (said.code, said.json["verified"]) == (0, True), said.err
    assert {a["name"]: a["state"] for a in said.json["anchors"]}["annotation"] == State.SAME, said.json["anchors"]
    refused = toy.home.ask("submit", "toy", "--namespace", toy.space.name, "--again", env=env)
    assert (refused.code, "forbidden" in refused.err) == (2, True)


def test_through_the_argo_server(toy: Toy, server: Server, ways: Ways) -> None:
    toy.ended(ways.submit)
    env = {k: v for k, v in toy.env.items() if k != "KUBECONFIG"} | server.env
    there = toy.home.ask("submit", "toy", "--json", env=env)
    assert (there.code, there.json["created"], there.json["workflow"]) == (0, False, ways.submit), there.err
    said = toy.home.ask("submit", "toy", "--again", "--wait", env=env)
    assert said.code == 0, said.err
    assert row("join", "done") in said.err
    assert "Passed: every gate said yes (all steps reused)." in said.out
    refused = toy.home.ask("submit", "toy", env={**env, "ARGO_TOKEN": "Bearer none"})
    assert (refused.code, "Unauthorized" in refused.err, "ARGO_TOKEN" in refused.err) == (2, True, True)


# --- Watching


def test_leaving_does_not_stop_the_workflow(toy: Toy) -> None:
    words = ("submit", "toy", "--namespace", toy.space.name, "--set", "work.mode=slow", "--set", "work.seconds=15", "--wait")
    process = toy.home.start("-m", "workflows.cli", *words, env=toy.env)
    name = wait(lambda: slow_one(toy), "the workflow is there")
    toy.until(name, "pick", Phase.RUNNING, Phase.SUCCEEDED)
    os.killpg(process.pid, signal.SIGINT)
    said = toy.home.finish(process)
    assert said.code == 75
    assert f"interrupted; the workflow {name} goes on" in said.err
    assert f"countersign watch {name} --namespace {toy.space.name}" in said.err
    done = toy.ask("watch", name, "--namespace", toy.space.name)
    assert (done.code, "Passed" in done.out) == (0, True), done.err


def slow_one(toy: Toy) -> str | None:
    listed = json.loads(toy.space.kubectl("get", "workflows", "-o", "json"))["items"]
    for w in listed:
        given = {p["name"]: p.get("value", "") for p in w["spec"].get("arguments", {}).get("parameters", [])}
        if "slow" in given.get("overrides", ""):
            return str(w["metadata"]["name"])
    return None


def test_a_terminal_shows_what_is_at_work(toy: Toy) -> None:
    lab = Home(path=toy.home.path, env={**toy.home.env, **toy.env})
    with terminal(lab, "submit", "toy", "--namespace", toy.space.name, "--set", "pick.at_least=33", "--wait", patience=300) as read:
        assert "plan" in plain(read("running"))
        shown = plain(read("Check it:"))
        assert row("pick", "done") in shown
        assert "Passed: every gate said yes." in shown


def test_publish_writes_what_the_form_starts(toy: Toy, space: Space) -> None:
    config = space.get("configmap", "countersign")["data"]
    assert config["revision"] == commit_of(toy.home)
    sha, md5, size = config["code"].split(":")
    key = f"{toy.prefix}files/md5/{md5[:2]}/{md5[2:]}"
    assert toy.client.head_object(Bucket=toy.bucket, Key=key)["ContentLength"] == int(size)
    named = toy.client.get_object(Bucket=toy.bucket, Key=f"{toy.prefix}revisions/{config['revision']}")["Body"].read()
    assert named.decode() == f"{sha}:{md5}:{size}\n"
