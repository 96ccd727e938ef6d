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


def test_a_run_that_is_still_going_leaves_no_second_one_until_it_ends(scheduled: Toy) -> None:
    toy = scheduled
    every(toy, 30)
    name = first(toy)
    toy.argo("suspend", name)
    time.sleep(started(toy)[name] + 33 - time.time())
    assert set(started(toy)) == {name}
    toy.argo("resume", name)
    toy.argo("terminate", name)
    toy.ended(name)
    ended = time.time()
    (due,) = wait(lambda: [due for n, due in started(toy).items() if n != name], "the second one")
    assert due < ended, "the time that was left out is made up for"


@pytest.mark.alone
def test_what_was_due_while_nobody_looked_runs_once_and_late(scheduled: Toy) -> None:
    """Of the times that went by, the last one."""
    toy = scheduled
    every(toy, 10, concurrencyPolicy="Allow")  # else the run that goes on would be in the way
    first(toy)
    with no_controller():
        before = started(toy)
        time.sleep(25)
    after = wait(lambda: len(found := started(toy)) > len(before) + 1 and found, "the late run, and the next")
    late, following, *_ = sorted(due for n, due in after.items() if n not in before)
    # Times are counted from the last run's, and after a start of the controller from that.
    passed = late - max(before.values())
    assert (passed % 10, passed >= 20) == (0, True), "it was due while nobody looked, and not the first"
    assert following > late


def every(toy: Toy, seconds: int, **change: str) -> None:
    """Start the schedule so often: in Argo's own words, which a declaration does not take, so that no test waits for the minute."""
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
