"""From a run of a cluster alone: its id, a store that can only be read, and the public key. And with DVC alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests import s3server
from tests.conftest import ROOT, Home, Said, git, home_from, make_home
from tests.pods import Pods, ReadOnly, commit_of, read_only
from workflows.run.session import archive, tree_files

TASKS = (("pick", None), ("work", "a"), ("work", "b"), ("join", None))


def dvc(home: Home, *words: str, **env: str) -> Said:
    return home.finish(home.start("-m", "dvc", *words, env={"PYTHONPATH": "", **env}))


@pytest.fixture(scope="module")
def made(template: Path, s3_server: s3server.Server, tmp_path_factory: pytest.TempPathFactory) -> Pods:
    """A run of the toy pipeline that pods have made and sealed."""
    scratch = tmp_path_factory.mktemp("cluster")
    home = home_from(template, scratch)
    assert home.ask("compile").code == 0
    for words in (("init", "-q"), ("remote", "add", "s3", "s3://countersign-data")):
        assert dvc(home, *words).code == 0
    git(home.path, "add", "-A")
    git(home.path, "commit", "-qm", "compiled")
    return sealed(Pods(home=home, server=s3_server, url="s3://bank/of-cluster", pipeline="toy", scratch=scratch / "pods"))


def sealed(pods: Pods) -> Pods:
    pods.publish()
    said = pods.go(TASKS)
    assert "the run is sealed, but its root could not be noted" in said.err
    return pods


@pytest.fixture
def way(s3_server: s3server.Server) -> Iterator[ReadOnly]:
    with read_only(s3_server.endpoint) as way:
        yield way
    assert way.tried == [], "a reader tried to write"


@pytest.fixture
def auditor(made: Pods, way: ReadOnly, tmp_path: Path) -> Home:
    """Someone in an empty folder, without keys, whose programs are installed and whose way to the store only reads."""
    (tmp_path / "desk").mkdir()
    home = make_home(tmp_path / "desk", tmp_path)
    env = {**home.env, **made.server.env, **way.env, "COUNTERSIGN_STORE_PATIENCE": "2", "PYTHONPATH": str(made.home.path)}
    return Home(path=home.path, env=env)


@pytest.fixture
def key(made: Pods, tmp_path: Path) -> str:
    """The public key, as the bank hands it out."""
    (path,) = [k for k in made.server.objects() if k.startswith("of-cluster/keys/")]
    body = made.server.client().get_object(Bucket=s3server.BUCKET, Key=path)["Body"].read()
    (tmp_path / "bank.pem").write_bytes(body)
    return str(tmp_path / "bank.pem")


def clone(made: Pods, auditor: Home, *, at: str = "") -> Home:
    git(auditor.path, "clone", "-q", str(made.home.path), "clone")
    git(auditor.path / "clone", "checkout", "-q", at or made.revision)
    return Home(path=auditor.path / "clone", env=auditor.env)


# --- With our programs


def test_verify_reproduce_and_bundle_from_an_empty_folder(made: Pods, auditor: Home, key: str) -> None:
    store = ("--store", made.url, "--key", key)
    checked = auditor.ask("verify", made.run, *store, "--json")
    assert checked.code == 0, checked.out + checked.err
    assert checked.json["verified"]
    assert checked.json["trust"] == "given with --key"
    assert checked.json["commits"] == [made.revision]
    assert {a["name"]: a["state"] for a in checked.json["anchors"]} == {
        "git-note": "unreached",
        "annotation": "unreached",
        "object-lock": "none",
    }

    again = auditor.ask("reproduce", made.run, *store, "--json")
    assert again.code == 0, again.out + again.err
    assert {a["verdict"] for a in again.json["artifacts"]} == {"bytes"}
    assert again.json["code"] == f"from the store's archive: not compared with commit {made.revision}, which no clone here has"

    assert auditor.ask("bundle", made.run, *store, "-o", "toy.bundle").code == 0
    alone = subprocess.run(
        [sys.executable, str(ROOT / "infra/verify/verify_bundle.py"), "toy.bundle", "--key", key],
        cwd=auditor.path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert auditor.ask("show", made.run, "--store", made.url).code == 0
    assert auditor.ask("compare", made.run, made.run, *store).code == 0
    assert sorted(p.name for p in auditor.path.iterdir()) == ["toy.bundle"]


def test_in_a_clone_the_code_is_held_against_the_commit(made: Pods, auditor: Home) -> None:
    there = clone(made, auditor)
    said = there.ask("reproduce", made.run, "--store", made.url, env={"PYTHONPATH": str(there.path)})
    assert said.code == 0, said.out + said.err
    assert f"code from the store's archive: file by file what commit {made.revision} has" in said.out
    assert "bytes for every artifact" in said.out


def test_code_that_was_published_under_another_commit_s_name(made: Pods, auditor: Home, tmp_path: Path) -> None:
    shutil.copytree(made.home.path, tmp_path / "other")
    home = Home(path=tmp_path / "other", env=made.home.env)
    home.write("steps/toy.py", home.read("steps/toy.py").replace(b'"which": which, "sum"', b'"which": which, "more": 1, "sum"'))
    pods = Pods(home=home, server=made.server, url=made.url, pipeline="toy", scratch=tmp_path / "pods", uid="uid-other")
    sealed(pods)
    assert pods.run != made.run
    there = clone(made, auditor)
    said = there.ask("reproduce", pods.run, "--store", made.url, env={"PYTHONPATH": str(there.path)})
    assert said.code == 4
    assert "the code that was run is not what the commit has, although the record says so" in said.err
    assert "other files at steps/toy.py" in said.err
    assert auditor.ask("verify", pods.run, "--store", made.url).code == 0, "which the chain alone cannot know"


def test_without_a_checkout_a_store_must_be_named(auditor: Home) -> None:
    said = auditor.ask("verify", "@latest")
    assert said.code == 2
    assert "not inside a Countersign repository" in said.err
    assert "--store" in said.err


@pytest.mark.parametrize(
    "command", [("verify",), ("reproduce",), ("bundle", "-o", "x"), ("export", "-o", "x"), ("anchor", "--lock-days", "1")]
)
def test_a_key_that_signed_nothing_is_not_trusted(made: Pods, auditor: Home, command: tuple[str, ...], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from workflows.prove.signature import Signer

    (tmp_path / "other.pem").write_bytes(Signer(Ed25519PrivateKey.generate()).public_pem)
    said = auditor.ask(command[0], made.run, *command[1:], "--store", made.url, "--key", str(tmp_path / "other.pem"))
    assert said.code == 4
    assert not list(auditor.path.iterdir())


# --- Anchors, through the command line


def test_a_root_is_noted_in_git_and_verify_finds_it(made: Pods, auditor: Home) -> None:
    there = clone(made, auditor)
    there = Home(path=there.path, env={**there.env, "PYTHONPATH": str(there.path)})
    git(there.path, "config", "user.name", "t")
    git(there.path, "config", "user.email", "t@example.org")
    store = ("--store", made.url)
    before = there.ask("verify", made.run, *store)
    assert "git-note    not reached: refs/notes/countersign is not in this clone; to get it: git fetch origin" in before.out
    assert there.ask("verify", made.run, *store, "--require-anchor", "git-note").code == 4
    first = there.ask("anchor", made.run, "--git-note", *store)
    assert first.code == 0, first.err
    assert f"git-note    noted, commit {made.revision}" in first.out
    assert f"stood there already, commit {made.revision}" in there.ask("anchor", made.run, "--git-note", *store).out
    after = there.ask("verify", made.run, *store, "--require-anchor", "git-note")
    assert after.code == 0, after.out
    assert f"git-note    the same root: commit {made.revision}" in after.out

    # The run is rewritten as a whole by someone who has the key: the chain is sound, the note is not its root.
    forged = Pods(home=made.home, server=made.server, url="s3://bank/forged", pipeline="toy", scratch=auditor.path / "pods")
    sealed(forged)
    assert forged.run == made.run
    said = there.ask("verify", made.run, "--store", forged.url)
    assert said.code == 4
    assert "not verified anchor git-note: another root is noted" in said.out
    assert "git-note    ANOTHER ROOT" in said.out

    # The run is lost as a whole.
    gone = there.ask("verify", made.run, "--store", "s3://bank/empty")
    assert gone.code == 4
    assert "anchor git-note: the store has no such run, but its root is noted" in gone.err
    assert there.ask("verify", "toy-111111111111", "--store", "s3://bank/empty").code == 2


def test_the_exit_handler_locks_the_root(made: Pods, real_s3: s3server.Server, tmp_path: Path) -> None:
    real_s3.client().create_bucket(Bucket="locking", ObjectLockEnabledForBucket=True)
    pods = Pods(home=made.home, server=real_s3, url="s3://locking/here", pipeline="toy", scratch=tmp_path / "pods")
    pods.publish()
    pods.go(TASKS, COUNTERSIGN_LOCK_DAYS="2", COUNTERSIGN_LOCK_MODE="GOVERNANCE")
    reader = Home(path=made.home.path, env={**made.home.env, **real_s3.env})
    words = ("verify", pods.run, "--store", pods.url, "--require-anchor", "object-lock")
    said = reader.ask(*words)
    assert said.code == 0, said.out + said.err
    assert f"object-lock the same root: s3://locking/here/anchors/{pods.run}, GOVERNANCE until " in said.out

    longer = reader.ask("anchor", pods.run, "--lock-days", "30", "--store", pods.url, "--json")
    assert longer.code == 0, longer.err
    assert longer.json["anchors"][0]["said"].startswith("locked, GOVERNANCE until ")

    # Whoever may write the store puts a run of the same name there, whole and sound. The lock has the first one's root.
    for k in real_s3.objects("locking"):
        if k.startswith(("here/runs/", "here/claims/", "here/workflows/", "here/exports/")):
            real_s3.client().delete_object(Bucket="locking", Key=k)
    again = replace(pods, uid="uid-2", scratch=tmp_path / "again")
    again.publish()
    said = again.go(TASKS, COUNTERSIGN_LOCK_DAYS="2")
    assert again.run == pods.run
    assert said.code in {2, 4, 75}
    said = reader.ask(*words)
    assert said.code == 4
    assert "not verified anchor object-lock: another root is noted" in said.out


@pytest.mark.parametrize(
    ("days", "mode", "message"),
    [("2", "", "this bucket has no object lock"), ("soon", "", "not a number of days"), ("2", "FOREVER", "no mode of a lock")],
)
def test_a_lock_that_cannot_be_is_told(made: Pods, days: str, mode: str, message: str, tmp_path: Path) -> None:
    from workflows.cluster import sealing
    from workflows.errors import BadInput
    from workflows.run.store.s3 import S3Store

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**made.server.env, sealing.LOCK_DAYS: days, sealing.LOCK_MODE: mode}.items():
            patch.setenv(name, value)
        with pytest.raises(BadInput, match=message):
            sealing._lock(S3Store(s3server.BUCKET, tmp_path.name), made.run, "a" * 64)
    assert not [k for k in made.server.objects() if k.startswith(tmp_path.name)]


@pytest.mark.parametrize(("words", "message"), [((), "nothing is asked for"), (("--lock-days", "0"), "not a number of days")])
def test_what_anchor_cannot_do(made: Pods, auditor: Home, words: tuple[str, ...], message: str) -> None:
    said = auditor.ask("anchor", made.run, *words, "--store", made.url)
    assert said.code == 2
    assert message in said.err


def test_a_folder_locks_nothing(home: Home) -> None:
    home.run()
    said = home.ask("anchor", "@latest", "--lock-days", "1")
    assert said.code == 2
    assert "the store is a folder, which locks nothing" in said.err
    git(home.path, "config", "user.name", "t")
    git(home.path, "config", "user.email", "t@example.org")
    assert home.ask("anchor", "@latest", "--git-note").code == 0
    said = home.ask("verify", "@latest", "--require-anchor", "git-note")
    assert said.code == 0, said.out
    assert home.ask("bundle", "@latest", "-o", "toy.bundle").code == 0
    assert home.ask("verify", "toy.bundle", "--require-anchor", "git-note").code == 0


# --- With DVC alone


def test_with_dvc_alone(made: Pods, auditor: Home) -> None:
    there = clone(made, auditor)
    there = Home(path=there.path, env={**there.env, "PYTHONPATH": ""})
    assert dvc(there, "remote", "modify", "--local", "s3", "url", made.url).code == 0
    got = dvc(there, "get-url", f"{made.url}/exports/{made.run}/dvc.lock", "run.lock")
    assert got.code == 0, got.err
    shutil.copy(there.path / "run.lock", there.path / "dvc.lock")
    pulled = dvc(there, "pull", "-r", "s3")
    assert pulled.code == 0, pulled.err
    assert json.loads(there.read("artifacts/toy/total.json"))["total"] == 240
    status = dvc(there, "status")
    assert "Data and pipelines are up to date." in status.out, status.out + status.err
    repeated = dvc(there, "repro", "--force", "--no-run-cache")
    assert repeated.code == 0, repeated.err
    same = ["git", "diff", "--no-index", "--exit-code", "run.lock", "dvc.lock"]
    assert subprocess.run(same, cwd=there.path, check=False).returncode == 0

    # A result that was not what these steps come to is seen.
    lock = there.read("run.lock")
    there.write("run.lock", lock.replace(b"md5: ", b"md5: 0", 1))
    assert subprocess.run(same, cwd=there.path, check=False, capture_output=True).returncode == 1


def test_the_lock_that_is_exported_is_what_the_records_say(made: Pods, auditor: Home, s3_server: s3server.Server) -> None:
    said = auditor.ask("export", made.run, "-o", "dvc.lock", "--store", made.url)
    assert said.code == 0, said.err
    assert f"commit     {made.revision}" in said.out
    client, name = s3_server.client(), f"of-cluster/exports/{made.run}/dvc.lock"
    kept = client.get_object(Bucket=s3server.BUCKET, Key=name)["Body"].read()
    assert (auditor.path / "dvc.lock").read_bytes() == kept
    assert auditor.ask("export", made.run, "-o", "dvc.lock", "--store", made.url).code == 2, "it is there already"
    total = next(line for line in kept.splitlines() if b"total.json" in line)
    at = kept.index(b"md5: ", kept.index(total) + len(total) + len(b"    hash: md5\n")) + 5
    stage = kept[kept.index(b"  toy-join") :]
    wrong = {
        b"toy/total is not what the record says": kept[:at] + b"0" * 32 + kept[at + 32 :],
        b"is in one of lock and records": kept.replace(stage, b""),
        b"not a lock file": b"stages: [1]\n",
    }
    try:
        for message, data in wrong.items():
            client.put_object(Bucket=s3server.BUCKET, Key=name, Body=data)
            said = auditor.ask("export", made.run, "-o", "other.lock", "--store", made.url)
            assert said.code == 4, said.out + said.err
            assert message.decode() in said.err
            assert not (auditor.path / "other.lock").exists()
    finally:
        client.put_object(Bucket=s3server.BUCKET, Key=name, Body=kept)


def test_a_laptop_s_run_leaves_its_lock_too(home: Home) -> None:
    first = home.run()
    assert home.ask("export", "@latest", "-o", "run.lock").code == 0
    assert home.read("run.lock") == home.read("dvc.lock")
    assert home.run()["run"] == first["run"]


def test_published_archive_is_the_clone_s(made: Pods) -> None:
    assert made.files == archive(made.home.path, tree_files(made.home.path))
    assert made.revision == commit_of(made.home.path)
