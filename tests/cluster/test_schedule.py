"""A schedule on a real cluster: its run compares with the champion, is sealed and verifies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.cluster.real import Toy, toy_in, wait
from tests.conftest import Home, git
from workflows.cluster.interface import Phase
from workflows.compile.schedules import CONTROLLER

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SCHEDULE = """    schedule=Schedule(cron=("* * * * *",), time_zone="UTC", champion=champion, compared="over_champion"),
    results=(total,),
"""
RULE = "  - metric: over_champion\n    at_least: 0\n    because: nobody watches\n"


@pytest.fixture
def scheduled(toy: Toy) -> Iterator[Toy]:
    """The toy pipeline with a champion, published, and started every minute."""
    with_champion(toy.home)
    toy_in(toy.space, toy.home)
    git(toy.home.path, "add", "-A")
    git(toy.home.path, "commit", "-qm", "a champion")
    said = toy.ask("publish", "--namespace", toy.space.name)
    assert said.code == 0, said.err
    toy.space.kubectl("apply", "-k", str(toy.home.path / "infra/argo/schedules"))
    yield toy
    toy.space.kubectl("delete", "cronworkflow", "toy", "--ignore-not-found")


def with_champion(home: Home) -> None:
    """Let the last step compare with a champion, and the gate ask for what it finds."""
    declared, steps = home.read("workflows/toy.py").decode(), home.read("steps/toy.py").decode()
    declared = declared.replace("Source, Step", "Schedule, Source, Step").replace("inputs=(part,)", "inputs=(part, champion)")
    declared = declared.replace("ages = ", 'champion = Source(name="champion", kind=Kind.REPORT, at="data/toy/champion.json")\nages = ', 1)
    home.write("workflows/toy.py", declared.replace("    results=(total,),\n", SCHEDULE))
    steps = steps.replace("def join(*, ", "def join(*, champion: Report, ")
    steps = steps.replace(
        'return Joined({"total"',
        'over = sum(p["sum"] for p in part) - champion["total"]\n    return Joined({"over_champion": over, "total"',
    )
    home.write("steps/toy.py", steps)
    home.write("data/toy/champion.json", json.dumps({"total": 100}))
    home.write("params/policies/toy.yaml", home.read("params/policies/toy.yaml").decode() + RULE)


def test_a_scheduled_run_compares_with_the_champion_and_is_sealed(scheduled: Toy) -> None:
    toy = scheduled
    listed = ("get", "workflows", "-l", "workflows.argoproj.io/cron-workflow=toy", "-o", "name")
    name = wait(lambda: toy.space.kubectl(*listed).split(), "a scheduled run").pop().rpartition("/")[2]
    toy.submitted.append(name)
    toy.space.kubectl("delete", "cronworkflow", "toy", "--cascade=orphan")
    assert toy.ended(name).phase is Phase.SUCCEEDED
    run = toy.sealed(name)
    assert toy.verify(run)["submitter"] == CONTROLLER
    (join,) = [s for s in toy.steps(run) if s["task"] == "join"]
    assert "toy/champion" in {i["name"] for i in join["inputs"]}
    compared = next(r for g in join["gates"] for r in g["rules"] if r["metric"] == "over_champion")
    assert (compared["value"], compared["says"]) == (140, "yes"), compared
    due = datetime.fromisoformat(toy.workflow(name).annotations["workflows.argoproj.io/scheduled-time"])
    assert name == f"toy-{int(due.timestamp())}"
