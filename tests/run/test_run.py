"""The laptop's runner: what a run leaves, what it reuses, what it refuses to repeat."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NAMES, Home


def digests(answer: dict[str, Any]) -> dict[str, str]:
    return {a["name"]: a["sha256"] for a in answer["artifacts"]}


def outcomes(home: Home, run: str) -> dict[str, str]:
    """Task -> outcome of its last record."""
    from workflows.prove.verify import last_entries
    from workflows.run.journal import Journal
    from workflows.run.keys import ring
    from workflows.run.session import local_store

    store = local_store(home.path)
    seal, _ = Journal(store, run).read_seal(ring(store))
    return {t: str(e.outcome) for t, e in last_entries(seal).items()}


def test_run_says_what_it_decided_and_where_the_evidence_is(home: Home) -> None:
    said = home.ask("run", "toy")
    assert said.code == 0
    assert "Passed: every gate said yes." in said.out
    assert "gate enough" in said.out
    assert "artifacts/toy/total.json" in said.out
    assert "run        toy-" in said.out
    assert "made a signing key for this machine" in said.err
    assert json.loads(home.read("artifacts/toy/total.json")) == {"parts": ["a", "b"], "total": 240}
    assert not home.leftovers()


def test_second_run_does_nothing_and_says_so(home: Home) -> None:
    first = home.run()
    said = home.ask("run", "toy")
    assert said.code == 0
    assert said.out.startswith("Nothing to do")
    assert home.run() == {**first, "unchanged": True}
    assert "done" not in said.err  # no step was at work


def test_again_makes_a_new_run_of_reused_records_that_verifies(home: Home) -> None:
    first = home.run()
    second = home.run("--again")
    assert second["run"] == f"{first['run']}-2"
    assert digests(second) == digests(first)
    assert set(outcomes(home, second["run"]).values()) == {"reused"}
    for run in (first, second):
        checked = home.ask("verify", run["run"], "--json").json
        assert (checked["run"], checked["verified"], checked["root"]) == (run["run"], True, run["root"])


def test_no_cache_computes_every_step_to_the_same_bytes(home: Home) -> None:
    first = home.run()
    second = home.run("--no-cache")
    assert set(outcomes(home, second["run"]).values()) == {"done"}
    assert digests(second) == digests(first)


def test_a_changed_parameter_reruns_exactly_its_dependants(home: Home) -> None:
    home.run()
    changed = home.run("--set", "work.seconds=0.01")
    assert outcomes(home, changed["run"]) == {"pick": "reused", "work@a": "done", "work@b": "done", "join": "reused"}


def test_an_override_is_recorded(home: Home) -> None:
    from workflows.run.journal import Journal, standing
    from workflows.run.keys import ring
    from workflows.run.session import local_store

    changed = home.run("--set", "pick.at_least=35")
    store = local_store(home.path)
    seal, _ = Journal(store, changed["run"]).read_seal(ring(store))
    assert standing(store, ring(store), seal)["pick"].params == {"at_least": 35}


def test_one_changed_byte_of_input_changes_the_run_and_its_dependants(home: Home) -> None:
    first = home.run()
    home.write("data/toy/people.csv", home.read("data/toy/people.csv").replace(b"50", b"51"))
    second = home.run()
    assert second["run"] != first["run"]
    assert set(outcomes(home, second["run"]).values()) == {"done"}
    assert {n for n, d in digests(first).items() if digests(second)[n] == d} == set()


def test_changed_code_of_a_step_reruns_it(home: Home) -> None:
    home.run()
    home.write("steps/toy.py", home.read("steps/toy.py") + b"\n# said differently\n")
    assert set(outcomes(home, home.run()["run"]).values()) == {"done"}


def test_place_file_times_and_jobs_change_nothing(home: Home, tmp_path: Path) -> None:
    first = home.run("--jobs", "1")
    other = tmp_path / "elsewhere" / "deep"
    shutil.copytree(home.path, other, ignore=shutil.ignore_patterns("artifacts", ".countersign", ".dvc"))
    for p in other.rglob("*"):
        if p.is_file():
            p.touch()
    second = Home(path=other, env=home.env).run("--jobs", "4", env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"})
    assert digests(second) == digests(first)
    assert second["run"] == first["run"]


def test_works_from_a_folder_below(home: Home) -> None:
    assert home.ask("run", "toy", cwd=home.path / "params").code == 0


def test_outputs_taken_away_come_back(home: Home) -> None:
    home.run()
    before = home.read("artifacts/toy/total.json")
    shutil.rmtree(home.path / "artifacts")
    assert home.run()["unchanged"]
    assert home.read("artifacts/toy/total.json") == before


def test_damaged_content_is_noticed_recomputed_and_healed(home: Home) -> None:
    first = home.run()
    kept = [p for p in (home.path / ".dvc/cache").rglob("*") if p.is_file() and p.read_bytes() == home.read("artifacts/toy/total.json")]
    assert len(kept) == 1
    kept[0].chmod(0o644)
    kept[0].write_bytes(kept[0].read_bytes().replace(b"240", b"999"))
    said = home.ask("verify", first["run"])
    assert said.code == 4
    assert "toy/total" in said.out
    second = home.run()
    assert outcomes(home, second["run"]) == {"pick": "reused", "work@a": "reused", "work@b": "reused", "join": "done"}
    assert home.ask("verify", first["run"]).code == 0


@pytest.mark.parametrize("damage", [b"no digest\n", b"\xff\0\n", b"../../params/toy.yaml\n", b"0" * 64 + b"\n", b""])
def test_a_damaged_cache_pointer_costs_work_not_truth(home: Home, damage: bytes) -> None:
    first = home.run()
    for pointer in (home.path / ".countersign/cache").iterdir():
        if pointer.name != "latest":
            pointer.write_bytes(damage)
    second = home.run("--again")
    assert set(outcomes(home, second["run"]).values()) == {"done"}
    assert digests(second) == digests(first)


@pytest.mark.parametrize("damage", [b"\xff\0garbage\n", b"", b"0" * 64 + b"\n"])
def test_a_damaged_root_is_named_and_the_next_run_is_another(home: Home, damage: bytes) -> None:
    first = home.run()
    (home.path / ".countersign/runs" / first["run"] / "root").write_bytes(damage)
    for words in (("verify", "@latest"), ("show", "@latest")):
        said = home.ask(*words)
        assert said.code == 4, said.err
        assert f"{first['run']}" in said.out + said.err
    assert "not verified" in home.ask("show").out
    second = home.run()
    assert second["run"] == f"{first['run']}-2"
    assert home.ask("verify", "@latest").code == 0


def test_a_damaged_note_of_the_latest_run(home: Home) -> None:
    first = home.run()
    (home.path / ".countersign/cache/latest").write_bytes(b"\xff\0../x\n")
    said = home.ask("verify", "@latest")
    assert (said.code, "the note of the latest run cannot be read" in said.err) == (2, True)
    assert home.run()["run"] == first["run"]
    assert home.ask("verify", "@latest").code == 0


def test_a_threshold_includes_itself(home: Home) -> None:
    assert home.run("--set", "pick.at_least=45")["gates"][0]["rules"][0]["value"] == 100


def test_refused_run_verifies_and_names_the_refusal(home: Home) -> None:
    home.write("params/policies/toy.yaml", "enough:\n  - {metric: total, at_least: 1000, because: nobody is that old}\n")
    said = home.ask("run", "toy")
    assert said.code == 3
    assert "refused: gate enough: total: total: 240 is below 1000; expected at least 1000, got 240" in said.err
    assert json.loads(home.read("artifacts/toy/verdicts.json"))["gates"][0]["says"] == "no"
    verified = home.ask("verify", "@latest")
    assert verified.code == 0
    assert "outcome    refused" in verified.out


def test_logs_carry_run_step_and_trace_and_no_personal_data(home: Home) -> None:
    answer = home.run()
    lines = [json.loads(line) for line in home.read(".countersign/log.jsonl").splitlines()]
    assert {line["step"] for line in lines} == {"pick", "work@a", "work@b", "join"}
    assert {line["run"] for line in lines} == {answer["run"]}
    assert all(len(line["trace"]) == 32 for line in lines)
    written = home.everything_written()
    assert not [n for n in NAMES if n.encode() in written]


def test_a_task_started_alone_chains_to_the_others_and_the_last_one_seals(home: Home) -> None:
    for words in (["pick"], ["work", "--item", "a"], ["work", "--item", "b"], ["join"]):
        said = home.drive("toy", *words)
        assert said.code == 0, said.err
    assert home.ask("verify", "@latest").code == 0


def test_a_task_started_before_what_it_needs_is_refused(home: Home) -> None:
    said = home.drive("toy", "join")
    assert said.code == 2
    assert "has not been run" in said.err
