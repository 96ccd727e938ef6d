"""The port that every anchor implements. Reading needs no more than it says; writing differs, and is each adapter's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from workflows.errors import CountersignError
from workflows.prove.anchor import Looked, Unreached

GIT_NOTE = "git-note"
ANNOTATION = "annotation"
OBJECT_LOCK = "object-lock"
NAMES = (GIT_NOTE, ANNOTATION, OBJECT_LOCK)


class Anchor(Protocol):
    """A place where roots are noted."""

    @property
    def name(self) -> str:
        """One of `NAMES`."""

    def look(self, run: str) -> Looked:
        """Every root that is noted there for a run. Never raises for what is not there or does not answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotAsked:
    """An anchor that there is no way to from here."""

    name: str
    why: str

    def look(self, run: str) -> Looked:  # noqa: ARG002  # the port's
        return Unreached(why=self.why)


def unreached(error: CountersignError) -> Unreached:
    """Why an anchor could not be asked, on one line."""
    return Unreached(why="; ".join(map(str, error.problems)))
