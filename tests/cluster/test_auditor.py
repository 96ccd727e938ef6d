"""The loan-approval pipeline on a real cluster, and what someone who was not there can say of it afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.cluster.real import Space, kubectl, new_space, store_environment
from tests.conftest import Home, Said, make_home
from tests.docs.test_tutorial import clone
from tests.pods import ReadOnly, commit_of, read_only
from workflows.loan_approval import pipeline
from workflows.plan import tasks

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]
NAMESPACE = f"auditing-{os.environ.get('PYTEST_XDIST_WORKER', 'one')}"
MASKING = bytes(range(32)).hex()
"""With this key every gate says yes."""
LONG = 1200.0  # seconds; a workflow takes four minutes where nothing else is at work
ARTIFACTS = {f"{pipeline.name}/{p.name}" for t in tasks(pipeline) for p in t.outputs}


@dataclass(frozen=True, kw_only=True)
class Bank:
    """A run that a cluster made and sealed, and the checkout that it was submitted from."""

    home: Home
    space: Space
    store: dict[str, str]
    """How the bank's own people reach the store and the cluster."""
    commit: str
    answer: Any

    @property
    def run(self) -> str:
        return str(self.answer["run"])

    @property
    def url(self) -> str:
        return self.store["COUNTERSIGN_STORE"]


@pytest.fixture(scope="module")
def space(cluster: None) -> Iterator[Space]:
    """A namespace with a masking key of these tests, and a place in the store where there is nothing to reuse."""
    del cluster
    space = new_space(NAMESPACE)
    space.patch("secret", "countersign-masking-key", {"stringData": {"masking_key": MASKING}})
    settings = space.get("configmap", "countersign")["data"]
    space.patch("configmap", "countersign", {"data": {"store": f"{settings['store']}/{time.time_ns()}"}})
    assert settings["region"]
    yield space
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def bank(space: Space, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    scratch = tmp_path_factory.mktemp("bank")
    clone(scratch / "repo")
    (scratch / "masking").write_text(MASKING)
    made = make_home(scratch / "repo", scratch)
    home = Home(path=made.path, env={**made.env, "COUNTERSIGN_MASKING_KEY_FILE": str(scratch / "masking")})
    pulled = dvc(home, "pull", *map(str, (home.path / "data").rglob("*.dvc")))
    assert pulled.code == 0, pulled.err
    store = store_environment(space)
    said = home.ask("publish", "--templates", "--namespace", NAMESPACE, env=store)
    assert said.code == 0, said.err
    said = home.ask("submit", pipeline.name, "--namespace", NAMESPACE, "--wait", "--json", within=LONG, env=store)
    assert said.code == 0, said.err + said.out
    return Bank(home=home, space=space, store=store, commit=commit_of(home.path), answer=said.json)


@pytest.fixture
def way(bank: Bank) -> Iterator[ReadOnly]:
    """A way to the store that lets nothing be written."""
    with read_only(bank.store["AWS_ENDPOINT_URL_S3"]) as way:
        yield way
    assert way.tried == [], "a reader tried to write"


@pytest.fixture
def auditor(bank: Bank, way: ReadOnly, tmp_path: Path) -> Home:
    """Someone in an empty folder, who may read the store, was given the masking key, and has no way to the cluster."""
    (tmp_path / "desk").mkdir()
    (tmp_path / "masking").write_text(MASKING)
    home = make_home(tmp_path / "desk", tmp_path)
    given = {k: v for k, v in bank.store.items() if k.startswith("AWS_")} | way.env
    told = {"COUNTERSIGN_MASKING_KEY_FILE": str(tmp_path / "masking"), "PYTHONPATH": str(bank.home.path)}
    return Home(path=home.path, env={**home.env, **given, **told, "COUNTERSIGN_STORE": bank.url})


@pytest.fixture
def key(bank: Bank, tmp_path: Path) -> str:
    """The public key, as the bank hands it out."""
    bucket, _, prefix = bank.url.removeprefix("s3://").partition("/")
    s3 = boto3.client(
        "s3",
        endpoint_url=bank.store["AWS_ENDPOINT_URL_S3"],
        region_name=bank.store["AWS_REGION"],
        aws_access_key_id=bank.store["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=bank.store["AWS_SECRET_ACCESS_KEY"],
    )
    (found,) = s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/keys/")["Contents"]
    (tmp_path / "bank.pem").write_bytes(s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read())
    return str(tmp_path / "bank.pem")


def dvc(home: Home, *words: str, within: float = 240) -> Said:
    return home.finish(home.start("-m", "dvc", *words, env={"PYTHONPATH": ""}), within)


def digests(answer: Any) -> dict[str, str]:
    return {a["name"]: a["sha256"] for a in answer["artifacts"]}


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
        "object-lock": "none",
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


def test_it_is_reproduced_to_the_byte_in_another_folder(bank: Bank, auditor: Home, key: str) -> None:
    said = auditor.ask("reproduce", bank.run, "--key", key, "--into", "again", "--json", within=LONG)
    assert said.code == 0, said.out + said.err
    assert {a["name"]: a["verdict"] for a in said.json["artifacts"]} == dict.fromkeys(digests(bank.answer), "bytes")
    assert (auditor.path / "again/artifacts/loan_approval/evidence.html").is_file()


def test_with_dvc_alone(bank: Bank, auditor: Home) -> None:
    """The commands of docs/auditing.md; the repository has one pipeline, so that none need be named."""
    git(auditor.path, "clone", "-q", str(bank.home.path), "clone")
    git(auditor.path / "clone", "checkout", "-q", bank.commit)
    there = Home(path=auditor.path / "clone", env=auditor.env)
    got = dvc(there, "get-url", f"{bank.url}/exports/{bank.run}/dvc.lock", "dvc.lock")
    assert got.code == 0, got.err
    git(there.path, "add", "dvc.lock")
    assert dvc(there, "remote", "modify", "--local", "s3", "url", bank.url).code == 0
    pulled = dvc(there, "pull", "-r", "s3")
    assert pulled.code == 0, pulled.err
    status = dvc(there, "status")
    assert "Data and pipelines are up to date." in status.out, status.out + status.err
    shutil.rmtree(there.path / "artifacts")
    repeated = dvc(there, "repro", "--force", "--no-run-cache", within=LONG)
    assert repeated.code == 0, repeated.err
    assert repeated.out.count("Running stage") == len(tasks(pipeline))
    git(there.path, "diff", "--exit-code", "dvc.lock")


def git(top: Path, *words: str) -> None:
    done = subprocess.run(["git", *words], cwd=top, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
