"""What can go wrong, named after what the caller does next; each kind carries the exit code that Argo's retries read too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong.

    `where` is a path a person can follow: `params/loan_approval.yaml: train.num_leaves`. `expected` and `got` are left
    empty where they would only repeat `what`.
    """

    what: str
    where: str = ""
    expected: str = ""
    got: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.expected:
            text += f"; expected {self.expected}"
        if self.got:
            text += f", got {self.got}" if self.expected else f"; got {self.got}"
        return text


class CountersignError(Exception):
    """Any failure that has a message for a person. Itself it stands for a defect of ours."""

    exit_code = 1

    def __init__(self, *problems: Problem | str, hint: str = "") -> None:
        self.problems = tuple(Problem(what=p) if isinstance(p, str) else p for p in problems)
        self.hint = hint
        super().__init__("\n".join(str(p) for p in self.problems))


class BadInput(CountersignError):
    """Bad input or usage: trying again without a change gives the same answer."""

    exit_code = 2


class GateRefused(CountersignError):
    """A gate said no, with its evidence."""

    exit_code = 3


class NotVerified(CountersignError):
    """Something is not what a digest, a signature or the chain says it is."""

    exit_code = 4


class Temporary(CountersignError):
    """The world was not ready (a lock held, a disk full, a store away): the same command may work later."""

    exit_code = 75
