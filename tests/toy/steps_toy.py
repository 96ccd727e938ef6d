"""Steps small enough to see through, which misbehave on request."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from steps.types import BadData, Params, Report


class PickParams(Params):
    """Which rows to keep."""

    at_least: int = Field(ge=0, le=150, description="Smallest age kept, years")


class Picked(NamedTuple):
    """Ages, without names."""

    ages: pa.Table


def pick(*, people: pa.Table, params: PickParams) -> Picked:
    """Ages of those old enough."""
    kept = people.filter(pc.greater_equal(people["age"], params.at_least))
    return Picked(kept.select(["age"]).sort_by("age"))


class WorkParams(Params):
    """How to misbehave."""

    mode: Literal["fine", "bad", "boom", "nan", "slow", "held", "memory"]
    seconds: float = Field(ge=0, le=60)


class Worked(NamedTuple):
    """One number."""

    part: Report


def work(*, ages: pa.Table, which: str, params: WorkParams) -> Worked:
    """The sum of ages, or trouble."""
    if params.mode == "bad":
        raise BadData("too few ages", where="ages", expected="at least 1000 rows", got=str(ages.num_rows))
    if params.mode == "boom":
        raise KeyError("Ada Lovelace")
    if params.mode == "memory":
        raise MemoryError
    if params.mode == "slow":
        time.sleep(params.seconds)
    if params.mode == "held":
        # Through this folder a test sees who is at work and says when to go on, however slow the machine is.
        folder = Path(os.environ["TOY_FOLDER"])
        (folder / f"at-work-{which}").touch()
        while (folder / "hold").exists():
            time.sleep(0.02)
    total = float("nan") if params.mode == "nan" else pc.sum(ages["age"]).as_py()
    return Worked({"which": which, "sum": total})


class Joined(NamedTuple):
    """The end."""

    total: Report


def join(*, part: tuple[Report, ...]) -> Joined:
    """Sum of the parts."""
    return Joined({"total": sum(p["sum"] for p in part), "parts": [p["which"] for p in part]})
