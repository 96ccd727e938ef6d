"""Anchors: places outside a run's store where its root is noted, and what follows from what they say.

The rules, each held by a test:
1. a root that an anchor has and the store has not fails verification, whatever else is well;
2. an anchor that has nothing, or cannot be asked, fails nothing: it proves nothing either, and that is said;
3. what stands at an anchor unprotected proves nothing, but contradicts as well as any other;
4. an anchor that was asked for must have the root: nothing there, or no answer, fails.

Nothing is reached from here: adapters look, this decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from workflows.prove.record import SHA256
from workflows.prove.verify import Finding


class State(StrEnum):
    """What an anchor says of a run's root."""

    SAME = "same"
    OTHER = "other"
    NONE = "none"
    UNREACHED = "unreached"


@dataclass(frozen=True, kw_only=True, slots=True)
class Noted:
    """A root as an anchor has it for a run."""

    root: str
    where: str
    """The commit, the workflow, the object: for whoever wants to look."""
    weak: str = ""
    """Why it proves nothing although it is there; empty where it counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreached:
    """The anchor could not be asked."""

    why: str


Looked = tuple[Noted, ...] | Unreached


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What one anchor says, in a word and in words."""

    anchor: str
    state: State
    said: str
    root: str | None = None
    """The root that it has, where it has one: the other one, where there are several."""


def judge(anchor: str, looked: Looked, root: str | None) -> Verdict:
    """What an anchor's answer means for a run whose store says `root`; None where the store has no such run."""
    if isinstance(looked, Unreached):
        return Verdict(anchor=anchor, state=State.UNREACHED, said=looked.why)
    if others := [n for n in looked if n.root != root]:
        said = "; ".join(f"{n.root} at {n.where}" for n in others)
        return Verdict(anchor=anchor, state=State.OTHER, said=said, root=others[0].root)
    if not looked:
        return Verdict(anchor=anchor, state=State.NONE, said="nothing is noted there for this run")
    sound = [n for n in looked if not n.weak]
    if not sound:
        said = "; ".join(f"{n.where}: {n.weak}" for n in looked)
        return Verdict(anchor=anchor, state=State.NONE, said=said, root=root)
    return Verdict(anchor=anchor, state=State.SAME, said="; ".join(n.where for n in sound), root=root)


def findings(verdicts: Iterable[Verdict], root: str | None, required: Collection[str] = ()) -> tuple[Finding, ...]:
    """What is wrong with a run by its anchors; `required` names those that must have its root."""
    found: list[Finding] = []
    for v in verdicts:
        where = f"anchor {v.anchor}"
        if v.state is State.OTHER:
            store = f"the store has {root}" if root else "the store has no such run"
            found.append(Finding(where=where, what=f"another root is noted: {v.said}; {store}"))
        elif v.state is not State.SAME and v.anchor in required:
            found.append(Finding(where=where, what=f"it was to have the root of this run, but: {v.said}"))
    return tuple(found)


def line_of(run: str, root: str) -> str:
    """How a root is noted where it stands as text: one line for a run."""
    return f"{run} {root}\n"


def roots_in(text: str, run: str) -> list[str]:
    """Every root that a text has for a run, each once, in their order. What is no root comes back in a form that is none."""
    words = [line.split() for line in text.splitlines()]
    said = [" ".join(w[1:]) for w in words if w and w[0] == run]
    return list(dict.fromkeys(s if SHA256.fullmatch(s) else f"unreadable {s[:80]!a}" for s in said))
