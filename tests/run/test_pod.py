"""A workflow's tasks, each as a program in a folder of its own, with nothing in common but a bucket: as in pods, without a cluster."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests import s3server
from tests.conftest import Home, with_lineage
from tests.pods import Pods
from workflows.compile import dvc_lock
from workflows.errors import NotVerified
from workflows.prove import digest
from workflows.prove.record import Item
from workflows.prove.signature import Signer, private_pem, public_pem, read_private
from workflows.run import keys
from workflows.run.journal import Journal
from workflows.run.planned import Plan, read_plan, write_plan
from workflows.run.session import last_claimed, local_store, open_journal
from workflows.run.store.open import open_store

PREFIXES = itertools.count(1)
TASKS = (("pick", None), ("work", "a"), ("work", "b"), ("join", None))


@pytest.fixture
def cluster(home: Home, s3_server: s3server.Server, tmp_path: Path) -> Pods:
    url = f"s3://{s3server.BUCKET}/pods-{next(PREFIXES)}"
    found = Pods(home=home, server=s3_server, url=url, pipeline="toy", scratch=tmp_path / "pods", revision="0" * 40)
    found.publish()
    return found


def digests(cluster: Pods) -> dict[str, str]:
    put_out = {(n if t.count("@") == 0 else f"{n}@{t.split('@')[1]}"): v for t, o in cluster.outputs.items() for n, v in o.items()}
    return {n: v for n, v in put_out.items() if n.partition("@")[0] in {"ages", "part", "total", "verdicts"}}


def test_pods_and_laptop_agree_byte_for_byte(cluster: Pods) -> None:
    assert cluster.plan().code == 0
    cluster.steps(TASKS)
    sealed = cluster.seal()
    assert "the run is sealed, but its root could not be noted" in sealed.err
    run = cluster.run
    checked = cluster.ask("verify", run, "--json").json
    assert checked["verified"], checked
    assert checked["outcome"] == "done"
    assert "the seal will not say who submitted the run" in sealed.err, "nobody could be asked"
    assert checked["submitter"] is None
    here = cluster.home.run()
    assert here["run"] == run
    assert digests(cluster) == {a["name"].partition("/")[2]: a["sha256"] for a in here["artifacts"]}


def test_pods_leave_the_lock_that_a_laptop_leaves(cluster: Pods) -> None:
    """Byte for byte, although a plan sorts the parameters, and the pod that seals has no data, which a lineage names."""
    home = cluster.home
    with_lineage(home)
    people = home.read("data/toy/people.csv")
    md5 = point_at(home, people)
    cluster.publish()
    said = cluster.go(TASKS)
    assert "the run is sealed, but its root could not be noted" in said.err, said.err
    exported = cluster.ask("export", cluster.run, "-o", "run.lock")
    assert exported.code == 0, exported.err
    home.write("data/toy/people.csv", people)
    home.run()
    assert home.read("run.lock") == home.read("dvc.lock")
    (entry,) = [
        d for d in dvc_lock.read(home.read("run.lock").decode())["stages"]["toy-join"]["deps"] if d["path"] == "data/toy/people.csv"
    ]
    assert entry["md5"] == md5


def point_at(home: Home, people: bytes) -> str:
    """Let the source be a pointer file only, whose content lies in DVC's remote; its md5."""
    md5 = digest.of_bytes(people).md5
    home.write("data/toy/people.csv.dvc", f"outs:\n- md5: {md5}\n  size: {len(people)}\n  hash: md5\n  path: people.csv\n")
    home.write(f"data/.dvc-remote/files/md5/{md5[:2]}/{md5[2:]}", people)
    home.write("data/.gitignore", ".dvc-remote/\n")
    (home.path / "data/toy/people.csv").unlink(missing_ok=True)
    return md5


def test_an_older_revision_takes_the_data_that_its_own_pointers_name(cluster: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cluster.server.env.items():
        monkeypatch.setenv(name, value)
    store = open_store(cluster.home.path, cluster.url)
    older = cluster.home.read("data/toy/people.csv")
    newer = older + b"Zuse,85\n"
    published = {}
    for people in (older, newer):
        point_at(cluster.home, people)
        cluster.publish()
        published[people] = cluster.files, cluster.code
    for people in (newer, older):
        cluster.files, cluster.code = published[people]
        cluster.uid = f"uid-{len(people)}"
        said = cluster.plan()
        assert said.code == 0, said.err
        (source,) = read_plan(store, cluster.outputs["plan"]["plan"]).sources
        assert source.sha256 == digest.of_bytes(people).sha256


@pytest.mark.parametrize(("image", "warnings"), [("registry/steps:1", 1), (f"registry/steps@sha256:{'a' * 64}", 0)])
def test_an_image_that_no_record_can_name_is_warned_of(cluster: Pods, image: str, warnings: int) -> None:
    said = cluster.plan(COUNTERSIGN_IMAGE=image)
    assert (said.code, said.err.count("records will not say which image ran")) == (0, warnings)


def test_the_exit_handler_may_run_twice(cluster: Pods) -> None:
    cluster.plan()
    cluster.steps(TASKS)
    roots = [(cluster.seal(), cluster.ask("verify", cluster.run, "--json").json["root"])[1] for _ in range(2)]
    assert roots[0] == roots[1]
    assert len(cluster.ask("show", "--json").json["runs"]) == 1


def test_another_workflow_reuses_everything_in_a_run_of_its_own(cluster: Pods) -> None:
    cluster.plan()
    cluster.steps(TASKS)
    first, made = cluster.run, digests(cluster)
    cluster.seal()
    cluster.uid = "uid-2"
    cluster.plan()
    cluster.steps(TASKS)
    cluster.seal()
    again = cluster.run
    assert again == f"{first}-2"
    assert digests(cluster) == made
    shown = cluster.ask("show", again, "--json").json
    assert {s["outcome"] for s in shown["steps"]} == {"reused"}
    assert cluster.ask("verify", again).code == 0


def test_a_planner_that_is_started_again_comes_to_the_same_run(cluster: Pods) -> None:
    cluster.plan()
    first = cluster.outputs["plan"]
    cluster.plan()
    assert cluster.outputs["plan"] == first


def test_a_sealed_run_that_is_retried_by_hand_goes_on_in_a_new_run(cluster: Pods) -> None:
    cluster.plan()
    assert cluster.step("pick").code == 0
    assert cluster.step("work", "a").code == 0
    cluster.seal()
    first = cluster.run
    assert cluster.ask("verify", first, "--json").json["outcome"] == "failed"
    assert cluster.step("work", "b").code == 0
    assert cluster.step("join").code == 0
    cluster.seal()
    assert cluster.ask("verify", f"{first}-2", "--json").json["outcome"] == "done"
    assert cluster.ask("verify", first).code == 0, "the first run is as it was"


def test_pods_side_by_side_take_over_the_same_record(cluster: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a sealed run was retried, each looks for what it builds on before another one has noted it."""
    cluster.plan()
    assert cluster.step("pick").code == 0
    cluster.seal()
    for name, value in cluster.server.env.items():
        monkeypatch.setenv(name, value)
    store = open_store(cluster.home.path, cluster.url)
    signer = Signer(Ed25519PrivateKey.generate())
    ring = keys.ring(store)
    plan = {"COUNTERSIGN_PLAN": cluster.outputs["plan"]["plan"]}
    begun = [cluster.begin("workflows.run.driver", "toy", "work", "--item", item, **plan) for item in "ab"]
    said = [pod.finish(process) for pod, process in begun]
    assert [s.code for s in said] == [0, 0], [s.err for s in said]
    journal = Journal(store, f"{cluster.run}-2")
    (stands,) = journal.last(ring, ["pick"]).values()
    late = replace(stands.record, started=stands.record.finished)
    assert journal.offer(late, signer, ring) == stands, "who comes late gets what stands"
    assert list(journal.attempts_of("pick")) == [1]
    assert cluster.step("join").code == 0
    cluster.seal()
    assert cluster.ask("verify", f"{cluster.run}-2", "--json").json["outcome"] == "done"


def test_a_record_that_is_gone_is_named_and_nothing_is_sealed_over_it(cluster: Pods) -> None:
    cluster.plan()
    assert cluster.step("pick").code == 0
    record = cluster.outputs["pick"]["record"]
    bucket, _, prefix = cluster.url.removeprefix("s3://").partition("/")
    cluster.server.client().delete_object(Bucket=bucket, Key=f"{prefix}/records/{record}")
    for said in (cluster.step("work", "a"), cluster.seal()):
        assert (said.code, f"({record}): record missing from the store" in said.err) == (4, True), said.err
    checked = cluster.ask("verify", cluster.run, "--json")
    assert (checked.code, checked.json["root"]) == (4, None)
    cluster.uid = "uid-2"
    cluster.go(TASKS)
    assert cluster.ask("verify", cluster.run).code == 0, "another workflow computes it anew"


def test_who_verifies_with_one_key_is_told_of_a_run_that_another_signed(cluster: Pods, tmp_path: Path) -> None:
    cluster.go(TASKS)
    ours = read_private((Path(cluster.home.env["COUNTERSIGN_KEYS"]) / "signing.pem").read_bytes())
    (tmp_path / "ours.pem").write_bytes(public_pem(ours.public_key()))
    theirs = Ed25519PrivateKey.generate()
    (tmp_path / "theirs.pem").write_bytes(private_pem(theirs))
    first, cluster.uid = cluster.run, "uid-2"
    cluster.env["COUNTERSIGN_SIGNING_KEY_FILE"] = str(tmp_path / "theirs.pem")
    cluster.go(TASKS)
    said = cluster.ask("verify", cluster.run, "--key", str(tmp_path / "ours.pem"))
    assert (said.code, f"signed by a key that is not at hand: '{Signer(theirs).keyid}'" in said.out) == (4, True), said.out
    assert cluster.ask("verify", first, "--key", str(tmp_path / "ours.pem")).code == 0, "what was signed before stays true"


def test_a_gate_that_says_no_says_so_on_the_node(cluster: Pods) -> None:
    policy = cluster.home.read("params/policies/toy.yaml").replace(b"at_least: 100", b"at_least: 1000")
    cluster.home.write("params/policies/toy.yaml", policy)
    cluster.publish()
    cluster.plan()
    for name, item in TASKS[:3]:
        assert cluster.step(name, item).code == 0
    assert cluster.step("join").code == 3
    assert cluster.message.startswith("refused: gate enough: total: total: 240 is below 1000")
    cluster.seal()
    assert cluster.ask("verify", cluster.run, "--json").json["outcome"] == "refused"


@pytest.mark.parametrize(
    ("mode", "at_least"),
    [("form", 30), ("code", 0)],
)
def test_the_form_counts_unless_the_code_is_asked(cluster: Pods, mode: str, at_least: int) -> None:
    said = cluster.plan(COUNTERSIGN_SET_pick__at_least="30", COUNTERSIGN_PARAMETERS=mode)
    assert said.code == 0, said.err

    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.server.env.items():
            patch.setenv(name, value)
        plan = read_plan(open_store(cluster.home.path, cluster.url), cluster.outputs["plan"]["plan"])
    assert plan.sections["pick"] == {"at_least": at_least}
    assert plan.commit == "0" * 40


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"COUNTERSIGN_OVERRIDES": "[1]"}, "workflow parameter overrides: is no JSON object"),
        ({"COUNTERSIGN_OVERRIDES": "{"}, "workflow parameter overrides: is no JSON object"),
        ({"COUNTERSIGN_OVERRIDES": '{"pick.at_most": 1}'}, "no parameter pick.at_most"),
        ({"COUNTERSIGN_SET_pick__at_least": "old"}, "pick.at_least"),
        ({"COUNTERSIGN_SIGNING_KEY_FILE": "/keys/none.pem"}, "cannot read the signing key"),
    ],
)
def test_a_plan_that_cannot_be_made(cluster: Pods, env: dict[str, str], message: str) -> None:
    said = cluster.plan(**env)
    assert said.code == 2
    assert message in said.err
    assert message in cluster.message
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("env", "code", "message"),
    [
        ({"COUNTERSIGN_CODE": f"{'0' * 64}:{'0' * 32}:1"}, 4, "the code here is not the code that was planned"),
        ({"COUNTERSIGN_PLAN": "0" * 64}, 4, "missing from the store"),
        ({"COUNTERSIGN_SIGNING_KEY_FILE": "/keys/none.pem"}, 2, "cannot read the signing key"),
        ({"COUNTERSIGN_WORKFLOW": ""}, 2, "COUNTERSIGN_WORKFLOW: is not set"),
        ({"COUNTERSIGN_GIVEN_ages": "0" * 64}, 4, "Argo carried other digests than the records have"),
    ],
)
def test_a_pod_that_was_told_something_wrong(cluster: Pods, env: dict[str, str], code: int, message: str) -> None:
    cluster.plan()
    cluster.step("pick")
    said = cluster.step("work", "a", **env)
    assert said.code == code
    assert message in said.err
    assert message in cluster.message


def test_what_argo_carries_of_a_fan_out_is_checked(cluster: Pods) -> None:
    cluster.plan()
    for name, item in TASKS[:3]:
        cluster.step(name, item)
    carried = [cluster.outputs["work@a"]["part"], cluster.outputs["work@b"]["part"]]
    assert cluster.step("join", COUNTERSIGN_GIVEN_part=json.dumps([carried[0], carried[0]])).code == 4
    assert cluster.step("join", COUNTERSIGN_GIVEN_part=json.dumps(carried)).code == 0


def test_a_pod_that_is_told_to_end_leaves_a_record(cluster: Pods) -> None:
    cluster.plan(COUNTERSIGN_OVERRIDES='{"work.mode": "slow", "work.seconds": 60}')
    cluster.step("pick")
    plan = cluster.outputs["plan"]["plan"]
    home, process = cluster.begin("workflows.run.driver", "toy", "work", "--item", "a", COUNTERSIGN_PLAN=plan)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and "started" not in (line := (process.stderr.readline() if process.stderr else "")):
        assert line or process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    said = home.finish(process)
    assert said.code == 75
    shown = cluster.ask("show", cluster.run, "--json").json
    assert [(s["task"], s["outcome"]) for s in shown["steps"]][-1] == ("work@a", "failed")


def test_a_pod_that_died_without_a_word_gets_a_record(cluster: Pods) -> None:
    cluster.plan()
    cluster.step("pick")
    node = {"displayName": "work(0:a)", "message": "OOMKilled (exit code 137)", "phase": "Failed", "templateName": "work"}
    cluster.seal(json.dumps(json.dumps([node, {"displayName": "toy-1", "message": "child failed"}])))
    shown = cluster.ask("show", cluster.run, "--json").json
    assert [(s["task"], s["outcome"], s["problems"]) for s in shown["steps"]][-1] == (
        "work@a",
        "failed",
        ["toy.work@a: the pod ended without a record: OOMKilled (exit code 137)"],
    )
    assert cluster.ask("verify", cluster.run, "--json").json["outcome"] == "failed"


def test_nothing_planned_is_nothing_to_seal(cluster: Pods) -> None:
    said = cluster.seal()
    assert said.code == 0
    assert "no run was planned" in said.out


# --- Which run a workflow writes into


def test_two_workflows_never_get_one_run(tmp_path: Path) -> None:
    store = local_store(tmp_path)
    assert [open_journal(store, "toy-0", u).run for u in ("a", "b", "a", "c")] == ["toy-0", "toy-0-2", "toy-0", "toy-0-3"]
    owned = last_claimed(store, "toy-0", "c")
    assert owned is not None
    assert owned.run == "toy-0-3"
    assert last_claimed(store, "toy-0", "d") is None


def test_a_plan_that_was_changed_is_none(tmp_path: Path) -> None:
    store = local_store(tmp_path)
    item = Item(name="toy/people", sha256="0" * 64, md5="0" * 32, size=1)
    plan = Plan(
        pipeline="toy",
        run="toy-0",
        commit=None,
        dirty=True,
        tree="0" * 64,
        code=item,
        sections={"a": {"b": [1]}},
        sources=(item,),
        secrets={},
    )
    sha = write_plan(store, plan)
    assert read_plan(store, sha) == plan
    path = tmp_path / ".countersign" / "plans" / sha
    path.write_bytes(path.read_bytes().replace(b"toy-0", b"toy-1"))
    with pytest.raises(NotVerified, match="changed in the store"):
        read_plan(store, sha)
