"""From a pipeline and its files to what compilation works with."""

from __future__ import annotations

from pathlib import Path

from workflows import code
from workflows.compile.interface import Declared, StepFacts
from workflows.declare import Pipeline, Step
from workflows.run.binding import bind
from workflows.run.parameters import Settings


def gather(root: Path, pipeline: Pipeline, settings: Settings) -> Declared:
    """A sound declaration with the parameters and policies that `settings` hold. `BadInput` where a function does not fit."""
    return Declared(
        pipeline=pipeline, steps={s.name: _facts(root, pipeline, s, settings) for s in pipeline.steps}, policies=settings.policies
    )


def _facts(root: Path, pipeline: Pipeline, step: Step, settings: Settings) -> StepFacts:
    return StepFacts(params=bind(pipeline, step).params, section=settings.of(step), files=code.files_of(root, step))
