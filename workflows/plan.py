"""What a declaration comes to: tasks with commands and paths. Both back ends and the laptop's runner read this and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.declare import Artifact, Kind, Pipeline, Source, Step, in_order, upstream

SUFFIX = {Kind.TABLE: ".parquet", Kind.DATASET: ".parquet", Kind.MODEL: ".txt", Kind.REPORT: ".json", Kind.PAGE: ".html"}
LOCK = "requirements.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """One file that a task reads or makes: `path` is relative to the repository's root."""

    artifact: Artifact
    item: str | None
    path: str

    @property
    def name(self) -> str:
        """`model`, or `trial@0` for one item of a fan-out."""
        return self.artifact.name if self.item is None else f"{self.artifact.name}@{self.item}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A step, or one item of a fanned-out step."""

    pipeline: Pipeline
    step: Step
    item: str | None = None

    @property
    def id(self) -> str:
        """`train`, or `tune@0`: unique within the pipeline, DVC's own notation."""
        return self.step.name if self.item is None else f"{self.step.name}@{self.item}"

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(i for i in self.step.inputs if isinstance(i, Source))

    @property
    def outputs(self) -> tuple[Port, ...]:
        return tuple(port(self.pipeline, a, self.item) for a in self.step.made)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The artifacts read, a fanned-out one as one port an item."""
        makers = self.pipeline.makers()
        return tuple(p for i in self.step.inputs if isinstance(i, Artifact) for p in ports(self.pipeline, makers[i.name], i))

    @property
    def upstream(self) -> tuple[str, ...]:
        """Ids of the tasks it waits for: the makers of its inputs."""
        return tuple(t.id for s in upstream(self.pipeline, self.step) for t in tasks_of_step(self.pipeline, s))

    @property
    def command(self) -> tuple[str, ...]:
        """What both back ends run."""
        words = ("python", "-m", "workflows.run.driver", self.pipeline.name, self.step.name)
        return words if self.item is None else (*words, "--item", self.item)


def tasks(pipeline: Pipeline) -> tuple[Task, ...]:
    """Every task after the ones it waits for."""
    return tuple(t for s in in_order(pipeline) for t in tasks_of_step(pipeline, s))


def tasks_of_step(pipeline: Pipeline, step: Step) -> tuple[Task, ...]:
    items: tuple[str | None, ...] = step.fan_out.over if step.fan_out else (None,)
    return tuple(Task(pipeline=pipeline, step=step, item=i) for i in items)


def port(pipeline: Pipeline, artifact: Artifact, item: str | None) -> Port:
    stem = f"artifacts/{pipeline.name}/{artifact.name}"
    return Port(artifact=artifact, item=item, path=(stem if item is None else f"{stem}/{item}") + SUFFIX[artifact.kind])


def ports(pipeline: Pipeline, maker: Step, artifact: Artifact) -> tuple[Port, ...]:
    return tuple(port(pipeline, artifact, t.item) for t in tasks_of_step(pipeline, maker))
