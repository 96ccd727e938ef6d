"""docs/operating.md does what it says: its commands and files are taken from the page, and tried on a real S3 server."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest
from botocore.exceptions import ClientError

from tests import s3server
from tests.conftest import ROOT, Home, Said, lacking
from tests.docs.test_tutorial import BLOCK

pytestmark = pytest.mark.timeout(300)
BLOCKS = {title: text for _, title, text in BLOCK.findall((ROOT / "docs/operating.md").read_text()) if title}
NAMES = (f"bank-{n}" for n in itertools.count())


@dataclass(frozen=True, kw_only=True)
class Bank:
    """A checkout that runs into a store in one bucket, and another bucket for its backup."""

    home: Home
    server: s3server.Server
    store: str
    backup: str

    @property
    def env(self) -> dict[str, str]:
        remotes = {"TYPE": "s3", "PROVIDER": "Other", "ENV_AUTH": "true", "ENDPOINT": self.server.endpoint, "REGION": "us-east-1"}
        named = {f"RCLONE_CONFIG_{remote}_{k}": v for remote in ("STORE", "BACKUP") for k, v in remotes.items()}
        own = {"RCLONE_CONFIG": "", "STORE": self.store, "BACKUP": self.backup, "KEY": str(self.home.path.parent / "public.pem")}
        return {**self.server.env, **named, **own, "PYTHONPATH": str(self.home.path)}

    def follow(self, title: str, **env: str) -> Said:
        """What a block of the page says when it is run, as a shell script that ends at the first failure."""
        words = ["bash", "-euo", "pipefail", "-c", BLOCKS[title]]
        done = subprocess.run(
            words, env={**self.home.env, **self.env, **env}, cwd=self.home.path, capture_output=True, text=True, check=False
        )
        return Said(code=done.returncode, out=done.stdout, err=done.stderr)

    def run(self, *words: str) -> str:
        said = self.ask("run", "toy", "--json", *words)
        assert said.code == 0, said.err
        return str(said.json["run"])

    def ask(self, *words: str, **env: str) -> Said:
        return self.home.ask(*words, "--store", f"s3://{self.store}", env={**self.server.env, **env})

    def keys(self, place: str) -> set[str]:
        bucket, _, prefix = place.partition("/")
        return {k.removeprefix(f"{prefix}/") for k in self.server.objects(bucket) if k.startswith(f"{prefix}/")}


@pytest.fixture
def bank(home: Home, real_s3: s3server.Server) -> Bank:
    if not shutil.which("rclone"):
        lacking("rclone: apt-get install rclone")
    name = next(NAMES)
    for bucket in (name, f"{name}-backup"):
        real_s3.client().create_bucket(Bucket=bucket)
    assert home.ask("keys", "init").code == 0
    private = Path(home.env["COUNTERSIGN_KEYS"]) / "signing.pem"
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", home.path.parent / "public.pem"], check=True)
    return Bank(home=home, server=real_s3, store=f"{name}/store", backup=f"{name}-backup/store")


def done(said: Said) -> str:
    assert said.code == 0, said.err
    return said.out


def test_what_was_lost_comes_back_whole(bank: Bank) -> None:
    first = bank.run()
    done(bank.follow("backup"))
    second = bank.run("--set", "pick.at_least=35")
    done(bank.follow("backup"))
    assert bank.keys(bank.backup) == bank.keys(bank.store)
    assert done(bank.follow("check")) == ""

    bucket, everything = bank.store.split("/")[0], bank.keys(bank.store)
    for key in everything:
        bank.server.client().delete_object(Bucket=bucket, Key=f"store/{key}")
    assert bank.ask("verify", first).code != 0
    done(bank.follow("restore"))
    assert bank.keys(bank.store) == everything
    for run in (first, second):
        assert bank.ask("verify", run, "--key", bank.env["KEY"], "--json").json["verified"]
    shutil.rmtree(bank.home.path / ".countersign")
    shutil.rmtree(bank.home.path / ".dvc")
    again = bank.ask("show", bank.run("--again"), "--json").json
    assert {s["outcome"] for s in again["steps"]} == {"reused"}, "what was computed before is found again"


@pytest.mark.parametrize("kind", ["files", "records"])
def test_damage_to_the_store_does_not_reach_the_backup(bank: Bank, kind: str) -> None:
    run = bank.run()
    done(bank.follow("backup"))
    bucket = bank.store.split("/")[0]
    key = max(k for k in bank.keys(bank.store) if k.startswith(f"{kind}/"))
    bank.server.client().put_object(Bucket=bucket, Key=f"store/{key}", Body=b"changed")
    said = bank.follow("backup")
    assert said.code != 0, "whoever backs up hears of it"
    assert key.removeprefix("files/") in said.err
    assert done(bank.follow("check")) == ""
    # Nor does a restore write over what nobody has looked at.
    assert bank.follow("restore").code != 0
    bank.server.client().delete_object(Bucket=bucket, Key=f"store/{key}")
    done(bank.follow("restore"))
    assert bank.ask("verify", run).code == 0


def test_a_backup_that_was_meddled_with_is_found(bank: Bank) -> None:
    run = bank.run()
    done(bank.follow("backup"))
    key = max(k for k in bank.keys(bank.backup) if k.startswith("files/"))
    bank.server.client().put_object(Bucket=bank.backup.split("/")[0], Key=f"store/{key}", Body=b"changed")
    assert done(bank.follow("check")) == f"look at {run}\n"


@pytest.fixture
def rights(bank: Bank) -> Iterator[Bank]:
    """The page's policy on the bucket, and its two accounts."""
    bucket = bank.store.split("/")[0]
    for name in ("steps", "reader"):
        bank.server.admin("create-user", "--access", name, "--secret", f"{name}-secret", "--role", "user")
    policy = BLOCKS["policy.json"].replace("countersign-prod", bucket)
    bank.server.client().put_bucket_policy(Bucket=bucket, Policy=policy)
    yield bank
    for name in ("steps", "reader"):
        bank.server.admin("delete-user", "--access", name)


def as_(account: str) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": account, "AWS_SECRET_ACCESS_KEY": f"{account}-secret"}


def test_the_rights_are_enough_and_none_deletes(rights: Bank) -> None:
    bucket = rights.store.split("/")[0]
    said = rights.ask("run", "toy", "--json", **as_("steps"))
    assert said.code == 0, said.err
    assert rights.ask("verify", said.json["run"], **as_("reader")).code == 0
    refused = rights.ask("run", "toy", "--again", **as_("reader"))
    assert (refused.code, "AccessDenied" in refused.err) == (2, True), refused.err
    key = min(rights.server.objects(bucket))
    for account in ("steps", "reader"):
        words = as_(account)
        client = boto3.client(
            "s3", endpoint_url=rights.server.endpoint, region_name="us-east-1",
            aws_access_key_id=words["AWS_ACCESS_KEY_ID"], aws_secret_access_key=words["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        with pytest.raises(ClientError, match="AccessDenied"):
            client.delete_object(Bucket=bucket, Key=key)


def test_the_rules_for_the_bucket_are_taken_and_spare_the_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    rules: Any = json.loads(BLOCKS["lifecycle.json"])
    with moto.mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="countersign-prod")
        client.put_bucket_lifecycle_configuration(Bucket="countersign-prod", LifecycleConfiguration=rules)
        taken = client.get_bucket_lifecycle_configuration(Bucket="countersign-prod")["Rules"]
    assert [r["ID"] for r in taken] == [r["ID"] for r in rules["Rules"]]
    assert next(r for r in taken if "AbortIncompleteMultipartUpload" in r)["Filter"]["Prefix"] == ""
    ending = {r["Filter"]["Prefix"] for r in taken if {"Expiration", "NoncurrentVersionExpiration", "Transitions"} & r.keys()}
    assert ending == {"argo/", "store/cache/"}, "nothing that a run's chain names comes to an end"


def test_runs_before_and_after_another_key_verify_each_with_its_own(bank: Bank, tmp_path: Path) -> None:
    real = shutil.which("kubectl") or lacking("kubectl")
    shim, applied, new = tmp_path / "bin/kubectl", tmp_path / "applied.yaml", tmp_path / "new"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\ncase "$*" in *apply*) cat > {applied};; *) exec {real} "$@";; esac\n')
    shim.chmod(0o755)
    before = bank.run()
    done(bank.follow("rotate", NEW=str(new), NAMESPACE="prod", PATH=f"{shim.parent}:{bank.home.env['PATH']}"))
    assert "signing.pem:" in applied.read_text()
    after = bank.ask("run", "toy", "--json", "--set", "pick.at_least=35", COUNTERSIGN_KEYS=str(new)).json["run"]
    old, young = bank.env["KEY"], str(new / "public.pem")
    assert [bank.ask("verify", before, "--key", k).code for k in (old, young)] == [0, 4]
    assert [bank.ask("verify", after, "--key", k).code for k in (old, young)] == [4, 0]
    mixed = bank.ask("run", "toy", "--json", "--again", COUNTERSIGN_KEYS=str(new)).json["run"]
    assert bank.ask("verify", mixed, "--key", young).code == 4, "it reused what the old key signed"
    assert bank.ask("verify", mixed, "--key", old, "--key", young).code == 0
