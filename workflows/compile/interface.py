"""What compilation needs to know of a pipeline beside its declaration: parameters, policies and code, already read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from workflows.declare import Pipeline


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFacts:
    """One step: what it takes beside its inputs, and which files decide what it computes."""

    params: type[BaseModel] | None
    """None where its function takes no parameters: then its section is empty."""
    section: Mapping[str, Any]
    """The step's parameters in full, in the order of the params file."""
    files: tuple[str, ...]
    """Its code and the schemas of its sources: paths from the repository's root, sorted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """A pipeline that has been checked, with a `StepFacts` for each of its steps, by name."""

    pipeline: Pipeline
    steps: Mapping[str, StepFacts]
    policies: Mapping[str, Any]
    """Each gate's rules as the policy file has them."""
