"""sha256 and md5 of a file in one pass, against programs that compute one of them, and against what the two functions can do."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness import ROOT, CannotMeasure, Contest, Goal, Measured, environment, scratch, side_by_side, timed, times

sys.path.insert(0, str(ROOT))
from workflows.prove import digest
from workflows.run import files

LARGE = 2 * 2**30
MANY, EACH = 4000, 128 * 1024
ROUNDS = 5
GOAL = 0.9
BLOCK = 4 * 2**20
OURS, BOUND = "ours: sha256 and md5", "bound: both functions on bytes in memory, on all cores"


def contest() -> Contest:
    with scratch() as top:
        env = environment(top)
        block = os.urandom(BLOCK)
        one = top / "one" / "large"
        one.parent.mkdir()
        with one.open("wb") as out:
            for _ in range(LARGE // BLOCK):
                out.write(block)
        many = top / "many" / "files"
        many.mkdir(parents=True)
        for i in range(MANY):
            (many / f"{i:05d}").write_bytes(i.to_bytes(4, "big") + block[: EACH - 4])
        large = side_by_side({OURS: partial(_ours, [one]), BOUND: partial(_bound_of_one, block), **_programs(one, env)}, ROUNDS)
        small = side_by_side(
            {OURS: partial(_ours, sorted(many.iterdir())), BOUND: partial(_bound_of_many, block[:EACH]), **_programs(many, env)}, ROUNDS
        )
    names = dict.fromkeys((*large.seconds, *small.seconds))
    return Contest(
        title="Hashing",
        about=f"One file of {LARGE // 2**30} GiB, and {MANY:,} files of {EACH // 1024} KiB, all in the page cache. Ours computes sha256 and"
        " md5 in one pass; each of the programs computes one of them, so that two are needed for what ours does; `dvc add` "
        "computes md5 and links the file into its cache. The bound is what Python's two hash functions do on bytes that lie in memory: "
        "side by side for one file, where the slower one decides, and shared out over all cores for many.",
        header=("", "one file", "times ours", "many files", "times ours"),
        rows=tuple((n, *_cells(large, n, LARGE), *_cells(small, n, MANY * EACH)) for n in names),
        goals=(_goal("one large file", large), _goal("many files", small)),
        notes=tuple(f"{n}: {why}" for n, why in {**large.absent, **small.absent}.items()),
    )


def _cells(measured: Measured, name: str, size: int) -> tuple[str, str]:
    if not measured.has(name):
        return "", ""
    seconds = measured.median(name)
    return f"{size / seconds / 1e9:.2f} GB/s", times(seconds / measured.median(OURS))


def _goal(what: str, measured: Measured) -> Goal:
    share = measured.median(BOUND) / measured.median(OURS)
    return Goal(what=f"{what}: at least {GOAL} of what both hash functions can do", measured=f"{share:.2f}", met=share >= GOAL)


def _programs(path: Path, env: dict[str, str]) -> dict[str, Callable[[], float]]:
    words = {
        "sha256sum": ["sha256sum"],
        "md5sum": ["md5sum"],
        "openssl dgst -sha256": ["openssl", "dgst", "-sha256"],
        "openssl dgst -md5": ["openssl", "dgst", "-md5"],
    }
    listed = [str(path)] if path.is_file() else [str(p) for p in sorted(path.iterdir())]
    found: dict[str, Callable[[], float]] = {n: partial(_program, [*w, *listed], path.parent, env) for n, w in words.items()}
    return {**found, "dvc add (md5, linked)": partial(_dvc_add, path, env)}


def _program(words: list[str], folder: Path, env: dict[str, str]) -> float:
    if shutil.which(words[0]) is None:
        raise CannotMeasure("not installed here")
    return timed(words, cwd=folder, env=env).seconds


def _dvc_add(path: Path, env: dict[str, str]) -> float:
    """In a repository of its own around the data, with an empty cache and no memory of the file."""
    top = path.parent
    for folder in (top / ".dvc", Path(env["DVC_SITE_CACHE_DIR"])):
        shutil.rmtree(folder, ignore_errors=True)
    timed(["dvc", "init", "--no-scm", "--quiet"], cwd=top, env=env)
    timed(["dvc", "config", "cache.type", "hardlink"], cwd=top, env=env)
    seconds = timed(["dvc", "add", "--quiet", path.name], cwd=top, env=env).seconds
    for p in (path, *(path.iterdir() if path.is_dir() else ())):
        p.chmod(0o755 if p.is_dir() else 0o644)
    return seconds


def _ours(paths: list[Path]) -> float:
    begun = time.perf_counter()
    digest.in_parallel(files.digests, paths)
    return time.perf_counter() - begun


def _bound_of_one(block: bytes) -> float:
    def update(function: str) -> None:
        state = hashlib.new(function, usedforsecurity=False)
        for _ in range(LARGE // BLOCK):
            state.update(block)

    return _at_once([partial(update, "sha256"), partial(update, "md5")])


def _bound_of_many(block: bytes) -> float:
    cores = len(os.sched_getaffinity(0))

    def share() -> None:
        for _ in range(MANY // cores):
            digest.of_bytes(block)

    return _at_once([share] * cores)


def _at_once(works: list[Callable[[], None]]) -> float:
    threads = [threading.Thread(target=w) for w in works]
    begun = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return time.perf_counter() - begun
