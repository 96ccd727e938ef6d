"""A pipeline to try the engine on."""

from __future__ import annotations

from workflows.declare import Artifact, FanOut, Gate, Kind, Pipeline, Resources, Source, Step

people = Source(name="people", kind=Kind.TABLE, at="data/toy/people.csv", schema="data/toy/schema.yaml")
ages = Artifact(name="ages", kind=Kind.TABLE)
part = Artifact(name="part", kind=Kind.REPORT)
total = Artifact(name="total", kind=Kind.REPORT, metric=True)
verdicts = Artifact(name="verdicts", kind=Kind.REPORT)

pipeline = Pipeline(
    name="toy",
    steps=(
        Step(name="pick", run="steps.toy:pick", inputs=(people,), outputs=(ages,)),
        Step(
            name="work",
            run="steps.toy:work",
            inputs=(ages,),
            outputs=(part,),
            fan_out=FanOut(name="which", over=("a", "b")),
            resources=Resources(timeout=240),
        ),
        Step(
            name="join",
            run="steps.toy:join",
            inputs=(part,),
            outputs=(total,),
            gates=(Gate(name="enough", reads=total),),
            verdicts=verdicts,
        ),
    ),
    results=(total,),
)
