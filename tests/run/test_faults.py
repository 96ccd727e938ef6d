"""Bad input and bad luck: one clear message, the exit code that the table says, nothing half-written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import HELD, NAMES, PARAMS, Home, lacking, make_home, with_secret


def refused(home: Home, code: int, *parts: str, words: tuple[str, ...] = (), **env: str) -> str:
    """A run that must fail with this code and say these parts; nothing half-written, nothing personal said or kept."""
    said = home.ask("run", "toy", *words, env=env)
    assert said.code == code, said.out + said.err
    for part in parts:
        assert part in said.err
    assert "Traceback" not in said.err
    assert not home.leftovers()
    everything = (said.out + said.err).encode() + home.everything_written()
    assert not [n for n in NAMES if n.encode() in everything]
    return said.err


# --- Sources


def test_missing_source(home: Home) -> None:
    (home.path / "data/toy/people.csv").unlink()
    refused(home, 2, "error: data/toy/people.csv: source people is missing")


def test_missing_source_that_dvc_tracks_says_how_to_get_it(home: Home) -> None:
    (home.path / "data/toy/people.csv").rename(home.path / "data/toy/people.csv.dvc")
    refused(home, 2, "hint: get it with: dvc pull data/toy/people.csv.dvc")


def test_empty_source(home: Home) -> None:
    home.write("data/toy/people.csv", "")
    refused(home, 2, "source people is empty")


def test_wrong_delimiter(home: Home) -> None:
    home.write("data/toy/people.csv", home.read("data/toy/people.csv").replace(b",", b";"))
    refused(home, 2, "one column only: another delimiter?; expected ','")


def test_wrong_encoding(home: Home) -> None:
    home.write("data/toy/people.csv", "name,age\nZoë Müller,30\n".encode("latin-1"))
    refused(home, 2, "source people is not utf-8")


def test_missing_and_extra_columns_are_told_at_once(home: Home) -> None:
    home.write("data/toy/people.csv", "name,years,height\nAda Lovelace,30,170\n")
    refused(home, 2, "column age is missing", "column years is not in the schema", "column height is not in the schema")


def test_retyped_column_names_rows_and_no_values(home: Home) -> None:
    home.write("data/toy/people.csv", "name,age\nAda Lovelace,30\nGrace Hopper,forty\n")
    err = refused(home, 2, "column age does not hold what its type says", "rows 2", "expected int64")
    assert "forty" not in err


def test_missing_values_where_none_may_be(home: Home) -> None:
    home.write("data/toy/people.csv", "name,age\nAda Lovelace,\nGrace Hopper,40\n")
    refused(home, 2, "column age has 1 missing values")


def test_row_of_another_length(home: Home) -> None:
    home.write("data/toy/people.csv", "name,age\nAda Lovelace,30,7\n")
    refused(home, 2, "a row of source people has another number of fields than the header")


def test_quote_that_is_never_closed(home: Home) -> None:
    home.write("data/toy/people.csv", '"name,age\n' + "Ada Lovelace,30\n" * 10_000)
    message = "data/toy/people.csv: the header of source people cannot be read: field larger than field limit (131072)"
    refused(home, 2, message, "hint: is a quote left open in it?")


def test_byte_order_mark_and_nothing_else(home: Home) -> None:
    home.write("data/toy/schema.yaml", home.read("data/toy/schema.yaml").replace(b"utf-8", b"utf-8-sig"))
    home.write("data/toy/people.csv", "\ufeff")
    refused(home, 2, "source people is empty")


def test_source_that_changes_while_its_step_runs(home: Home) -> None:
    process = home.hold()
    path = home.path / "artifacts/toy/ages.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    home.let_go()
    said = home.finish(process)
    assert said.code == 4, said.err
    assert "toy/ages: input changed while the step ran" in said.err
    assert not home.leftovers()


# --- Parameters and policies


def test_all_wrong_parameters_are_told_at_once_before_anything_runs(home: Home) -> None:
    home.write("params/toy.yaml", "pick:\n  at_least: old\n  colour: red\nwork:\n  mode: fast\nsing: {}\n")
    refused(
        home,
        2,
        "params/toy.yaml: no step sing",
        "params/toy.yaml: pick.at_least",
        "params/toy.yaml: pick.colour",
        "work.mode",
        "work.seconds",
    )
    assert not (home.path / "artifacts").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("pick.at_last=3", "no parameter pick.at_last; expected one of at_least"),
        ("pack.at_least=3", "no step pack; expected one of join, pick, work"),
        ("pick.at_least", "cannot be read as an override; expected step.parameter=value"),
        ("pick.at_least=-3", "params/toy.yaml: pick.at_least"),
        ("pick.at_least=[", "not a YAML value"),
    ],
)
def test_override_mistyped(home: Home, word: str, message: str) -> None:
    refused(home, 2, message, words=("--set", word))


def test_params_that_are_no_yaml(home: Home) -> None:
    home.write("params/toy.yaml", "pick: {at_least: 0\nwork\n")
    refused(home, 2, "params/toy.yaml: not YAML", "line")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("enough: []\n", "an empty gate would let everything pass"),
        ("other: []\n", "enough: expected a list of rules"),
        ("enough:\n  - {metric: total, at_least: .nan, because: x}\n", "at_least must be a finite number"),
        ("enough:\n  - {metric: total, at_lest: 1, because: x}\n", "unknown key 'at_lest'"),
        ("enough:\n  - {metric: total, at_least: 1}\n", "because is missing"),
    ],
)
def test_policies_that_cannot_be_judged_by(home: Home, policy: str, message: str) -> None:
    home.write("params/policies/toy.yaml", policy)
    refused(home, 2, message)


def test_gate_on_a_metric_that_is_not_there_says_no(home: Home) -> None:
    home.write("params/policies/toy.yaml", "enough:\n  - {metric: totals, at_least: 1, because: x}\n")
    refused(home, 3, "no such metric in the report")


# --- Steps


def test_data_that_a_step_refuses(home: Home) -> None:
    refused(home, 2, "error: toy.work@", "ages: too few ages; expected at least 1000 rows, got 3", words=("--set", "work.mode=bad"))


def test_nan_in_a_report(home: Home) -> None:
    refused(home, 2, "a step's output is no report", "nan has no place in JSON", words=("--set", "work.mode=nan"))


def test_unexpected_error_withholds_its_message(home: Home) -> None:
    refused(
        home, 1, "KeyError at steps/toy.py:", "its message is withheld", "hint: see it all with --debug", words=("--set", "work.mode=boom")
    )
    assert NAMES[0] in home.ask("run", "toy", "--set", "work.mode=boom", "--debug").err


def test_out_of_memory_is_temporary(home: Home) -> None:
    refused(home, 75, "out of memory", "--jobs 1", words=("--set", "work.mode=memory"))


def test_failed_step_leaves_a_record_and_a_seal_that_verify(home: Home) -> None:
    refused(home, 2, words=("--set", "work.mode=bad"))
    said = home.ask("verify", "@latest", "--json")
    assert said.code == 0
    assert home.ask("verify", "@latest").out.count("outcome    failed") == 1


def test_step_that_takes_too_long(home: Home) -> None:
    home.write("workflows/toy.py", home.read("workflows/toy.py").replace(b"timeout=240", b"timeout=1"))
    refused(home, 75, "took longer than 1 s", words=("--set", "work.mode=slow", "--set", "work.seconds=30"))


def test_killed_step_leaves_a_record_and_the_next_run_goes_on(home: Home) -> None:
    process = home.hold()
    for child in psutil.Process(process.pid).children():  # a third waits for what comes next
        child.kill()
    said = home.finish(process)
    assert said.code == 75, said.err
    assert "was killed by signal 9" in said.err
    goes_on(home)


def test_ctrl_c_in_a_step_and_then_the_same_command_goes_on(home: Home) -> None:
    process = home.hold()
    os.killpg(process.pid, signal.SIGINT)
    said = home.finish(process)
    assert said.code == 75, said.err
    assert "interrupted" in said.err
    assert "Traceback" not in said.err
    assert not home.leftovers()
    goes_on(home)


def test_killed_runner_and_then_the_same_command_goes_on(home: Home) -> None:
    process = home.hold()
    os.killpg(process.pid, signal.SIGKILL)
    home.finish(process)
    goes_on(home)


def goes_on(home: Home) -> None:
    """The same command again finishes; what was finished is not repeated; the run verifies."""
    home.let_go()
    said = home.ask("run", "toy", *HELD)
    assert said.code == 0, said.err
    assert "pick" not in said.err
    assert home.ask("verify", "@latest").code == 0


def test_two_runs_at_once_in_one_checkout(home: Home) -> None:
    process = home.hold()
    said = home.ask("run", "toy")
    assert said.code == 75
    assert f"another run is at work in this checkout: process {process.pid}" in said.err
    home.let_go()
    assert home.finish(process).code == 0


def test_clock_set_back(home: Home) -> None:
    home.run()
    # A record from tomorrow, made with the clock as an argument, is what a clock set back leaves behind.
    script = """
import sys
from pathlib import Path
from workflows.plan import tasks
from workflows.run.driver import run_task
from workflows.run.session import find_pipeline, open_journal
from workflows.run.single import make_session
session = make_session(Path.cwd(), find_pipeline("toy"), [])
session.clock = lambda: "2999-01-01T00:00:00.000000+00:00"
session.reuse = False
session.take_sources()
run_task(session, open_journal(session.store, session.plan_id(), session.holder), tasks(session.pipeline)[0])
"""
    made = home.finish(home.start("-c", script))
    assert made.code == 0, made.err
    said = home.ask("run", "toy", "--again")
    # Whoever asks for all of it again gets a run of their own, which builds on nothing from tomorrow.
    assert said.code == 0, said.err
    said = home.drive("toy", "work", "--item", "a")
    assert said.code == 75, said.err
    assert "a clock is wrong: by the clock here, what this step builds on was finished in the future" in said.err
    assert "hint: set right the clock of this machine, or of the one that ran pick, and run again" in said.err


# --- Artifacts and keys


@pytest.mark.parametrize("damage", ["cut short", "other bytes", "longer"])
def test_truncated_or_changed_artifact_between_steps(home: Home, damage: str) -> None:
    assert home.drive("toy", "pick").code == 0
    path = home.path / "artifacts/toy/ages.parquet"
    kept = path.read_bytes()
    path.write_bytes({"cut short": kept[: len(kept) // 2], "other bytes": kept[::-1], "longer": kept + b"\0"}[damage])
    said = home.drive("toy", "work", "--item", "a")
    assert said.code == 4
    assert "artifacts/toy/ages.parquet: not what the step before made" in said.err
    assert "hint: remove the file and run again" in said.err
    path.unlink()
    assert home.drive("toy", "work", "--item", "a").code == 0


@pytest.mark.parametrize(
    ("put", "why"),
    [(Path.mkdir, "Is a directory"), (lambda p: p.symlink_to(p), "Too many levels of symbolic links")],
    ids=["folder", "loop"],
)
def test_artifact_between_steps_that_cannot_be_read(home: Home, put: Callable[[Path], None], why: str) -> None:
    """What root could read all the same if only its rights were taken away."""
    assert home.drive("toy", "pick").code == 0
    path = home.path / "artifacts/toy/ages.parquet"
    path.unlink()
    put(path)
    said = home.drive("toy", "work", "--item", "a")
    assert said.code == 4, said.err
    assert f"error: artifacts/toy/ages.parquet: cannot be read: {why}" in said.err
    assert "Traceback" not in said.err
    assert not (home.path / "artifacts/toy/part").exists()
    assert not home.leftovers()


def test_artifact_between_steps_that_links_to_nothing_comes_back_from_the_store(home: Home) -> None:
    assert home.drive("toy", "pick").code == 0
    path = home.path / "artifacts/toy/ages.parquet"
    made = path.read_bytes()
    path.unlink()
    path.symlink_to(home.path / "gone.parquet")
    assert home.drive("toy", "work", "--item", "a").code == 0
    assert path.read_bytes() == made
    assert not (home.path / "gone.parquet").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "not a private key in PEM"), ("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n", "not a private key in PEM")],
)
def test_malformed_signing_key(home: Home, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "key.pem").write_text(content)
    refused(home, 2, message, "hint: make a new one with: countersign keys init", COUNTERSIGN_SIGNING_KEY_FILE=str(tmp_path / "key.pem"))


def test_missing_signing_key_that_was_named(home: Home, tmp_path: Path) -> None:
    refused(home, 2, "cannot read the signing key", COUNTERSIGN_SIGNING_KEY_FILE=str(tmp_path / "none.pem"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "masking.key: cannot read the masking_key: No such file or directory"),
        ("correct horse battery staple", "masking.key: masking_key is not hexadecimal\nhint: make one with: openssl rand -hex 32"),
        ("", "masking.key: masking_key is too short; expected at least 32 bytes, got 0"),
        ("ab" * 31, "masking.key: masking_key is too short; expected at least 32 bytes, got 31"),
    ],
    ids=["missing", "no hexadecimal", "empty", "too short"],
)
def test_masking_key_that_cannot_be_used(home: Home, tmp_path: Path, content: str | None, message: str) -> None:
    with_secret(home)
    key = tmp_path / "masking.key"
    if content is not None:
        key.write_text(content)
    err = refused(home, 2, message, COUNTERSIGN_MASKING_KEY_FILE=str(key))
    assert err.count("error: ") == 1
    assert not content or content not in err  # a key with a slip in it is nearly the key
    assert not (home.path / "artifacts").exists()
    assert not (home.path / ".countersign/records").exists()
    assert not (Path(home.env["COUNTERSIGN_KEYS"]) / "masking_key").exists()


def test_keys_that_cannot_be_made(home: Home, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(home, 2, "cannot make a key", "set COUNTERSIGN_KEYS", COUNTERSIGN_KEYS=str(tmp_path / "file/keys"))


def test_keys_are_private_and_made_once(home: Home) -> None:
    first = home.ask("keys", "init")
    assert first.code == 0
    assert first.out.count("made ") == 2
    for name in ("signing.pem", "masking_key"):
        assert (Path(home.env["COUNTERSIGN_KEYS"]) / name).stat().st_mode & 0o777 == 0o600
    assert "nothing to do" in home.ask("keys", "init").out


def test_verify_with_the_key_of_somebody_else(home: Home, tmp_path: Path) -> None:
    home.run()
    other = make_home(home.path, tmp_path / "other")
    assert other.ask("keys", "init").code == 0
    from workflows.prove.signature import public_pem, read_private

    pem = public_pem(read_private((tmp_path / "other/keys/signing.pem").read_bytes()).public_key())
    (tmp_path / "other.pem").write_bytes(pem)
    said = home.ask("verify", "@latest", "--key", str(tmp_path / "other.pem"))
    assert said.code == 4
    assert "signed by a key that is not at hand" in said.out


# --- The disk


@contextlib.contextmanager
def small_disk(at: Path, kilobytes: int) -> Iterator[None]:
    at.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", at], check=False).returncode:
        lacking("the right to mount a small disk: only root has it, and not in every container")
    try:
        yield
    finally:
        subprocess.run(["umount", at], check=True)


def make_room(at: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=10m", at], check=True)


@pytest.mark.parametrize("kilobytes", [4, 12, 20])
def test_full_disk_and_then_the_same_command_goes_on(home: Home, kilobytes: int) -> None:
    with small_disk(home.path / ".dvc", kilobytes):
        said = home.ask("run", "toy")
        assert said.code == 75, said.err
        assert "no room left on the disk; nothing half-written was kept" in said.err
        assert "hint: make room and run the same command again" in said.err
        assert not home.leftovers()
        make_room(home.path / ".dvc")
        assert home.ask("run", "toy").code == 0
        assert home.ask("verify", "@latest").code == 0


# --- Answers in JSON


@pytest.mark.parametrize("words", [("run", "none"), ("run", "toy", "--set", "x=1"), ("verify", "nothing")])
def test_errors_in_json(home: Home, words: tuple[str, ...]) -> None:
    said = home.ask(*words, "--json")
    assert said.code == 2
    assert set(json.loads(said.out)) == {"error", "problems", "hint"}


def test_usage_errors(home: Home) -> None:
    for words in (("sing",), ("run",), ("run", "toy", "--jobs", "0"), ("run", "toy", "--jbos", "1")):
        said = home.ask(*words)
        assert said.code == 2, words
        assert "Traceback" not in said.err


def test_outside_a_repository(home: Home, tmp_path: Path) -> None:
    (tmp_path / "nowhere").mkdir()
    said = home.ask("run", "toy", cwd=tmp_path / "nowhere", env={"PYTHONPATH": str(home.path)})
    assert said.code == 2
    assert "not inside a Countersign repository" in said.err


def test_two_clones_do_not_share_code(home: Home, tmp_path: Path) -> None:
    """A command installed from one clone, used in another, runs the other's code."""
    other = tmp_path / "other"
    shutil.copytree(home.path, other)
    (other / "params/toy.yaml").write_text(PARAMS.replace("at_least: 0", "at_least: 1"))
    said = home.ask("run", "toy", "--json", cwd=other, env={"PYTHONPATH": str(home.path)})
    assert said.code == 0, said.err
    assert (other / "artifacts/toy/total.json").exists()
    assert not (home.path / "artifacts").exists()
