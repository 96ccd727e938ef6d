"""The loan-approval pipeline on a real cluster, and what someone who was not there can say of it afterwards.

What takes minutes has a file of its own, for a worker of its own: test_reproducing, test_dvc_alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys

import pytest

from tests.cluster.audited import ARTIFACTS, LONG, NAMESPACE, Bank, digests
from tests.cluster.real import Space, from_server, store_client, token_of
from tests.conftest import Home
from workflows.loan_approval import pipeline
from workflows.names import argo_name

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]


def test_a_run_on_argo_and_a_run_on_a_laptop_have_equal_digests(bank: Bank) -> None:
    """From the same commit, with the same masking key, and nothing to reuse on either side: every artifact."""
    said = bank.home.ask("run", pipeline.name, "--no-cache", "--json", within=LONG)
    assert said.code == 0, said.err
    assert said.json["run"] == bank.run
    made = digests(bank.answer)
    assert set(made) == ARTIFACTS
    assert len(made) == 32
    assert digests(said.json) == made
    shown = bank.home.ask("show", bank.run, "--json", env=bank.store).json
    assert "reused" not in {s["outcome"] for s in shown["steps"]}, "the cluster computed all of it"


def test_from_the_run_alone_it_verifies_and_its_bundle_does(bank: Bank, auditor: Home, key: str) -> None:
    checked = auditor.ask("verify", bank.run, "--key", key, "--json")
    assert checked.code == 0, checked.out + checked.err
    answer = checked.json
    assert (answer["verified"], answer["outcome"], answer["trust"]) == (True, "done", "given with --key")
    assert (answer["root"], answer["commits"]) == (bank.answer["root"], [bank.commit])
    assert {a["name"]: a["state"] for a in answer["anchors"]} == {
        "git-note": "unreached",
        "annotation": "unreached",
        "object-lock": "same",
    }
    assert auditor.ask("bundle", bank.run, "--key", key, "-o", "loan.bundle").code == 0
    script = bank.home.path / "infra/verify/verify_bundle.py"
    words = [sys.executable, "-I", str(script), "loan.bundle", "--key", key, "--root", answer["root"]]
    done = subprocess.run(words, cwd=auditor.path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"verified {bank.run}: 16 records" in done.stdout


def test_who_may_look_at_the_cluster_finds_the_root_on_the_workflow(bank: Bank, auditor: Home) -> None:
    words = ("verify", bank.run, "--require-anchor", "annotation", "--namespace", NAMESPACE)
    said = auditor.ask(*words, env={"KUBECONFIG": bank.store["KUBECONFIG"]})
    assert said.code == 0, said.out + said.err
    assert f"annotation  the same root: workflow {NAMESPACE}/{bank.answer['workflow']}" in said.out
    assert auditor.ask(*words).code == 4, "an anchor that must agree and cannot be reached"


def test_its_root_is_noted_in_three_places_that_agree(bank: Bank) -> None:
    anchors = ("annotation", "git-note", "object-lock")
    words = [w for a in anchors for w in ("--require-anchor", a)]
    said = bank.home.ask("verify", bank.run, "--namespace", NAMESPACE, "--json", *words, env=bank.store)
    assert said.code == 0, said.out + said.err
    assert {a["name"]: a["state"] for a in said.json["anchors"]} == dict.fromkeys(anchors, "same")


def test_every_record_names_the_image_that_its_step_ran_in(bank: Bank) -> None:
    image = Space(name=NAMESPACE).get("configmap", "countersign")["data"]["image"]
    bucket, _, prefix = bank.url.removeprefix("s3://").partition("/")
    s3 = store_client(bank.store)
    steps = bank.home.ask("show", bank.run, "--json", env=bank.store).json["steps"]
    assert len(steps) == 16
    for step in steps:
        envelope = json.loads(s3.get_object(Bucket=bucket, Key=f"{prefix}/records/{step['record']}")["Body"].read())
        definition = json.loads(base64.b64decode(envelope["payload"]))["predicate"]["buildDefinition"]
        named = {d["name"]: d["digest"] for d in definition["resolvedDependencies"]}
        assert named["image"] == {"sha256": image.partition("@sha256:")[2]}, step["task"]


def test_argos_ui_shows_the_pipelines_own_tasks(bank: Bank) -> None:
    """By these names a person finds a step there; its message, artifacts and outputs belong to it."""
    nodes = Space(name=NAMESPACE).workflow(bank.answer["workflow"])["status"]["nodes"].values()
    shown = {n["displayName"] for n in nodes if n["type"] == "Retry"}
    one = {argo_name(s.name) for s in pipeline.steps if not s.fan_out}
    fanned = {f"{argo_name(s.name)}({n}:{item})" for s in pipeline.steps if s.fan_out for n, item in enumerate(s.fan_out.over)}
    assert shown == {"plan", f"{bank.answer['workflow']}.onExit", *one, *fanned}


@pytest.mark.parametrize("account", [None, "countersign-viewer"])
def test_argos_ui_gives_out_the_report_and_the_verdicts_as_they_were_made(bank: Bank, account: str | None) -> None:
    """From the server itself, as a browser gets them: byte for byte what the run's records name.

    Without a token it is the local overlay's server that reads them. Elsewhere it reads them as whoever asks.
    """
    space = Space(name=NAMESPACE)
    token = f"Bearer {token_of(space, account)}" if account else ""
    found = {}
    for artifact, node in shown_in_ui(bank).items():
        answer = from_server(f"artifact-files/{NAMESPACE}/workflows/{bank.answer['workflow']}/{node}/outputs/{artifact}", token=token)
        assert answer.status == 200, answer.data
        found[artifact] = hashlib.sha256(answer.data).hexdigest()
    made = digests(bank.answer)
    assert found == {argo_name(a): made[f"{pipeline.name}/{a}"] for a in SHOWN}


@pytest.mark.parametrize(("account", "said"), [("countersign-step", {403}), ("countersign-auditor", {403, 500})])
def test_argos_ui_gives_no_report_to_an_account_without_the_right(bank: Bank, account: str, said: set[int]) -> None:
    """Argo 4.0 says 403 where the workflow may not be read, and 500 where the Secret may not be."""
    token = f"Bearer {token_of(Space(name=NAMESPACE), account)}"
    node = shown_in_ui(bank)["evidence"]
    answer = from_server(f"artifacts/{NAMESPACE}/{bank.answer['workflow']}/{node}/evidence", token=token)
    assert answer.status in said, answer.data[:200]


SHOWN = {"evidence", "verdicts", "privacy_verdicts", "quality_verdicts", "evaluation"}


def shown_in_ui(bank: Bank) -> dict[str, str]:
    """The artifacts that Argo keeps for people to look at, by name, and the node of each."""
    nodes = Space(name=NAMESPACE).workflow(bank.answer["workflow"])["status"]["nodes"].values()
    pods = [n for n in nodes if n["type"] == "Pod"]
    return {a["name"]: n["id"] for n in pods for a in n.get("outputs", {}).get("artifacts", []) if a["name"] != "main-logs"}


@pytest.mark.usefixtures("bank")
def test_the_form_describes_every_field_of_the_loan_pipeline() -> None:
    """As the UI gets it from the server: what each parameter is, and its default or where that comes from."""
    answer = from_server(f"api/v1/workflow-templates/{NAMESPACE}/{argo_name(pipeline.name)}")
    assert answer.status == 200, answer.data
    form = {p["name"]: p for p in answer.json()["spec"]["arguments"]["parameters"]}
    assert [n for n, p in form.items() if not p.get("description") or not ("value" in p or "valueFrom" in p)] == []
    assert form["drift-detector"]["enum"] == ["alibi-detect", "scipy"]
