"""Finding commits whose event was lost, and submitting them as the event would have.

A commit of a mapped branch that touches a pipeline should have a workflow, or left a run in the store. Where it has
neither, its event never arrived. Doing this twice does no harm: names say what a workflow would do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workflows.cluster import clone
from workflows.cluster.interface import PIPELINE, Workflows
from workflows.cluster.publishing import pack_commit, put_code, put_data
from workflows.cluster.submitting import Request, submit
from workflows.compile import touching, triggers
from workflows.compile.gather import gather
from workflows.compile.triggers import Mapped
from workflows.declare import Pipeline
from workflows.errors import BadInput, CountersignError, NotVerified, Problem
from workflows.names import argo_name, workflow_name
from workflows.prove.signature import Keyring
from workflows.run import keys, parameters
from workflows.run.journal import Journal, read_record, runs, standing
from workflows.run.session import find_pipeline
from workflows.run.store.interface import Store

BRANCH = "countersign/branch"  # annotation
RECONCILED = "countersign/reconciled"  # annotation: no event started this
What = Literal["already there", "has a run", "not in it yet", "lost", "submitted", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What became of one commit, for one pipeline of one branch."""

    branch: str
    commit: str
    pipeline: str
    what: What
    detail: str = ""
    """The workflow, the run, or what went wrong."""
    error: CountersignError | None = None

    def as_json(self) -> dict[str, str]:
        return {"branch": self.branch, "commit": self.commit, "pipeline": self.pipeline, "state": self.what, "detail": self.detail}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """The namespace that a branch's pipelines run in, and the store that they work with."""

    workflows: Workflows
    store: Store


def reconcile(
    root: Path, place_of: Callable[[str], Place], *, branch: str | None = None, since: str | None = None, dry_run: bool = False
) -> Iterator[Found]:
    """Look at each branch's newest commit that touches its pipelines, or at all after `since`; submit those that are missing."""
    start = clone.commit_of(root, since) if since else None
    for m in _mapped(root, branch):
        pipeline = find_pipeline(m.pipeline)
        declared = gather(root, pipeline, parameters.read(root, pipeline, {}))
        tip = clone.tip(root, m.branch)
        commits = clone.touching(root, tip, touching.paths_of(declared), since=start)
        if not commits:
            continue
        look = _Look(root, m, pipeline, place_of(m.namespace))
        for commit in commits:
            yield look.at(commit, dry_run=dry_run)


def _mapped(root: Path, branch: str | None) -> list[Mapped]:
    read = triggers.read(root)
    if read is None:
        raise BadInput(Problem(what="no such file: it says which branch runs which pipeline", where=triggers.PATH))
    if branch and branch not in read.branches:
        raise BadInput(Problem(what=f"branch {branch} runs nothing", where=triggers.PATH, expected=f"one of {', '.join(read.branches)}"))
    return [m for m in triggers.mapped(read) if branch in {None, m.branch}]


class _Look:
    """One pipeline of one branch, and what its cluster and store know already."""

    def __init__(self, root: Path, mapped: Mapped, pipeline: Pipeline, place: Place) -> None:
        self.root, self.mapped, self.pipeline, self.place = root, mapped, pipeline, place
        self._listed: dict[str, str] | None = None
        self._runs: dict[str, list[str]] | None = None
        self._ring: Keyring | None = None

    def at(self, commit: str, *, dry_run: bool) -> Found:
        """What there is of a commit, or what came of submitting it."""
        try:
            if not clone.has(self.root, commit, f"workflows/{self.pipeline.name}.py"):
                return self._found(commit, "not in it yet")
            name = workflow_name(self.pipeline.name, commit=commit, overrides=self.mapped.overrides)
            if phase := self._phase(name):
                return self._found(commit, "already there", f"{name} ({phase})")
            with tempfile.TemporaryDirectory(prefix="countersign-") as scratch:
                tree = Path(scratch)
                clone.lay_out(self.root, commit, tree)
                if run := self._run(commit, tree):
                    return self._found(commit, "has a run", run)
                return self._found(commit, "lost", name) if dry_run else self._submit(commit, tree)
        except CountersignError as error:
            # One commit that cannot be submitted must not keep the others from it.
            return self._found(commit, "failed", "; ".join(map(str, error.problems)), error)

    def _found(self, commit: str, what: What, detail: str = "", error: CountersignError | None = None) -> Found:
        return Found(branch=self.mapped.branch, commit=commit, pipeline=self.pipeline.name, what=what, detail=detail, error=error)

    def _phase(self, name: str) -> str | None:
        if self._listed is None:
            self._listed = {w.name: w.phase for w in self.place.workflows.list({PIPELINE: argo_name(self.pipeline.name)})}
        if name in self._listed:
            return self._listed[name]
        there = self.place.workflows.get(name)  # one that someone made without labels
        return there.phase if there else None

    def _run(self, commit: str, tree: Path) -> str | None:
        """A sealed run of exactly this commit with the parameters that the branch asks for."""
        store = self.place.store
        if self._runs is None:
            self._ring = keys.ring(store)
            self._runs = runs_by_commit(store, self._ring, self.pipeline.name)
        if commit not in self._runs:
            return None
        wanted = asked(parameters.read_yaml(tree / self.pipeline.params_path, self.pipeline.params_path), self.mapped.overrides)
        return next((r for r in self._runs[commit] if _did(store, self._ring or keys.ring(store), r, wanted)), None)

    def _submit(self, commit: str, tree: Path) -> Found:
        store = self.place.store
        packed = pack_commit(tree, commit)
        stands = store.get_document(f"revisions/{commit}")  # as the event would have run it
        code = stands.decode("ascii", "replace").strip() if stands else packed.code

        def publish() -> None:
            if not stands:
                put_code(store, packed)
            put_data(store, tree, self.root, [self.pipeline])

        request = Request(
            pipeline=self.pipeline,
            overrides=self.mapped.overrides,
            code=code,
            revision=commit,
            clean=commit,
            environment=self.mapped.environment,
            annotations={BRANCH: self.mapped.branch, RECONCILED: "true"},
        )
        done = submit(self.place.workflows, request, publish)
        return self._found(commit, "submitted" if done.created else "already there", done.name)


def runs_by_commit(store: Store, ring: Keyring, pipeline: str) -> dict[str, list[str]]:
    """Commit -> sealed runs of the pipeline whose code was exactly that commit. A run that does not verify counts for nothing."""
    found: dict[str, list[str]] = {}
    for run in runs(store):
        if not run.startswith(f"{argo_name(pipeline)}-"):
            continue
        journal = Journal(store, run)
        try:
            if not journal.sealed:
                continue
            seal, _ = journal.read_seal(ring)
            if seal.pipeline != pipeline or not seal.records:
                continue
            code = read_record(store, ring, seal.records[0].sha256, run).record.code
        except NotVerified:
            continue
        if code.commit and not code.dirty:
            found.setdefault(code.commit, []).append(run)
    return found


def asked(raw: Any, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a params file with `step.parameter` overrides applied: what each step's record must say."""
    sections = {k: v for k, v in raw.items() if v} if isinstance(raw, dict) else {}
    for path, value in overrides.items():
        *parents, last = path.split(".")
        node = sections
        for key in parents:
            node[key] = dict(node.get(key) or {})
            node = node[key]
        node[last] = value
    return sections


def _did(store: Store, ring: Keyring, run: str, wanted: Mapping[str, Any]) -> bool:
    try:
        seal, _ = Journal(store, run).read_seal(ring)
        records = standing(store, ring, seal)
    except NotVerified:
        return False
    recorded = {r.task.partition("@")[0]: r.params for r in records.values() if r.params}
    return recorded == {step: section for step, section in wanted.items() if step in recorded} and len(records) == len(seal.tasks)
