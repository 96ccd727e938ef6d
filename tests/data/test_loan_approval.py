"""The committed data: rebuilt by its script, delivered by DVC, described by its schemas, and fit for the pipeline."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from steps.ingest import Ingested, IngestParams, ingest
from steps.mask import Masked, MaskParams, mask
from steps.split import Split, SplitParams, split
from steps.validate import Validated, ValidateParams, validate

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data/loan_approval"
SOURCES = {"application": "application.csv", "credit_bureau": "credit_bureau.parquet"}
TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "date": pa.date32()}
KEY = b"a key for tests, of 32 bytes or so"


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def committed(source: str) -> Path:
    """The object that the pointer names, as the remote in the repository holds it."""
    md5: str = read(DATA / source / f"{SOURCES[source]}.dvc")["outs"][0]["md5"]
    return ROOT / "data/.dvc-remote/files/md5" / md5[:2] / md5[2:]


def schema(source: str) -> list[dict[str, Any]]:
    columns: list[dict[str, Any]] = read(DATA / source / "schema.yaml")["columns"]
    return columns


def table(source: str) -> pa.Table:
    if source == "credit_bureau":
        return pq.read_table(committed(source))
    options = pa.csv.ConvertOptions(
        column_types={c["name"]: TYPES[c["type"]] for c in schema(source)}, null_values=[""], strings_can_be_null=True
    )
    return pa.csv.read_csv(committed(source), convert_options=options)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_loan_approval", ROOT / "infra/data/make_loan_approval.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_script_makes_the_committed_bytes_again(script: ModuleType, tmp_path: Path) -> None:
    """Parquet names its writer's version inside; under another version than the one that wrote it the content is compared."""
    csv, parquet = script.make(tmp_path)
    assert csv.read_bytes() == committed("application").read_bytes()
    same_writer = pq.read_metadata(parquet).created_by == pq.read_metadata(committed("credit_bureau")).created_by
    if same_writer:
        assert parquet.read_bytes() == committed("credit_bureau").read_bytes()
    assert pq.read_table(parquet).equals(pq.read_table(committed("credit_bureau")))


def test_script_writes_the_same_bytes_anywhere(tmp_path: Path) -> None:
    for place, hash_seed in (("Asia/Tokyo", "1"), ("America/Boise", "2")):
        env = os.environ | {"TZ": place, "PYTHONHASHSEED": hash_seed, "LC_ALL": "C"}
        done = [sys.executable, str(ROOT / "infra/data/make_loan_approval.py"), str(tmp_path / hash_seed)]
        subprocess.run(done, check=True, env=env, capture_output=True)
    for source, name in SOURCES.items():
        one, two = (hashlib.sha256((tmp_path / seed / source / name).read_bytes()).digest() for seed in "12")
        assert one == two


@pytest.mark.parametrize("source", SOURCES)
def test_objects_are_what_the_pointers_say(source: str) -> None:
    pointer = read(DATA / source / f"{SOURCES[source]}.dvc")["outs"][0]
    content = committed(source).read_bytes()
    assert hashlib.md5(content, usedforsecurity=False).hexdigest() == pointer["md5"]
    assert len(content) == pointer["size"]


def test_a_fresh_clone_gets_the_data_from_its_own_remote(tmp_path: Path) -> None:
    """Only what git tracks is copied, so nothing but the remote inside the repository can have answered."""
    tracked = subprocess.run(["git", "ls-files", "-z", ".dvc", ".dvcignore", "data"], cwd=ROOT, check=True, capture_output=True)
    for name in filter(None, tracked.stdout.decode().split("\0")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    env = os.environ | {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(tmp_path / ".site")}
    subprocess.run([sys.executable, "-m", "dvc", "pull", "-q"], cwd=tmp_path, check=True, env=env)
    for source, name in SOURCES.items():
        assert (tmp_path / "data/loan_approval" / source / name).read_bytes() == committed(source).read_bytes()


@pytest.mark.parametrize("source", SOURCES)
def test_schema_describes_the_file(source: str) -> None:
    made, columns = table(source), schema(source)
    assert made.column_names == [c["name"] for c in columns]
    assert made.num_rows == 1989
    for column in columns:
        field = made[column["name"]]
        assert field.type == TYPES[column["type"]], column["name"]
        assert bool(field.null_count) == column["nullable"], column["name"]
        known = set(field.to_pylist()) - {None, *column.get("missing_codes", [])}
        if "categories" in column:
            assert known <= set(column["categories"]), column["name"]
        if "range" in column:
            assert column["range"][0] <= min(known) <= max(known) <= column["range"][1], column["name"]


def test_every_column_of_loanapp_is_kept_or_left_out_for_a_reason(script: ModuleType) -> None:
    kept = {c["name"] for source in SOURCES for c in schema(source) if not c.get("synthetic")}
    assert len(kept) == 48
    assert not kept & set(script.LEFT_OUT)
    assert len(kept | set(script.LEFT_OUT)) == 59
    assert all(script.LEFT_OUT.values())


def test_identifiers_belong_to_nobody() -> None:
    application = table("application")
    assert {c["name"] for c in schema("application") if c["role"] == "identifier"} == {
        c["name"] for c in schema("application") if c.get("synthetic")
    }
    ids = application["national_id"].to_pylist()
    assert len(set(ids)) == 1989
    assert all(i[0] == "9" and 1 <= int(i[4:6]) <= 49 for i in ids)
    assert all(p[3:11] == "-555-01" + p[10] for p in application["phone"].to_pylist())
    assert all(a.startswith("ZZ") for a in application["account_number"].to_pylist())


def test_first_row_is_loanapps_first_row() -> None:
    """Three cells of the first row, copied by hand from the package's data."""
    first = table("application").slice(0, 1).to_pylist()[0]
    assert (first["loanamt"], first["price"], first["male"]) == (89, 118.0, None)


def test_there_is_no_champion_yet() -> None:
    assert json.loads((DATA / "champion/champion.json").read_text()) == {"status": "none"}


Flow = tuple[Ingested, Masked, Validated, Split]


@pytest.fixture(scope="module")
def flow() -> Flow:
    """The four data steps over the committed data, with the committed parameters."""
    params = read(ROOT / "params/loan_approval.yaml")
    joined = ingest(**{s: table(s) for s in SOURCES}, params=IngestParams(**params["ingest"]))
    hidden = mask(applications=joined.applications, masking_key=KEY, params=MaskParams(**params["mask"]))
    checked = validate(masked=hidden.masked, params=ValidateParams(**params["validate"]))
    return joined, hidden, checked, split(valid=checked.valid, masking_key=KEY, params=SplitParams(**params["split"]))


def test_steps_keep_what_they_should(flow: Flow) -> None:
    """Counts that do not depend on the key."""
    joined, hidden, checked, _ = flow
    assert joined.ingestion["joined"] == 1989
    assert hidden.masking["k"] >= 5
    assert hidden.masking["rows"] + hidden.masking["suppressed_rows"] == 1989
    assert hidden.masking["suppressed_rows"] == 4
    assert checked.validation["by_reason"] == {
        "lines: coded as missing": 1,
        "liq: coded as missing": 9,
        "rep: missing": 9,
        "term: coded as missing": 4,
        "unit: missing": 4,
    }


def test_gates_read_numbers_that_the_reports_have(flow: Flow) -> None:
    """A gate on a metric that no report has would only ever say no."""
    reports = {"privacy": flow[1].masking, "data_quality": flow[2].validation}
    policies = read(ROOT / "params/policies/loan_approval.yaml")
    for gate, report in reports.items():
        assert policies[gate]
        for rule in policies[gate]:
            assert isinstance(report[rule["metric"]], int | float)
            assert len({"at_least", "at_most"} & set(rule)) == 1
            assert rule["because"]


def test_rows_tables_hold_features_only(flow: Flow) -> None:
    names = {c["name"] for s in SOURCES for c in schema(s) if c["role"] == "feature"}
    made = flow[3]
    assert set(made.train_rows.column_names) == names | {"subject", "fold", "label"}
    assert set(made.holdout_rows.column_names) == names | {"subject", "label"}
    assert all(made.train_rows[n].null_count == 0 == made.holdout_rows[n].null_count for n in names)
    assert made.train_protected.column_names == ["subject", "race", "ethnicity", "sex", "married", "old"]


def test_no_identity_is_in_anything_made_after_masking(flow: Flow) -> None:
    """Searches every value of every later table and report for every direct identifier of every applicant."""
    application = table("application")
    made = [flow[1].masked, flow[2].valid, flow[2].quarantine, *flow[3]]
    cells = {str(value) for t in made for column in t.columns for value in column.to_pylist()}
    text = "\n".join([*sorted(cells), json.dumps([flow[1].masking, flow[2].validation])])
    for column in (c["name"] for c in schema("application") if c["role"] == "identifier"):
        for value in map(str, application[column].to_pylist()):
            assert value not in text, f"a value of {column} came through"
