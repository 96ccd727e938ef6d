"""What the driver works with: a checkout, a store, keys, parameters and the run it adds to."""

from __future__ import annotations

import io
import itertools
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from workflows import code
from workflows.declare import Pipeline, Step
from workflows.errors import BadInput, Problem
from workflows.plan import LOCK, Task, tasks
from workflows.prove import canonical, digest
from workflows.prove.digest import Digests
from workflows.prove.record import SNAPSHOT, Code, Item
from workflows.prove.signature import Keyring, Signer
from workflows.run import environment, files, keys
from workflows.run.journal import Journal
from workflows.run.parameters import Settings
from workflows.run.planned import Plan
from workflows.run.sources import read as sources
from workflows.run.store.interface import Store
from workflows.run.store.local import LocalStore

TREE = ("workflows", "steps", "params", "data", LOCK, "pyproject.toml", "dvc.yaml")
"""What a re-run needs from the repository, beside the data itself."""


def now() -> str:
    """The clock, as records write it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def local_store(root: Path) -> LocalStore:
    """The store of a checkout: content in DVC's cache, documents in `.countersign/`."""
    return LocalStore(content=root / ".dvc" / "cache", documents=root / ".countersign")


@dataclass(kw_only=True)
class Session:
    """Everything the driver needs beside the task. Made once, used for every task of a run."""

    root: Path
    pipeline: Pipeline
    settings: Settings
    store: Store
    signer: Signer
    ring: Keyring
    clock: Callable[[], str] = now
    reuse: bool = True
    taken: dict[str, Digests] = field(default_factory=dict)
    """Sources taken at the start of the run, by name, so that every step of it sees the same bytes."""
    planned: Plan | None = None
    """What another process has found out and written down for the whole run: code, sources, parameters."""

    _secrets: dict[str, bytes] = field(default_factory=dict, repr=False)
    _code: dict[str, str] = field(default_factory=dict)

    def learn(self) -> None:
        """Find out now what is the same for every task, so that tasks forked from here need not each find it out."""
        for step in self.pipeline.steps:
            self.code_digest(step)
        _ = self.environment_key, self.tree, environment.envelope()

    def secret(self, name: str) -> bytes:
        """A secret, read once: what a record says of it holds for what the step was given."""
        if name not in self._secrets:
            self._secrets[name] = keys.secret(name)
        return self._secrets[name]

    def code_digest(self, step: Step) -> str:
        """Digest of a step's code, taken once: an edit in the middle of a run is of no effect on it, and says nothing about it."""
        if step.name not in self._code:
            self._code[step.name] = code.step_digest(self.root, step)
        return self._code[step.name]

    def fingerprints(self, task: Task) -> dict[str, str]:
        return {name: keys.fingerprint(name, self.secret(name)) for name in task.step.secrets}

    @property
    def holder(self) -> str:
        """Who owns the runs that this checkout makes."""
        return digest.tagged("holder", self.signer.keyid, str(self.root))[:32]

    @cached_property
    def lock(self) -> str:
        return code.lock_digest(self.root)

    @cached_property
    def environment_key(self) -> str:
        return environment.key(self.lock)

    @cached_property
    def revision(self) -> tuple[str | None, bool]:
        """The git commit of the checkout, and whether the files that matter differ from it."""
        return (self.planned.commit, self.planned.dirty) if self.planned else revision_of(self.root)

    @cached_property
    def tree(self) -> tuple[str, Item | None]:
        """Digest of the files that a re-run needs, and an archive of them where the commit alone would not bring them back."""
        if self.planned:
            return self.planned.tree, self.planned.code
        commit, dirty = self.revision
        if commit and not dirty:
            return tree_digest(self.root, tree_files(self.root)), None
        return self.snapshot()

    def snapshot(self) -> tuple[str, Item]:
        """Digest of the files that a re-run needs, and an archive of them, kept in the store."""
        listed = tree_files(self.root)
        with files.scratch(self.root / ".countersign") as path:
            path.write_bytes(archive(self.root, listed))
            d = self.store.put_content(path)
        return tree_digest(self.root, listed), Item.of(SNAPSHOT, d)

    def code_of(self, task: Task) -> Code:
        commit, dirty = self.revision
        tree, snapshot = self.tree
        return Code(step=self.code_digest(task.step), tree=tree, commit=commit, dirty=dirty, snapshot=snapshot)

    def take_sources(self) -> None:
        """Take every source of the pipeline now."""
        for s in {s.name: s for t in tasks(self.pipeline) for s in t.sources}.values():
            with sources.take(self.root, self.pipeline.name, s).open("rb") as stream:
                self.taken[s.name] = digest.of_stream(stream)

    def plan_id(self) -> str:
        """What a run would do, as a name: equal for equal code, parameters, environment, keys and source data."""
        parts: list[str] = []
        for t in tasks(self.pipeline):
            asked: Mapping[str, Any] = {
                "params": self.settings.of(t.step),
                "rules": self.settings.rules_of(t.step),
                "secrets": self.fingerprints(t),
            }
            parts += [t.id, self.code_digest(t.step), canonical.encode(asked).decode()]
        data = [x for name in sorted(self.taken) for x in (name, self.taken[name].sha256)]
        sha = digest.tagged("plan", self.pipeline.name, self.environment_key, *data, *parts)
        return f"{self.pipeline.name.replace('_', '-')}-{sha[:12]}"


def revision_of(root: Path) -> tuple[str | None, bool]:
    """The git commit of a checkout, and whether the files that matter differ from it; (None, True) where it is no clone."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None, True
    return commit.strip(), bool(_git(root, "status", "--porcelain", "--untracked-files=all", "--", *TREE))


def tree_digest(root: Path, listed: list[str]) -> str:
    """Digest over files of a checkout, by path and content."""
    return digest.of_tree((p, code.sha256_of(root / p)) for p in listed)


def tree_files(root: Path) -> list[str]:
    """Paths of the files that a re-run needs: what git tracks or would track under `TREE`, without data itself."""
    listed = _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *TREE)
    if listed is None:
        found = (p.relative_to(root).as_posix() for top in TREE for p in [root / top, *(root / top).rglob("*")] if p.is_file())
        return sorted(p for p in found if "__pycache__" not in p)
    return sorted({p for p in listed.split("\0") if p and (root / p).is_file()})


def checkout() -> Path:
    """The repository that the current folder is in; `BadInput` where it is in none."""
    folder = nearest_checkout()
    if folder is None:
        hint = "change to the folder that holds workflows/ and params/; a run in a shared store is looked at from anywhere, with --store"
        raise BadInput(Problem(what="not inside a Countersign repository", where=str(Path.cwd())), hint=hint)
    return folder


def nearest_checkout() -> Path | None:
    """Likewise; None where the current folder is in none."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "workflows" / "declare.py").is_file():
            if folder != imported_from():
                # Records would state the code of one checkout and hold the results of another.
                raise BadInput(Problem(what="the code that is running is not this checkout's", where=str(folder), got=str(imported_from())))
            return folder
    return None


def imported_from() -> Path:
    """The repository whose code is running."""
    return Path(__file__).resolve().parents[2]


def find_pipeline(name: str) -> Pipeline:
    """The pipeline declared in `workflows/<name>.py`; `BadInput` lists those there are."""
    import importlib

    plain = name.replace("-", "_")
    known = pipeline_names(checkout())
    if plain not in known or not re.fullmatch(r"[a-z0-9_]+", plain):
        raise BadInput(Problem(what=f"no pipeline {name}", where="workflows/", expected=f"one of {', '.join(known)}"))
    try:
        pipeline: Pipeline = importlib.import_module(f"workflows.{plain}").pipeline
    except Exception as error:
        raise BadInput(Problem(what=f"cannot be imported: {type(error).__name__}: {error}", where=f"workflows/{plain}.py")) from error
    return pipeline


def pipeline_names(root: Path) -> list[str]:
    """Names of all pipelines: modules right under `workflows/` that say `pipeline = Pipeline(`."""
    return sorted(p.stem for p in (root / "workflows").glob("*.py") if "\npipeline = Pipeline(" in p.read_text(encoding="utf-8"))


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603  # fixed words, no shell
            ["git", "-C", str(root), "-c", "core.quotepath=off", *words],  # noqa: S607  # git as it is on PATH
            capture_output=True, text=True, check=False, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def archive(root: Path, listed: list[str]) -> bytes:
    """The same files give the same bytes: no times, owners or modes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in listed:
            data = (root / path).read_bytes()
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def open_journal(store: Store, plan: str, holder: str, *, again: bool = False) -> Journal:
    """The journal to add to: the unfinished attempt at this plan that `holder` owns, else a new one, which is then its own.

    A holder is a checkout or a workflow. Two of them never get the same run, and after the seal nobody gets it.
    """
    claim = f"{holder}\n".encode()
    for journal in attempts_at(store, plan):
        if journal.sealed or (again and journal.attempts()):
            continue
        if store.put_if_absent(f"claims/{journal.run}", claim) == claim:
            return journal
    raise AssertionError  # attempts never end


def attempts_at(store: Store, plan: str) -> Iterator[Journal]:
    """The journals of a plan, those there are and those there could be: `PLAN`, `PLAN-2`, `PLAN-3`, without end."""
    yield Journal(store, plan)
    for n in itertools.count(2):
        yield Journal(store, f"{plan}-{n}")


def last_claimed(store: Store, plan: str, holder: str) -> Journal | None:
    """The newest run of this plan that `holder` owns, sealed or not; None where it owns none."""
    found = None
    for journal in attempts_at(store, plan):
        claim = store.get_document(f"claims/{journal.run}")
        if claim is None:
            return found
        if claim.decode().strip() == holder:
            found = journal
    raise AssertionError  # attempts never end
