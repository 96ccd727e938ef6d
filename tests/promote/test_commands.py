"""What an approver and an operator type, from a run to a rollback, and what they are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import Home, Said, git, home_from
from tests.promote.world import because, environment

WHY = "so that a test can see it"


class Bank:
    """A checkout with two runs, and people with keys of their own."""

    def __init__(self, home: Home, scratch: Path) -> None:
        self.home, self.scratch = home, scratch
        self.first = home.run()["run"]
        self.second = home.run("--set", "pick.at_least=35")["run"]
        keys = {who: self.ask(who, "keys", "show", "--json").json["key"] for who in ("", "vera", "olga")}
        member = {w or "pipeline": {"because": WHY, "members": [{"key": k, "name": w or "the cluster"}]} for w, k in keys.items()}
        prod = environment(gates=because(["enough"]), released_by=because("pipeline"))
        prod["approvals"] = [{"role": who, "count": 1, "because": WHY} for who in ("vera", "olga")]
        path = home.path / "params/environments.yaml"
        YAML().dump({"roles": member, "environments": {"prod": prod}}, path)
        git(home.path, "add", "-A")
        git(home.path, "commit", "-qm", "who may release what")

    def ask(self, who: str, *words: str) -> Said:
        keys = {"COUNTERSIGN_KEYS": str(self.scratch / f"keys-of-{who}")} if who else {}
        return self.home.ask(*words, env=keys)

    def json(self, *words: str) -> Any:
        said = self.ask("", *words, "--env", "prod", "--json")
        assert said.code == 0, said.err + said.out
        return said.json

    def approve(self, run: str) -> None:
        for who in ("vera", "olga"):
            assert self.ask(who, "approve", run, "--env", "prod", "--yes").code == 0


@pytest.fixture(scope="module")
def bank(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Bank:

    scratch = tmp_path_factory.mktemp("bank")
    return Bank(home_from(template, scratch), scratch)


def test_from_a_run_to_a_rollback(bank: Bank) -> None:
    first, second = bank.first, bank.second
    refused = bank.ask("", "promote", first, "--env", "prod")
    assert refused.code == 3
    assert f"countersign approve {first} --env prod" in refused.err
    assert bank.ask("", "history", "--env", "prod").out == "Nothing served.\n"

    shown = bank.ask("vera", "approve", first, "--env", "prod", "--expires", "3d", "--comment", "read it all")
    assert (shown.code, "nobody answered: nothing was signed" in shown.err) == (2, True)
    for word in ("You are about to sign", first, "enough", "total 240 (>= 100)", "read it all", "as         vera"):
        assert word in shown.err, shown.err
    assert bank.ask("", "promote", first, "--env", "prod", "--check", "--json").json["waiting"], "nothing was signed"

    bank.approve(first)
    assert bank.json("promote", first, "--check")["allowed"]
    file = bank.scratch / "release.json"
    done = bank.json("promote", first, "--reason", "the first", "--file", str(file))
    assert (done["sequence"], done["state"], len(done["approvals"])) == (1, "done", 2)
    told = json.loads(file.read_text())
    assert told["release"] == {"environment": "prod", "sequence": 1, "sha256": done["release"]}
    (served,) = told["variants"]
    artifacts = bank.home.ask("show", first, "--json").json["steps"][-1]["outputs"]
    assert served["model"] == next(a["sha256"] for a in artifacts if a["name"] == "toy/total")

    bank.approve(second)
    bank.json("promote", second)
    back = bank.json("rollback", "--reason", "declines doubled")
    assert (back["sequence"], back["kind"], back["variants"][0]["run"]) == (3, "rollback", first)

    history = bank.json("history")
    assert (history["serving"], [r["kind"] for r in history["releases"]]) == ([3], ["promotion", "promotion", "rollback"])
    assert {a["name"] for a in history["releases"][0]["approved_by"]} == {"vera", "olga"}
    then = bank.json("history", "--at", history["releases"][1]["ended"])
    assert [r["variants"][0]["run"] for r in then["releases"]] == [second]
    while_it_came = bank.json("history", "--at", history["releases"][1]["began"])
    assert (while_it_came["serving"], while_it_came["on_their_way"]) == ([1], [2])
    assert "was on its way" in bank.ask("", "history", "--env", "prod", "--at", history["releases"][1]["began"]).out
    out = bank.ask("", "history", "--env", "prod").out
    for word in ("prod 3", "rollback", "serves", "by vera", ", over gates ", "because    declines doubled", "released   by the cluster"):
        assert word in out, out
    assert bank.ask("", "history", "--env", "prod", "--at", "2020-01-01").out == "Nothing served at 2020-01-01.\n"


def test_whoever_made_the_run_is_told_so(bank: Bank) -> None:
    said = bank.ask("", "approve", bank.first, "--env", "prod", "--yes")
    assert "your key signed the run: whoever made it does not approve it" in said.err
    weighed = bank.ask("", "promote", bank.first, "--env", "prod", "--check", "--json").json["approvals"]
    assert "whoever made the run does not approve it" in {w["why_not"] for w in weighed}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("promote", "@latest", "--env", "nowhere"), 2, "no environment nowhere"),
        (("promote", "@latest", "--env", "prod", "--share", "0.5"), 2, "a share without a challenger"),
        (("approve", "@latest", "--env", "prod", "--yes", "--expires", "soon"), 2, "not a moment"),
    ],
)
def test_what_is_mistyped(bank: Bank, words: tuple[str, ...], code: int, message: str) -> None:
    said = bank.ask("", *words)
    assert (said.code, message in said.err) == (code, True), said.err
