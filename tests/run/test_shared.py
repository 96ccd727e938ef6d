"""One store for several checkouts: what one has made the others take, nobody overwrites anybody, and an auditor needs no more."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import s3server
from tests.conftest import Home, git, make_home
from tests.run.test_run import outcomes
from workflows.errors import BadInput, NotVerified
from workflows.run.store.layered import LayeredStore
from workflows.run.store.local import LocalStore

Make = Callable[[str], Home]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"s3://{s3server.BUCKET}/{tmp_path.name}"


@pytest.fixture
def make(template: Path, tmp_path: Path, s3: s3server.Server) -> Make:
    """Makes checkouts of the toy pipeline, each another person's: with keys and a local store of its own."""

    def one(name: str) -> Home:
        (tmp_path / name).mkdir()
        shutil.copytree(template, tmp_path / name / "repo")
        home = make_home(tmp_path / name / "repo", tmp_path / name)
        return replace(home, env={**home.env, **s3.env})

    return one


def digests(answer: Any) -> dict[str, str]:
    return {a["name"]: a["sha256"] for a in answer["artifacts"]}


def log_of(home: Home) -> list[dict[str, Any]]:
    return [json.loads(line) for line in home.read(".countersign/log.jsonl").splitlines()]


def test_another_checkout_takes_a_finished_run_whole(make: Make, url: str) -> None:
    ann, ben = make("ann"), make("ben")
    made = ann.run("--store", url)
    assert not made["unchanged"]
    taken = ben.run("--store", url)
    assert (taken["run"], taken["unchanged"]) == (made["run"], True)
    assert digests(taken) == digests(made)
    assert ben.read("artifacts/toy/total.json") == ann.read("artifacts/toy/total.json")
    # Ben holds it whole: without the store, too, everything is there and verifies.
    assert ben.ask("verify", made["run"]).code == 0
    assert ben.ask("show", "@latest").code == 0


def test_a_new_run_in_another_checkout_reuses_every_step(make: Make, url: str) -> None:
    made = make("ann").run("--store", url)
    ben = make("ben")
    again = ben.run("--store", url, "--again")
    assert again["run"] == f"{made['run']}-2"
    assert set(outcomes(ben, again["run"]).values()) == {"reused"}
    assert digests(again) == digests(made)
    for words in (["--store", url], []):
        assert ben.ask("verify", again["run"], *words).code == 0


def test_only_what_depends_on_a_change_is_computed(make: Make, url: str) -> None:
    make("ann").run("--store", url)
    ben = make("ben")
    changed = ben.run("--store", url, "--set", "work.seconds=0.01")
    assert outcomes(ben, changed["run"]) == {"pick": "reused", "work@a": "done", "work@b": "done", "join": "reused"}
    assert ben.ask("verify", changed["run"], "--store", url).code == 0


def test_an_auditor_needs_the_store_and_nothing_else(make: Make, url: str, tmp_path: Path) -> None:
    ann, auditor = make("ann"), make("auditor")
    run = ann.run("--store", url)["run"]
    assert auditor.ask("show", "--store", url, "--json").json["runs"][0]["run"] == run
    assert "gate enough" in auditor.ask("show", run, env={"COUNTERSIGN_STORE": url}).out
    verified = auditor.ask("verify", "@latest", "--store", url, "--json").json
    assert (verified["verified"], verified["trust"]) == (True, "came with the store")
    key = str(next((ann.path / ".countersign/keys").glob("*.pem")))
    shutil.copy(key, tmp_path / "ann.pem")
    trusting = auditor.ask("verify", run, "--store", url, "--key", str(tmp_path / "ann.pem"), "--json")
    assert (trusting.code, trusting.json["trust"]) == (0, "given with --key")
    shutil.rmtree(ann.path)
    packed = auditor.ask("bundle", run, "--store", url, "-o", str(tmp_path / "run.bundle"))
    assert packed.code == 0, packed.err
    assert auditor.ask("verify", str(tmp_path / "run.bundle")).code == 0
    again = auditor.ask("reproduce", run, "--json", env={"COUNTERSIGN_STORE": url})
    assert again.code == 0, again.err
    assert {a["verdict"] for a in again.json["artifacts"]} == {"bytes"}
    # A bundle has no data; it comes from the store, to whoever names it.
    assert auditor.ask("reproduce", str(tmp_path / "run.bundle"), "--store", url).code == 0
    # Reproducing left nothing in the store, and nothing here.
    assert [r["run"] for r in auditor.ask("show", "--store", url, "--json").json["runs"]] == [run]
    assert auditor.ask("show").out.startswith("No runs yet")


def test_runs_of_one_store_are_compared(make: Make, url: str) -> None:
    ann, ben = make("ann"), make("ben")
    one = ann.run("--store", url)["run"]
    two = ben.run("--store", url, "--no-cache")["run"]
    assert two == f"{one}-2"
    said = make("auditor").ask("compare", one, two, "--store", url, "--json")
    assert said.code == 0, said.err
    assert {a["verdict"] for a in said.json["artifacts"]} == {"bytes"}


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_result_that_was_tampered_with_is_not_reused_and_is_named(make: Make, url: str, s3: s3server.Server, how: str) -> None:
    ann, ben = make("ann"), make("ben")
    made = ann.run("--store", url)
    path = next(p for p in (ann.path / ".dvc/cache/files/md5").rglob("*") if p.is_file() and b'"total":240' in p.read_bytes())
    key = f"{url.removeprefix(f's3://{s3server.BUCKET}/')}/files/md5/{path.parent.name}/{path.name}"
    right = s3.client().get_object(Bucket=s3server.BUCKET, Key=key)["Body"].read()
    if how == "changed":
        s3.client().put_object(Bucket=s3server.BUCKET, Key=key, Body=right.replace(b"240", b"999"))
    else:
        s3.client().delete_object(Bucket=s3server.BUCKET, Key=key)
    refused = ben.ask("verify", made["run"], "--store", url)
    assert refused.code == 4
    assert "artifact toy/total" in refused.out
    run = ben.run("--store", url)["run"]
    assert run == f"{made['run']}-2"
    assert outcomes(ben, run) == {"pick": "reused", "work@a": "reused", "work@b": "reused", "join": "done"}
    assert [e for e in log_of(ben) if e["event"] == "not reused" and "toy/total" in e["why"]]
    # Computed again, it came out the same, and the store is whole again.
    assert s3.client().get_object(Bucket=s3server.BUCKET, Key=key)["Body"].read() == right
    assert ben.ask("verify", made["run"], "--store", url).code == 0


def test_what_was_made_before_the_store_was_named_gets_there(make: Make, url: str) -> None:
    ann = make("ann")
    alone = ann.run()
    shared = ann.run("--store", url)
    assert (shared["run"], shared["unchanged"]) == (alone["run"], True)
    assert make("auditor").ask("verify", alone["run"], "--store", url).code == 0
    # Reused records name records of runs that the store may never have seen.
    ann.run("--set", "work.seconds=0.01")
    mixed = ann.run("--store", url, "--set", "work.seconds=0.01", "--again")
    assert set(outcomes(ann, mixed["run"]).values()) == {"reused"}
    assert make("other").ask("verify", mixed["run"], "--store", url).code == 0


def test_two_who_made_the_same_run_keep_each_their_own(make: Make, url: str) -> None:
    ann, ben = make("ann"), make("ben")
    alone, shared = ann.run(), ben.run("--store", url)
    assert alone["run"] == shared["run"]  # a run's name says what it does
    before = ben.ask("verify", shared["run"], "--store", url, "--json").json["root"]
    assert ann.run("--store", url)["unchanged"]
    assert ann.ask("verify", alone["run"]).code == 0
    assert ben.ask("verify", shared["run"], "--store", url, "--json").json["root"] == before
    assert ann.ask("verify", alone["run"], "--json").json["root"] != before
    assert [e for e in log_of(ann) if "of its own" in e["event"]]


def test_a_run_that_a_workflow_has_claimed_is_left_to_it(make: Make, url: str, s3: s3server.Server) -> None:
    ann, ben = make("ann"), make("ben")
    run = ann.run()["run"]
    key = f"{url.removeprefix(f's3://{s3server.BUCKET}/')}/claims/{run}"
    s3.client().put_object(Bucket=s3server.BUCKET, Key=key, Body=b"11111111-2222-3333-4444-555555555555\n")
    assert ben.run("--store", url)["run"] == f"{run}-2"
    assert not [k for k in s3.objects() if f"/runs/{run}/" in k and url.rpartition("/")[2] in k]


def test_nobody_writes_into_a_run_that_is_not_theirs(tmp_path: Path) -> None:
    far = LocalStore(content=tmp_path / "far", documents=tmp_path / "far")
    ann, ben = (LayeredStore(LocalStore(content=tmp_path / n, documents=tmp_path / n), far) for n in ("ann", "ben"))
    assert ann.put_if_absent("claims/toy-1", b"ann\n") == b"ann\n"
    ann.put_document("runs/toy-1/steps/pick/1", b"ann's\n")
    assert ben.put_if_absent("claims/toy-1", b"ben\n") == b"ann\n"
    with pytest.raises(BadInput, match="someone else has made this run there") as raised:
        ben.put_document("runs/toy-1/steps/work/1", b"ben's\n")
    assert "--again" in raised.value.hint
    assert ben.near.list_documents("runs") == {}
    assert list(far.list_documents("runs")) == ["toy-1/steps/pick/1"]


def test_content_that_changes_between_the_two_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = (LocalStore(content=tmp_path / n, documents=tmp_path / n) for n in ("near", "far"))
    (tmp_path / "made").write_bytes(b"one")
    keep = near.put_content
    monkeypatch.setattr(near, "put_content", lambda path: (keep(path), path.write_bytes(b"two"))[0])
    with pytest.raises(NotVerified, match="changed while it was being kept"):
        LayeredStore(near, far).put_content(tmp_path / "made")


def test_a_store_that_goes_away_during_a_run(make: Make, real_s3: s3server.Server, tmp_path: Path) -> None:
    assert real_s3.real
    ann, url = make("ann"), f"s3://{s3server.BUCKET}/here"
    with s3server.serving(tmp_path / "server") as server:
        slow = ("--set", "work.mode=slow", "--set", "work.seconds=3")
        env = {**server.env, "COUNTERSIGN_STORE": url, "COUNTERSIGN_STORE_PATIENCE": "1"}
        killer = threading.Thread(target=_stop_when_at_work, args=(server, "here/"))
        killer.start()
        said = ann.ask("run", "toy", *slow, "--json", env=env)
        killer.join()
        assert said.code == 75, said.err + said.out
        assert said.json["error"] == "Temporary"
        assert any("S3 does not answer" in p for p in said.json["problems"])
        assert ann.ask("verify", "@latest", "--json", env=env).code == 75
        server.start()
        made = ann.run(*slow, env=env)
        assert make("auditor").ask("verify", made["run"], env=env).code == 0
        assert ann.ask("verify", made["run"]).code == 0


def _stop_when_at_work(server: s3server.Server, prefix: str) -> None:
    """Once the first step's record is there, the second is at work."""
    deadline = time.monotonic() + 60
    while not any(k.startswith(prefix) and "/steps/pick/" in k for k in server.objects()) and time.monotonic() < deadline:
        time.sleep(0.05)
    server.stop()


def test_a_folder_will_do_as_a_store(make: Make, tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    url = f"file://{tmp_path / 'share'}"
    made = make("ann").run("--store", url)
    assert make("ben").run("--store", url)["run"] == made["run"]
    assert make("auditor").ask("verify", "@latest", "--store", url).code == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("bank/prefix", "not the address of a store; expected s3://BUCKET, s3://BUCKET/PREFIX or file:///FOLDER, got bank/prefix"),
        ("s3://", "not the address of a store"),
        ("s3://b?x=1", "not the address of a store"),
        ("https://bank.s3.amazonaws.com/a", "not the address of a store"),
        ("file://a/b", "not the address of a store"),
        ("file:///no/such/folder", "no such folder; got /no/such/folder"),
        ("s3://me:hidden-word@bank/a", "not the address of a store"),
        ("s3://no-such-bucket/a", "S3 says NoSuchBucket"),
    ],
)
@pytest.mark.parametrize("words", [("verify", "@latest"), ("run", "toy")])
def test_an_address_that_is_wrong(make: Make, words: tuple[str, ...], url: str, message: str) -> None:
    said = make("ann").ask(*words, "--store", url)
    assert said.code == 2, said.err
    assert message in said.err
    assert "hint: " in said.err or "folder" in message
    assert "hidden-word" not in said.err + said.out
    assert "Traceback" not in said.err


@pytest.mark.usefixtures("real_s3")  # moto's server takes any
def test_credentials_that_are_wrong_are_not_repeated(make: Make, url: str) -> None:
    said = make("ann").ask("show", "--store", url, env={"AWS_SECRET_ACCESS_KEY": "a-wrong-word"})  # it opens nothing
    assert said.code == 2
    assert "AWS_SECRET_ACCESS_KEY" in said.err
    assert "a-wrong-word" not in said.err + said.out


def test_dvc_pulls_what_was_kept_and_pushes_what_is_taken(make: Make, url: str, tmp_path: Path) -> None:
    """The store is a remote of DVC, in both directions; DVC itself says so."""
    ann, reader = make("ann"), make("reader")
    ann.run("--store", url)
    lock, made = ann.read("dvc.lock"), ann.read("artifacts/toy/total.json")
    reader.write("dvc.lock", lock)
    assert reader.ask("compile").code == 0
    git(reader.path, "add", "-A")
    dvc(reader, "init")
    dvc(reader, "remote", "add", "--default", "store", url)
    dvc(reader, "remote", "modify", "store", "endpointurl", reader.env["AWS_ENDPOINT_URL_S3"])
    dvc(reader, "pull")
    assert reader.read("artifacts/toy/total.json") == made
    assert "in sync" in dvc(reader, "status", "--cloud")
    reader.write("data/toy/more.csv", b"name,age\n" * 1000)
    dvc(reader, "add", "data/toy/more.csv")
    dvc(reader, "push")
    pointer = reader.read("data/toy/more.csv.dvc").decode()
    md5 = pointer.partition("md5: ")[2].split()[0]
    from workflows.run.store.open import open_store

    d = open_store(reader.path, url).fetch_pointer(md5, 9000, tmp_path / "more")
    assert (tmp_path / "more").read_bytes() == b"name,age\n" * 1000
    assert (d.md5, d.size) == (md5, 9000)


def dvc(home: Home, *words: str) -> str:
    said = home.finish(home.start("-m", "dvc", *words))
    assert said.code == 0, said.err
    return said.out
