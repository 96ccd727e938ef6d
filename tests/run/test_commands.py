"""What a person types after a run: show, compare, bundle, verify; and what they are told when they mistype."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.conftest import Home, home_from

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture(scope="module")
def ran(template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str, str]:
    """A checkout with two runs, which the tests only read; the ids of both."""
    scratch = tmp_path_factory.mktemp("ran")
    home = home_from(template, scratch)
    first = home.run()["run"]
    return home, first, home.run("--set", "pick.at_least=35")["run"]


def test_show_lists_the_runs_in_order(ran: tuple[Home, str, str]) -> None:
    home, first, second = ran
    out = home.ask("show").out
    assert out.index(first) < out.index(second)
    listed = home.ask("show", "--json").json["runs"]
    assert [(r["run"], r["outcome"], r["records"]) for r in listed] == [(first, "done", 4), (second, "done", 4)]


def test_show_says_what_each_step_did(ran: tuple[Home, str, str]) -> None:
    home, first, _ = ran
    out = home.ask("show", first).out
    for word in ("pick", "work@a", "work@b", "join", "gate enough", "yes", "root", "ages"):
        assert word in out
    steps = home.ask("show", first, "--json").json["steps"]
    assert [s["task"] for s in steps] == ["pick", "work@a", "work@b", "join"]
    assert all(len(o["sha256"]) == 64 for s in steps for o in s["outputs"])


def test_show_of_no_runs(home: Home) -> None:
    assert home.ask("show").out == "No runs yet. Make one with: countersign run PIPELINE\n"


def test_compare_names_what_differs_and_since_when(ran: tuple[Home, str, str]) -> None:
    home, first, second = ran
    said = home.ask("compare", first, second)
    assert said.code == 4
    assert "differs first at pick, given other: parameter at_least: 0, 35" in said.out
    assert "not the same number of rows" in said.out
    same = home.ask("compare", first, first, "--json")
    assert (same.code, same.json["verdict"]) == (0, "bytes")


def test_a_bundle_is_made_once_and_verifies(ran: tuple[Home, str, str], tmp_path: Path) -> None:
    home, first, _ = ran
    path = tmp_path / "it.bundle"
    made = home.ask("bundle", first, "-o", str(path), "--json")
    assert made.code == 0
    again = home.ask("bundle", first, "-o", str(path))
    assert (again.code, "exists already" in again.err) == (2, True)
    assert home.ask("bundle", first, "-o", str(path), "--force", "--json").json == made.json
    verified = home.ask("verify", str(path), "--root", made.json["root"], "--json")
    assert (verified.code, verified.json["run"], verified.json["trust"]) == (0, first, "came with the bundle")
    assert home.ask("verify", str(path), "--root", "0" * 64).code == 4


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (lambda d: d[: len(d) // 2], 4, "no bundle, or cut short or damaged"),
        (lambda d: d[:-30] + bytes([d[-30] ^ 1]) + d[-29:], 4, "error: "),
        (lambda _: b"", 4, "no bundle, or cut short or damaged"),
    ],
    ids=["cut short", "one bit", "empty"],
)
def test_a_damaged_bundle(ran: tuple[Home, str, str], tmp_path: Path, damage: object, code: int, message: str) -> None:
    home, first, _ = ran
    path = tmp_path / "it.bundle"
    assert home.ask("bundle", first, "-o", str(path)).code == 0
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    said = home.ask("verify", str(path))
    assert said.code == code
    assert message in said.err
    assert "Traceback" not in said.err


def test_a_bundle_that_is_not_there(ran: tuple[Home, str, str]) -> None:
    said = ran[0].ask("verify", "none.bundle")
    assert (said.code, "none.bundle: cannot be read: No such file" in said.err) == (2, True)


@pytest.mark.parametrize("command", ["show", "verify", "reproduce"])
def test_a_run_that_is_not_there_lists_those_that_are(ran: tuple[Home, str, str], command: str) -> None:
    home, first, _ = ran
    said = home.ask(command, "toy-000000000000")
    assert said.code == 2
    assert "toy-000000000000" in said.err
    assert first in said.err


def test_help_says_what_each_command_is_for(ran: tuple[Home, str, str]) -> None:
    out = ran[0].ask("--help").out
    for command in ("run", "verify", "show", "compare", "reproduce", "bundle", "compile", "keys"):
        assert f"  {command} " in out


def test_the_version(ran: tuple[Home, str, str]) -> None:
    said = ran[0].ask("--version")
    assert (said.code, said.out.strip()) == (0, f"countersign {tomllib.loads(PYPROJECT.read_text())['project']['version']}")


@pytest.mark.parametrize("words", [(), ("keys",)])
def test_no_command_shows_the_help(ran: tuple[Home, str, str], words: tuple[str, ...]) -> None:
    said = ran[0].ask(*words)
    assert said.code == 2
    assert said.err.startswith("Usage: countersign")
    assert "error" not in said.err
    assert "..." not in said.err.replace("[ARGS]...", "")  # each command's line is whole


COMMANDS = ("run", "verify", "show", "compare", "reproduce", "bundle", "compile", "keys init")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_in_json_whatever_it_has_to_say(ran: tuple[Home, str, str], command: str) -> None:
    home = ran[0]
    words = command.split()
    assert "--json" in home.ask(*words, "--help").out
    said = home.ask(*words, "--json", "--sing")
    assert said.code == 2
    assert said.json["problems"][0].startswith("No such option: --sing")


def test_keys_in_json(home: Home) -> None:
    made = home.ask("keys", "init", "--json").json
    assert [Path(p).name for p in made["made"]] == ["signing.pem", "masking_key"]
    assert home.ask("keys", "init", "--json").json == {"made": [], "folder": made["folder"]}


def test_a_refused_run_is_one_answer_in_json(home: Home) -> None:
    home.write("params/policies/toy.yaml", "enough:\n  - {metric: total, at_least: 1000, because: nobody is that old}\n")
    said = home.ask("run", "toy", "--json")
    assert said.code == 3
    assert (said.json["outcome"], said.json["gates"][0]["says"]) == ("refused", "no")
    assert said.json["problems"] == ["gate enough: total: total: 240 is below 1000; expected at least 1000, got 240"]
