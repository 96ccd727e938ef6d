"""A pipeline with everything in it that a declaration can say, and texts that YAML, DVC and Argo each read in a way of their own."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from workflows.compile.interface import Declared, StepFacts
from workflows.declare import Artifact, FanOut, Gate, Kind, Pipeline, Plot, Resources, Source, Step

NASTY = 'a "quote", it\'s {{workflow.name}}, ${item}, 50 %: yes # no & *all\\n \u00fc'


class TrainParams(BaseModel):
    """Parameters of one step."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    device: Literal["cpu", "gpu"] = Field(description="Where to train; {{no}} template")
    rate: float = Field(description=NASTY)
    careful: bool
    words: str
    lists: list[int]


people = Source(name="people", kind=Kind.TABLE, at="s3://bank/people.csv", schema="data/example/people.yaml")
branches = Source(name="branches", kind=Kind.TABLE, at="data/example/branches.parquet")
rows = Artifact(name="rows", kind=Kind.TABLE)
trial = Artifact(name="trial", kind=Kind.REPORT)
model = Artifact(name="model", kind=Kind.MODEL, tolerance=0.001)
evaluation = Artifact(name="evaluation", kind=Kind.REPORT, metric=True)
importance = Artifact(name="importance", kind=Kind.REPORT, plot=Plot(x="contribution", y="feature", bars=True))
verdicts = Artifact(name="verdicts", kind=Kind.REPORT)
evidence = Artifact(name="evidence", kind=Kind.PAGE, description=NASTY)

EXAMPLE = Pipeline(
    name="an_example",
    description=NASTY,
    steps=(
        Step(name="ingest", run="steps.example:ingest", inputs=(people, branches), outputs=(rows,), secrets=("masking_key",)),
        Step(
            name="tune", run="steps.example:tune", inputs=(rows,), outputs=(trial,), fan_out=FanOut(name="search", over=("0", "no", "1e3"))
        ),
        Step(
            name="train_it",
            run="steps.example:train",
            inputs=(rows, trial),
            outputs=(model, importance),
            description=NASTY,
            resources=Resources(cpu="2", memory="4Gi", gpu=1, timeout=600, retries=0),
        ),
        Step(
            name="report",
            run="steps.example:report",
            inputs=(model, importance),
            outputs=(evaluation, evidence),
            lineage=True,
            gates=(Gate(name="good", reads=evaluation),),
            verdicts=verdicts,
        ),
    ),
    results=(evidence, evaluation),
)
SECTION = {"device": "gpu", "rate": 1e-05, "careful": True, "words": NASTY, "lists": [1, 2]}
DECLARED = Declared(
    pipeline=EXAMPLE,
    steps={
        s.name: StepFacts(
            params=TrainParams if s.name == "train_it" else None,
            section=SECTION if s.name == "train_it" else {},
            files=("steps/example.py", "workflows/run/codec.py"),
        )
        for s in EXAMPLE.steps
    },
    policies={"good": [{"metric": "auc", "at_least": 0.7, "because": "so"}]},
)
