"""Sources that are no files: objects in S3 and queries on a real PostgreSQL, through the same port as files."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import NAMES, PEOPLE, ROOT, SCHEMA, Home, lacking
from tests.s3server import free_port
from workflows.declare import Kind, Source
from workflows.errors import BadInput, Temporary
from workflows.loan_approval import credit_bureau
from workflows.run.sources import read as sources

# --- Reports


def report(root: Path, text: str) -> object:
    (root / "it.json").write_text(text)
    return sources.read(root, Source(name="it", kind=Kind.REPORT, at="it.json"), root / "it.json")


def test_a_report_may_be_written_by_hand(tmp_path: Path) -> None:
    assert report(tmp_path, '{\n  "b": 1.0,\n  "a": [true, null]\n}\n') == {"a": [True, None], "b": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1', "it.json: source it cannot be read as JSON"),
        ('{"a": 1, "a": 2}', "a key stands twice: a"),
        ('{"a": NaN}', "nan has no place in JSON"),
        ("[1]", "is no JSON object; got list"),
        ("", "source it is empty"),
    ],
)
def test_a_report_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        report(tmp_path, text)


# --- Parquet, by the schema of the credit bureau

BUREAU = pa.table(
    {
        "national_id": ["900-01-0001", "900-01-0002"],
        "rep": pa.array([1, None], pa.int64()),
        "lines": [7.0, 8.5],
        "mortg": [1, 2],
        "cons": [5, 1],
        "pubrec": [0, 1],
    }
)


def bureau(root: Path, table: pa.Table, size: int | None = None) -> pa.Table:
    """What is read of this table in Parquet, of which only the first bytes arrived."""
    at = root / "bureau.parquet"
    pq.write_table(table, at)
    at.write_bytes(at.read_bytes()[:size])
    return sources.read(ROOT, credit_bureau, at)


def changed(name: str, column: list[object]) -> pa.Table:
    return BUREAU.set_column(BUREAU.column_names.index(name), name, pa.array(column))


def test_parquet_is_read_by_its_schema(tmp_path: Path) -> None:
    assert bureau(tmp_path, BUREAU) == BUREAU
    narrow = BUREAU.set_column(3, "mortg", BUREAU["mortg"].cast(pa.int8())).set_column(0, "national_id", BUREAU[0].dictionary_encode())
    assert bureau(tmp_path, narrow) == BUREAU


AT = "data/loan_approval/credit_bureau/credit_bureau.parquet"


@pytest.mark.parametrize(
    ("table", "messages"),
    [
        (BUREAU.drop_columns(["lines", "cons"]), ["column lines is missing", "column cons is missing"]),
        (BUREAU.append_column("score", BUREAU["mortg"]), ["column score is not in the schema"]),
        (changed("cons", ["five", "one"]), ["column cons does not hold what its type says; expected int64, got string"]),
        # What could be cast is another type all the same: a national id that was a number has lost its zeros.
        (changed("cons", ["5", "1"]), ["column cons does not hold what its type says; expected int64, got string"]),
        (changed("pubrec", [False, True]), ["column pubrec does not hold what its type says; expected int64, got bool"]),
        (changed("national_id", [9000001, 9000002]), ["column national_id does not hold what its type says; expected string, got int64"]),
        (changed("rep", [1.5, 2.0]), ["rows 1: column rep does not hold what its type says; expected int64, got double"]),
        (changed("mortg", [1, None]), ["column mortg has 1 missing values"]),
    ],
)
def test_parquet_that_is_not_what_its_schema_says(tmp_path: Path, table: pa.Table, messages: list[str]) -> None:
    with pytest.raises(BadInput) as raised:
        bureau(tmp_path, table)
    assert len(raised.value.problems) == len(messages)
    for message in messages:
        assert message in str(raised.value)
    assert all(p.where.startswith(AT) for p in raised.value.problems)
    assert "five" not in str(raised.value)


@pytest.mark.parametrize("size", [0, 3, 200, -1])
def test_parquet_cut_short(tmp_path: Path, size: int) -> None:
    with pytest.raises(BadInput, match="source credit_bureau is empty" if size == 0 else "cannot be read as a table: truncated"):
        bureau(tmp_path, BUREAU, size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.rename_columns(["name", "years"]), "column age is missing"),
        (lambda t: t.set_column(1, "age", pa.array(["30", "40", "50"])), "column age does not hold what its type says; expected int64"),
        (None, "people.parquet: cannot be read as a table: truncated"),
    ],
    ids=["renamed", "retyped", "cut short"],
)
def test_a_run_on_bad_parquet_is_bad_input(home: Home, change: Callable[[pa.Table], pa.Table] | None, message: str) -> None:
    home.write("workflows/toy.py", home.read("workflows/toy.py").replace(b"people.csv", b"people.parquet"))
    table, path = pa.table({"name": list(NAMES), "age": [30, 40, 50]}), home.path / "data/toy/people.parquet"
    pq.write_table(change(table) if change else table, path)
    if not change:
        path.write_bytes(path.read_bytes()[:-9])
    said = home.ask("run", "toy")
    assert said.code == 2, said.err
    assert message in said.err
    assert "Traceback" not in said.err
    assert not (home.path / "artifacts/toy/ages.parquet").exists()


# --- S3


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server of this machine, with a bucket `bank`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(s3: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    env = {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with contextlib.suppress(boto3.client("s3").exceptions.BucketAlreadyOwnedByYou):
        boto3.client("s3").create_bucket(Bucket="bank", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    boto3.client("s3").put_object(Bucket="bank", Key="people.csv", Body=PEOPLE.encode())
    return env


def at(address: str, kind: Kind = Kind.TABLE) -> Source:
    return Source(name="people", kind=kind, at=address, schema="schema.yaml")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    return tmp_path


@pytest.mark.usefixtures("aws")
def test_an_object_is_taken_whole_and_read_by_its_schema(root: Path) -> None:
    path = sources.take(root, "toy", at("s3://bank/people.csv"))
    assert path.read_bytes() == PEOPLE.encode()
    assert sources.read(root, at("s3://bank/people.csv"), path)["age"].to_pylist() == [30, 40, 50]


@pytest.mark.parametrize(("address", "code"), [("s3://bank/nobody.csv", "404"), ("s3://other/people.csv", "404")])
@pytest.mark.usefixtures("aws")
def test_an_object_that_is_not_there(root: Path, address: str, code: str) -> None:
    with pytest.raises(BadInput, match=f"{address}: S3 says {code}"):
        sources.take(root, "toy", at(address))
    assert not list(root.rglob("*.csv"))


@pytest.mark.usefixtures("aws")
def test_no_credentials(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BadInput, match="no credentials for S3") as raised:
        sources.take(root, "toy", at("s3://bank/people.csv"))
    assert "AWS_ACCESS_KEY_ID" in raised.value.hint


@pytest.mark.usefixtures("aws")
def test_a_server_that_is_away_is_temporary(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Temporary, match="S3 does not answer: EndpointConnectionError"):
        sources.take(root, "toy", at("s3://bank/people.csv"))


def test_unknown_scheme(root: Path) -> None:
    with pytest.raises(BadInput, match="has an unknown scheme; expected s3:// or postgresql://"):
        sources.take(root, "toy", at("ftp://bank/people.csv"))


def test_a_run_reads_s3_and_notices_when_the_object_changes(home: Home, aws: dict[str, str]) -> None:
    home.write("workflows/toy.py", home.read("workflows/toy.py").replace(b'at="data/toy/people.csv"', b'at="s3://bank/people.csv"'))
    first = home.run(env=aws)
    assert home.run(env=aws)["run"] == first["run"]
    boto3.client("s3").put_object(Bucket="bank", Key="people.csv", Body=f"{PEOPLE}Hedy Lamarr,60\n".encode())
    second = home.run(env=aws)
    assert second["run"] != first["run"]
    assert b'"total":360' in home.read("artifacts/toy/total.json").replace(b" ", b"")
    # What was read is kept: verification needs no S3.
    assert home.ask("verify", first["run"]).code == 0


# --- PostgreSQL


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a database server of this machine, started for these tests, with a table `people`."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        lacking("PostgreSQL: apt-get install postgresql")
    # The server refuses to be root, and pytest's own folders are closed to everybody else.
    folder = Path(tempfile.mkdtemp(prefix="countersign-postgres-"))
    port = free_port()
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if become:
        shutil.chown(folder, "postgres")

    def ask(program: str, *words: str) -> None:
        subprocess.run([*become, str(programs[-1] / program), *words], check=True, capture_output=True, cwd="/", timeout=60)

    (secret := folder / "secret").write_text("right")
    secret.chmod(0o644)
    ask("initdb", "-D", f"{folder}/db", "-U", "owner", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "--locale=C.UTF-8")
    ask("pg_ctl", "-D", f"{folder}/db", "-w", "-l", f"{folder}/log", "-o", f"-p {port} -h 127.0.0.1 -k '' -c fsync=off", "start")
    try:
        with psycopg.connect(f"postgresql://owner:right@127.0.0.1:{port}/postgres", autocommit=True) as c:
            c.execute("create table people (name text, age int, income numeric(12, 2), since date)")
            c.execute("insert into people values ('Grace Hopper', 40, 10.50, '2001-02-03'), ('Ada Lovelace', 30, 7, null)")
        yield f"postgresql://127.0.0.1:{port}/postgres"
    finally:
        ask("pg_ctl", "-D", f"{folder}/db", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGUSER", "owner")
    monkeypatch.setenv("PGPASSWORD", "right")


def query(server: str, sql: str) -> Source:
    return at(f"{server}?query={sql}")


BY_NAME = "select name, age, income, since from people order by name"


@pytest.mark.usefixtures("login")
def test_a_query_is_taken_as_a_table(root: Path, postgres: str) -> None:
    table = pq.read_table(sources.take(root, "toy", query(postgres, BY_NAME)))
    assert table.column_names == ["name", "age", "income", "since"]
    assert table["name"].to_pylist() == ["Ada Lovelace", "Grace Hopper"]
    assert table["income"].to_pylist() == [7.0, 10.5]
    assert table.schema.field("since").type == pa.date32()


@pytest.mark.usefixtures("login")
def test_the_same_rows_are_the_same_bytes(root: Path, postgres: str) -> None:
    first = sources.take(root, "toy", query(postgres, BY_NAME)).read_bytes()
    with psycopg.connect(postgres, autocommit=True) as c:
        c.execute("update people set age = age")  # moves the rows about in the table
    assert sources.take(root, "toy", query(postgres, BY_NAME)).read_bytes() == first


@pytest.mark.usefixtures("login")
def test_a_query_without_order_is_refused(root: Path, postgres: str) -> None:
    with pytest.raises(BadInput, match="must say ORDER BY"):
        sources.take(root, "toy", query(postgres, "select name, age from people"))


@pytest.mark.usefixtures("login")
@pytest.mark.parametrize("sql", ["select nme from people order by name", "delete from people where age in (select 1 order by 1)"])
def test_a_query_that_fails_or_would_write(root: Path, postgres: str, sql: str) -> None:
    with pytest.raises(BadInput, match="the query fails") as raised:
        sources.take(root, "toy", query(postgres, sql))
    assert "select" not in str(raised.value)
    assert not list(root.rglob("*.parquet"))
    with psycopg.connect(postgres) as c:
        assert c.execute("select count(*) from people").fetchone() == (2,)


def test_a_wrong_password_is_bad_input_and_never_shown(root: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGUSER", "owner")
    monkeypatch.setenv("PGPASSWORD", "wr0ng-one")
    with pytest.raises(BadInput, match="refuses the connection") as raised:
        sources.take(root, "toy", query(postgres, BY_NAME))
    assert "wr0ng-one" not in str(raised.value)


def test_a_password_in_the_address_is_refused_and_not_repeated(root: Path) -> None:
    with pytest.raises(BadInput, match="a password in a source's address") as raised:
        sources.take(root, "toy", query("postgresql://owner:hush@127.0.0.1:1/postgres", BY_NAME))
    assert "hush" not in str(raised.value)


@pytest.mark.usefixtures("login")
def test_a_database_that_is_away_is_temporary(root: Path) -> None:
    with pytest.raises(Temporary, match="PostgreSQL does not answer"):
        sources.take(root, "toy", query(f"postgresql://127.0.0.1:{free_port()}/postgres", BY_NAME))


@pytest.mark.usefixtures("login")
def test_an_unknown_database_is_bad_input(root: Path, postgres: str) -> None:
    with pytest.raises(BadInput, match="refuses the connection"):
        sources.take(root, "toy", query(f"{postgres}x", BY_NAME))
