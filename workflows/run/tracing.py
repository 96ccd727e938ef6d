"""A run as a trace of OpenTelemetry's: the run is its root, every attempt at a step a span below it, made from the records.

Ids follow from the run's id. So what the pods of one run send comes together without a word between them, and whoever knows a
run knows its trace. A span says how a step went, and nothing of what it read or made. Nothing is imported and nothing is sent
unless OpenTelemetry's own variables name a collector.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from workflows.errors import GateRefused
from workflows.prove import digest
from workflows.prove.record import Outcome, Record
from workflows.run import interrupt
from workflows.run.journal import Ended, Journal, Written
from workflows.run.logs import structlog

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import SpanContext

COLLECTOR = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SCOPE = "countersign"
TRIES = 2.0
"""Seconds in which a collector is asked."""
WITHIN = 2.5
"""Seconds after which nobody waits for it any more, whatever it or the network does."""
ANSWER = 64 * 1024
"""Bytes of a collector's answer that are read."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
log = structlog.get_logger()


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether traces go anywhere: a collector is named, and they are not switched off."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER", "").lower() == "none":
        return False
    return any(environment.get(name) for name in COLLECTOR)


def trace_of(run: str) -> str:
    """The id of a run's trace."""
    return digest.tagged("trace", run)[:32]


def root_of(run: str) -> SpanContext:
    """The root of a run's trace, for whatever else refers to it. Nobody need ever have sent it."""
    return _context(run)


def preload() -> None:
    """Import here what each process that is forked from this one would import for itself."""
    import opentelemetry.exporter.otlp.proto.http.trace_exporter
    import opentelemetry.sdk.trace  # noqa: F401  # loaded for the processes that are forked


def exporter(timeout: float | None = None) -> OTLPSpanExporter:
    """What sends spans, to where OpenTelemetry's variables say. Of an answer, which may never end, it reads `ANSWER` bytes."""
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from requests.adapters import HTTPAdapter

    class Bounded(HTTPAdapter):
        def send(self, *args: Any, **more: Any) -> requests.Response:
            answer = super().send(*args, **{**more, "stream": True})
            with answer.raw as body:
                answer.raw = io.BytesIO(body.read(ANSWER))
            return answer

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Bounded())
    return OTLPSpanExporter(timeout=timeout, session=session)


@contextlib.contextmanager
def sending(journal: Journal) -> Iterator[None]:
    """What is added to the run while this lasts is sent at its end, also where that is an error."""
    try:
        yield
    finally:
        send(journal)


def send(journal: Journal) -> None:
    """Send what this process has added to the run. Records are written by now: that they cannot be sent is a line of the log."""
    added, ended = journal.added, journal.ended
    journal.added, journal.ended = [], None
    if not wanted() or not (added or ended):
        return
    failed: list[str] = []
    # A thread of its own, as no timeout covers everything: looking up the collector's name has none.
    sender = threading.Thread(target=_export, args=(journal.run, added, ended, failed), daemon=True)
    try:
        sender.start()
        sender.join(WITHIN)
    except KeyboardInterrupt:
        interrupt.answered()  # what was to be done is done
    except RuntimeError as error:  # no thread to be had: no reason to lose what the caller is about to say
        failed.append(str(error))
    if sender.is_alive() or failed:
        log.warning(
            "traces are not sent", run=journal.run, spans=len(added) + bool(ended), why=failed[0] if failed else "no answer in time"
        )


def told_to(logger: logging.Handler) -> None:
    """Let OpenTelemetry say what troubles it to this handler, and no longer on the terminal."""
    theirs = logging.getLogger("opentelemetry")
    theirs.handlers = [logger]
    theirs.propagate = False


def resource(name: str, more: Mapping[str, str]) -> Resource:
    """Who sends: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, or else a name of ours; and more of it."""
    from opentelemetry.sdk.resources import Resource

    said = Resource.create(dict(more))
    unnamed = str(said.attributes["service.name"]).startswith("unknown_service")
    return said.merge(Resource({"service.name": name})) if unnamed else said


def _export(run: str, added: list[Written], ended: Ended | None, failed: list[str]) -> None:
    try:
        told_to(logging.NullHandler())
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SpanExportResult

        provider = TracerProvider(resource=resource("countersign-pipeline", {}), shutdown_on_exit=False)
        if not _sampled(provider.sampler, run):
            return
        spans = [*(_of_step(w, provider.resource) for w in added), *([_of_run(ended, provider.resource)] if ended else [])]
        if exporter(timeout=TRIES).export(spans) is not SpanExportResult.SUCCESS:
            failed.append("the collector did not take them")
    except Exception as error:  # noqa: BLE001 - nothing that is wrong with traces may be wrong with a run
        failed.append(type(error).__name__)


def _sampled(sampler: Sampler, run: str) -> bool:
    """One answer for the whole run, whichever process asks: samplers go by the trace's id, or by nothing."""
    from opentelemetry.sdk.trace.sampling import Decision

    return sampler.should_sample(None, int(trace_of(run), 16), run).decision is Decision.RECORD_AND_SAMPLE


def _of_step(written: Written, sender: Resource) -> ReadableSpan:
    r = written.record
    return _span(
        name=r.name,
        context=_context(r.run, r.task, str(r.attempt)),
        parent=_context(r.run),
        times=(r.started, r.finished),
        error=_error(r),
        sender=sender,
        said={
            "countersign.pipeline": r.pipeline,
            "countersign.run": r.run,
            "countersign.step": r.task,
            "countersign.step.attempt": r.attempt,
            "countersign.step.key": r.cache_key,
            "countersign.step.outcome": str(r.outcome),
            "countersign.step.cached": r.outcome is Outcome.REUSED,
            "countersign.record": written.sha256,
            "process.exit.code": _exit_code(r),
        },
    )


def _of_run(ended: Ended, sender: Resource) -> ReadableSpan:
    s = ended.seal
    return _span(
        name=s.pipeline,
        context=_context(s.run),
        parent=None,
        times=(ended.began, s.sealed),
        error="" if s.outcome.good else str(s.outcome),
        sender=sender,
        said={
            "countersign.pipeline": s.pipeline,
            "countersign.run": s.run,
            "countersign.run.outcome": str(s.outcome),
            "countersign.root": ended.root,
        },
    )


def _error(record: Record) -> str:
    """What a failed step's error is called. Its words stay in the record."""
    if record.outcome is Outcome.REFUSED:
        return GateRefused.__name__
    return str(record.failure["kind"]) if record.failure else ""


def _exit_code(record: Record) -> int:
    if record.outcome is Outcome.REFUSED:
        return GateRefused.exit_code
    return int(record.failure["exitCode"]) if record.failure else 0


def _span(  # noqa: PLR0913 - one argument a part of it
    *,
    name: str,
    context: SpanContext,
    parent: SpanContext | None,
    times: tuple[str, str],
    error: str,
    sender: Resource,
    said: dict[str, Any],
) -> ReadableSpan:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Status, StatusCode

    return ReadableSpan(
        name=name,
        context=context,
        parent=parent,
        resource=sender,
        attributes={**said, **({"error.type": error} if error else {})},
        status=Status(StatusCode.ERROR if error else StatusCode.UNSET),
        start_time=_nanoseconds(times[0]),
        end_time=_nanoseconds(times[1]),
        instrumentation_scope=InstrumentationScope(SCOPE),
    )


def _context(run: str, *task: str) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(
        trace_id=int(trace_of(run), 16),
        span_id=int(digest.tagged("span", run, *task)[:16], 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def _nanoseconds(time: str) -> int:
    return (datetime.fromisoformat(time) - EPOCH) // timedelta(microseconds=1) * 1000
