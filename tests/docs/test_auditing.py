"""The auditor's page does what it says: its commands run on a run that pods made, with the rights that it asks for and no more."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from tests import s3server
from tests.conftest import Home, git, make_home
from tests.docs.test_tutorial import BLOCK, ROOT, clone, commands
from tests.pods import Pods, commit_of

PAGE = (ROOT / "docs/auditing.md").read_text()
BLOCKS = BLOCK.findall(PAGE)
FILES = {title: text for _, title, text in BLOCKS if title}
BUCKET = "evidence"
ID = re.compile(r"debt-burden-[0-9a-f]{12}")
TOKEN = re.compile(rf"{ID.pattern}|\b[0-9a-f]{{64}}\b|\b[0-9a-f]{{40}}\b")
VARIES = re.compile(r"(?P<date>\d{4}-\d\d-\d\d)|(?P<size>[\d,]+ bytes)|(?P<rest>…)")
SAID = {"date": r"\d{4}-\d\d-\d\d", "size": r"[\d,]+ bytes", "rest": ".*"}


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Its repository, the store with two runs, and someone who may read both."""

    home: Home
    server: s3server.Server
    runs: tuple[str, str]
    key: bytes
    reader: dict[str, str]


@pytest.fixture(scope="module")
def bank(s3_server: s3server.Server, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """A bank that has made the tutorial's pipeline its own. Its cluster locks the roots, and an operator notes them in git."""
    scratch = tmp_path_factory.mktemp("bank")
    home = repository(scratch)
    s3_server.client().create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    locked = {"COUNTERSIGN_LOCK_DAYS": "3650", "COUNTERSIGN_LOCK_MODE": "GOVERNANCE"}
    runs = []
    for n, override in enumerate(({}, {"measure.heavy": 40})):
        pods = Pods(home=home, server=s3_server, url=store(), pipeline="debt_burden", scratch=scratch / f"pods{n}", uid=f"uid-{n}")
        pods.env["COUNTERSIGN_OVERRIDES"] = json.dumps(override)
        pods.publish()
        pods.go([("measure", None)], **locked)
        runs.append(pods.run)
    noted = home.ask("anchor", runs[0], "--git-note", "--store", store(), env=s3_server.env)
    assert noted.code == 0, noted.err
    (key,) = [k for k in s3_server.objects(BUCKET) if "/keys/" in k]
    body = s3_server.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return Bank(home=home, server=s3_server, runs=(runs[0], runs[1]), key=body, reader=reader(s3_server))


def repository(scratch: Path) -> Home:
    """This repository with the tutorial's pipeline in it, committed."""
    clone(scratch / "repo")
    home = make_home(scratch / "repo", scratch)
    for _, title, text in BLOCK.findall((ROOT / "docs/tutorial.md").read_text()):
        if title:
            home.write(title, text)
    said = home.ask("compile")
    assert said.code == 0, said.err
    git(home.path, "config", "user.name", "t")
    git(home.path, "config", "user.email", "t@example.org")
    git(home.path, "add", "-A")
    git(home.path, "commit", "-qm", "How heavy is the debt of those who apply?")
    return home


def store() -> str:
    """As the page names it to the auditor's shell."""
    found = re.search(r"^export COUNTERSIGN_STORE=(\S+)$", PAGE, re.MULTILINE)
    assert found
    return found[1]


def reader(server: s3server.Server) -> dict[str, str]:
    """Someone with the rights of the page's policy; where the server knows no rights, its owner."""
    if not server.real:
        return server.env
    server.admin("create-user", "--access", "auditor", "--secret", "may-only-read", "--role", "user")
    policy = json.loads(FILES["auditor.json"])
    for statement in policy["Statement"]:
        statement["Principal"] = "auditor"
    server.client().put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
    return {**server.env, "AWS_ACCESS_KEY_ID": "auditor", "AWS_SECRET_ACCESS_KEY": "may-only-read"}


@dataclass(kw_only=True)
class Desk:
    """The auditor's shell, and which digest of the page is which of this bank."""

    folder: Path
    env: dict[str, str]
    known: dict[str, str] = field(default_factory=dict)

    def type(self, command: str) -> tuple[int, str]:
        """Run a line of the page, with this bank's digests in place of the page's; exit code and what was said."""
        line = TOKEN.sub(lambda m: self.known.get(m[0], m[0]), command)
        at = self.folder.parent / "at"
        words = ["bash", "-c", f'exec 2>&1\n{line}\ncode=$?\npwd > "{at}"\nexit $code']
        done = subprocess.run(words, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, text=True, check=False)
        self.folder = Path(at.read_text().strip())
        return done.returncode, done.stdout.rstrip("\n")

    def recognises(self, expected: str, said: str) -> bool:
        """It was said word by word, but for times and sizes. What is one digest on the page must be one digest here."""
        new: list[str] = []
        pattern = "".join(self._pattern(part, new) for part in re.split(f"({TOKEN.pattern})", expected.rstrip("\n")))
        matched = re.fullmatch(pattern, said, re.DOTALL)
        if matched:
            self.known |= dict(zip(new, matched.groups(), strict=True))
        return matched is not None

    def _pattern(self, part: str, new: list[str]) -> str:
        if not TOKEN.fullmatch(part):
            cut = [(m.start(), m.end(), SAID[str(m.lastgroup)]) for m in VARIES.finditer(part)]
            at, out = 0, ""
            for start, end, any_ in cut:
                out, at = out + re.escape(part[at:start]) + any_, end
            return out + re.escape(part[at:])
        if part in self.known:
            return re.escape(self.known[part])
        if part in new:
            return rf"\{new.index(part) + 1}"
        new.append(part)
        return f"({ID.pattern})" if ID.fullmatch(part) else f"([0-9a-f]{{{len(part)}}})"


@pytest.fixture
def desk(bank: Bank, tmp_path: Path) -> Desk:
    """An empty folder but for the public key. The repository that the page clones is the bank's."""
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk/bank.pem").write_bytes(bank.key)
    home = make_home(tmp_path / "desk", tmp_path)
    (tmp_path / ".gitconfig").write_text(f'[url "{bank.home.path}"]\n\tinsteadOf = {repository_on_the_page()}\n')
    env = {**home.env, **bank.reader, "COUNTERSIGN_STORE": store(), "PYTHONPATH": str(bank.home.path), "GIT_CONFIG_NOSYSTEM": "1"}
    first, second = dict.fromkeys(ID.findall(PAGE))
    return Desk(folder=home.path, env=env, known={first: bank.runs[0], second: bank.runs[1]})


def repository_on_the_page() -> str:
    found = re.search(r"git clone -q (\S+)", PAGE)
    assert found
    return found[1]


@pytest.mark.slow
@pytest.mark.usefixtures("real_s3")  # moto's server knows no rights
def test_the_page_works_as_written(bank: Bank, desk: Desk) -> None:
    asked = [c for language, title, text in BLOCKS if language == "console" and not title for c in commands(text)]
    assert len(asked) > 15
    for command, expected, code in asked:
        exit_code, said = desk.type(command)
        assert exit_code == code, f"$ {command}\n{said}"
        assert desk.recognises(expected, said), f"$ {command}\nexpected:\n{expected}\nsaid:\n{said}"
    assert commit_of(bank.home.path) in desk.known.values()
    assert commit_of(desk.folder) == commit_of(bank.home.path)


REFUSED: dict[str, Callable[[Any, str], object]] = {
    "a new object": lambda s3, key: s3.put_object(Bucket=BUCKET, Key=f"{key}-new", Body=b""),
    "another object in its place": lambda s3, key: s3.put_object(Bucket=BUCKET, Key=key, Body=b""),
    "no object": lambda s3, key: s3.delete_object(Bucket=BUCKET, Key=key),
    "an upload in parts": lambda s3, key: s3.create_multipart_upload(Bucket=BUCKET, Key=key),
    "other rights": lambda s3, key: s3.put_bucket_policy(Bucket=BUCKET, Policy=FILES["auditor.json"].replace("evidence/", f"{key}/")),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.usefixtures("real_s3")
def test_the_page_s_policy_lets_nothing_be_written(bank: Bank, what: str) -> None:
    key = next(k for k in bank.server.objects(BUCKET) if "/records/" in k)
    s3 = boto3.client(
        "s3",
        endpoint_url=bank.server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=bank.reader["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=bank.reader["AWS_SECRET_ACCESS_KEY"],
    )
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    with pytest.raises(ClientError, match="AccessDenied"):
        REFUSED[what](s3, key)


def test_the_page_s_lifecycle_rule_is_one_that_s3_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with mock_aws():  # versitygw has no lifecycle rules
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket=BUCKET)
        s3.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration=json.loads(FILES["lifecycle.json"]))
        (kept,) = s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert kept["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert not {k for k in kept if k.startswith(("Expiration", "Noncurrent"))}, "nothing that is evidence expires"


def test_what_is_one_digest_on_the_page_must_be_one_digest_here(tmp_path: Path) -> None:
    a, b, c = "a" * 64, "b" * 64, "c" * 64
    desk = Desk(folder=tmp_path, env={})
    assert desk.recognises(f"root {a}, {a}\n", f"root {b}, {b}")
    assert desk.known == {a: b}
    assert not desk.recognises(f"root {a}", f"root {c}")
    assert not Desk(folder=tmp_path, env={}).recognises(f"{a} {a}", f"{b} {c}")
    assert desk.recognises("12 bytes on 2026-01-02, …", "1,234 bytes on 2036-11-22, and so on")
    assert not desk.recognises("1 record", "2 records")
