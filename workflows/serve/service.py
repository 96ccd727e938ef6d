"""Decisions for applications: check, choose the variant, decide, keep the record, answer. Knows nothing of HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from steps.keyed import share
from workflows.serve import entry
from workflows.serve.contract import Application
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


class Service:
    """One release, answering. All its variants have one contract."""

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
        metrics.watch(self.windows)
        for s in served:
            metrics.release.labels(release.environment, str(release.sequence), s.variant.name, s.variant.model).set(1)

    async def decide(self, body: object, trace: str | None = None) -> Answer:
        """The answer, its record kept. Raises `BadApplication`, `Undecidable`, or `log.NotKept`."""
        subject = body.get("subject") if isinstance(body, dict) else None
        served = self._served(subject)
        application = served.model.contract.check(body)
        decision = served.model.decide(application)
        now = time.time_ns()
        milliseconds, at = now // 1_000_000, _rfc3339(now)
        name = entry.new_id(self.log.disk.chain, milliseconds)
        shadows = [self._shadowed(s, body, decision) for s in self._shadows]
        record = self._writers[served.variant.name].record(name, at, application, decision, shadows=shadows, trace=trace)
        head = await self.log.keep(record, milliseconds)
        self._counted(served, application, decision)
        return Answer(id=name, at=at, decision=decision, served=served, receipt=head.sha256 if head else None, release=self.release)

    def _served(self, subject: object) -> Served:
        if len(self._answering) == 1 or not isinstance(subject, str):
            return self.served[self._answering[0].name]  # what is no subject, the contract refuses
        # Likewise a lone surrogate, which has no bytes to hash.
        return self.served[chosen(self._answering, share(self.keeper.place(subject.encode(errors="replace").decode()))).name]

    def _shadowed(self, shadow: Served, body: object, answer: Decision) -> Mapping[str, Any]:
        """What a shadow would have answered. That it cannot is its own trouble, and part of the record."""
        said: dict[str, Any] = {"by": shadow.lineage.to_json()}
        try:
            application = shadow.model.contract.check(body)
            decision = shadow.model.decide(application)
        except (ValueError, Undecidable) as error:
            return said | {"answer": None, "why": type(error).__name__}
        self._counted(shadow, application, decision)
        if decision.decision != answer.decision:
            self.metrics.disagreements.labels(shadow.variant.name).inc()
        return said | {"answer": entry.answered(decision), "why": None}

    def _counters(self, served: Served) -> Callable[[Decision], None]:
        variant = _labels(served)
        score = self.metrics.scores.labels(*variant).observe
        count = {d: self.metrics.decisions.labels(*variant, d).inc for d in ("approved", "declined")}

        def counted(decision: Decision) -> None:
            score(decision.score)
            count[decision.decision]()

        return counted

    def _counted(self, served: Served, application: Application, decision: Decision) -> None:
        name = served.variant.name
        self._count[name](decision)
        self.windows[name].add(application.row)
        for attribute, group in application.groups.items():
            self.metrics.groups.labels(*_labels(served), attribute, group, decision.decision).inc()


def _labels(served: Served) -> tuple[str, str]:
    """The labels `variant` and `shadow`."""
    return served.variant.name, "true" if served.variant.shadow else "false"


def _rfc3339(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 1000 / 1e6, UTC).isoformat(timespec="microseconds")
