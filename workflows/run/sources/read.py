"""Taking a source and reading what was taken: strictly, by its schema, never quoting a value."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workflows.declare import Kind, Source
from workflows.errors import BadInput, NotVerified, Problem
from workflows.prove import canonical
from workflows.run import codec, files
from workflows.run.parameters import read_yaml
from workflows.run.sources.interface import Adapter
from workflows.run.sources.s3 import S3
from workflows.run.sources.sql import Sql

ADAPTERS: dict[str, Adapter] = {"s3": S3(), "postgresql": Sql()}
GIVEN = "COUNTERSIGN_GIVEN"
"""A folder with a file for each source, by its name: set by a reproduction, which must see what the original saw."""
FAMILIES = {"string": "text", "int64": "number", "float64": "number", "bool": "bool", "date": "date"}
"""What a column of each type may be in a file that has types of its own: narrower numbers will do, text for a number will not."""
SHOWN = 5  # rows named in a message


def take(root: Path, pipeline: str, source: Source) -> Path:
    """The file that holds the source's bytes as they are now: the file itself, or a snapshot of what is remote."""
    if given := os.environ.get(GIVEN):
        return _given(root, pipeline, source, Path(given))
    if not source.remote:
        path = root / source.at
        if not path.is_file():
            hint = f"get it with: dvc pull {source.at}.dvc" if path.with_name(f"{path.name}.dvc").exists() else ""
            raise BadInput(Problem(what=f"source {source.name} is missing", where=source.at), hint=hint)
        return path
    adapter = ADAPTERS.get(urlsplit(source.at).scheme)
    if adapter is None:
        raise BadInput(Problem(what=f"source {source.name} has an unknown scheme", where=source.at, expected="s3:// or postgresql://"))
    to = snapshot_path(root, pipeline, source)
    with files.whole(to, durable=False) as temporary:
        adapter.take(source, temporary)
    return to


def _given(root: Path, pipeline: str, source: Source, folder: Path) -> Path:
    to = snapshot_path(root, pipeline, source) if source.remote else root / source.at
    try:
        files.write(to, (folder / source.name).read_bytes(), durable=False)
    except FileNotFoundError:
        raise BadInput(Problem(what=f"source {source.name} was not given", where=str(folder))) from None
    return to


def snapshot_path(root: Path, pipeline: str, source: Source) -> Path:
    """Where the bytes of a remote source are put."""
    suffix = ADAPTERS[urlsplit(source.at).scheme].suffix(source)
    return root / "artifacts" / pipeline / "source" / f"{source.name}{suffix}"


def read(root: Path, source: Source, path: Path) -> Any:
    """What a step sees of a source; `BadInput` names every column that is missing, extra or of another type."""
    if path.stat().st_size == 0:
        raise BadInput(Problem(what=f"source {source.name} is empty", where=str(path)))
    if source.kind is Kind.REPORT:
        return _read_report(source, path)
    if source.kind is not Kind.TABLE:
        try:
            return codec.load(source.kind, path)
        except NotVerified as error:
            raise BadInput(*error.problems) from error
    schema = read_yaml(root / source.schema, source.schema) if source.schema else None
    return _read_csv(source, path, schema) if path.suffix == ".csv" else _read_parquet(source, path, schema)


def _read_report(source: Source, path: Path) -> dict[str, Any]:
    """JSON as a person wrote it: any white space and order of keys, but no key twice, and numbers that are numbers."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_constant=float)
        canonical.encode(value)
    except (ValueError, RecursionError) as error:
        raise BadInput(Problem(what=f"source {source.name} cannot be read as JSON: {error}", where=source.at)) from error
    if not isinstance(value, dict):
        raise BadInput(Problem(what=f"source {source.name} is no JSON object", where=source.at, got=type(value).__name__))
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key stands twice: {next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)}")
    return found


def _read_parquet(source: Source, path: Path, schema: Any) -> Any:
    try:
        table = codec.load(Kind.TABLE, path)
    except NotVerified as error:
        raise BadInput(*error.problems) from error
    if schema is None:
        return table
    _check_names(source, schema, table.column_names)
    _check_families(source, schema, table)
    return _typed(source, schema, table)


def _check_families(source: Source, schema: Any, table: Any) -> None:
    """A number that became text, or a flag that became a number, would be cast without a word."""
    problems = [
        Problem(what=f"column {c['name']} does not hold what its type says", where=source.at, expected=c["type"], got=str(got))
        for c in schema["columns"]
        if c["type"] in FAMILIES and _family(got := table.schema.field(c["name"]).type) not in {FAMILIES[c["type"]], "nothing"}
    ]
    if problems:
        raise BadInput(*problems, hint=f"the columns are declared in {source.schema}")


def _family(kind: Any) -> str:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _family(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "date"
    return "nothing" if types.is_null(kind) else str(kind)


def _read_csv(source: Source, path: Path, schema: Any) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    if schema is None:
        raise BadInput(Problem(what=f"source {source.name} is CSV and has no schema", where=source.at))
    form = schema.get("format", {})
    delimiter, encoding = form.get("delimiter", ","), form.get("encoding", "utf-8")
    names = _header(source, path, delimiter, encoding)
    _check_names(source, schema, names, delimiter)
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[form.get("null", "")],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    try:
        table = csv.read_csv(
            path, csv.ReadOptions(encoding=encoding, use_threads=False), csv.ParseOptions(delimiter=delimiter), convert_options=convert
        )
    except (pa.ArrowInvalid, UnicodeDecodeError, LookupError) as error:
        # Arrow's own message quotes the line, which may hold personal data.
        raise BadInput(_csv_problem(source, error, delimiter, encoding)) from None
    return _typed(source, schema, table)


def _csv_problem(source: Source, error: Exception, delimiter: str, encoding: str) -> Problem:
    text = str(error)
    if isinstance(error, UnicodeDecodeError) or "UTF8" in text:
        return Problem(what=f"source {source.name} is not {encoding}", where=source.at)
    if "Expected" in text and "columns" in text:
        return Problem(
            what=f"a row of source {source.name} has another number of fields than the header",
            where=source.at,
            expected=f"delimiter {delimiter!r}",
        )
    return Problem(what=f"source {source.name} cannot be read as CSV", where=source.at)


def _header(source: Source, path: Path, delimiter: str, encoding: str) -> list[str]:
    import csv

    try:
        with path.open(encoding=encoding, newline="") as file:
            return next(csv.reader(file, delimiter=delimiter))
    except (UnicodeDecodeError, LookupError):
        raise BadInput(Problem(what=f"source {source.name} is not {encoding}", where=source.at)) from None
    except csv.Error as error:  # a quote that is never closed makes one field of the whole file
        what = f"the header of source {source.name} cannot be read: {error}"
        raise BadInput(Problem(what=what, where=source.at), hint="is a quote left open in it?") from None
    except StopIteration:  # a byte-order mark and nothing else
        raise BadInput(Problem(what=f"source {source.name} is empty", where=source.at)) from None


def _check_names(source: Source, schema: Any, names: list[str], delimiter: str = "") -> None:
    expected = [c["name"] for c in schema["columns"]]
    problems = [Problem(what=f"column {n} is missing", where=source.at) for n in expected if n not in names]
    if len(names) == 1 and len(expected) > 1:
        problems = [Problem(what="one column only: another delimiter?", where=source.at, expected=repr(delimiter))]
    elif problems or set(names) - set(expected):
        problems += [Problem(what=f"column {n} is not in the schema", where=source.at) for n in names if n not in expected]
    problems += [Problem(what=f"column {n} is there {c} times", where=source.at) for n, c in Counter(names).items() if c > 1]
    if problems:
        raise BadInput(*problems, hint=f"the columns are declared in {source.schema}")


def _typed(source: Source, schema: Any, table: Any) -> Any:
    import pyarrow as pa

    types = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(), "date": pa.date32()}
    problems: list[Problem] = []
    columns = {}
    for c in schema["columns"]:
        wanted = types.get(c["type"])
        if wanted is None:
            problems.append(
                Problem(what=f"column {c['name']} has an unknown type", where=str(source.schema), expected=", ".join(types), got=c["type"])
            )
            continue
        column = table.column(c["name"])
        try:
            columns[c["name"]] = column.cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            problems.append(_mistyped(source, c, column, wanted))
            continue
        if not c.get("nullable", False) and column.null_count:
            problems.append(Problem(what=f"column {c['name']} has {column.null_count} missing values", where=source.at, expected="none"))
    if problems:
        raise BadInput(*problems, hint=f"the columns are declared in {source.schema}")
    return pa.table(columns)


def _mistyped(source: Source, column: dict[str, Any], values: Any, wanted: Any) -> Problem:
    import pyarrow as pa

    bad = []
    for i in range(len(values)):
        try:
            values.slice(i, 1).cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            bad.append(i + 1)
        if len(bad) > SHOWN:
            break
    rows = ", ".join(map(str, bad[:SHOWN])) + (" and more" if len(bad) > SHOWN else "")
    return Problem(
        what=f"column {column['name']} does not hold what its type says",
        where=f"{source.at}, rows {rows}",
        expected=column["type"],
        got=str(values.type),
    )
