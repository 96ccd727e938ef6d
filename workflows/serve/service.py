"""Decisions for applications: check, choose the variant, decide, keep the record, answer. Knows nothing of HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from steps.keyed import share
from workflows.serve import entry
from workflows.serve.chain import Head
from workflows.serve.contract import Application, BadApplication, Contract
from workflows.serve.decide import Decision, Undecidable
from workflows.serve.entry import Keeper, Writer
from workflows.serve.loading import Served
from workflows.serve.log import DecisionLog
from workflows.serve.release import Release, chosen, to_json
from workflows.serve.watch import Metrics, Window


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a caller gets. `receipt` is the digest of the log's line, where that is known before the answer leaves."""

    id: str
    at: str
    decision: Decision
    served: Served
    receipt: str | None
    release: Release

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "at": self.at,
            "decision": self.decision.decision,
            "score": self.decision.score,
            "reasons": [{"code": r.code, "words": r.words, "feature": r.feature} for r in self.decision.reasons],
            "variant": self.served.variant.name,
            "model": self.served.lineage.model,
            "release": {"environment": self.release.environment, "sequence": self.release.sequence},
            "receipt": self.receipt,
        }


@dataclass(kw_only=True, slots=True)
class _Decided:
    """What one variant made of an application."""

    served: Served
    application: Application
    decision: Decision


@dataclass(kw_only=True, slots=True)
class Made:
    """A decision that is not kept yet, with what shadows would have decided: nobody is told, and nothing is counted."""

    id: str
    at: str
    milliseconds: int
    own: _Decided
    shadows: list[_Decided]
    record: bytes


class Service:
    """One release, answering. All variants that answer have one contract, as loading them has made sure."""

    def __init__(self, release: Release, served: list[Served], log: DecisionLog, keeper: Keeper, metrics: Metrics) -> None:
        self.release, self.log, self.keeper, self.metrics = release, log, keeper, metrics
        by = {s.variant.name: s for s in served}
        self.served = by
        self._answering = release.answering
        self._shadows = [by[v.name] for v in release.shadows]
        self.windows = {s.variant.name: Window([f.name for f in s.model.contract.features], s.reference) for s in served}
        said = to_json(release)
        self._writers = {s.variant.name: Writer(s.model.contract, s.lineage, keeper, release.pipeline, said) for s in served}
        self._count = {s.variant.name: self._counters(s) for s in served}
        for s in self._shadows:
            metrics.disagreements.labels(s.variant.name)  # 0 is a number, too
        metrics.watch(self.windows)
        for s in served:
            metrics.release.labels(release.environment, str(release.sequence), s.variant.name, s.variant.model).set(1)

    @property
    def contract(self) -> Contract:
        """What may be asked."""
        return self.served[self._answering[0].name].model.contract

    @property
    def report(self) -> Mapping[str, Any]:
        """The same as the run has it, for callers."""
        return self.served[self._answering[0].name].report

    async def decide(self, body: object, trace: str | None = None) -> Answer:
        """The answer, its record kept. Raises `BadApplication`, `Undecidable`, or `log.NotKept`."""
        made = self._made(body, trace)
        return self.answer(made, await self.log.keep(made.record, made.milliseconds))

    async def decide_all(self, bodies: Sequence[object], trace: str | None = None) -> list[Answer]:
        """The answers to one request's applications, all kept together. Raises as `decide` does, and then none is kept."""
        made = self._all_made(bodies, trace)
        heads = await self.log.keep_all([(m.record, m.milliseconds) for m in made])
        if heads is None:
            return [self.answer(m, None) for m in made]
        return [self.answer(m, head) for m, head in zip(made, heads, strict=True)]

    def _all_made(self, bodies: Sequence[object], trace: str | None) -> list[Made]:
        made, problems = [], []
        for row, body in enumerate(bodies, 1):
            try:
                made.append(self._made(body, trace))
            except BadApplication as error:
                problems += [replace(p, where=f"row {row}: {p.where}") for p in error.problems]
        if problems:
            raise BadApplication(problems)
        return made

    def _made(self, body: object, trace: str | None) -> Made:
        subject = body.get("subject") if isinstance(body, dict) else None
        served = self._served(subject)
        application = served.model.contract.check(body)
        decision = served.model.decide(application)
        now = time.time_ns()
        milliseconds, at = now // 1_000_000, _rfc3339(now)
        name = entry.new_id(self.log.disk.chain, milliseconds)
        shadows = [_shadowed(s, body) for s in self._shadows]
        said = [_said(s, decided) for s, decided in zip(self._shadows, shadows, strict=True)]
        record = self._writers[served.variant.name].record(name, at, application, decision, shadows=said, trace=trace)
        own = _Decided(served=served, application=application, decision=decision)
        found = [s for s in shadows if isinstance(s, _Decided)]
        return Made(id=name, at=at, milliseconds=milliseconds, own=own, shadows=found, record=record)

    def answer(self, made: Made, head: Head | None) -> Answer:
        """The answer of a decision whose record is kept. Only these are counted."""
        own = made.own
        self._counted(own)
        for shadow in made.shadows:
            self._counted(shadow)
            if shadow.decision.decision != own.decision.decision:
                self.metrics.disagreements.labels(shadow.served.variant.name).inc()
        return Answer(
            id=made.id,
            at=made.at,
            decision=own.decision,
            served=own.served,
            receipt=head.sha256 if head else None,
            release=self.release,
        )

    def _served(self, subject: object) -> Served:
        if len(self._answering) == 1 or not isinstance(subject, str):
            return self.served[self._answering[0].name]  # what is no subject, the contract refuses
        # Likewise a lone surrogate, which has no bytes to hash.
        return self.served[chosen(self._answering, share(self.keeper.place(subject.encode(errors="replace").decode()))).name]

    def _counters(self, served: Served) -> Callable[[Decision], None]:
        variant = _labels(served)
        score = self.metrics.scores.labels(*variant).observe
        count = {d: self.metrics.decisions.labels(*variant, d).inc for d in ("approved", "declined")}

        def counted(decision: Decision) -> None:
            score(decision.score)
            count[decision.decision]()

        return counted

    def _counted(self, made: _Decided) -> None:
        name = made.served.variant.name
        self._count[name](made.decision)
        self.windows[name].add(made.application.row)
        for attribute, group in made.application.groups.items():
            self.metrics.groups.labels(*_labels(made.served), attribute, group, made.decision.decision).inc()


def _shadowed(shadow: Served, body: object) -> _Decided | ValueError | Undecidable:
    """What a shadow would have answered. That it cannot is its own trouble, and part of the record."""
    try:
        application = shadow.model.contract.check(body)
        return _Decided(served=shadow, application=application, decision=shadow.model.decide(application))
    except (ValueError, Undecidable) as error:
        return error


def _said(shadow: Served, found: _Decided | Exception) -> Mapping[str, Any]:
    """What the record says of a shadow."""
    answer = entry.answered(found.decision) if isinstance(found, _Decided) else None
    return {"by": shadow.lineage.to_json(), "answer": answer, "why": None if isinstance(found, _Decided) else type(found).__name__}


def _labels(served: Served) -> tuple[str, str]:
    """The labels `variant` and `shadow`."""
    return served.variant.name, "true" if served.variant.shadow else "false"


def _rfc3339(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 1000 / 1e6, UTC).isoformat(timespec="microseconds")
