"""A run of the loan-approval pipeline that a cluster made, for every test of a session that asks what can be said of it afterwards."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.cluster.real import Space, new_space, store_client, store_environment
from tests.conftest import Home, Said, make_home
from tests.docs.test_tutorial import clone
from tests.pods import commit_of
from workflows.loan_approval import pipeline
from workflows.plan import tasks

NAMESPACE = "countersign-audited"
BUCKET = "countersign-audited"
"""Made with object lock, which a bucket has from its beginning or not at all."""
MASKING = bytes(range(32)).hex()
"""With this key every gate says yes."""
GIT_NAME = {f"GIT_{who}_{what}": text for who in ("AUTHOR", "COMMITTER") for what, text in (("NAME", "t"), ("EMAIL", "t@example.org"))}
LONG = 1200.0  # seconds; a workflow takes four minutes where nothing else is at work
ARTIFACTS = {f"{pipeline.name}/{p.name}" for t in tasks(pipeline) for p in t.outputs}


@dataclass(frozen=True, kw_only=True)
class Bank:
    """A run that a cluster made and sealed, and the checkout that it was submitted from."""

    home: Home
    store: Mapping[str, str]
    """How the bank's own people reach the store and the cluster."""
    commit: str
    answer: Any

    @property
    def run(self) -> str:
        return str(self.answer["run"])

    @property
    def url(self) -> str:
        return self.store["COUNTERSIGN_STORE"]

    def note(self, path: Path) -> None:
        """For the other workers of the session."""
        home = {"path": str(self.home.path), "env": dict(self.home.env)}
        path.write_text(json.dumps({"home": home, "store": dict(self.store), "commit": self.commit, "answer": self.answer}))

    @classmethod
    def noted(cls, path: Path) -> Self:
        found = json.loads(path.read_text())
        return cls(**{**found, "home": Home(path=Path(found["home"]["path"]), env=found["home"]["env"])})

    def key(self, folder: Path) -> str:
        """The public key, as the bank hands it out."""
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        s3 = store_client(self.store)
        (found,) = s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/keys/")["Contents"]
        (folder / "bank.pem").write_bytes(s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read())
        return str(folder / "bank.pem")


def new_bank(scratch: Path) -> Bank:
    """A checkout, a namespace with a masking key of these tests and a place in the store where there is nothing to reuse, and the run.

    The exit handler locks the run's root, and an operator notes it on the commit.
    """
    space = new_space(NAMESPACE)
    locked_place(space)
    space.patch("secret", "countersign-masking-key", {"stringData": {"masking_key": MASKING}})
    home = prepared(scratch)
    store = store_environment(space)
    said = home.ask("publish", "--templates", "--namespace", NAMESPACE, env=store)
    assert said.code == 0, said.err
    said = home.ask("submit", pipeline.name, "--namespace", NAMESPACE, "--wait", "--json", within=LONG, env=store)
    assert said.code == 0, said.err + said.out
    noted = home.ask("anchor", said.json["run"], "--git-note", env={**store, **GIT_NAME})
    assert noted.code == 0, noted.err
    return Bank(home=home, store=store, commit=commit_of(home.path), answer=said.json)


def prepared(scratch: Path) -> Home:
    """A checkout with its data, and the masking key of these tests."""
    clone(scratch / "repo")
    (scratch / "masking").write_text(MASKING)
    made = make_home(scratch / "repo", scratch)
    home = Home(path=made.path, env={**made.env, "COUNTERSIGN_MASKING_KEY_FILE": str(scratch / "masking")})
    pulled = dvc(home, "pull", *map(str, (home.path / "data").rglob("*.dvc")))
    assert pulled.code == 0, pulled.err
    return home


def locked_place(space: Space) -> None:
    """Move a namespace's store to a bucket with object lock, where the exit handler locks each root for a day."""
    s3 = store_client(store_environment(space))
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
        s3.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    place = f"s3://{BUCKET}/{time.time_ns()}"
    space.patch("configmap", "countersign", {"data": {"store": place, "lock_days": "1", "lock_mode": "GOVERNANCE"}})


def dvc(home: Home, *words: str, within: float = 240) -> Said:
    return home.finish(home.start("-m", "dvc", *words, env={"PYTHONPATH": ""}), within)


def digests(answer: Any) -> dict[str, str]:
    return {a["name"]: a["sha256"] for a in answer["artifacts"]}
