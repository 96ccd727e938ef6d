"""Decisions as spans of OpenTelemetry's: each a child of its caller's span, with a link to the run that made the model.

Only imported where a collector is named. Spans are sent in batches by a thread of OpenTelemetry's; where it cannot send them
they are thrown away, and no decision waits. A span says which decision, model and release it was, by id, and nothing that comes from
the caller but the ids of its trace: no subject, feature, score or outcome, no path or header in its own words.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, set_span_in_context

from workflows.run.logs import structlog
from workflows.run.tracing import SCOPE, exporter, resource, root_of, told_to
from workflows.serve.chain import Head
from workflows.serve.front import DECISIONS, TRACEPARENT, App, Message, Receive, Scope, Send
from workflows.serve.loading import Served
from workflows.serve.release import Release
from workflows.serve.service import Answer, Made, Service

LAST = 2.0
"""Seconds that sending the rest may take when the server goes."""
AGAIN = 60.0
"""Seconds in which the same trouble is told of once."""
MOST_IDS = 100
"""Decisions of one request whose ids stand in its span."""
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
SERVER_ERROR = 500
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
OURS = InstrumentationScope(SCOPE)
ANSWERS: ContextVar[list[Answer] | None] = ContextVar("answers", default=None)
log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Begun:
    """A request that is at work, and what its span will be called."""

    name: str
    context: SpanContext
    parent: SpanContext | None
    at: int
    clock: int
    said: dict[str, str]


class Noting(Service):
    """A service that notes its answers for the request's span."""

    def answer(self, made: Made, head: Head | None) -> Answer:
        answer = super().answer(made, head)
        if (noted := ANSWERS.get()) is not None:
            noted.append(answer)
        return answer


class Traces:
    """Spans of one server. Settings are OpenTelemetry's own; what is wrong with them is a `ValueError` here, or a line of the log."""

    service = Noting

    def __init__(self, release: Release) -> None:
        told_to(_Told())
        # Not the process's own provider: libraries that look for one would tell of requests in their way.
        provider = TracerProvider(resource=resource("countersign-model-server", _of_server(release)), shutdown_on_exit=False)
        self._sampler, self._resource = provider.sampler, provider.resource
        self._ids = RandomIdGenerator()
        self._queue = BatchSpanProcessor(exporter())
        self._routes = _routes(release)
        self._release = release.sequence
        self._roots: dict[str, SpanContext] = {}

    def around(self, front: App) -> App:
        """The application, each request for decisions a span."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
            begun = self._begun(scope, route) if route else None
            if begun is None:
                ANSWERS.set(None)  # the task of a pipelined request begins with what the one before it had
                await front(scope, receive, send)
                return
            status = 0

            async def noted(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            answers: list[Answer] = []
            ANSWERS.set(answers)
            try:
                await front(_with(scope, begun.context), receive, noted)
            finally:
                self._queue.on_end(self._span(begun, status, answers))

        return traced

    async def close(self) -> None:
        """Send the rest, as far as it can be done within `LAST` seconds."""
        ending = threading.Thread(target=self._queue.shutdown, daemon=True)
        try:
            ending.start()
            await asyncio.to_thread(ending.join, LAST)
        except RuntimeError as error:  # no thread to be had: the log is written meanwhile, and must not be cut short
            log.warning("the last traces are not sent", why=str(error))
            return
        if ending.is_alive():
            log.warning("the last traces are not sent", why="no answer in time")

    def _begun(self, scope: Scope, route: str) -> _Begun | None:
        """A request with ids for its span; None where it is not sampled."""
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        parent = _parent(scope)
        trace = parent.trace_id if parent else self._ids.generate_trace_id()
        within = set_span_in_context(NonRecordingSpan(parent), Context()) if parent else Context()
        name = f"{method if method in METHODS else 'HTTP'} {route}"
        if self._sampler.should_sample(within, trace, name, SpanKind.SERVER).decision is not Decision.RECORD_AND_SAMPLE:
            return None
        context = SpanContext(trace, self._ids.generate_span_id(), is_remote=False, trace_flags=SAMPLED)
        said = {"http.request.method": method, "http.route": route, "url.path": scope["path"], "url.scheme": "http"}
        return _Begun(name=name, context=context, parent=parent, at=time.time_ns(), clock=time.perf_counter_ns(), said=said)

    def _span(self, begun: _Begun, status: int, answers: list[Answer]) -> ReadableSpan:
        """Made at the end, in one piece: the tracer's own spans, which anybody may change at any time, take four times as long."""
        error = (str(status) if status else "no answer") if not 0 < status < SERVER_ERROR else ""
        by = {a.served.variant.name: a.served for a in answers}
        return ReadableSpan(
            name=begun.name,
            context=begun.context,
            parent=begun.parent,
            kind=SpanKind.SERVER,
            resource=self._resource,
            attributes={
                **begun.said,
                **({"http.response.status_code": status} if status else {}),
                **({"error.type": error} if error else {}),
                "countersign.release": self._release,
                **_ids_of(answers),
                **(_of(*by.values()) if len(by) == 1 else {}),
            },
            links=[Link(self._root(s.lineage.run), _of(s) if len(by) > 1 else None) for s in by.values()],
            status=Status(StatusCode.ERROR if error else StatusCode.UNSET),
            start_time=begun.at,
            end_time=begun.at + time.perf_counter_ns() - begun.clock,  # a clock that is set back makes no span end before it begins
            instrumentation_scope=OURS,
        )

    def _root(self, run: str) -> SpanContext:
        if run not in self._roots:
            self._roots[run] = root_of(run)
        return self._roots[run]


def _parent(scope: Scope) -> SpanContext | None:
    """The caller's span. What else it says beside it (`tracestate`, `baggage`) may be anything, and goes nowhere."""
    for name, value in scope["headers"]:
        if name == b"traceparent" and (found := TRACEPARENT.fullmatch(value)):
            flags = TraceFlags(int(found["flags"], 16) & TraceFlags.SAMPLED)
            parent = SpanContext(int(found["trace"], 16), int(found["span"], 16), is_remote=True, trace_flags=flags)
            return parent if parent.is_valid else None
    return None


def _routes(release: Release) -> dict[str, str]:
    """Paths whose requests are for decisions, and what they are called. A path of any other form may be anything."""
    models = f"/v2/models/{release.pipeline}"
    return {
        DECISIONS: DECISIONS,
        f"{models}/infer": "/v2/models/{name}/infer",
        f"{models}/versions/{release.sequence}/infer": "/v2/models/{name}/versions/{version}/infer",
    }


def _with(scope: Scope, own: SpanContext) -> Scope:
    """The request as part of the span, so that the decision's record names its trace, also where the caller named none."""
    header = (b"traceparent", f"00-{own.trace_id:032x}-{own.span_id:016x}-01".encode())
    return {**scope, "headers": [*scope["headers"], header]}


def _ids_of(answers: list[Answer]) -> dict[str, Any]:
    if len(answers) == 1:
        return {"countersign.decision.id": answers[0].id}
    if answers:
        return {"countersign.decision.ids": [a.id for a in answers[:MOST_IDS]], "countersign.decision.count": len(answers)}
    return {}


def _of_server(release: Release) -> Mapping[str, str]:
    """What is the same for all of its spans, and sent once for many."""
    return {"countersign.pipeline": release.pipeline, "countersign.environment": release.environment}


def _of(served: Served) -> Mapping[str, str]:
    return {
        "countersign.variant": served.variant.name,
        "countersign.model": served.lineage.model,
        "countersign.run": served.lineage.run,
    }


class _Told(logging.Handler):
    """OpenTelemetry's own troubles as lines of our log, each once in `AGAIN` seconds."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[Any, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._said.get(record.msg, -AGAIN) >= AGAIN:
            self._said[record.msg] = now
            # Of headers that cannot be read it would say all, and a collector's key is one.
            secret = record.name == "opentelemetry.util.re"
            log.warning("traces", why="OTEL_EXPORTER_OTLP_HEADERS cannot be read" if secret else record.getMessage())
