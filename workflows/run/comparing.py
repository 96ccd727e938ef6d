"""Loading artifacts from stores so that they can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workflows.declare import Artifact, Kind, Pipeline
from workflows.errors import NotVerified, Problem
from workflows.prove.compare import Columns, Comparison, Load, compare
from workflows.prove.record import Item
from workflows.prove.verify import Verification
from workflows.run import codec
from workflows.run.store.interface import Store

BATCH = 65_536  # rows in memory at a time, of each of the two


def compare_runs(a: tuple[Verification, Store], b: tuple[Verification, Store], pipeline: Pipeline | None, scratch: Path) -> Comparison:
    """Two verified runs, each from its store, with `scratch` as a folder for files. `NotVerified` where one is not sound."""
    sides = []
    for n, (verification, store) in enumerate((a, b)):
        if not verification.ok or verification.seal is None:
            raise NotVerified(
                *(Problem(what=f.what, where=f.where) for f in verification.findings), hint="what does not verify is not compared"
            )
        sides.append((verification.seal, verification.records, loader(store, scratch / str(n))))
    return compare(sides[0], sides[1], declared_by(pipeline))


def declared_by(pipeline: Pipeline | None) -> Mapping[str, Artifact]:
    """Every artifact of a pipeline by name; nothing where the pipeline is not known here."""
    return {a.name: a for s in pipeline.steps for a in s.made} if pipeline else {}


def loader(store: Store, folder: Path) -> Load:
    """How to get an artifact's value from a store."""

    def load(item: Item, kind: Kind) -> Any:
        path = folder / f"{item.sha256}.{kind}"
        if not path.exists():
            store.fetch_content(item, path)
        if kind in {Kind.TABLE, Kind.DATASET}:
            return _columns(path)
        if kind is Kind.REPORT:
            return codec.load(kind, path)
        return path.read_text(encoding="utf-8")

    return load


def _columns(path: Path) -> Columns:
    import pyarrow as pa

    from steps import dataset as lazily

    dataset = codec.load(Kind.DATASET, path)
    types = tuple((f.name, str(_plain(f.type))) for f in dataset.schema)

    def batches() -> Iterator[Mapping[str, Sequence[Any]]]:
        for rows in _cut(dataset):
            yield {name: rows.column(i).to_pylist() for i, (name, _) in enumerate(types)}

    def _cut(dataset: Any) -> Iterator[Any]:
        held = dataset.schema.empty_table()
        for batch in lazily.batches(dataset, rows=BATCH):
            held = pa.concat_tables([held, pa.Table.from_batches([batch])])
            while held.num_rows >= BATCH:
                yield held.slice(0, BATCH)
                held = held.slice(BATCH)
        if held.num_rows:
            yield held

    return Columns(types=types, batches=batches)


def _plain(kind: Any) -> Any:
    """A column's type without its encoding: a dictionary is its values, large text is text."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_large_binary(kind) else kind
