"""A run done again elsewhere: the same bytes, or the first step that differs by name; the original is never touched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Home, git, other_locale, with_secret

HERE = {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
ELSEWHERE = {"TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "2"}
"""Other in everything, whatever the machine's own are."""
RANDOM = '''
import os


def work(*, ages: pa.Table, which: str, params: WorkParams) -> Worked:
    """Never twice the same."""
    return Worked({"which": which, "sum": int.from_bytes(os.urandom(4))})
'''


def kept(home: Home) -> dict[str, str]:
    """Digest of every file that the original run left."""
    tops = [home.path / ".countersign/records", home.path / ".countersign/runs", home.path / "artifacts", home.path / ".dvc/cache"]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for top in tops for p in sorted(top.rglob("*")) if p.is_file()}


def verdicts(answer: Any) -> dict[str, str]:
    return {a["name"]: a["verdict"] for a in answer["artifacts"]}


def test_the_same_bytes_in_another_place_zone_locale_and_thread_count(home: Home, tmp_path: Path) -> None:
    begin = b'    print("picking", file=sys.stderr, flush=True)\n    kept = '
    home.write("steps/toy.py", home.read("steps/toy.py").replace(b"    kept = ", begin).replace(b"import os\n", b"import os\nimport sys\n"))
    first = home.run("--set", "pick.at_least=35", env=HERE)
    before = kept(home)
    said = home.ask("reproduce", "@latest", "--json", env={**ELSEWHERE, **other_locale(tmp_path)})
    assert said.code == 0, said.err
    assert said.json["run"] == first["run"]
    assert set(verdicts(said.json).values()) == {"bytes"}
    assert set(verdicts(said.json)) == {"toy/ages", "toy/part@a", "toy/part@b", "toy/total", "toy/verdicts"}
    warned = ["hash_seed: recorded 0, here 77", "threads.OMP_NUM_THREADS: recorded 1, here 2"]
    assert [w for w in said.json["warnings"] if w in warned] == warned
    # Said before anything is computed, not only with the verdict.
    lines = said.err.splitlines()
    assert {f"warning {w}" for w in warned} <= set(lines[: lines.index("picking")]), said.err
    assert kept(home) == before


def test_what_never_comes_out_twice_is_named_first(home: Home) -> None:
    home.write("steps/toy.py", home.read("steps/toy.py") + RANDOM.encode())
    git(home.path, "commit", "-qam", "random")
    home.run()
    before = kept(home)
    said = home.ask("reproduce", "@latest")
    assert said.code == 4, said.err
    assert "toy/ages      bytes" in said.out
    assert "differs first at work@a, given other: nothing" in said.out
    assert kept(home) == before
    assert home.ask("verify", "@latest").code == 0


def test_code_that_was_never_committed_comes_from_its_snapshot(home: Home) -> None:
    home.write("steps/toy.py", home.read("steps/toy.py").replace(b'"which": which, "sum"', b'"which": which, "more": 1, "sum"'))
    home.run()
    home.write("steps/toy.py", home.read("steps/toy.py").replace(b'"more": 1', b'"more": 2'))
    said = home.ask("reproduce", "@latest", "--json")
    assert said.code == 0, said.err
    assert set(verdicts(said.json).values()) == {"bytes"}


def test_from_a_bundle_in_a_clone_that_has_the_data(home: Home, tmp_path: Path) -> None:
    home.run()
    assert home.ask("bundle", "@latest", "-o", str(tmp_path / "toy.bundle")).code == 0
    said = home.ask("reproduce", str(tmp_path / "toy.bundle"), "--into", "again", "--json")
    assert said.code == 0, said.err
    assert set(verdicts(said.json).values()) == {"bytes"}
    assert home.read("again/artifacts/toy/total.json") == home.read("artifacts/toy/total.json")


def refused(said: Any, code: int, *parts: str) -> None:
    assert said.code == code, said.out + said.err
    for part in parts:
        assert part in said.err
    assert "Traceback" not in said.err


def test_a_folder_with_something_in_it(home: Home, tmp_path: Path) -> None:
    home.run()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    refused(home.ask("reproduce", "@latest", "--into", str(tmp_path / "full")), 2, "the folder is not empty")
    assert (tmp_path / "full/mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("cd" * 32, "keys: the masking_key here is not the one that the run used; expected fingerprint "),
        (None, "masking_key: cannot read the masking_key: No such file or directory"),
    ],
    ids=["another", "none"],
)
def test_a_run_with_a_key_that_is_not_here(home: Home, tmp_path: Path, key: str | None, message: str) -> None:
    with_secret(home)
    git(home.path, "commit", "-qam", "with a secret")
    home.run(env={"COUNTERSIGN_MASKING_KEY": "ab" * 32})
    before = kept(home)
    env = {"COUNTERSIGN_KEYS": str(tmp_path / "others")} | ({"COUNTERSIGN_MASKING_KEY": key} if key else {})
    said = home.ask("reproduce", "@latest", "--into", str(tmp_path / "again"), env=env)
    refused(said, 2, message, "hint: ask its owner for it and set COUNTERSIGN_MASKING_KEY_FILE")
    assert said.err.count("error: ") == 1
    assert "ab" * 8 not in said.err
    # Whoever lacks the key is told so before anything is laid out, and no other one is made in its place.
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "others").exists()
    assert kept(home) == before


def test_another_version_of_a_library_is_refused(home: Home) -> None:
    lock = home.read("requirements.lock").decode()
    wrong = "\n".join("numpy==1.0.0 \\" if line.startswith("numpy==") else line for line in lock.splitlines())
    home.write("requirements.lock", wrong)
    home.run()
    refused(home.ask("reproduce", "@latest"), 2, "numpy is not the locked version; expected 1.0.0", "pip install --require-hashes")


def test_a_commit_that_is_not_here(home: Home, tmp_path: Path) -> None:
    home.run()
    (tmp_path / "elsewhere").mkdir()
    (home.path / ".git").rename(tmp_path / "elsewhere/.git")
    refused(home.ask("reproduce", "@latest"), 2, "the run's commit is not in this repository", "git fetch")


def test_a_run_that_does_not_verify(home: Home) -> None:
    home.run()
    record = next((home.path / ".countersign/records").iterdir())
    record.chmod(0o644)
    record.write_bytes(record.read_bytes()[:-1] + b"x")
    refused(home.ask("reproduce", "@latest"), 4, "a run that does not verify cannot be reproduced")


def test_a_run_that_failed(home: Home) -> None:
    assert home.ask("run", "toy", "--set", "work.mode=bad").code == 2
    refused(home.ask("reproduce", "@latest"), 2, "this run failed: there is no result to reproduce")


def test_a_kept_source_that_is_gone(home: Home) -> None:
    home.run()
    for path in (home.path / ".dvc/cache").rglob("*"):
        if path.is_file() and b"Ada Lovelace" in path.read_bytes():
            path.unlink()
    refused(home.ask("reproduce", "@latest"), 4, "toy/people")
