"""How each kind of artifact becomes a file and back, with the same bytes for the same value.

Libraries are imported where a kind needs them, so that a step pays only for what it uses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflows.declare import Kind
from workflows.errors import BadInput, NotVerified, Problem
from workflows.prove import canonical

ROW_GROUP = 128 * 1024
READS = {Kind.TABLE: "pa.Table", Kind.DATASET: "ds.Dataset", Kind.MODEL: "lgb.Booster", Kind.REPORT: "Report", Kind.PAGE: "Page"}
"""How a step's function spells the type of an input, by kind."""
WRITES = {**READS, Kind.DATASET: "pa.RecordBatchReader"}
"""How it spells the type of an output."""


def load(kind: Kind, path: Path) -> Any:
    """The value that a step sees; `NotVerified` where the file is not of its kind."""
    try:
        return _LOAD[kind](path)
    except (OSError, ValueError, _lightgbm_error()) as error:
        what = f"cannot be read as a {kind}: truncated, or of another kind"
        raise NotVerified(Problem(what=what, where=str(path), got=type(error).__name__)) from error


def dump(kind: Kind, value: Any, path: Path) -> None:
    """Write a step's output; `BadInput` where the value is not of the kind that the declaration says."""
    try:
        _DUMP[kind](value, path)
    except (canonical.NotCanonical, TypeError) as error:
        raise BadInput(Problem(what=f"a step's output is no {kind}", where=path.name, got=str(error))) from error


def _lightgbm_error() -> type[Exception]:
    import sys

    # Only where LightGBM was imported already can it have raised.
    lightgbm = sys.modules.get("lightgbm")
    error: type[Exception] = lightgbm.basic.LightGBMError if lightgbm else ValueError
    return error


def _load_table(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(path, memory_map=True)


def _dump_table(table: Any, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not isinstance(table, pa.Table):
        raise TypeError(f"expected a pyarrow.Table, got {type(table).__name__}")
    # Chunks would show in the row groups, and dictionaries that differ by chunk in their pages; pandas' metadata names versions.
    plain = table.unify_dictionaries().combine_chunks().replace_schema_metadata(None)
    pq.write_table(plain, path, row_group_size=ROW_GROUP, compression="zstd", version="2.6")


def _load_dataset(path: Path) -> Any:
    import pyarrow.dataset as ds

    # Arrow's default is to fetch the file ahead and to keep what it fetched until the scan ends. See also `steps.dataset`.
    lazily = ds.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
    return ds.dataset(path, format=ds.ParquetFileFormat(default_fragment_scan_options=lazily))


def _dump_dataset(reader: Any, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not isinstance(reader, pa.RecordBatchReader):
        raise TypeError(f"expected a pyarrow.RecordBatchReader, got {type(reader).__name__}")
    schema = reader.schema.remove_metadata()
    with pq.ParquetWriter(path, schema, compression="zstd", version="2.6") as writer:
        for rows in _even(reader, schema):
            writer.write_table(rows, row_group_size=ROW_GROUP)


def _even(reader: Any, schema: Any) -> Any:
    """The batches cut anew into row groups of one size, so that bytes do not depend on how the step happened to batch."""
    import pyarrow as pa

    held = schema.empty_table()
    for batch in reader:
        held = pa.concat_tables([held, pa.Table.from_batches([batch.replace_schema_metadata(None)], schema)])
        while held.num_rows >= ROW_GROUP:
            yield held.slice(0, ROW_GROUP).combine_chunks()
            held = held.slice(ROW_GROUP)
    if held.num_rows:
        yield held.combine_chunks()


def _load_model(path: Path) -> Any:
    import lightgbm

    text = path.read_text()
    if "end of trees" not in text:
        raise ValueError("no end of trees")
    return lightgbm.Booster(model_str=text)


def _dump_model(model: Any, path: Path) -> None:
    import lightgbm

    if not isinstance(model, lightgbm.Booster):
        raise TypeError(f"expected a lightgbm.Booster, got {type(model).__name__}")
    path.write_text(model.model_to_string())


def _load_report(path: Path) -> Any:
    value = canonical.decode(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError("a report is a JSON object")
    return value


def _dump_report(report: Any, path: Path) -> None:
    if not isinstance(report, dict):
        raise TypeError(f"expected a JSON object, got {type(report).__name__}")
    path.write_bytes(canonical.encode(report))


def _load_page(path: Path) -> Any:
    return path.read_text(encoding="utf-8")


def _dump_page(page: Any, path: Path) -> None:
    if not isinstance(page, str):
        raise TypeError(f"expected HTML as text, got {type(page).__name__}")
    path.write_text(page, encoding="utf-8")


_LOAD: dict[Kind, Callable[[Path], Any]] = {
    Kind.TABLE: _load_table,
    Kind.DATASET: _load_dataset,
    Kind.MODEL: _load_model,
    Kind.REPORT: _load_report,
    Kind.PAGE: _load_page,
}
_DUMP: dict[Kind, Callable[[Any, Path], None]] = {
    Kind.TABLE: _dump_table,
    Kind.DATASET: _dump_dataset,
    Kind.MODEL: _dump_model,
    Kind.REPORT: _dump_report,
    Kind.PAGE: _dump_page,
}
