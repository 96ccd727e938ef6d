"""Bringing code and data to where the pods of a workflow get them: the store. Nothing here starts anything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.cluster.planning import DIRTY
from workflows.declare import Pipeline
from workflows.errors import BadInput, NotVerified, Problem
from workflows.plan import tasks
from workflows.prove import digest
from workflows.prove.record import SNAPSHOT, Item
from workflows.run import files, parameters
from workflows.run.pod import as_text
from workflows.run.pointers import Pointer, pointer_of
from workflows.run.session import archive, revision_of, tree_files
from workflows.run.store.interface import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """The code of a checkout, ready to be kept: an archive of every file that a run needs, without data."""

    data: bytes
    item: Item
    commit: str | None
    """The git commit that it is of, or was before someone changed it."""
    dirty: bool
    """The files differ from the commit, or there is none."""

    @property
    def code(self) -> str:
        """As the workflow's parameter says it: `sha256:md5:size`."""
        return as_text(self.item)

    @property
    def revision(self) -> str:
        """As the workflow's parameter says it: the commit, with `-dirty` behind it where the files differ."""
        return f"{self.commit or ''}{DIRTY if self.commit and self.dirty else ''}"

    @property
    def clean(self) -> str | None:
        """The commit, where it alone says what the code is."""
        return None if self.dirty else self.commit


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """A data file that a pointer names, now in the store."""

    path: str
    md5: str
    size: int
    here: bool
    """False where only the store had it."""


def pack(root: Path) -> Packed:
    """The code of the checkout at `root` as it is now, changes included."""
    commit, dirty = revision_of(root)
    return _packed(root, commit, dirty=dirty)


def pack_commit(tree: Path, commit: str) -> Packed:
    """The code of a commit that was laid out at `tree`."""
    return _packed(tree, commit, dirty=False)


def _packed(root: Path, commit: str | None, *, dirty: bool) -> Packed:
    data = archive(root, tree_files(root))
    d = digest.of_bytes(data)
    return Packed(data=data, item=Item.of(SNAPSHOT, d), commit=commit, dirty=dirty)


def put_code(store: Store, packed: Packed) -> None:
    """Keep the archive, and let the commit name it where it is exactly that commit."""
    with files.scratch(Path(tempfile.gettempdir())) as path:
        path.write_bytes(packed.data)
        store.put_content(path)
    if packed.clean is None:
        return
    line = f"{packed.code}\n".encode()
    if (stands := store.put_if_absent(f"revisions/{packed.clean}", line)) != line:
        raise NotVerified(
            Problem(
                what="this commit was published before, with other files",
                where=f"{store.place}/revisions/{packed.clean}",
                expected=stands.decode("ascii", "replace").strip(),
                got=packed.code,
            ),
            hint="do git's filters or line endings differ between the two machines? one of the archives is not what the commit says",
        )


def put_data(store: Store, tree: Path, home: Path, pipelines: Iterable[Pipeline]) -> list[Data]:
    """Keep every data file that the pointers under `tree` name; `BadInput` lists all that cannot be had.

    The bytes come from the checkout at `home`, or from DVC's cache there, or they are in the store already.
    """
    sources = {s.at: s for p in pipelines for t in tasks(p) for s in t.sources}
    pointers = {at: pointer for at, s in sorted(sources.items()) if (pointer := pointer_of(tree, s))}
    kept, problems = list[Data](), list[Problem]()
    for at, pointer in pointers.items():
        try:
            kept.append(_kept(store, at, pointer, home, strict=tree == home))
        except (BadInput, NotVerified) as error:
            problems += error.problems
    if problems:
        raise BadInput(*problems, hint="a run on the cluster reads what the pointer names; get it with: dvc pull")
    return kept


def manifests(root: Path) -> list[dict[str, Any]]:
    """The compiled WorkflowTemplates; `BadInput` where they are not what the declarations say."""
    from workflows.compile import everything  # Hera: for those who compile only

    compiled = everything.compile_all(root)
    if stale := everything.stale(root, compiled):
        raise BadInput(*(Problem(what="is not what the declarations say", where=p) for p in stale), hint="run: countersign compile")
    found = (parameters.read_yaml(root / p, p) for p in sorted(compiled.texts) if p.startswith(f"{everything.MANIFESTS}/"))
    return [m for m in found if m.get("kind") == "WorkflowTemplate"]


def _kept(store: Store, at: str, pointer: Pointer, home: Path, *, strict: bool) -> Data:
    if strict and (home / at).is_file() and not _is(home / at, pointer):
        raise BadInput(
            Problem(what=f"is not what its pointer says: it was changed since dvc add {at}", where=at, expected=f"md5 {pointer.md5}")
        )
    known = Data(path=at, md5=pointer.md5, size=pointer.size, here=True)
    for path in (home / at, home / ".dvc" / "cache" / "files" / "md5" / pointer.md5[:2] / pointer.md5[2:]):
        if path.is_file() and _is(path, pointer):
            store.put_content(path)
            return known
    with tempfile.TemporaryDirectory() as scratch:
        # Read whole: what a run will build on is not taken on trust.
        store.fetch_pointer(pointer.md5, pointer.size, Path(scratch) / "data")
    return Data(path=at, md5=pointer.md5, size=pointer.size, here=False)


def _is(path: Path, pointer: Pointer) -> bool:
    if path.stat().st_size != pointer.size:
        return False
    with path.open("rb") as stream:
        return digest.of_stream(stream).md5 == pointer.md5
