"""What a git clone knows of commits: which touch certain files, and what the files of one were. It is only read."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from workflows.errors import BadInput, Problem

SHALLOW = "is this a full clone, and up to date? git fetch, or git fetch --unshallow"


def tip(root: Path, branch: str) -> str:
    """The commit that a branch is at: as it was last fetched where it was, else as it is here. `BadInput` where there is none."""
    for ref in (f"refs/remotes/origin/{branch}", f"refs/heads/{branch}"):
        if found := _git(root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"):
            return found.strip()
    raise BadInput(Problem(what=f"no branch {branch} in this clone", where=str(root)), hint=SHALLOW)


def commit_of(root: Path, name: str) -> str:
    """The full name of a commit that a person named in some way."""
    found = None if name.startswith("-") else _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if not found:
        raise BadInput(Problem(what="no such commit in this clone", where=name), hint=SHALLOW)
    return found.strip()


def touching(root: Path, tip_: str, paths: Iterable[str], *, since: str | None) -> list[str]:
    """Commits of a branch that touch one of `paths`, the oldest first: all after `since`, or the newest without it.

    Only what was put on the branch itself counts, one commit a merge: that is what was pushed.
    """
    some = (f"{since}..{tip_}",) if since else ("--max-count=1", tip_)
    words = ("--literal-pathspecs", "rev-list", "--first-parent", *some, "--", *paths)
    found = _git(root, *words)
    if found is None:
        raise BadInput(Problem(what="the branch's history cannot be read", where=tip_), hint=SHALLOW)
    return found.split()[::-1]


def has(root: Path, commit: str, path: str) -> bool:
    """Whether a file is there at a commit."""
    return _git(root, "cat-file", "-e", f"{commit}:{path}") is not None


def lay_out(root: Path, commit: str, into: Path) -> None:
    """The files of a commit, as a checkout of it would have them. The checkout itself, and its index, are left alone."""
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": f"{scratch}/index"}
        for words in (("read-tree", commit), ("checkout-index", "--all", f"--prefix={into}/")):
            if _git(root, *words, env=index) is None:
                raise BadInput(Problem(what="the commit cannot be read", where=commit), hint=SHALLOW)


def _git(root: Path, *words: str, env: Mapping[str, str] | None = None) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603  # no shell; what a person named stands behind --verify or after --
            ["git", "-C", str(root), *words],  # noqa: S607  # git as it is on PATH
            capture_output=True, text=True, check=False, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", **(env or {})},
        )  # fmt: skip
    except FileNotFoundError:
        raise BadInput(Problem(what="git is not installed", where="PATH")) from None
    return done.stdout if done.returncode == 0 else None
