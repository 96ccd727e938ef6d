"""submit, watch and publish as a person types them, on an API that fails in the ways a cluster can."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.fake_api import FakeApi
from tests.conftest import Home, git
from workflows.show import WIDTH

TASKS = ["pick", "work", "join"]


@pytest.fixture
def lab(home: Home, api: FakeApi, tmp_path: Path) -> Home:
    """A checkout of the toy pipeline, a cluster that has its template, and a store that both use."""
    store = tmp_path / "shared"
    store.mkdir()
    api.template("toy", TASKS)
    api.config(store=f"file://{store}")
    return replace(home, env={**home.env, "KUBECONFIG": api.kubeconfig(tmp_path / "kubeconfig")})


def workflows_of(api: FakeApi) -> list[str]:
    return sorted(name for plural, name in api.objects if plural == "workflows")


def arguments_of(api: FakeApi, name: str) -> dict[str, str]:
    parameters = api.objects["workflows", name]["spec"]["arguments"]["parameters"]
    return {p["name"]: p["value"] for p in parameters}


def commit_of(home: Home) -> str:
    return (home.path / ".git/refs/heads").glob("*").__next__().read_text().strip()


def stored(home: Home, name: str) -> bytes:
    return (home.path.parent / "shared" / name).read_bytes()


# --- submit


def test_a_clean_commit_is_submitted_once(lab: Home, api: FakeApi) -> None:
    commit = commit_of(lab)
    name = f"toy-{commit[:12]}"
    first = lab.ask("submit", "toy")
    assert first.code == 0, first.err
    assert f"submitted: {name} in namespace lab" in first.out
    assert f"countersign watch {name}" in first.out
    second = lab.ask("submit", "toy")
    assert (second.code, f"already there: {name} (Pending)" in second.out, "--again" in second.out) == (0, True, True)
    assert workflows_of(api) == [name]


def test_pods_get_the_code_and_the_parameters_that_were_checked(lab: Home, api: FakeApi) -> None:
    commit = commit_of(lab)
    made = lab.ask("submit", "toy", "--set", "pick.at_least=35", "--json").json
    given = arguments_of(api, made["workflow"])
    assert given["parameters"] == "code"
    assert given["overrides"] == '{"pick.at_least":35}'
    assert given["revision"] == commit
    sha, md5, size = given["code"].split(":")
    archive = stored(lab, f"files/md5/{md5[:2]}/{md5[2:]}")
    assert (len(archive), len(sha)) == (int(size), 64)
    assert stored(lab, f"revisions/{commit}").decode() == f"{given['code']}\n"
    labels = api.objects["workflows", made["workflow"]]["metadata"]["labels"]
    assert labels == {"countersign/pipeline": "toy", "countersign/revision": commit}


def test_other_parameters_another_name_and_again_a_new_one(lab: Home, api: FakeApi) -> None:
    said = [lab.ask("submit", "toy", "--json", *words).json for words in ([], ["--set", "pick.at_least=35"], ["--again"], ["--again"])]
    assert [s["created"] for s in said] == [True] * 4
    assert len({s["workflow"] for s in said}) == 4
    assert len(workflows_of(api)) == 4


def test_changes_go_along_and_are_told(lab: Home, api: FakeApi) -> None:
    clean = lab.ask("submit", "toy", "--json").json["workflow"]
    lab.write("params/toy.yaml", lab.read("params/toy.yaml") + b"\n# a remark\n")
    said = lab.ask("submit", "toy", "--json")
    assert said.code == 0
    assert "the files differ from commit" in said.err
    assert said.json["workflow"] != clean
    given = arguments_of(api, said.json["workflow"])
    assert given["revision"] == f"{commit_of(lab)}-dirty"
    assert "countersign/revision" not in api.objects["workflows", said.json["workflow"]]["metadata"]["labels"]


def test_all_that_is_wrong_is_told_before_a_cluster_is_asked(lab: Home, api: FakeApi) -> None:
    api.asked.clear()
    said = lab.ask("submit", "toy", "--set", "pick.at_least=many", "--set", "nope.x=1", "--set", "work.mode=coarse")
    assert said.code == 2
    for words in ("pick.at_least", "no step nope", "work.mode"):
        assert words in said.err
    assert api.asked == []


def test_data_must_be_what_its_pointer_says(lab: Home, api: FakeApi) -> None:
    md5 = "0" * 32
    lab.write("data/toy/people.csv.dvc", f"outs:\n- md5: '{md5}'\n  size: 3\n  hash: md5\n  path: people.csv\n")
    changed = lab.ask("submit", "toy")
    assert (changed.code, "is not what its pointer says" in changed.err) == (2, True)
    (lab.path / "data/toy/people.csv").unlink()
    missing = lab.ask("submit", "toy")
    assert (missing.code, "missing from the store" in missing.err or "cannot be read" in missing.err, "dvc pull" in missing.err) == (
        2,
        True,
        True,
    )
    assert workflows_of(api) == []


def test_a_pipeline_that_the_cluster_does_not_have(lab: Home, api: FakeApi) -> None:
    del api.objects["workflowtemplates", "toy"]
    said = lab.ask("submit", "toy")
    assert (said.code, "the pipeline is not on this cluster" in said.err, "publish --templates" in said.err) == (2, True, True)


def test_a_template_of_another_pipeline_version(lab: Home, api: FakeApi) -> None:
    api.template("toy", ["pick", "work", "elsewhere"])
    said = lab.ask("submit", "toy")
    assert said.code == 2
    assert "has no task join, which the pipeline has here" in said.err
    assert "has a task elsewhere, which the pipeline has not here" in said.err
    assert workflows_of(api) == []


def test_another_store_than_the_pods(lab: Home, api: FakeApi) -> None:
    said = lab.ask("submit", "toy", "--store", "s3://elsewhere/x")
    assert (said.code, "work with another store" in said.err, "s3://elsewhere/x" in said.err) == (2, True, True)
    assert workflows_of(api) == []


def test_an_endpoint_inside_the_cluster(lab: Home, api: FakeApi) -> None:
    api.config(store="s3://bank/x", endpoint="http://s3.store.invalid:7070")
    said = lab.ask("submit", "toy")
    assert (said.code, "known inside the cluster only" in said.err, "AWS_ENDPOINT_URL_S3" in said.err) == (2, True, True)


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ((0, ""), 75, "cannot be reached"),
        ((403, '{"kind":"Status","message":"workflows is forbidden"}'), 2, "workflows is forbidden"),
        ((404, "404 page not found"), 2, "Argo Workflows is not installed"),
        ((503, "busy"), 75, "could not do it now"),
    ],
    ids=["away", "forbidden", "no Argo", "busy"],
)
def test_a_cluster_that_does_not_do_it(lab: Home, api: FakeApi, fault: tuple[int, str], code: int, words: str) -> None:
    api.always = fault
    said = lab.ask("submit", "toy", "--store", f"file://{lab.path.parent}/shared")
    assert (said.code, words in said.err) == (code, True)
    assert "Traceback" not in said.err


def test_nobody_there(lab: Home, tmp_path: Path) -> None:
    store = f"file://{lab.path.parent}/shared"
    refused = lab.ask("submit", "toy", "--store", store, env={"ARGO_SERVER": "127.0.0.1:1", "ARGO_SECURE": "false"})
    assert (refused.code, "cannot be reached: refused" in refused.err) == (75, True)
    none = lab.ask("submit", "toy", env={"KUBECONFIG": str(tmp_path / "none")})
    assert (none.code, "no cluster to talk to" in none.err, "cluster-up" in none.err) == (2, True, True)
    context = lab.ask("submit", "toy", "--context", "prod")
    assert (context.code, "no context prod" in context.err, "one of: fake" in context.err) == (2, True, True)


# --- wait and watch


@pytest.fixture
def ran(lab: Home) -> tuple[Home, dict[str, Any]]:
    """With a sealed run in the shared store, as the pods of a workflow would leave one."""
    return lab, lab.run("--store", f"file://{lab.path.parent}/shared")


def node(name: str, phase: str, code: int | None = None, message: str = "", **more: Any) -> dict[str, Any]:
    outputs = {"exitCode": str(code)} if code is not None else {}
    times = {"startedAt": "2026-11-24T10:00:00Z", "finishedAt": "2026-11-24T10:00:05Z" if phase != "Running" else None}
    return {"id": name, "displayName": name, "type": "Pod", "phase": phase, "message": message, "outputs": outputs, **times, **more}


def status(phase: str, *nodes: dict[str, Any]) -> dict[str, Any]:
    return {"phase": phase, "nodes": {n["id"]: n for n in nodes}}


def row(name: str, state: str) -> str:
    """How a line about a task begins."""
    return f"  {name:<{WIDTH}}{state}"


def plain(shown: str) -> str:
    """Without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


def wait_for(api: FakeApi, many: int = 1) -> str:
    """The workflow, once someone watches it."""
    for _ in range(600):
        if workflows_of(api) and len(api.watchers) >= many:
            return workflows_of(api)[0]
        time.sleep(0.1)
    raise AssertionError("nobody watches")


def test_waiting_ends_as_a_local_run_does(ran: tuple[Home, dict[str, Any]], api: FakeApi) -> None:
    lab, run = ran
    process = lab.start("-m", "workflows.cli", "submit", "toy", "--wait")
    name = wait_for(api)
    api.change(name, status("Running", node("pick", "Succeeded"), node("work(0:a)", "Running")))
    noted = {"countersign/run": run["run"], "countersign/root": run["root"]}
    api.change(name, status("Succeeded", node("pick", "Succeeded"), node("work(0:a)", "Succeeded"), node("seal", "Succeeded")), noted)
    said = lab.finish(process)
    assert said.code == 0, said.err
    assert f"submitted: {name}" in said.err
    assert said.err.count("pick ") == 1
    assert row("work(0:a)", "done") in said.err
    assert "Passed: every gate said yes." in said.out
    assert f"run        {run['run']}" in said.out
    assert f"countersign verify {run['run']} --store" in said.out
    again = lab.ask("submit", "toy", "--wait", "--json")
    assert (again.code, again.json["created"], again.json["run"], again.json["phase"]) == (0, False, run["run"], "Succeeded")


def test_a_gates_no_is_exit_code_3(ran: tuple[Home, dict[str, Any]], api: FakeApi) -> None:
    lab, _ = ran
    lab.write("params/policies/toy.yaml", lab.read("params/policies/toy.yaml").replace(b"at_least: 100", b"at_least: 1000"))
    refused = lab.ask("run", "toy", "--json", "--store", f"file://{lab.path.parent}/shared")
    assert refused.code == 3
    run = json.JSONDecoder().raw_decode(refused.out)[0]
    process = lab.start("-m", "workflows.cli", "submit", "toy", "--wait")
    name = wait_for(api)
    message = "main: Error (exit code 3): refused: toy.join: gate enough says no"
    api.change(name, status("Failed", node("join", "Failed", 3, message)), {"countersign/run": run["run"], "countersign/root": run["root"]})
    said = lab.finish(process)
    assert said.code == 3, said.err
    assert "Refused: a gate said no." in said.out
    assert row("join", "refused") in said.err
    assert "refused: " in said.err


@pytest.mark.parametrize(("code", "exits"), [(2, 2), (4, 4), (75, 75), (1, 1), (137, 75), (None, 75)])
def test_a_failure_without_a_run_has_the_tasks_exit_code(lab: Home, api: FakeApi, code: int | None, exits: int) -> None:
    process = lab.start("-m", "workflows.cli", "submit", "toy", "--wait")
    api.change(wait_for(api), status("Failed", node("plan", "Failed", code, "main: Error (exit code 9): error: no such thing")))
    said = lab.finish(process)
    assert (said.code, "no such thing" in said.err) == (exits, True)


def test_another_root_than_the_noted_one(ran: tuple[Home, dict[str, Any]], api: FakeApi) -> None:
    lab, run = ran
    process = lab.start("-m", "workflows.cli", "submit", "toy", "--wait")
    api.change(wait_for(api), status("Succeeded"), {"countersign/run": run["run"], "countersign/root": "0" * 64})
    said = lab.finish(process)
    assert (said.code, "another root than the workflow was annotated with" in said.err) == (4, True)


def test_leaving_does_not_stop_the_workflow(lab: Home, api: FakeApi) -> None:
    process = lab.start("-m", "workflows.cli", "submit", "toy", "--wait")
    name = wait_for(api)
    api.change(name, status("Running", node("pick", "Running")))
    os.killpg(process.pid, signal.SIGINT)
    said = lab.finish(process)
    assert said.code == 75
    assert f"interrupted; the workflow {name} goes on" in said.err
    assert f"countersign watch {name}" in said.err
    assert api.objects["workflows", name]["status"]["phase"] == "Running"
    process = lab.start("-m", "workflows.cli", "watch", name)
    wait_for(api)
    api.change(name, status("Failed", node("pick", "Failed", 2, "error: bad")))
    assert lab.finish(process).code == 2


def test_a_cluster_that_is_away_for_a_while(lab: Home, api: FakeApi) -> None:
    process = lab.start("-m", "workflows.cli", "submit", "toy", "--wait")
    name = wait_for(api)
    api.failing += [(0, "")] * 2
    api.cut()
    for _ in range(300):
        if not api.failing:
            break
        time.sleep(0.1)
    wait_for(api)
    api.change(name, status("Failed", node("pick", "Failed", 2, "error: bad")))
    said = lab.finish(process)
    assert (said.code, "bad" in said.err) == (2, True)


def test_a_workflow_that_is_deleted_while_it_is_watched(lab: Home, api: FakeApi) -> None:
    process = lab.start("-m", "workflows.cli", "submit", "toy", "--wait")
    api.remove(wait_for(api))
    said = lab.finish(process)
    assert (said.code, "was deleted before it had ended" in said.err) == (75, True)


def test_on_a_terminal_what_is_at_work_has_a_line_of_its_own(lab: Home, api: FakeApi) -> None:
    with terminal(lab, "submit", "toy", "--wait") as read:
        name = wait_for(api)
        api.change(name, status("Running", node("pick", "Running"), node("work(0:a)", "Pending", message="Unschedulable: no room")))
        assert "running" in plain(read("Unschedulable: no room"))
        api.change(name, status("Failed", node("pick", "Failed", 2, "error: bad")))
        assert row("pick", "failed") in plain(read("error: "))


@contextlib.contextmanager
def terminal(lab: Home, *words: str, patience: float = 60) -> Iterator[Callable[[str], str]]:
    """A command on a terminal of its own; call what is yielded to get what was shown since the last call, up to some words."""
    mine, its = pty.openpty()
    command = [sys.executable, "-m", "workflows.cli", *words]
    process = subprocess.Popen(command, cwd=lab.path, env={**lab.env, "TERM": "xterm"}, stdin=its, stdout=its, stderr=its)
    os.close(its)

    def read(until: str) -> str:
        deadline, shown = time.monotonic() + patience, ""
        while until not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([mine], [], [], 0.2)[0]:
                try:
                    shown += os.read(mine, 65536).decode(errors="replace")
                except OSError:
                    break
        assert until in shown, shown
        return shown

    try:
        yield read
    finally:
        process.kill()
        process.wait()
        os.close(mine)


# --- publish


def test_publish_brings_code_data_and_templates(lab: Home, api: FakeApi) -> None:
    assert lab.ask("compile").code == 0
    git(lab.path, "add", "-A")
    git(lab.path, "commit", "-qm", "compiled")
    said = lab.ask("publish", "--templates")
    assert said.code == 0, said.err
    commit = commit_of(lab)
    config = api.objects["configmaps", "countersign"]["data"]
    assert config["revision"] == commit
    assert stored(lab, f"revisions/{commit}").decode().strip() == config["code"]
    assert "kind/name" not in said.out
    assert "applied    WorkflowTemplate/toy" in said.out
    assert api.objects["workflowtemplates", "toy"]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "countersign"
    assert lab.ask("publish", "--json").json["revision"] == commit


def test_stale_manifests_are_not_published(lab: Home, api: FakeApi) -> None:
    assert lab.ask("compile").code == 0
    lab.write("params/toy.yaml", lab.read("params/toy.yaml").replace(b"at_least: 0", b"at_least: 1"))
    said = lab.ask("publish", "--templates")
    assert (said.code, "run: countersign compile" in said.err) == (2, True)
    assert "revision" not in api.objects["configmaps", "countersign"]["data"]


def test_a_changed_tree_is_published_and_told(lab: Home, api: FakeApi) -> None:
    lab.write("params/toy.yaml", lab.read("params/toy.yaml") + b"# x\n")
    said = lab.ask("publish")
    assert (said.code, "the files differ from commit" in said.err, "with changes" in said.out) == (0, True, True)
    assert api.objects["configmaps", "countersign"]["data"]["revision"].endswith("-dirty")
    assert not (lab.path.parent / "shared" / "revisions").exists()


def test_one_commit_is_not_published_as_two_things(lab: Home) -> None:
    assert lab.ask("publish").code == 0
    path = lab.path.parent / "shared" / "revisions" / commit_of(lab)
    path.write_text(f"{'0' * 64}:{'0' * 32}:7\n")
    said = lab.ask("publish")
    assert (said.code, "published before, with other files" in said.err) == (4, True)


def test_a_namespace_without_the_configuration(lab: Home, api: FakeApi) -> None:
    del api.objects["configmaps", "countersign"]
    said = lab.ask("publish", "--store", f"file://{lab.path.parent}/shared")
    assert (said.code, "the ConfigMap countersign is missing" in said.err, "kubectl apply -k" in said.err) == (2, True, True)
