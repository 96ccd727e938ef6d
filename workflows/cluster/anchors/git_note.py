"""Roots in a git note on the commit that a run names: `refs/notes/countersign`, a line `RUN ROOT` for each run.

A note is itself under version control. Lines are only ever added, and whatever the ref's history once had counts: a line
that someone changed or removed later still speaks.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from workflows.cluster.anchors.interface import GIT_NOTE
from workflows.errors import BadInput, NotVerified, Problem
from workflows.prove.anchor import Looked, Noted, Unreached, line_of, roots_in

NOTES = "countersign"
REF = f"refs/notes/{NOTES}"
FETCH = f"git fetch origin {REF}:{REF}"
PUSH = f"git push origin {REF}"
PLAIN = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")
"""Whatever a person has configured: the same text."""
PATH = re.compile(r"^\+\+\+ b/(?P<path>[0-9a-f/]+)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class GitNotes:
    """The notes of the clone that `root` is in."""

    root: Path
    name: str = GIT_NOTE

    def look(self, run: str) -> Looked:
        if self._git("rev-parse", "--git-dir").returncode:
            return Unreached(why=f"{self.root} is in no git clone")
        if self._git("rev-parse", "--verify", "--quiet", REF).returncode:
            elsewhere = self._git("remote").stdout.strip()
            return Unreached(why=f"{REF} is not in this clone; to get it: {FETCH}") if elsewhere else ()
        log = self._git("log", "-p", "-U0", "--format=", "--diff-merges=separate", *PLAIN, f"-G^{run} ", REF)
        if log.returncode:
            return Unreached(why=f"git cannot read {REF}: {_first(log.stderr)}")
        return tuple(Noted(root=root, where=f"commit {commit}") for commit, root in _added(log.stdout, run))

    def add(self, run: str, root: str, commit: str) -> bool:
        """Note a root on a commit, behind what is noted there; false where it stands there already.

        `NotVerified` where another root is noted for the run, `BadInput` where this clone cannot take a note.
        """
        looked = self.look(run)
        known = [] if isinstance(looked, Unreached) else [n.root for n in looked]
        if other := [r for r in known if r != root]:
            raise NotVerified(Problem(what="another root is noted for this run", where=f"{REF}, {run}", expected=root, got=other[0]))
        if known:
            return False
        if self._git("cat-file", "-e", f"{commit}^{{commit}}").returncode:
            hint = "git fetch it, or run this in a clone that has it"
            raise BadInput(Problem(what="the run's commit is not in this clone", where=commit), hint=hint)
        done = self._git("notes", f"--ref={NOTES}", "append", "-m", line_of(run, root).strip(), commit)
        if done.returncode:
            raise BadInput(Problem(what=f"git would not take the note: {_first(done.stderr)}", where=f"{REF}, {self.root}"))
        return True

    def _git(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
        try:
            return subprocess.run(  # noqa: S603  # no shell; a run's id and a commit have no character that git could take for an option
                ["git", "-C", str(self.root), *words],  # noqa: S607  # git as it is on PATH
                capture_output=True, text=True, errors="replace", check=False, env=env,
            )  # fmt: skip
        except FileNotFoundError:
            return subprocess.CompletedProcess(words, 127, "", "git is not installed")


def _added(log: str, run: str) -> list[tuple[str, str]]:
    """(Commit that the note is on, root) of every line for the run that was ever added."""
    found: dict[tuple[str, str], None] = {}
    commit = ""
    for line in log.splitlines():
        if matched := PATH.match(line):
            commit = matched["path"].replace("/", "")
        elif line.startswith("+"):
            found |= dict.fromkeys((commit, root) for root in roots_in(line[1:], run))
    return list(found)


def _first(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "no reason given")
