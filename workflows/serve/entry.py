"""One decision as the log keeps it: what was asked, masked; what was answered; which model, rule and release answered.

The subject is a keyed token. Features that the contract seals are encrypted, so the log alone does not say what somebody
earns; with the key a decision can be worked out again to the last bit. The digest over the features is keyed, too: a few
bounded numbers could be guessed from a plain one.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from steps.keyed import keyed_digest, normalise
from workflows.prove import canonical
from workflows.serve.contract import Application, Contract
from workflows.serve.decide import Decision, Reason

DECISION = re.compile(r"(?P<chain>[0-9a-f]{12})-(?P<at>[0-9a-f]{11})-[0-9a-f]{16}")
NONCE = 12


class NotSealed(ValueError):
    """The sealed values cannot be opened: another key, or they were changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """Where a model comes from, in every record that it decided."""

    variant: str
    run: str
    root: str
    model: str
    policy: str
    """Digest of the decision rule's report."""
    contract: str
    """Digest of the contract's report."""

    def to_json(self) -> dict[str, str]:
        names = ("variant", "run", "root", "model", "policy", "contract")
        return {n: getattr(self, n) for n in names}


class Keeper:
    """What masks an application for the log, and opens what was sealed. Holds the subject key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._box = AESGCM(keyed_digest(key, "decision/seal"))

    def subject(self, subject: str) -> str:
        """A subject's token: equal for spellings of one subject, and for nobody else."""
        return keyed_digest(self._key, "decision/subject", normalise(subject)).hex()

    def place(self, subject: str) -> bytes:
        """What a subject's variant is chosen by."""
        return keyed_digest(self._key, "decision/variant", normalise(subject))

    def features(self, values: str) -> str:
        """The keyed digest of all features, and of the groups that a rule needed, from their canonical text."""
        return keyed_digest(self._key, "decision/features", values).hex()

    def seal(self, values: str, decision: str) -> str:
        """The canonical text of values encrypted, bound to the decision: text that says nothing without the key."""
        nonce = os.urandom(NONCE)
        return base64.b64encode(nonce + self._box.encrypt(nonce, values.encode(), decision.encode())).decode()

    def open(self, sealed: str, decision: str) -> dict[str, Any]:
        """What was sealed for this decision; `NotSealed` where that cannot be had."""
        try:
            data = base64.b64decode(sealed, validate=True)
            values = canonical.decode(self._box.decrypt(data[:NONCE], data[NONCE:], decision.encode()))
        except (InvalidTag, ValueError) as error:
            raise NotSealed(f"cannot be opened with this subject key ({type(error).__name__})") from None
        return dict(values)


def new_id(chain: str, milliseconds: int) -> str:
    """A decision's id: the log's chain and the time, by which it is found again, and chance."""
    return f"{chain}-{milliseconds:011x}-{os.urandom(8).hex()}"


def answered(decision: Decision) -> dict[str, Any]:
    """Score, decision and reasons, as the log keeps them and a replay compares them."""
    return {"score": decision.score, "decision": decision.decision, "reasons": [_reason(r) for r in decision.reasons]}


def _reason(reason: Reason) -> dict[str, Any]:
    return {"code": reason.code, "feature": reason.feature, "contribution": reason.contribution}


class Writer:
    """Writes down what one model decides. What all its records have in common is put into canonical JSON once, here.

    Putting a record together from texts takes a third less than writing it from values, and writes each number only once.
    """

    def __init__(self, contract: Contract, lineage: Lineage, keeper: Keeper, pipeline: str, release: Mapping[str, Any]) -> None:
        self._keeper, self._needs = keeper, contract.needs
        features = list(enumerate(contract.features))
        groups = {f"group:{n}": len(features) + i for i, n in enumerate(contract.needs)}
        sealed = {f.name: i for i, f in features if f.sealed} | groups
        open_ = {f.name: i for i, f in features if not f.sealed}
        self._open, self._sealed, self._all = (canonical.Form(x) for x in (open_, sealed, open_ | sealed))
        self._seals = bool(sealed)
        self._same = [canonical.text(x) for x in (pipeline, release, lineage.to_json())]

    def record(  # noqa: PLR0913 - one argument a part of the record
        self,
        decision: str,
        at: str,
        application: Application,
        answer: Decision,
        *,
        shadows: Sequence[Mapping[str, Any]] = (),
        trace: str | None = None,
    ) -> bytes:
        """The canonical bytes of a decision's record. `shadows` are what shadows would have answered, with their lineage."""
        ours = [f'"{decision}"', f'"{at}"', self._asked(application, decision), canonical.text(answered(answer))]
        return _RECORD.of([*ours, canonical.text(list(shadows)), canonical.text(trace), *self._same]).encode()

    def _asked(self, application: Application, decision: str) -> str:
        """The application as the log keeps it. Groups stand in it, sealed, only where the rule decided by them."""
        values = ["null" if v is None else repr(v) for v in application.values]
        values += [canonical.text(application.groups[n]) for n in self._needs]
        digest, subject = self._keeper.features(self._all.of(values)), self._keeper.subject(application.subject)
        sealed = f'"{self._keeper.seal(self._sealed.of(values), decision)}"' if self._seals else "null"
        explain = "true" if application.explain else "false"
        return _ASKED.of([f'"{digest}"', explain, self._open.of(values), sealed, f'"{subject}"'])


def _form(*names: str) -> canonical.Form:
    return canonical.Form({n: i for i, n in enumerate(names)})


_RECORD = _form("id", "at", "asked", "answer", "shadows", "trace", "pipeline", "release", "by")
_ASKED = _form("digest", "explain", "features", "sealed", "subject")


def application_of(entry: Mapping[str, Any], contract: Contract, keeper: Keeper) -> Application:
    """The application that was decided, from its record; `NotSealed` where it is not what its digest says."""
    said = entry["asked"]
    values = said["features"] | (keeper.open(said["sealed"], entry["id"]) if said["sealed"] else {})
    if keeper.features(canonical.text(values)) != said["digest"]:
        raise NotSealed("the features do not have the digest that the record gives: another subject key, or they were changed")
    groups = {n: values[f"group:{n}"] for n in contract.needs}
    return Application(subject="", values=tuple(values[f.name] for f in contract.features), groups=groups, explain=bool(said["explain"]))
