"""Collecting what goes into a bundle, from a store and a checkout."""

from __future__ import annotations

import tempfile
from pathlib import Path

from workflows.declare import Kind, Pipeline
from workflows.errors import BadInput, NotVerified, Problem
from workflows.plan import SUFFIX
from workflows.prove import bundle
from workflows.prove.record import Item
from workflows.prove.verify import Verification
from workflows.run import files
from workflows.run.journal import lock_document
from workflows.run.session import tree_digest, tree_files
from workflows.run.store.interface import Store

FOR_PEOPLE = {Kind.REPORT, Kind.PAGE}
"""Tables hold a row for each person. They stay in the store, and are known in the bundle by digest."""


def pack(verification: Verification, store: Store, root: Path | None, pipeline: Pipeline | None) -> bytes:
    """The bundle of a verified run; `NotVerified` where it did not verify: nothing unsound is handed on.

    `root` is a checkout, where there is one: what it generates goes along if its code is the run's.
    """
    if not verification.ok or verification.seal is None or verification.root is None:
        raise NotVerified(
            *(Problem(what=f.what, where=f.where) for f in verification.findings), hint="a run that does not verify is not bundled"
        )
    seal = verification.seal
    envelopes = {
        f"records/{sha}": _document(store, f"records/{sha}")
        for sha in {verification.root, *verification.records, *bundle.reused_by(verification.records)}
    }
    keys = {f"keys/{k}.pem": _document(store, f"keys/{k}.pem") for k in bundle.signers_of(envelopes)}
    folder = {f"runs/{seal.run}/{name}": data for name, data in store.list_documents(f"runs/{seal.run}").items()}
    # A pipeline that is not known here any more has no kinds and no manifests; its proof stands without them.
    known = {**_artifacts(store, pipeline, seal.outputs), **_manifests(verification, store, root, pipeline)} if pipeline else {}
    members = {**envelopes, **keys, **folder, **known}
    return bundle.pack(pipeline=seal.pipeline, run=seal.run, root=verification.root, members=members)


def write(path: Path, data: bytes, *, force: bool) -> None:
    """The bundle at `path`, whole or not at all; `BadInput` where a file is there already, unless `force`."""
    if path.is_dir() or (path.exists() and not force):
        raise BadInput(Problem(what="exists already", where=str(path)), hint="choose another name, or say --force")
    try:
        files.write(path, data)
    except OSError as error:
        raise BadInput(Problem(what=f"cannot be written: {error.strerror}", where=str(path))) from error


def is_bundle(name: str) -> bool:
    """Whether a word on the command line means a file and not a run."""
    return "/" in name or name.endswith((".bundle", ".zip")) or Path(name).is_file()


def open_bundle(path: Path) -> bundle.Bundle:
    """The bundle in a file; `NotVerified` says what is wrong with it."""
    try:
        size = path.stat().st_size
        if size > bundle.MAX_SIZE:
            raise NotVerified(
                Problem(what="larger than a bundle may be", where=str(path), expected=f"at most {bundle.MAX_SIZE} bytes", got=str(size))
            )
        return bundle.read(path.read_bytes(), path.name)
    except OSError as error:
        raise BadInput(Problem(what=f"cannot be read: {error.strerror}", where=str(path))) from error


def _document(store: Store, name: str) -> bytes:
    data = store.get_document(name)
    if data is None:
        raise NotVerified(Problem(what="missing from the store", where=name))
    return data


def _artifacts(store: Store, pipeline: Pipeline, outputs: tuple[Item, ...]) -> dict[str, bytes]:
    """Verdicts, reports and pages among the results, and every metric: what a person reads."""
    wanted = {s.verdicts.name: s.verdicts for s in pipeline.steps if s.verdicts}
    wanted |= {a.name: a for a in pipeline.results if a.kind in FOR_PEOPLE}
    wanted |= {a.name: a for s in pipeline.steps for a in s.made if a.metric}
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for item in outputs:
            artifact = wanted.get(item.name.partition("/")[2].partition("@")[0])
            if artifact:
                path = Path(scratch) / "artifact"
                store.fetch_content(item, path)
                found[bundle.artifact_member(item, SUFFIX[artifact.kind])] = path.read_bytes()
    return found


def _manifests(verification: Verification, store: Store, root: Path | None, pipeline: Pipeline) -> dict[str, bytes]:
    """What the run's code compiles to, from a checkout that has this code; and the run's `dvc.lock`, as the run left it."""
    found: dict[str, bytes] = {}
    if root and {r.code.tree for r in verification.records.values()} == {tree_digest(root, tree_files(root))}:
        paths = ("dvc.yaml", f"infra/argo/workflows/{pipeline.name.replace('_', '-')}.yaml")
        found = {p: (root / p).read_bytes() for p in paths if (root / p).is_file()}
    if lock := store.get_document(lock_document(verification.run)):
        found["dvc.lock"] = lock
    return {f"manifests/{path}": data for path, data in found.items()}
