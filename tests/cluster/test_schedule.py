"""A schedule on a real cluster: its run compares with the champion, is sealed and verifies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest

from tests.cluster.real import Toy, kubectl, toy_in, wait
from tests.conftest import Home, git
from workflows.cluster.interface import Phase
from workflows.compile.schedules import CONTROLLER

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SCHEDULE = """    schedule=Schedule(cron=("* * * * *",), time_zone="UTC", champion=champion, compared="over_champion"),
    results=(total,),
"""
OFTEN = 10
"""Seconds from one run to the next, where a test would not wait for the minute: Argo's own shorthand, which a declaration does not take."""
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
    name = first(toy)
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


def test_a_run_that_is_still_going_leaves_no_second_one(scheduled: Toy) -> None:
    toy = scheduled
    often(toy)
    name = first(toy)
    toy.argo("suspend", name)
    time.sleep(2.5 * OFTEN)
    assert set(started(toy)) == {name}
    toy.argo("resume", name)
    toy.argo("terminate", name)
    toy.ended(name)
    wait(lambda: set(started(toy)) - {name}, "the next, when it is due")


@pytest.mark.alone
def test_what_was_due_while_nobody_looked_runs_once_and_late(scheduled: Toy) -> None:
    """Of the times that went by, the last one, if it is not longer ago than the schedule's deadline."""
    toy = scheduled
    seconds = 2 * OFTEN
    often(toy, seconds, concurrencyPolicy="Allow")  # else the run that goes on would forbid it
    first(toy)
    with no_controller():
        before = started(toy)
        # Until just after it was due for the second time: nearly as long is left to come back in, until it is due for the third.
        time.sleep(max(before.values()) + 2 * seconds + 1 - time.time())
        back = time.time()
    late = wait(lambda: {n: due for n, due in started(toy).items() if n not in before and due < back}, "the late run")
    wait(lambda: any(due > back for due in started(toy).values()), "the next, when it is due")
    assert {n for n, due in started(toy).items() if n not in before and due < back} == set(late)
    ((name, due),) = late.items()
    assert name == f"toy-{due:.0f}"
    assert due > max(before.values()) + seconds, "the one before it, which was missed, too, is not run"


def often(toy: Toy, seconds: int = OFTEN, **change: str) -> None:
    """Start the schedule every few seconds."""
    toy.space.patch("cronworkflow", "toy", {"spec": {"schedules": [f"@every {seconds}s"], **change}})


def started(toy: Toy) -> dict[str, float]:
    """The schedule's workflows, and when each was due, in seconds since 1970."""
    listed = json.loads(toy.space.kubectl("get", "workflows", "-l", "workflows.argoproj.io/cron-workflow=toy", "-o", "json"))["items"]
    found = {w["metadata"]["name"]: w["metadata"]["annotations"]["workflows.argoproj.io/scheduled-time"] for w in listed}
    toy.submitted.extend(found.keys() - set(toy.submitted))
    return {name: datetime.fromisoformat(due).timestamp() for name, due in found.items()}


def first(toy: Toy) -> str:
    """The schedule's first workflow."""
    found: dict[str, float] = wait(lambda: started(toy), "a scheduled run")
    return min(found)


@contextmanager
def no_controller() -> Iterator[None]:
    """While this lasts, nobody looks at workflows and schedules."""
    kubectl("-n", "argo", "scale", "deployment", "workflow-controller", "--replicas=0")
    try:
        kubectl("-n", "argo", "wait", "--for=delete", "pod", "-l", "app=workflow-controller", "--timeout=60s")
        yield
    finally:
        kubectl("-n", "argo", "scale", "deployment", "workflow-controller", "--replicas=1")
        kubectl("-n", "argo", "rollout", "status", "deployment", "workflow-controller", "--timeout=120s")
