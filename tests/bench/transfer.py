"""Artifacts into S3 and out of it: the store, against plain boto3 and against `dvc push` and `dvc pull`, on a real S3 server."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness import ROOT, CannotMeasure, Contest, Goal, Measured, environment, scratch, short, side_by_side, timed

sys.path.insert(0, str(ROOT))
from tests import s3server

LARGE = 2 * 2**30
MANY, EACH = 5000, 20 * 1000
ROUNDS = 3
LIMIT = 200  # MB
BLOCK = 4 * 2**20
OURS, PLAIN, DIGESTED, DVC = "ours: sha256 and md5, both ways checked", "boto3", "boto3, sha256 and md5 before", "dvc push, dvc pull"
# Each reads: the project, `up` or `down`, bucket, prefix, folder of the files, folder to write to. It says the seconds of the transfer.
HEAD = """
import json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
root, way, bucket, prefix, there, here = sys.argv[1:]
sys.path.insert(0, root)
files = sorted(Path(there).iterdir())
here = Path(here)
def say(begun): print("seconds", time.perf_counter() - begun)
"""
SCRIPTS = {
    OURS: """
from workflows.prove.record import Item
from workflows.run.store.parallel import in_order
from workflows.run.store.s3 import S3Store
store, known = S3Store(bucket, prefix), here.with_name("known.json")
store.get_document("records/none")
begun = time.perf_counter()
if way == "up":
    kept = list(in_order(store.put_content, files))
    say(begun)
    known.write_text(json.dumps([[f.name, d.sha256, d.md5, d.size] for f, d in zip(files, kept)]))
else:
    items = [Item(name=n, sha256=s, md5=m, size=z) for n, s, m, z in json.loads(known.read_text())]
    begun = time.perf_counter()
    for _ in in_order(lambda i: store.fetch_content(i, here / i.name), items):
        pass
    say(begun)
""",
    PLAIN: """
import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
s3 = boto3.client("s3", config=Config(max_pool_connections=32))
s3.list_objects_v2(Bucket=bucket, MaxKeys=1)
def up(f): s3.put_object(Bucket=bucket, Key=f"{prefix}/{f.name}", Body=f.read_bytes())
def down(f): (here / f.name).write_bytes(s3.get_object(Bucket=bucket, Key=f"{prefix}/{f.name}")["Body"].read())
begun = time.perf_counter()
if "digests" in os.environ:
    from workflows.prove import digest
    def look(f):
        with f.open("rb") as stream: digest.of_stream(stream)
    digest.in_parallel(look, files)
if len(files) == 1 and way == "up":
    s3.upload_file(str(files[0]), bucket, f"{prefix}/{files[0].name}", Config=TransferConfig(max_concurrency=16))
elif len(files) == 1:
    s3.download_file(bucket, f"{prefix}/{files[0].name}", str(here / files[0].name), Config=TransferConfig(max_concurrency=16))
else:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(up if way == "up" else down, files))
say(begun)
""",
}


@dataclass(kw_only=True)
class _Track:
    """One set of files on its way, by every contestant."""

    top: Path
    files: Path
    server: s3server.Server
    env: dict[str, str]
    peaks: dict[str, float] = field(default_factory=dict)

    def script(self, name: str, way: str, number: int, **more: str) -> float:
        here = self.top / f"{number}-{way}"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        prefix = f"{self.files.name}-{number}"
        if way == "up":
            self.empty(prefix)
        words = [sys.executable, "-c", HEAD + SCRIPTS[PLAIN if name == DIGESTED else name], str(ROOT), way, s3server.BUCKET, prefix]
        done = timed([*words, str(self.files), str(here)], cwd=self.top, env={**self.env, **more})
        self.peaks[name] = max(self.peaks.get(name, 0), done.peak_mb)
        if way == "down":
            self.same(here)
        return float(done.out.split("seconds ")[-1])

    def dvc(self, way: str) -> float:
        """A whole command, as there is no other way to have it; what it keeps of earlier rounds is taken away before."""
        repo = self.top / "repo"
        if not repo.exists():
            self.make(repo)
        shutil.rmtree(self.env["DVC_SITE_CACHE_DIR"], ignore_errors=True)
        shutil.rmtree(repo / ".dvc" / "tmp", ignore_errors=True)
        if way == "up":
            self.empty(f"{self.files.name}-dvc")
        else:
            shutil.rmtree(repo / ".dvc" / "cache")
            shutil.rmtree(repo / "data")
        done = timed(["dvc", "push" if way == "up" else "pull", "--quiet"], cwd=repo, env=self.env)
        self.peaks[DVC] = max(self.peaks.get(DVC, 0), done.peak_mb)
        self.same(repo / "data")
        return done.seconds

    def make(self, repo: Path) -> None:
        repo.mkdir()
        shutil.copytree(self.files, repo / "data", copy_function=os.link)
        url = f"s3://{s3server.BUCKET}/{self.files.name}-dvc"
        for words in (
            ["init", "--no-scm", "--quiet"],
            ["config", "cache.type", "hardlink,copy"],
            ["add", "--quiet", "data"],
            ["remote", "add", "--default", "store", url],
            ["remote", "modify", "store", "endpointurl", self.server.endpoint],
        ):
            timed(["dvc", *words], cwd=repo, env=self.env)

    def empty(self, prefix: str) -> None:
        client = self.server.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=s3server.BUCKET, Prefix=f"{prefix}/"):
            if listed := [{"Key": o["Key"]} for o in page.get("Contents", ())]:
                client.delete_objects(Bucket=s3server.BUCKET, Delete={"Objects": listed})

    def same(self, here: Path) -> None:
        """A transfer that brings something else has not been one."""
        wanted, got = ({p.name: p.stat().st_size for p in folder.iterdir()} for folder in (self.files, here))
        if wanted != got:
            raise CannotMeasure("not what was sent came back")

    def contestants(self, way: str) -> dict[str, Callable[[], float]]:
        return {
            OURS: partial(self.script, OURS, way, 0),
            PLAIN: partial(self.script, PLAIN, way, 1),
            **({DIGESTED: partial(self.script, DIGESTED, way, 2, digests="yes")} if way == "up" else {}),
            DVC: partial(self.dvc, way),
        }


def contest() -> Contest:
    if s3server.program() is None:
        raise CannotMeasure("needs versitygw: make cluster-up builds it")
    measured: dict[str, Measured] = {}
    peaks: dict[str, dict[str, float]] = {}
    for what, make in (("one file", _one), ("many files", _many)):
        with scratch() as top, s3server.serving(top / "server") as server:
            if shutil.disk_usage(top).free < 10 * LARGE:
                raise CannotMeasure(f"needs {10 * LARGE / 2**30:.0f} GiB of disk")
            env = {**environment(top), **server.env, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
            track = _Track(top=top, files=make(top), server=server, env=env)
            for way in ("up", "down"):
                measured[f"{what} {way}"] = side_by_side(track.contestants(way), ROUNDS)
            peaks[what] = track.peaks
    names = (OURS, PLAIN, DIGESTED, DVC)
    return Contest(
        title="Transfer",
        about=f"One file of {LARGE / 2**30:.0f} GiB, and {MANY:,} files of {EACH // 1000} kB, to versitygw on this machine and back. Ours "
        "computes sha256 and md5 of what it sends, has the server compare a sha256 with what arrives, and believes nothing that comes back "
        "until its sha256 fits. boto3 sends large files in parts and small ones from 16 threads, and knows no digests; `dvc push` has "
        "hashed before, in `dvc add`. Seconds of ours and boto3's are those of the transfer, DVC's those of the command. The server "
        "has the same cores as its clients.",
        header=("", "one file up", "down", "peak memory", "many files up", "down", "peak memory"),
        rows=tuple((n, *_cells(measured, peaks, n, "one file"), *_cells(measured, peaks, n, "many files")) for n in names),
        goals=(
            *(_as_fast(what, m) for what, m in measured.items()),
            *(
                Goal(what=f"{what}: under {LIMIT} MB", measured=f"{peaks[what][OURS]:.0f} MB", met=peaks[what][OURS] < LIMIT)
                for what in peaks
            ),
        ),
        notes=tuple(f"{n}: {why}" for m in measured.values() for n, why in m.absent.items()),
    )


def _cells(measured: dict[str, Measured], peaks: dict[str, dict[str, float]], name: str, what: str) -> tuple[str, str, str]:
    up, down = (short(m.median(name)) if (m := measured[f"{what} {way}"]).has(name) else "" for way in ("up", "down"))
    return up, down, f"{peaks[what][name]:.0f} MB" if name in peaks[what] else ""


def _as_fast(what: str, measured: Measured) -> Goal:
    rivals = [measured.median(n) for n in (PLAIN, DVC) if measured.has(n)]
    share = measured.median(OURS) / min(rivals) if rivals and measured.has(OURS) else None
    goal = f"{what}: no slower than the faster of boto3 and DVC"
    return Goal(what=goal, measured="" if share is None else f"{share:.2f} of its time", met=None if share is None else share <= 1)


def _one(top: Path) -> Path:
    folder = top / "one"
    folder.mkdir()
    block = os.urandom(BLOCK)
    with (folder / "large").open("wb") as out:
        for i in range(LARGE // BLOCK):
            out.write(i.to_bytes(8, "big") + block[8:])
    return folder


def _many(top: Path) -> Path:
    folder = top / "many"
    folder.mkdir()
    for i in range(MANY):
        (folder / f"{i:05d}").write_bytes(os.urandom(EACH))
    return folder
