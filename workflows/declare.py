"""The vocabulary of a pipeline file: frozen values that say what exists and what depends on what.

Nothing here opens a path, imports a step or knows a back end. A declaration can be built wrong;
`problems_of` names everything that is wrong with it at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from workflows import cron
from workflows.errors import Problem

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
ITEM = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
QUANTITY = re.compile(r"([1-9][0-9]*|0)(\.[0-9]+)?([mkMGTP]|[KMGTP]i)?")  # as Kubernetes writes amounts
MAX_NAME = 60  # Kubernetes allows 63 characters in a label; `_` becomes `-` there


class Kind(StrEnum):
    """What an artifact is, which fixes its file format and the Python type a step sees."""

    TABLE = "table"
    """`pyarrow.Table`, kept as deterministic Parquet."""
    DATASET = "dataset"
    """For tables that do not fit in memory: read as `pyarrow.dataset.Dataset` (see `steps.dataset`), written from a
    `RecordBatchReader`."""
    MODEL = "model"
    """`lightgbm.Booster`, kept as LightGBM's own text."""
    REPORT = "report"
    """A JSON object, kept as canonical JSON. NaN and infinity are refused."""
    PAGE = "page"
    """A self-contained HTML page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """How DVC draws a report that holds a list of points: `x` and `y` are keys of a point."""

    x: str
    y: str
    bars: bool = False
    """Horizontal bars, for a `y` that is a name rather than a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """What a step produces. Its identity is its name within the pipeline."""

    name: str
    kind: Kind
    description: str = ""
    metric: bool = False
    """Shown by `dvc metrics show`. Reports only."""
    plot: Plot | None = None
    decided_by: tuple[str, str] | None = None
    """For tables of decisions: (key column, outcome column). Runs that differ in scores may agree in `decisions`."""
    tolerance: float | None = None
    """Largest absolute difference of any number that still counts as reproduced, for steps that run on a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Data that comes from outside the pipeline.

    `at` is a path from the repository's root, `s3://bucket/key`, or `postgresql://host/database?query=...`
    (no password: credentials come from the environment). Whatever it is, its bytes are taken once, digested and kept.
    """

    name: str
    kind: Kind
    at: str
    schema: str | None = None
    """Path of the YAML file that names the columns and types of a CSV file or query."""
    description: str = ""

    @property
    def remote(self) -> bool:
        """True where the bytes can change without anything in the repository changing."""
        return "://" in self.at


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """A rule set that must say yes. Its thresholds stand under its name in the pipeline's policy file."""

    name: str
    reads: Artifact
    """A report among the inputs or outputs of the gated step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What a step may use on a cluster. The laptop ignores everything but the timeout."""

    cpu: str = "1"
    memory: str = "1Gi"
    gpu: int = 0
    image: str = "countersign-steps"
    timeout: int = 3600
    """Seconds."""
    retries: int = 2
    """Of temporary failures only: exit 75, out-of-memory kills, lost nodes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FanOut:
    """One step run once an item. Its function gets the item as the keyword `name`; a consumer gets a tuple, in this order."""

    name: str
    over: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A pure function, what it reads and what it makes.

    `run` is `module:function`. The function takes each input, each secret and the fan-out's item by keyword, `params`
    where its section of the params file is not empty, and returns a named tuple with a field for each output.
    """

    name: str
    run: str
    inputs: tuple[Artifact | Source, ...] = ()
    outputs: tuple[Artifact, ...] = ()
    gates: tuple[Gate, ...] = ()
    verdicts: Artifact | None = None
    """Where the gates' verdicts go. Required where there are gates. The function gets them too if it has an
    argument of this name; then the gates may read inputs only."""
    secrets: tuple[str, ...] = ()
    lineage: bool = False
    """The function also gets `lineage`: a report of every step before it, with the digests of what each read and made."""
    resources: Resources = Resources()
    fan_out: FanOut | None = None
    description: str = ""

    @property
    def made(self) -> tuple[Artifact, ...]:
        """Everything that leaves the step: outputs, then verdicts."""
        return self.outputs if self.verdicts is None else (*self.outputs, self.verdicts)


class Overlap(StrEnum):
    """What happens when a run is due while the last one still goes on. Kubernetes' own words."""

    FORBID = "Forbid"
    """The new one is left out."""
    REPLACE = "Replace"
    """The old one is ended."""
    ALLOW = "Allow"
    """Both go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """When a pipeline runs by itself, on a cluster."""

    cron: tuple[str, ...]
    """Lines of minute, hour, day of month, month and day of week; each is a time to run."""
    time_zone: str
    """An IANA name, such as `America/New_York`. In it, an hour can be skipped or come twice; `UTC` has neither."""
    champion: Source
    """The model now in use. Nobody watches a scheduled run, so a gate must read what was found by comparing with it."""
    compared: str
    """What was found: the dotted path of a measure in that report. The gate's policy must have a rule on it, or on a key below."""
    overlap: Overlap = Overlap.FORBID
    deadline: int = 3600
    """Seconds in which a missed time is made up for, once, however many were missed. 0: never."""
    description: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Serves:
    """What a server needs of a run, all of it made by the run: it reads nothing else."""

    model: Artifact
    rule: Artifact
    """How a score becomes a decision."""
    contract: Artifact
    """What may be asked, and in which words it is answered (see `steps.contract`)."""
    reference: Artifact
    """The sketch of what the model learned from, which live data is held against (see `steps.drift`)."""

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """Role -> artifact."""
        return {"model": self.model, "rule": self.rule, "contract": self.contract, "reference": self.reference}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """A named graph of steps. Edges follow from who makes what another reads; the order of `steps` carries no meaning."""

    name: str
    steps: tuple[Step, ...]
    description: str = ""
    results: tuple[Artifact, ...] = field(default=())
    """Artifacts that leave the pipeline for people; any other artifact must have a reader."""
    parallelism: int = 10
    """Pods of one run at work at the same time, on a cluster."""
    schedule: Schedule | None = None
    serves: Serves | None = None
    """What a model server takes from a run; None where nothing is served."""

    @property
    def params_path(self) -> str:
        return f"params/{self.name}.yaml"

    @property
    def policy_path(self) -> str:
        return f"params/policies/{self.name}.yaml"

    def step(self, name: str) -> Step:
        """The step of that name; `KeyError` where there is none."""
        return {s.name: s for s in self.steps}[name]

    def makers(self) -> dict[str, Step]:
        """Artifact name -> the step that makes it."""
        return {a.name: s for s in self.steps for a in s.made}


def problems_of(pipeline: Pipeline) -> list[Problem]:
    """All that is wrong with a declaration by itself, in reading order; empty where it is sound."""
    rules = (_names, _producers, _inputs, _gates, _fan_outs, _resources, _unused, _cycles, _schedule, _serves)
    return [p for rule in rules for p in rule(pipeline)]


def upstream(pipeline: Pipeline, step: Step) -> tuple[Step, ...]:
    """The steps whose outputs `step` reads, each once, in the order of its inputs."""
    return _upstream(pipeline.makers(), step)


def in_order(pipeline: Pipeline) -> tuple[Step, ...]:
    """Steps so that each comes after what it reads; ties in declaration order. A step on a cycle is left out."""
    makers = pipeline.makers()
    needs = {id(s): {u.name for u in _upstream(makers, s)} for s in pipeline.steps}
    done: dict[str, Step] = {}
    waiting = list(pipeline.steps)
    while (ready := next((i for i, s in enumerate(waiting) if needs[id(s)] <= done.keys()), None)) is not None:
        step = waiting.pop(ready)
        done[step.name] = step
    return tuple(done.values())


def _upstream(makers: Mapping[str, Step], step: Step) -> tuple[Step, ...]:
    found = {makers[i.name].name: makers[i.name] for i in step.inputs if isinstance(i, Artifact) and i.name in makers}
    return tuple(found.values())


def _at(pipeline: Pipeline, step: Step | None = None) -> str:
    return f"{pipeline.name}.{step.name}" if step else pipeline.name


def _names(pipeline: Pipeline) -> list[Problem]:
    things: list[tuple[str, str]] = [(pipeline.name, "pipeline")]
    for s in pipeline.steps:
        things += [(s.name, f"{_at(pipeline)}: step")]
        things += [(x.name, f"{_at(pipeline, s)}: artifact") for x in (*s.inputs, *s.made)]
        things += [(g.name, f"{_at(pipeline, s)}: gate") for g in s.gates]
        things += [(x, f"{_at(pipeline, s)}: secret") for x in s.secrets]
        things += [(s.fan_out.name, f"{_at(pipeline, s)}: fan-out")] if s.fan_out else []
    bad = {
        (name, where): Problem(
            what="bad name", where=where, expected=f"lower case letters, digits and single _, at most {MAX_NAME}", got=repr(name)
        )
        for name, where in things
        if not NAME.fullmatch(name) or len(name) > MAX_NAME
    }
    runs = [
        Problem(what="bad function", where=_at(pipeline, s), expected="module:function", got=repr(s.run))
        for s in pipeline.steps
        if not re.fullmatch(r"[a-z_][\w.]*:[a-z_]\w*", s.run)
    ]
    return [*bad.values(), *runs]


def _producers(pipeline: Pipeline) -> list[Problem]:
    steps = Counter(s.name for s in pipeline.steps)
    found = [Problem(what=f"{n} steps have this name", where=f"{pipeline.name}.{name}") for name, n in steps.items() if n > 1]
    by: dict[str, list[str]] = {}
    for s in pipeline.steps:
        for a in s.made:
            by.setdefault(a.name, []).append(s.name)
    found += [
        Problem(what="artifact has two producers", where=f"{pipeline.name}/{name}", expected="one", got=" and ".join(makers))
        for name, makers in by.items()
        if len(makers) > 1
    ]
    sources = {i.name for s in pipeline.steps for i in s.inputs if isinstance(i, Source)}
    found += [Problem(what="a source and an artifact share this name", where=f"{pipeline.name}/{n}") for n in sorted(sources & set(by))]
    if not pipeline.steps:
        found.append(Problem(what="pipeline has no steps", where=pipeline.name))
    found += [Problem(what="step makes nothing", where=_at(pipeline, s)) for s in pipeline.steps if not s.outputs]
    return found


def _inputs(pipeline: Pipeline) -> list[Problem]:
    made = {a.name: a for s in pipeline.steps for a in s.made}
    sources: dict[str, Source] = {}
    found = []
    for s in pipeline.steps:
        twice = [n for n, c in Counter(i.name for i in s.inputs).items() if c > 1]
        found += [Problem(what=f"input {n} is listed twice", where=_at(pipeline, s)) for n in twice]
        for i in s.inputs:
            if isinstance(i, Source):
                if sources.setdefault(i.name, i) != i:
                    found.append(Problem(what=f"source {i.name} is declared in two ways", where=_at(pipeline, s)))
            elif i.name not in made:
                found.append(Problem(what=f"unknown artifact {i.name}", where=_at(pipeline, s), expected="an output of some step"))
            elif made[i.name].kind != i.kind:
                found.append(Problem(what=f"type mismatch on {i.name}", where=_at(pipeline, s), expected=made[i.name].kind, got=i.kind))
            elif made[i.name] != i:
                found.append(Problem(what=f"artifact {i.name} is declared in two ways", where=_at(pipeline, s)))
    return found


def _gates(pipeline: Pipeline) -> list[Problem]:
    found = []
    for s in pipeline.steps:
        near = {a.name for a in (*s.inputs, *s.outputs)}
        if s.gates and s.verdicts is None:
            found.append(Problem(what="step has gates but no artifact for their verdicts", where=_at(pipeline, s)))
        if s.verdicts and not s.gates:
            found.append(Problem(what="step has verdicts but no gates: an empty gate list would pass", where=_at(pipeline, s)))
        if s.verdicts and s.verdicts.kind is not Kind.REPORT:
            found.append(Problem(what="verdicts must be a report", where=_at(pipeline, s), got=s.verdicts.kind))
        for g in s.gates:
            if g.reads.name not in near:
                found.append(
                    Problem(what=f"gate {g.name} reads {g.reads.name}, which the step neither reads nor makes", where=_at(pipeline, s))
                )
            if g.reads.kind is not Kind.REPORT:
                found.append(Problem(what=f"gate {g.name} must read a report", where=_at(pipeline, s), got=g.reads.kind))
    names = Counter(g.name for s in pipeline.steps for g in s.gates)
    found += [Problem(what=f"{n} gates have this name", where=f"{pipeline.name}.{g}") for g, n in names.items() if n > 1]
    metrics = [a for s in pipeline.steps for a in s.made if (a.metric or a.plot) and a.kind is not Kind.REPORT]
    found += [Problem(what="only a report can be a metric or a plot", where=f"{pipeline.name}/{a.name}", got=a.kind) for a in metrics]
    return found


def _fan_outs(pipeline: Pipeline) -> list[Problem]:
    found = []
    for s in pipeline.steps:
        if not s.fan_out:
            continue
        if not s.fan_out.over:
            found.append(Problem(what="fan-out over nothing", where=_at(pipeline, s)))
        if len(set(s.fan_out.over)) != len(s.fan_out.over):
            found.append(Problem(what="fan-out lists an item twice", where=_at(pipeline, s)))
        bad = [i for i in s.fan_out.over if not ITEM.fullmatch(i)]
        found += [
            Problem(what="bad item", where=_at(pipeline, s), expected="lower case letters, digits and single -", got=repr(i)) for i in bad
        ]
        if s.gates:
            found.append(Problem(what="a fanned-out step has gates; put them on the step that joins it", where=_at(pipeline, s)))
    return found


def _resources(pipeline: Pipeline) -> list[Problem]:
    found = []
    if pipeline.parallelism < 1:
        found.append(Problem(what="bad parallelism", where=_at(pipeline), expected="1 or more", got=str(pipeline.parallelism)))
    for s in pipeline.steps:
        r = s.resources
        wanted = (
            (QUANTITY.fullmatch(r.cpu), "cpu", "cores, as 0.5 or 500m", r.cpu),
            (QUANTITY.fullmatch(r.memory), "memory", "bytes, as 2Gi or 512Mi", r.memory),
            (r.gpu >= 0, "gpu", "0 or more", r.gpu),
            (r.timeout > 0, "timeout", "seconds, more than 0", r.timeout),
            (r.retries >= 0, "retries", "0 or more", r.retries),
            (r.image.strip() == r.image != "", "image", "the name of an image", repr(r.image)),
        )
        found += [Problem(what=f"bad {n}", where=_at(pipeline, s), expected=e, got=str(got)) for fine, n, e, got in wanted if not fine]
    return found


def _unused(pipeline: Pipeline) -> list[Problem]:
    served = pipeline.serves.artifacts.values() if pipeline.serves else ()
    read = {i.name for s in pipeline.steps for i in s.inputs} | {a.name for a in (*pipeline.results, *served)}
    made = pipeline.makers()
    found = [
        Problem(what="unused output: no step reads it and it is not a result", where=f"{pipeline.name}/{a.name}")
        for s in pipeline.steps
        for a in s.outputs
        if a.name not in read
    ]
    found += [Problem(what="result that no step makes", where=f"{pipeline.name}/{a.name}") for a in pipeline.results if a.name not in made]
    return found


def _cycles(pipeline: Pipeline) -> list[Problem]:
    left = [s.name for s in pipeline.steps if s not in in_order(pipeline)]
    return [Problem(what="cycle, or steps behind one", where=pipeline.name, got=", ".join(left))] if left else []


def _schedule(pipeline: Pipeline) -> list[Problem]:
    if (schedule := pipeline.schedule) is None:
        return []
    where = f"{pipeline.name}: schedule"
    found = [Problem(what="never runs: it has no cron line", where=where)] if not schedule.cron else []
    found += [
        Problem(what=f"cron line {p}", where=where, got=repr(line)) for line in schedule.cron if (p := cron.problem_of(line)) is not None
    ]
    if not _is_time_zone(schedule.time_zone):
        wanted = "an IANA name, such as Europe/Zurich or UTC"
        found.append(Problem(what="unknown time zone", where=where, expected=wanted, got=repr(schedule.time_zone)))
    if not re.fullmatch(r"[^.\s]+(\.[^.\s]+)*", schedule.compared):
        wanted = "the dotted path of a measure in the report, such as champion.auc_over_champion"
        found.append(Problem(what="bad comparison", where=where, expected=wanted, got=repr(schedule.compared)))
    if schedule.deadline < 0:
        found.append(Problem(what="bad deadline", where=where, expected="seconds, 0 or more", got=str(schedule.deadline)))
    return [*found, *_champion(pipeline, schedule.champion, where)]


def _is_time_zone(name: str) -> bool:
    # Driver processes read declarations too, and start faster without it.
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # unknown, a folder, not a name at all
        return False
    return True


def _champion(pipeline: Pipeline, champion: Source, where: str) -> list[Problem]:
    """The comparison with the model now in use comes before anything that is done with a new one: a gate reads it."""
    comparing = [s for s in pipeline.steps if champion in s.inputs]
    if not comparing:
        return [Problem(what=f"no step reads the champion {champion.name}", where=where)]
    if not comparing_gates(pipeline, champion):
        wanted = f"a gate that reads a report of {' or '.join(s.name for s in comparing)}"
        return [Problem(what="no gate reads the comparison with the champion", where=where, expected=wanted)]
    return []


SERVED = {"model": Kind.MODEL, "rule": Kind.REPORT, "contract": Kind.REPORT, "reference": Kind.TABLE}


def _serves(pipeline: Pipeline) -> list[Problem]:
    """What is served is made by the pipeline, as declared there, once, and of the kind that its role asks for."""
    if pipeline.serves is None:
        return []
    makers, where = pipeline.makers(), f"{pipeline.name}: serves"
    found = []
    for role, a in pipeline.serves.artifacts.items():
        at = f"{where}.{role}"
        if a.name not in makers:
            found.append(Problem(what=f"no step makes {a.name}", where=at, expected="an output of some step"))
        elif a not in makers[a.name].outputs:
            found.append(Problem(what=f"artifact {a.name} is declared in two ways", where=at))
        elif makers[a.name].fan_out:
            found.append(Problem(what=f"{a.name} is made once an item", where=at, expected="an output of a step without fan-out"))
        if a.kind is not SERVED[role]:
            found.append(Problem(what=f"bad kind of {a.name}", where=at, expected=SERVED[role], got=a.kind))
    return found


def comparing_gates(pipeline: Pipeline, champion: Source) -> list[str]:
    """Names of the gates that read a report of a step that reads the champion."""
    reports = {a.name for s in pipeline.steps if champion in s.inputs for a in s.outputs}
    return [g.name for s in pipeline.steps for g in s.gates if g.reads.name in reports]
