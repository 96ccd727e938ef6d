"""A schedule that Argo would refuse, or that would let a model through uncompared, is refused when it is declared."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from workflows import cron
from workflows.declare import Artifact, Gate, Kind, Pipeline, Schedule, Source, Step, problems_of

champion = Source(name="champion", kind=Kind.REPORT, at="data/champion.json")
comparison = Artifact(name="comparison", kind=Kind.REPORT)
summary = Artifact(name="summary", kind=Kind.REPORT)
verdicts = Artifact(name="verdicts", kind=Kind.REPORT)
COMPARE = Step(name="compare", run="steps.it:compare", inputs=(champion,), outputs=(comparison,))
JUDGE = Step(
    name="judge",
    run="steps.it:judge",
    inputs=(comparison,),
    outputs=(summary,),
    gates=(Gate(name="better", reads=comparison),),
    verdicts=verdicts,
)
SOUND = Schedule(cron=("0 5 * * mon",), time_zone="Europe/Zurich", champion=champion, compared="auc_over_champion")


def said(*, steps: tuple[Step, ...] = (COMPARE, JUDGE), **how: Any) -> list[str]:
    pipeline = Pipeline(name="it", steps=steps, results=(summary,), schedule=replace(SOUND, **how))
    return [str(p) for p in problems_of(pipeline)]


def test_a_sound_schedule_has_no_problems() -> None:
    assert said() == []


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"cron": ()}, "it: schedule: never runs: it has no cron line"),
        (
            {"time_zone": "Mars/Olympus"},
            "it: schedule: unknown time zone; expected an IANA name, such as Europe/Zurich or UTC, got 'Mars/Olympus'",
        ),
        ({"time_zone": "/etc/localtime"}, "it: schedule: unknown time zone"),
        ({"compared": ""}, "it: schedule: bad comparison; expected the dotted path of a measure in the report, such as "),
        ({"compared": "a..b"}, "it: schedule: bad comparison"),
        ({"deadline": -1}, "it: schedule: bad deadline; expected seconds, 0 or more, got -1"),
        ({"champion": replace(champion, name="other")}, "it: schedule: no step reads the champion other"),
        (
            {"cron": ("* * * *",)},
            "it: schedule: cron line has 4 fields, not five (minute, hour, day of month, month, day of week); got '* * * *'",
        ),
    ],
)
def test_what_is_wrong_is_said(how: dict[str, Any], message: str) -> None:
    assert any(line.startswith(message) for line in said(**how)), said(**how)


def test_all_of_it_at_once() -> None:
    assert len(said(cron=("x", "0 0 30 2 *"), time_zone="", deadline=-5)) == 4


def test_a_pipeline_may_not_run_by_itself_without_a_gate_on_the_comparison() -> None:
    """The champion is compared with before anything is done with a new model, or the schedule is refused."""
    other = Gate(name="better", reads=summary)
    assert said(steps=(COMPARE, replace(JUDGE, gates=(other,)))) == [
        "it: schedule: no gate reads the comparison with the champion; expected a gate that reads a report of compare"
    ]


GOOD = (
    "* * * * *",
    "*/15 0-6 1,15 jan-mar MON-fri",
    "59 23 31 12 6",
    "0 0 ? * ?",
    "5/20 4 * * *",
    "0 0 29 feb *",
    "0 0 31 2 mon",
    "0 0 31 2 */2",
)
BAD = (
    "", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *", "* * * 0 *", "* * * * 7",
    "*/0 * * * *", "5-1 * * * *", "a * * * *", "* * * foo *", "mon * * * *", "1-2-3 * * * *",
    "-1 * * * *", "1.5 * * * *",
)  # fmt: skip
NEVER = ("0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 31 2 ?")


STRICTER = ("1, * * * *", "@daily", "@every 1h")  # the last has no time of its own: it starts when the controller does


@pytest.mark.parametrize("line", GOOD)
def test_lines_that_argo_takes(line: str) -> None:
    assert cron.problem_of(line) is None


@pytest.mark.parametrize("line", GOOD)
def test_lines_are_installed_in_numbers_and_mean_the_same(line: str) -> None:
    """The pattern is that of Argo's own definition of a CronWorkflow: `kubectl apply` of a line with a name in it is refused."""
    written = cron.in_numbers(line)
    assert re.fullmatch(r"([0-9*,/?-]+\s+){4}[0-9*,/?-]+", written)
    assert cron.problem_of(written) is None
    assert cron.in_numbers("*/15 0-6 1,15 jan-mar MON-fri") == "*/15 0-6 1,15 1-3 1-5"


@pytest.mark.parametrize("line", BAD + STRICTER)
def test_lines_that_are_refused(line: str) -> None:
    assert cron.problem_of(line)


@pytest.mark.parametrize("line", NEVER)
def test_lines_that_argo_takes_but_that_never_come(line: str) -> None:
    assert cron.problem_of(line) == "names a date that never comes"
