"""Stopped from outside or kept out: every step leaves its record, nobody sees a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT, Home, Said
from tests.run.test_faults import goes_on, small_disk


def outcomes(home: Home) -> list[tuple[str, str]]:
    (run,) = [r["run"] for r in home.ask("show", "--json").json["runs"]]
    return [(s["task"], s["outcome"]) for s in home.ask("show", run, "--json").json["steps"]]


# --- Signals


def test_an_impatient_person_still_gets_every_record(home: Home) -> None:
    """A terminal sends each Ctrl-C to all processes at once, and the run passes the first on: a step hears several."""
    process = home.hold()
    for _ in range(5):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.01)
    said = home.finish(process)
    assert said.code == 75, said.err
    assert "interrupted" in said.err
    assert "Traceback" not in said.err
    assert outcomes(home) == [("pick", "done"), ("work@a", "failed"), ("work@b", "failed")]
    assert not home.leftovers()
    goes_on(home)


def test_a_system_that_ends_the_run_is_an_interruption_too(home: Home) -> None:
    process = home.hold()
    children = [c.pid for c in psutil.Process(process.pid).children()]
    os.kill(process.pid, signal.SIGTERM)
    said = home.finish(process)
    assert said.code == 75, said.err
    assert "interrupted" in said.err
    assert outcomes(home) == [("pick", "done"), ("work@a", "failed"), ("work@b", "failed")]
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_a_task_that_dvc_or_argo_started_leaves_its_record_when_it_is_ended(home: Home) -> None:
    home.write("params/toy.yaml", home.read("params/toy.yaml").replace(b"fine", b"held"))
    home.toy.mkdir()
    (home.toy / "hold").touch()
    assert home.drive("toy", "pick").code == 0
    process = home.start("-m", "workflows.run.driver", "toy", "work", "--item", "a")
    while not (home.toy / "at-work-a").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = home.finish(process)
    assert said.code == 75, said.err
    assert "toy.work@a: interrupted" in said.err
    assert outcomes(home) == [("pick", "done"), ("work@a", "failed")]


# --- Files that may not be used


LOSES = """
import sys
from workflows.errors import CountersignError
from workflows.run.driver import explained
from workflows.run.interrupt import heard_once

class Deaf:
    def __del__(self):
        here()

def here():
    import os, signal, time
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)

def in_a_finalizer():
    Deaf()
    import time
    time.sleep(60)

def as_another_error():
    try:
        here()
    except BaseException:
        raise AttributeError("half imported") from None

def through_exec():
    exec("here()")

def while_it_cleans_up():
    import time
    try:
        here()
    finally:
        time.sleep(1)
        print("cleaned up")

with heard_once():
    try:
        globals()[sys.argv[1]]()
    except (Exception, KeyboardInterrupt) as error:
        print(*explained(error, "here").problems)
        sys.exit(explained(error, "here").exit_code)
"""


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("in_a_finalizer", "here: interrupted"),
        ("as_another_error", "here: interrupted"),
        ("through_exec", "here: interrupted"),
        ("while_it_cleans_up", "cleaned up\nhere: interrupted"),
    ],
)
def test_an_interruption_is_not_lost(how: str, says: str) -> None:
    """Python and extension modules throw some exceptions away, and turn others into errors of their own."""
    done = subprocess.run([sys.executable, "-c", LOSES, how], cwd=ROOT, text=True, capture_output=True, check=False, timeout=50)
    assert (done.stdout.strip(), done.returncode) == (says, 75), done.stderr


def powerless(home: Home, *words: str, **how: Any) -> Said:
    """`countersign` as someone to whom a file's mode matters: root has the right to overlook it, and is made to give that up."""
    drop = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []
    whole = [*drop, sys.executable, "-m", "workflows.cli", *words]
    done = subprocess.run(whole, cwd=home.path, env=home.env, text=True, stderr=subprocess.PIPE, check=False, **how)
    return Said(code=done.returncode, out=done.stdout or "", err=done.stderr)


@pytest.mark.parametrize("name", ["data/toy/people.csv", "params/toy.yaml", ".countersign/log.jsonl", "requirements.lock", "steps/toy.py"])
def test_a_file_that_may_not_be_read_is_named(home: Home, name: str) -> None:
    home.run()
    (home.path / name).chmod(0)
    said = powerless(home, "run", "toy", "--again", stdout=subprocess.PIPE)
    assert said.code == 2, said.err
    assert name in said.err
    assert "Permission denied" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("name", ["artifacts/toy", ".countersign/records", "."])
def test_a_folder_that_may_not_be_written_is_named(home: Home, name: str) -> None:
    home.run()
    (home.path / name).chmod(0o555)
    said = powerless(home, "run", "toy", "--set", "pick.at_least=35", stdout=subprocess.PIPE)
    (home.path / name).chmod(0o755)
    assert said.code == 2, said.err
    assert "Permission denied" in said.err
    assert "Traceback" not in said.err


def test_kept_content_that_may_not_be_read(home: Home) -> None:
    home.run()
    for path in (home.path / ".dvc/cache").rglob("*"):
        if path.is_file():
            path.chmod(0)
    for words, code in ((("verify", "@latest"), 4), (("run", "toy"), 2), (("reproduce", "@latest"), 4)):
        said = powerless(home, *words, stdout=subprocess.PIPE)
        assert said.code == code, said.err
        assert "Traceback" not in said.err


def test_a_folder_where_kept_content_should_be_is_named(home: Home) -> None:
    home.run()
    kept = next(p for p in (home.path / ".dvc/cache").rglob("*") if p.is_file() and p.read_bytes() == home.read("artifacts/toy/total.json"))
    kept.unlink()
    kept.mkdir()
    for words, code in ((("verify", "@latest"), 4), (("run", "toy"), 2)):
        said = home.ask(*words)
        assert said.code == code, said.err
        assert kept.name in said.err or "toy/total" in said.out
        assert "Traceback" not in said.err


def test_a_disk_that_is_full_before_anything_begins(home: Home) -> None:
    with small_disk(home.path / ".countersign", 4):
        with contextlib.suppress(OSError), (home.path / ".countersign/filler").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        said = home.ask("run", "toy")
        assert said.code == 75, said.err
        assert "no room left on the disk" in said.err
        assert "Traceback" not in said.err


# --- Whoever reads the answer


@pytest.mark.parametrize("words", [("show",), ("verify", "@latest"), ("show", "--json")])
def test_a_reader_that_goes_away_and_an_answer_that_has_no_room(home: Home, words: tuple[str, ...]) -> None:
    home.run()
    with home.start("-m", "workflows.cli", *words) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 75
    with Path("/dev/full").open("w") as full:
        said = powerless(home, *words, stdout=full)
    assert said.code == 75, said.err
    assert "no room left on the disk" in said.err
    assert "Traceback" not in said.err
