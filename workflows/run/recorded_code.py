"""The code of a run that was recorded: laid out again from the store or from git, and held against both."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from workflows import code
from workflows.errors import BadInput, NotVerified, Problem
from workflows.prove import digest
from workflows.prove.record import Code
from workflows.run.session import TREE
from workflows.run.store.interface import Store

NAMED = 5  # files that differ, named one by one


def lay_out(recorded: Code, store: Store, repository: Path | None, into: Path) -> str:
    """Put the code that ran into a folder; where it came from, and how it agrees with the commit that the record names.

    `NotVerified` where archive, record and commit do not agree; `BadInput` where the code is nowhere to be had.
    """
    data = _snapshot(recorded, store) if recorded.snapshot else _of_commit(recorded, repository)
    _unpack(data, into)
    listed = _files(data)
    got = digest.of_tree((p, code.sha256_of(into / p)) for p in listed)
    if got != recorded.tree:
        at = "the archive in the store" if recorded.snapshot else f"commit {recorded.commit}"
        raise NotVerified(Problem(what="this is not the code that was run", where=at, expected=recorded.tree, got=got))
    if not recorded.snapshot:
        return f"from commit {recorded.commit}"
    return f"from the store's archive: {_against_commit(recorded, repository, listed)}"


def _unpack(data: bytes, into: Path) -> None:
    """Write an archive's plain files. Python's own safe way came with 3.11.4, and Debian 12 has 3.11.2."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise NotVerified(Problem(what="the code's archive climbs out of its folder", where=ascii(member.name)))
            content = tar.extractfile(member) if member.isfile() else None
            if content:
                (into / path).parent.mkdir(parents=True, exist_ok=True)
                (into / path).write_bytes(content.read())


def _snapshot(recorded: Code, store: Store) -> bytes:
    if recorded.snapshot is None:
        raise AssertionError  # asked for only where there is one
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "code.tar"
        store.fetch_content(recorded.snapshot, path)
        return path.read_bytes()


def _of_commit(recorded: Code, repository: Path | None) -> bytes:
    data = _git_archive(repository, recorded.commit)
    if data is None:
        raise BadInput(
            Problem(what="the run's commit is not in this repository", where=str(recorded.commit)),
            hint="git fetch it, or run this in a clone that has it",
        )
    return data


def _against_commit(recorded: Code, repository: Path | None, listed: Mapping[str, str]) -> str:
    """Whoever published the code said which commit it is. Where git has the commit, that is not taken on trust."""
    if recorded.commit is None:
        return "the record names no commit"
    if recorded.dirty:
        return f"the record says itself that it differs from commit {recorded.commit}"
    data = _git_archive(repository, recorded.commit)
    if data is None:
        return f"not compared with commit {recorded.commit}, which no clone here has"
    commit = _files(data)
    if differing := sorted(p for p in {*commit, *listed} if commit.get(p) != listed.get(p)):
        more = f" and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
        raise NotVerified(
            Problem(
                what="the code that was run is not what the commit has, although the record says so",
                where=f"commit {recorded.commit}",
                got=f"other files at {', '.join(differing[:NAMED])}{more}",
            ),
            hint="whoever published this code put something else under that commit's name",
        )
    return f"file by file what commit {recorded.commit} has"


def _files(archive: bytes) -> dict[str, str]:
    """sha256 of every file of an archive that a re-run needs, by path."""
    found: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() and member.name.split("/")[0] in TREE else None
            if content:
                found[member.name] = hashlib.sha256(content.read()).hexdigest()
    return found


def _git_archive(repository: Path | None, commit: str | None) -> bytes | None:
    """The files of a commit; None where there is no clone that has it."""
    if repository is None or commit is None:
        return None
    try:
        words = ["git", "-C", str(repository), "archive", "--format=tar", commit]
        done = subprocess.run(words, capture_output=True, check=False)  # noqa: S603  # a commit is hexadecimal, by its record
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout
