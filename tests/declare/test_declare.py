"""What can be wrong with a declaration is said with where, and all at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from workflows.declare import Artifact, FanOut, Gate, Kind, Pipeline, Plot, Resources, Serves, Source, Step, in_order, problems_of, upstream
from workflows.errors import BadInput
from workflows.loan_approval import pipeline as loan_approval
from workflows.run.binding import bind, look

raw = Source(name="raw", kind=Kind.TABLE, at="data/raw.csv", schema="data/raw.yaml")
rows = Artifact(name="rows", kind=Kind.TABLE)
part = Artifact(name="part", kind=Kind.REPORT)
total = Artifact(name="total", kind=Kind.REPORT)
verdicts = Artifact(name="verdicts", kind=Kind.REPORT)
READ = Step(name="read", run="steps.it:read", inputs=(raw,), outputs=(rows,))
WORK = Step(name="work", run="steps.it:work", inputs=(rows,), outputs=(part,), fan_out=FanOut(name="which", over=("a", "b")))
JOIN = Step(
    name="join", run="steps.it:join", inputs=(part,), outputs=(total,), gates=(Gate(name="enough", reads=total),), verdicts=verdicts
)
SOUND = Pipeline(name="it", steps=(READ, WORK, JOIN), results=(total,))


def said(*steps: Step, **how: Any) -> list[str]:
    return [str(p) for p in problems_of(replace(SOUND, steps=steps or SOUND.steps, **how))]


def test_a_sound_declaration_has_no_problems() -> None:
    assert problems_of(SOUND) == []
    assert problems_of(loan_approval) == []


def test_edges_follow_from_who_makes_what() -> None:
    turned = replace(SOUND, steps=(JOIN, WORK, READ))
    assert [s.name for s in in_order(turned)] == ["read", "work", "join"]
    assert upstream(turned, JOIN) == (WORK,)


def res(**how: Any) -> Step:
    return replace(READ, resources=Resources(**how))


WRONG: list[tuple[list[Step], dict[str, Any], str]] = [
    ([replace(READ, inputs=(raw, total)), WORK, JOIN], {}, "it: cycle, or steps behind one; got read, work, join"),
    ([WORK, JOIN], {}, "it.work: unknown artifact rows; expected an output of some step"),
    ([READ, replace(READ, name="again"), WORK, JOIN], {}, "it/rows: artifact has two producers; expected one, got read and again"),
    ([READ, READ, WORK, JOIN], {}, "it.read: 2 steps have this name"),
    (
        [READ, replace(WORK, inputs=(replace(rows, kind=Kind.MODEL),)), JOIN],
        {},
        "it.work: type mismatch on rows; expected table, got model",
    ),
    ([READ, replace(WORK, inputs=(replace(rows, description="other"),)), JOIN], {}, "it.work: artifact rows is declared in two ways"),
    ([READ, WORK, JOIN], {"results": ()}, "it/total: unused output: no step reads it and it is not a result"),
    ([READ, WORK, JOIN], {"results": (total, replace(total, name="sum"))}, "it/sum: result that no step makes"),
    ([replace(READ, name="Read"), WORK, JOIN], {}, "bad name; expected lower case letters, digits and single _, at most 60, got 'Read'"),
    ([replace(READ, name="a" * 61), WORK, JOIN], {}, "bad name"),
    ([replace(READ, run="steps.it.read"), WORK, JOIN], {}, "it.read: bad function; expected module:function, got 'steps.it.read'"),
    ([replace(READ, outputs=()), WORK, JOIN], {}, "it.read: step makes nothing"),
    ([replace(READ, inputs=(raw, raw)), WORK, JOIN], {}, "it.read: input raw is listed twice"),
    ([READ, replace(WORK, inputs=(rows, replace(raw, at="data/x.csv"))), JOIN], {}, "source raw is declared in two ways"),
    ([replace(READ, inputs=(replace(raw, name="rows"),)), WORK, JOIN], {}, "it/rows: a source and an artifact share this name"),
    ([READ, WORK, replace(JOIN, verdicts=None)], {}, "it.join: step has gates but no artifact for their verdicts"),
    ([READ, WORK, replace(JOIN, gates=())], {}, "it.join: step has verdicts but no gates: an empty gate list would pass"),
    ([READ, WORK, replace(JOIN, verdicts=replace(verdicts, kind=Kind.PAGE))], {}, "it.join: verdicts must be a report; got page"),
    (
        [READ, WORK, replace(JOIN, gates=(Gate(name="enough", reads=rows),))],
        {},
        "gate enough reads rows, which the step neither reads nor makes",
    ),
    ([READ, WORK, replace(JOIN, gates=JOIN.gates * 2)], {}, "it.enough: 2 gates have this name"),
    ([replace(READ, outputs=(replace(rows, metric=True),)), WORK, JOIN], {}, "it/rows: only a report can be a metric or a plot; got table"),
    ([replace(READ, outputs=(replace(rows, plot=Plot(x="a", y="b")),)), WORK, JOIN], {}, "only a report can be a metric or a plot"),
    ([READ, replace(WORK, fan_out=FanOut(name="which", over=())), JOIN], {}, "it.work: fan-out over nothing"),
    ([READ, replace(WORK, fan_out=FanOut(name="which", over=("a", "a"))), JOIN], {}, "it.work: fan-out lists an item twice"),
    ([READ, replace(WORK, fan_out=FanOut(name="which", over=("A b",))), JOIN], {}, "it.work: bad item"),
    ([READ, replace(WORK, gates=JOIN.gates, verdicts=verdicts), JOIN], {}, "it.work: a fanned-out step has gates"),
    ([res(cpu="many"), WORK, JOIN], {}, "it.read: bad cpu; expected cores, as 0.5 or 500m, got many"),
    ([res(memory="2 GB"), WORK, JOIN], {}, "it.read: bad memory"),
    ([res(gpu=-1), WORK, JOIN], {}, "it.read: bad gpu"),
    ([res(timeout=0), WORK, JOIN], {}, "it.read: bad timeout"),
    ([res(retries=-1), WORK, JOIN], {}, "it.read: bad retries"),
    ([res(image=" "), WORK, JOIN], {}, "it.read: bad image"),
]


@pytest.mark.parametrize(("steps", "how", "message"), WRONG)
def test_a_wrong_declaration_says_what_and_where(steps: list[Step], how: dict[str, Any], message: str) -> None:
    assert any(message in line for line in said(*steps, **how)), said(*steps, **how)


def test_no_steps_at_all() -> None:
    assert [str(p) for p in problems_of(Pipeline(name="it", steps=()))] == ["it: pipeline has no steps"]


def test_everything_is_said_at_once() -> None:
    lines = said(
        replace(READ, name="Read", run="read"),
        replace(WORK, fan_out=FanOut(name="which", over=()), resources=Resources(gpu=-1)),
        replace(JOIN, verdicts=None),
        results=(),
    )
    for part_of in ("bad name", "bad function", "fan-out over nothing", "bad gpu", "no artifact for their verdicts", "unused output"):
        assert any(part_of in line for line in lines), part_of


# --- the functions behind the declaration


def bound(step: Step) -> str:
    """What is wrong with a step's function."""
    return "\n".join(map(str, look(replace(loan_approval, steps=(*loan_approval.steps,)), step)[1]))


INGEST = loan_approval.step("ingest")
TUNE = loan_approval.step("tune")


def test_what_is_served_is_made_by_the_pipeline_as_its_role_asks() -> None:
    """All that is wrong with it is said at once."""
    model, table = Artifact(name="model", kind=Kind.MODEL), replace(total, kind=Kind.TABLE)
    wrong = said(serves=Serves(model=model, rule=total, contract=part, reference=table))
    assert wrong == [
        "it: serves.model: no step makes model; expected an output of some step",
        "it: serves.contract: part is made once an item; expected an output of a step without fan-out",
        "it: serves.reference: artifact total is declared in two ways",
    ]
    assert said(serves=Serves(model=total, rule=total, contract=total, reference=total)) == [
        "it: serves.model: bad kind of total; expected model, got report",
        "it: serves.reference: bad kind of total; expected table, got report",
    ]
    fit = Step(name="fit", run="steps.it:fit", inputs=(rows,), outputs=(model,))
    served = Serves(model=model, rule=total, contract=total, reference=rows)
    assert said(READ, WORK, JOIN, fit, serves=served) == []


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (replace(INGEST, run="steps.nowhere:ingest"), "no function steps.nowhere:ingest; got ModuleNotFoundError: No module named"),
        (replace(INGEST, run="steps.ingest:other"), "no function steps.ingest:other"),
        (replace(INGEST, inputs=INGEST.inputs[:1]), "steps.ingest:ingest takes credit_bureau, which the step does not give it"),
        (replace(INGEST, secrets=("masking_key",)), "steps.ingest:ingest does not take masking_key"),
        (replace(INGEST, inputs=(replace(INGEST.inputs[0], kind=Kind.REPORT), INGEST.inputs[1])), "type mismatch on argument application"),
        (replace(INGEST, outputs=INGEST.outputs[:1]), "steps.ingest:ingest makes other things than the step; expected applications"),
        (replace(INGEST, outputs=(INGEST.outputs[0], replace(INGEST.outputs[1], kind=Kind.PAGE))), "type mismatch on output ingestion"),
        (replace(TUNE, fan_out=FanOut(name="round", over=("0",))), "steps.tune:tune does not take round"),
        (replace(INGEST, lineage=True), "steps.ingest:ingest does not take lineage"),
    ],
)
def test_a_function_that_does_not_fit_its_step(step: Step, message: str) -> None:
    assert message in bound(step)
    with pytest.raises(BadInput):
        bind(loan_approval, step)


def test_every_function_of_the_loan_pipeline_fits() -> None:
    assert [bound(s) for s in loan_approval.steps] == [""] * len(loan_approval.steps)
