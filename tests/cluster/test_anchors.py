"""The anchors themselves: notes of a real git, locks of a real S3, annotations behind the port to a cluster."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import s3server
from tests.conftest import git
from workflows.cluster.anchors.annotation import Annotations
from workflows.cluster.anchors.at_hand import anchors, verdicts
from workflows.cluster.anchors.git_note import REF, GitNotes
from workflows.cluster.anchors.object_lock import LockedObjects, Mode
from workflows.cluster.interface import ROOT as ROOT_KEY
from workflows.cluster.interface import RUN as RUN_KEY
from workflows.cluster.interface import Listed, Phase, Progress, run_label
from workflows.errors import BadInput, NotVerified, Temporary
from workflows.prove.anchor import Noted, State, Unreached, judge
from workflows.run.session import local_store
from workflows.run.store.s3 import S3Store

RUN, ROOT, OTHER = "toy-000000000000", "a" * 64, "b" * 64
LOCKED = "locked"


def state(anchor: Any, root: str | None = ROOT, run: str = RUN) -> State:
    return verdicts([anchor], run, root)[0].state


# --- Git notes


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    top = tmp_path / "clone"
    top.mkdir()
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "t")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "t@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    git(top, "init", "-q")
    git(top, "commit", "-q", "--allow-empty", "-m", "one")
    return top


def head(top: Path) -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=top, check=True, capture_output=True, text=True).stdout.strip()


def note_of(top: Path) -> str:
    return subprocess.run(["git", "notes", f"--ref={REF}", "show"], cwd=top, check=True, capture_output=True, text=True).stdout


def test_a_note_is_added_once_and_found_again(clone: Path) -> None:
    notes = GitNotes(root=clone)
    assert notes.look(RUN) == ()
    assert notes.add(RUN, ROOT, head(clone))
    assert not notes.add(RUN, ROOT, head(clone))
    assert notes.look(RUN) == (Noted(root=ROOT, where=f"commit {head(clone)}"),)
    assert note_of(clone) == f"{RUN} {ROOT}\n"
    assert state(notes) is State.SAME
    assert state(notes, OTHER) is State.OTHER
    assert state(notes, run="toy-111111111111") is State.NONE


def test_runs_share_a_note_and_none_is_rewritten(clone: Path) -> None:
    git(clone, "notes", f"--ref={REF}", "add", "-m", "a person's own words")
    notes = GitNotes(root=clone)
    assert notes.add(RUN, ROOT, head(clone))
    assert notes.add(f"{RUN}-2", OTHER, head(clone))
    assert [line for line in note_of(clone).splitlines() if line] == ["a person's own words", f"{RUN} {ROOT}", f"{RUN}-2 {OTHER}"]
    assert (state(notes), state(notes, OTHER, f"{RUN}-2")) == (State.SAME, State.SAME)
    with pytest.raises(NotVerified, match="another root is noted for this run"):
        notes.add(RUN, OTHER, head(clone))


@pytest.mark.parametrize("how", [("add", "-f", "-m", f"{RUN} {OTHER}"), ("remove",), ("edit", "-m", "nothing")])
def test_a_line_that_was_changed_later_still_speaks(clone: Path, how: tuple[str, ...]) -> None:
    notes = GitNotes(root=clone)
    notes.add(RUN, ROOT, head(clone))
    if how[0] == "edit":
        how = ("add", "-f", *how[1:])
    git(clone, "notes", f"--ref={REF}", *how)
    assert state(notes, OTHER) is State.OTHER
    assert state(notes, ROOT) is (State.OTHER if OTHER in " ".join(how) else State.SAME)


def test_notes_of_two_clones_are_merged_as_lines(clone: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(clone), "second")
    second = tmp_path / "second"
    assert GitNotes(root=clone).add(RUN, ROOT, head(clone))
    there = GitNotes(root=second).look(RUN)
    assert isinstance(there, Unreached)
    assert f"git fetch origin {REF}:{REF}" in there.why
    assert GitNotes(root=second).add(f"{RUN}-2", ROOT, head(second))
    git(second, "fetch", "-q", "origin", f"{REF}:refs/notes/theirs")
    git(second, "notes", f"--ref={REF}", "merge", "-q", "-s", "cat_sort_uniq", "refs/notes/theirs")
    assert state(GitNotes(root=second)) is state(GitNotes(root=second), run=f"{RUN}-2") is State.SAME


def test_a_person_s_settings_of_git_change_nothing(clone: Path) -> None:
    GitNotes(root=clone).add(RUN, ROOT, head(clone))
    for key, value in {"diff.noprefix": "true", "color.ui": "always", "log.showSignature": "true", "diff.external": "false"}.items():
        git(clone, "config", key, value)
    assert state(GitNotes(root=clone)) is State.SAME


def test_no_clone_no_commit_no_name(tmp_path: Path, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(GitNotes(root=tmp_path).look(RUN), Unreached)
    with pytest.raises(BadInput, match="the run's commit is not in this clone"):
        GitNotes(root=clone).add(RUN, ROOT, "0" * 40)
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "")
    monkeypatch.setenv("GIT_COMMITTER_NAME", "")
    with pytest.raises(BadInput, match="git would not take the note"):
        GitNotes(root=clone).add(RUN, ROOT, head(clone))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert isinstance(GitNotes(root=clone).look(RUN), Unreached)


# --- Annotations


@dataclass(kw_only=True)
class Fake:
    """The part of the port to a cluster that anchors use."""

    there: dict[str, dict[str, str]] = field(default_factory=dict)
    namespace: str = "bank"
    gone: set[str] = field(default_factory=set)

    def list(self, labels: Mapping[str, str]) -> Sequence[Listed]:
        (run,) = labels.values()
        return [
            Listed(name=n, phase=Phase.SUCCEEDED, labels={})
            for n, a in self.there.items()
            if labels == {RUN_KEY: run_label(a[RUN_KEY])} and run
        ]

    def get(self, name: str) -> Progress | None:
        if name in self.gone:
            return None
        return Progress(
            name=name, namespace=self.namespace, uid="", template="", phase=Phase.SUCCEEDED, message="", started=None, finished=None,
            labels={}, annotations=self.there[name], nodes=(), version="",
        )  # fmt: skip


def annotated(fake: Fake) -> Annotations:
    return Annotations(connect=lambda: fake)  # type: ignore[arg-type,return-value]


def test_the_workflow_s_annotation() -> None:
    fake = Fake(there={"toy-1": {RUN_KEY: RUN, ROOT_KEY: ROOT}, "other": {RUN_KEY: f"{RUN}-2", ROOT_KEY: OTHER}})
    assert annotated(fake).look(RUN) == (Noted(root=ROOT, where="workflow bank/toy-1"),)
    assert state(annotated(fake), OTHER) is State.OTHER
    assert state(annotated(fake), run="toy-111111111111") is State.NONE
    fake.there["again"] = {RUN_KEY: RUN, ROOT_KEY: OTHER}
    assert state(annotated(fake)) is State.OTHER
    fake.gone |= {"again"}
    assert state(annotated(fake)) is State.SAME
    fake.there["again"] = {RUN_KEY: RUN}
    fake.gone.clear()
    assert state(annotated(fake)) is State.OTHER, "a workflow that says it made the run, and names no root"


def test_a_long_run_s_label_is_cut_and_its_annotation_is_not() -> None:
    long = [f"{'p' * 60}-{i}00000000000" for i in (1, 2)]
    labels = [run_label(r) for r in long]
    assert all(len(x) == 63 and x[-1].isalnum() for x in labels)
    assert labels[0] != labels[1]
    assert run_label(RUN) == RUN
    assert state(annotated(Fake(there={"w": {RUN_KEY: long[0], ROOT_KEY: ROOT}})), run=long[0]) is State.SAME


def test_a_cluster_that_is_away_or_hangs() -> None:
    def away() -> Any:
        raise Temporary("the cluster cannot be reached")

    assert Annotations(connect=away).look(RUN) == Unreached(why="the cluster cannot be reached")
    forever = threading.Event()

    class Slow(Fake):
        def list(self, labels: Mapping[str, str]) -> Sequence[Listed]:  # noqa: ARG002  # the port's
            forever.wait(60)
            return []

    slow = Annotations(connect=Slow, seconds=0.05)  # type: ignore[arg-type]
    assert slow.look(RUN) == Unreached(why="the cluster did not answer within 0.05 s")
    forever.set()

    def defect() -> Any:
        raise KeyError("a defect")

    with pytest.raises(KeyError, match="a defect"):
        Annotations(connect=defect).look(RUN)


# --- Locked objects


@pytest.fixture
def bucket(real_s3: s3server.Server, tmp_path: Path) -> S3Store:
    """A prefix of its own in a bucket with object lock."""
    client = real_s3.client()
    if LOCKED not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=LOCKED, ObjectLockEnabledForBucket=True)
    return S3Store(LOCKED, tmp_path.name)


def key(store: S3Store) -> str:
    return f"{store.prefix}anchors/{RUN}"


def test_a_root_is_locked_and_nobody_changes_it(bucket: S3Store, real_s3: s3server.Server) -> None:
    from botocore.exceptions import ClientError

    locks = LockedObjects(store=bucket)
    assert locks.look(RUN) == ()
    version = locks.lock(RUN, ROOT, 3)
    assert version.mode == "COMPLIANCE"
    assert version.until is not None
    assert timedelta(days=2, hours=23) < version.until - datetime.now(UTC) <= timedelta(days=3)
    verdict = judge("object-lock", locks.look(RUN), ROOT)
    assert verdict.state is State.SAME
    assert verdict.said == f"s3://{LOCKED}/{key(bucket)}, COMPLIANCE until {version.until:%Y-%m-%d}"
    assert state(locks, OTHER) is State.OTHER
    client = real_s3.client()
    attacks: tuple[Callable[[], object], ...] = (
        lambda: client.put_object(Bucket=LOCKED, Key=key(bucket), Body=b"x"),
        lambda: client.delete_object(Bucket=LOCKED, Key=key(bucket)),
        lambda: client.delete_object(Bucket=LOCKED, Key=key(bucket), BypassGovernanceRetention=True),
    )
    for attack in attacks:
        with pytest.raises(ClientError, match="object lock"):
            attack()
    assert state(locks) is State.SAME


def test_a_lock_is_made_longer_and_never_shorter(bucket: S3Store) -> None:
    locks = LockedObjects(store=bucket)
    first = locks.lock(RUN, ROOT, 2, Mode.GOVERNANCE)
    assert locks.lock(RUN, ROOT, 2, Mode.GOVERNANCE).until == first.until
    assert locks.lock(RUN, ROOT, 1).until == first.until
    longer = locks.lock(RUN, ROOT, 30)
    assert longer.mode == "GOVERNANCE", "a lock keeps its mode"
    assert longer.until is not None
    assert first.until is not None
    assert longer.until > first.until + timedelta(days=27)


def test_another_root_is_never_written_over(bucket: S3Store) -> None:
    locks = LockedObjects(store=bucket)
    locks.lock(RUN, ROOT, 1)
    with pytest.raises(NotVerified, match="another root is noted for this run"):
        locks.lock(RUN, OTHER, 1)


def test_an_object_without_a_lock_proves_nothing_and_contradicts(bucket: S3Store, real_s3: s3server.Server) -> None:
    locks = LockedObjects(store=bucket)
    real_s3.client().put_object(Bucket=LOCKED, Key=key(bucket), Body=f"{RUN} {ROOT}\n".encode())
    assert state(locks) is State.NONE
    assert "it is not locked" in judge("object-lock", locks.look(RUN), ROOT).said
    assert state(locks, OTHER) is State.OTHER
    real_s3.client().put_object(Bucket=LOCKED, Key=key(bucket), Body=b"nothing of ours")
    assert state(locks) is State.OTHER


def test_a_bucket_that_cannot_lock_gets_nothing(real_s3: s3server.Server, tmp_path: Path) -> None:
    locks = LockedObjects(store=S3Store(s3server.BUCKET, tmp_path.name))
    with pytest.raises(BadInput, match="this bucket has no object lock") as raised:
        locks.lock(RUN, ROOT, 1)
    assert "create-bucket" in raised.value.hint
    assert not [k for k in real_s3.objects() if k.startswith(f"{tmp_path.name}/")]
    assert locks.look(RUN) == ()


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_a_number_of_days(bucket: S3Store, days: int) -> None:
    with pytest.raises(BadInput, match="not a number of days"):
        LockedObjects(store=bucket).lock(RUN, ROOT, days)


def test_a_lock_that_has_ended() -> None:
    from workflows.cluster.anchors.object_lock import Version

    now = datetime(2030, 1, 2, tzinfo=UTC)
    assert Version(id="", text="", mode="COMPLIANCE", until=now - timedelta(seconds=1)).weakness(now) == "its lock ended on 2030-01-01"
    assert Version(id="", text="", mode="COMPLIANCE", until=now + timedelta(seconds=1)).weakness(now) == ""


@pytest.fixture
def versioned() -> Iterator[Any]:
    """S3 as Amazon has it: a bucket with object lock keeps every version."""
    import boto3
    from moto import mock_aws

    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ACCESS_KEY_ID": "t", "AWS_SECRET_ACCESS_KEY": "t", "AWS_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        patch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=LOCKED, ObjectLockEnabledForBucket=True)
        yield client


def test_what_was_put_on_top_or_marked_as_deleted_hides_nothing(versioned: Any) -> None:
    store = S3Store(LOCKED, "p")
    locks = LockedObjects(store=store)
    locks.lock(RUN, ROOT, 5)
    versioned.put_object(Bucket=LOCKED, Key=key(store), Body=f"{RUN} {OTHER}\n".encode())
    looked = locks.look(RUN)
    assert isinstance(looked, tuple)
    assert {n.root for n in looked} == {ROOT, OTHER}
    assert state(locks, OTHER) is State.OTHER
    assert state(locks, ROOT) is State.OTHER
    with pytest.raises(NotVerified):
        locks.lock(RUN, OTHER, 5)

    fresh = LockedObjects(store=S3Store(LOCKED, "q"))
    fresh.lock(RUN, ROOT, 5)
    versioned.delete_object(Bucket=LOCKED, Key=key(fresh.store))
    assert state(fresh, ROOT) is State.SAME
    assert state(fresh, OTHER) is State.OTHER
    assert fresh.lock(RUN, ROOT, 50).mode == "COMPLIANCE"


def test_whoever_may_not_see_the_versions_is_told(bucket: S3Store, real_s3: s3server.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    LockedObjects(store=bucket).lock(RUN, ROOT, 1)
    real_s3.admin("create-user", "--access", "plain", "--secret", "reads-only", "--role", "user")
    policy = f"""{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Principal": "plain",
        "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": ["arn:aws:s3:::{LOCKED}", "arn:aws:s3:::{LOCKED}/*"]}}]}}"""
    real_s3.client().put_bucket_policy(Bucket=LOCKED, Policy=policy)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "plain")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "reads-only")
    looked = LockedObjects(store=S3Store(LOCKED, bucket.prefix)).look(RUN)
    real_s3.client().delete_bucket_policy(Bucket=LOCKED)
    assert isinstance(looked, Unreached)
    assert "AccessDenied" in looked.why
    assert "s3:ListBucketVersions" in looked.why


# --- Which are asked


def test_which_anchors_are_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "ARGO_SERVER", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def said(store: Any, *, bundle: bool = False, namespace: str | None = None) -> list[str]:
        known = anchors(tmp_path, store, namespace=namespace, context=None, bundle=bundle)
        assert [a.name for a in known] == ["git-note", "annotation", "object-lock"]
        assert all(v.state is State.UNREACHED for v in verdicts(known[:2], RUN, ROOT))
        return [v.said for v in verdicts([a for a in known if not isinstance(a, LockedObjects)], RUN, ROOT)][1:]

    no_cluster, none_named = "KUBECONFIG, ARGO_SERVER: no cluster to talk to", "no cluster is named: --namespace, --context"
    assert said(local_store(tmp_path)) == [none_named, "the store is a folder, which locks nothing"]
    assert said(local_store(tmp_path), namespace="bank") == [no_cluster, "the store is a folder, which locks nothing"]
    assert said(S3Store("bank")) == [no_cluster]
    assert said(S3Store("bank"), bundle=True) == [none_named]
    assert said(None, bundle=True) == [none_named, "no store in S3 is named"]
    for odd in ("@latest", "toy,x=1", "--all", "../x"):
        assert verdicts(anchors(tmp_path, None, namespace=None, context=None), odd, ROOT)[0].said == "not the id of a run"
