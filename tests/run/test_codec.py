"""Each kind of artifact: the same value gives the same bytes, and what is cut short or of another kind is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Home
from tests.steps.example import trained
from workflows.declare import Kind
from workflows.errors import BadInput, NotVerified
from workflows.run import codec

ROWS = codec.ROW_GROUP * 2 + 5
TABLE = pa.table({"n": np.arange(ROWS), "x": np.arange(ROWS) / 7, "word": [f"w{i % 13}" for i in range(ROWS)]})
MODEL = trained().model


def values() -> dict[Kind, Any]:
    return {
        Kind.TABLE: TABLE,
        Kind.DATASET: TABLE.to_reader(),
        Kind.MODEL: MODEL,
        Kind.REPORT: {"b": 1.0, "a": [True, None, 2**60]},
        Kind.PAGE: "<p>Zoë",
    }


def plain(kind: Kind, value: Any) -> Any:
    """What can be compared of a loaded value."""
    if kind is Kind.DATASET:
        assert isinstance(value, ds.Dataset)
        return value.to_table()
    return value.model_to_string() if kind is Kind.MODEL else value


@pytest.mark.parametrize("kind", Kind)
def test_what_is_kept_comes_back_and_twice_the_same_is_the_same_bytes(kind: Kind, tmp_path: Path) -> None:
    for name in ("a", "b"):
        codec.dump(kind, values()[kind], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    expected = TABLE if kind is Kind.DATASET else plain(kind, values()[kind])
    assert plain(kind, codec.load(kind, tmp_path / "a")) == expected


@pytest.mark.parametrize("kind", [k for k in Kind if k is not Kind.PAGE])  # any text is a page
@pytest.mark.parametrize("damage", ["cut short", "empty", "of another kind"])
def test_what_cannot_be_read_is_refused(kind: Kind, damage: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    codec.dump(kind, values()[kind], path)
    kept = path.read_bytes()
    path.write_bytes({"cut short": kept[: len(kept) // 3], "empty": b"", "of another kind": b"<p>"}[damage])
    with pytest.raises(NotVerified, match=f"cannot be read as a {kind}: truncated, or of another kind"):
        codec.load(kind, path)


@pytest.mark.parametrize("kind", Kind)
def test_a_value_of_another_kind_is_no_output(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"a step's output is no {kind}"):
        codec.dump(kind, 7, tmp_path / "it")


@pytest.mark.parametrize("kind", [Kind.TABLE, Kind.DATASET])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, ROWS), min_size=1, max_size=8))
def test_how_a_table_is_cut_does_not_show(kind: Kind, sizes: list[int], tmp_path: Path) -> None:
    """Rows in any chunks or batches give the bytes of those in one piece, and pandas' notes are left out."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(TABLE.slice(at, size))
        at += size
    cut = pa.concat_tables([*pieces, TABLE.slice(at)]).replace_schema_metadata({"pandas": "{}"})
    for name, table in (("whole", TABLE), ("cut", cut)):
        codec.dump(kind, table.to_reader() if kind is Kind.DATASET else table, tmp_path / name)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "cut").read_bytes()
    found = pq.ParquetFile(tmp_path / "cut")
    assert [found.metadata.row_group(i).num_rows for i in range(found.num_row_groups)] == [codec.ROW_GROUP, codec.ROW_GROUP, 5]


MUCH = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.compute as pc
from steps import dataset
from workflows.declare import Kind
from workflows.run import codec

def batches():
    for i in range(70):
        yield pa.record_batch({f"c{k}": np.random.default_rng(i).random(65_536) for k in range(8)})

schema = pa.schema([(f"c{k}", pa.float64()) for k in range(8)])
path = Path(sys.argv[1])
codec.dump(Kind.DATASET, pa.RecordBatchReader.from_batches(schema, batches()), path)
found = codec.load(Kind.DATASET, path)
made = pa.RecordBatchReader.from_batches(schema, dataset.batches(found))
codec.dump(Kind.DATASET, made, path.with_name("again"))
print(pa.default_memory_pool().max_memory() / 2**20, 70 * 65_536 * 8 * 8 / 2**20)
"""


def test_a_dataset_is_never_whole_in_memory(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", MUCH, str(tmp_path / "much")]
    said = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout
    peak, whole = map(float, said.split())
    assert whole == 280
    assert peak < whole / 2, peak
    assert (tmp_path / "much").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_step_reads_and_makes_datasets(home: Home) -> None:
    home.write(
        "workflows/toy.py", home.read("workflows/toy.py").replace(b'name="ages", kind=Kind.TABLE', b'name="ages", kind=Kind.DATASET')
    )
    code = home.read("steps/toy.py").decode()
    code = code.replace("import pyarrow.compute as pc\n", "import pyarrow.compute as pc\nimport pyarrow.dataset as ds\n")
    code = code.replace("    ages: pa.Table\n", "    ages: pa.RecordBatchReader\n").replace(
        'sort_by("age"))', 'sort_by("age").to_reader())'
    )
    code = code.replace("ages: pa.Table, which", "ages: ds.Dataset, which").replace('pc.sum(ages["age"])', 'pc.sum(ages.to_table()["age"])')
    home.write("steps/toy.py", code)
    first = home.run()
    assert first["gates"][0]["rules"][0]["value"] == 240
    assert home.ask("verify", "@latest").code == 0
    said = home.ask("reproduce", "@latest", "--json")
    assert {a["verdict"] for a in said.json["artifacts"]} == {"bytes"}
    other = home.run("--set", "pick.at_least=35")
    compared = home.ask("compare", first["run"], other["run"], "--json").json
    assert next(a for a in compared["artifacts"] if a["name"] == "toy/ages")["why"] == "not the same number of rows"
