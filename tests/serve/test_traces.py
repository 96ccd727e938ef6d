"""Decisions as spans: in their caller's trace, tied to the run's, without a word about anybody; and a collector that nobody waits for."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import eventually
from tests.otlp import Collector, Span, collecting, silent, trickling
from tests.s3server import free_port
from tests.serve import world
from tests.serve.process import ROOT, Server, serving
from tests.serve.test_server import SENT, logged
from tests.serve.world import DECLINED, FEATURES
from workflows.run.tracing import trace_of

LISTED = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CALLER}-01"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


@contextmanager
def traced(top: Path, made: world.Made, *variants: Any, **more: str) -> Iterator[tuple[Server, Collector]]:
    with collecting() as collector, serving(top, made, *variants, **{LISTED: collector.address}, **SOON, **more) as server:
        yield server, collector


def ask(server: Server, body: Any = SENT, path: str = "/v1/decisions", **headers: str) -> tuple[int, Any]:
    over = server.connection()
    try:
        given = {"content-type": "application/json", **headers}
        over.request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), given)
        answer = over.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        over.close()


def one(collector: Collector) -> Span:
    (span,) = collector.wait_for(1)
    return span


def test_a_decision_is_a_child_of_its_caller_and_tied_to_the_run(own: world.Made, tmp_path: Path) -> None:
    with traced(tmp_path, own) as (server, collector):
        status, answer = ask(server, traceparent=PARENT)
        assert server.stop() == 0
        span = one(collector)
    assert status == 200
    assert (span.trace, span.parent, span.name, span.kind, span.error) == (TRACE, CALLER, "POST /v1/decisions", 2, False)
    assert span.sender["service.name"] == "countersign-model-server"
    assert 0 < span.seconds < 5
    assert span.said == {
        "http.request.method": "POST",
        "http.route": "/v1/decisions",
        "url.path": "/v1/decisions",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "countersign.release": 7,
        "countersign.decision.id": answer["id"],
        "countersign.variant": "champion",
        "countersign.model": own.model,
        "countersign.run": own.run,
    }
    assert (span.sender["countersign.pipeline"], span.sender["countersign.environment"]) == ("loan_approval", "prod")
    assert [trace for trace, _, _ in span.links] == [trace_of(own.run)]
    (record,) = logged(own.store)
    assert (record["id"], record["trace"]) == (answer["id"], TRACE)


def test_the_link_names_the_root_that_the_run_sends(own: world.Made, tmp_path: Path) -> None:
    """The run's own trace, as its sealing sends it, has a span of just that id."""
    from tests.serve.logs import KEYS, SIGNER
    from workflows.run import tracing
    from workflows.run.journal import Journal

    (own.store.documents / f"runs/{own.run}/root").unlink()  # it is sealed once more
    journal = Journal(own.store, own.run)
    journal.seal(pipeline="loan_approval", tasks=("train",), keys=KEYS, signer=SIGNER, sealed="2026-03-01T12:00:02.000000+00:00")
    with pytest.MonkeyPatch.context() as patch, collecting() as collector:
        patch.setenv(LISTED, collector.address)
        tracing.send(journal)
        root = one(collector)
    own = replace(own, root=journal.read_seal(KEYS)[1])
    with traced(tmp_path, own) as (server, collector):
        assert ask(server)[0] == 200
        ((trace, span, _),) = one(collector).links
    assert (trace, span) == (root.trace, root.id)


def test_a_caller_without_a_trace_gets_one_and_the_record_names_it(own: world.Made, tmp_path: Path) -> None:
    with traced(tmp_path, own) as (server, collector):
        for header in ({}, {"traceparent": "00-zz-1-01"}, {"traceparent": f"00-{'0' * 32}-{CALLER}-01"}):
            assert ask(server, **header)[0] == 200
        spans = collector.wait_for(3)
        assert server.stop() == 0
    assert len({s.trace for s in spans}) == 3
    assert {s.parent for s in spans} == {""}
    assert {r["trace"] for r in logged(own.store)} == {s.trace for s in spans}


@pytest.mark.parametrize(
    ("flag", "sampler", "sent"),
    [("00", None, 0), ("01", None, 1), ("00", "always_on", 1), ("01", "always_off", 0), ("01", "parentbased_always_off", 1)],
)
def test_sampled_as_the_caller_or_the_operator_says(own: world.Made, tmp_path: Path, flag: str, sampler: str | None, sent: int) -> None:
    more = {"OTEL_TRACES_SAMPLER": sampler} if sampler else {}
    with traced(tmp_path, own, **more) as (server, collector):
        assert ask(server, traceparent=f"00-{TRACE}-{CALLER}-{flag}")[0] == 200
        assert server.stop() == 0
        assert len(collector.spans) == sent
    (record,) = logged(own.store)
    assert record["trace"] == TRACE, "the record names it either way"


def test_what_is_refused_is_a_span_without_a_decision(own: world.Made, tmp_path: Path) -> None:
    with traced(tmp_path, own) as (server, collector):
        assert ask(server, {"subject": "somebody", "features": {}})[0] == 422
        span = one(collector)
    assert (span.said["http.response.status_code"], span.error, span.links) == (422, False, [])
    assert "countersign.decision.id" not in span.said


def test_a_request_of_several_rows_names_each_decision(own: world.Made, tmp_path: Path) -> None:
    """Under two variants, whose runs are linked each; the open inference protocol is traced like our own."""
    rows = 12
    tensors = [{"name": "subject", "datatype": "BYTES", "shape": [rows], "data": [f"person-{i}" for i in range(rows)]}]
    for name, value in FEATURES.items():
        kind = "INT64" if isinstance(value, int) else "FP64"
        tensors.append({"name": name, "datatype": kind, "shape": [rows], "data": [value] * rows})
    variants = own.variant("champion", 0.5), own.variant("challenger", 0.5)
    with traced(tmp_path, own, *variants) as (server, collector):
        status, said = ask(server, {"inputs": tensors}, "/v2/models/loan_approval/infer", traceparent=PARENT)
        assert status == 200, said
        span = one(collector)
        assert server.stop() == 0
    assert (span.trace, span.parent, span.said["http.route"]) == (TRACE, CALLER, "/v2/models/{name}/infer")
    assert span.said["countersign.decision.count"] == rows
    assert set(span.said["countersign.decision.ids"]) == {r["id"] for r in logged(own.store)}
    assert {said["countersign.variant"] for _, _, said in span.links} == {"champion", "challenger"}
    assert {r["trace"] for r in logged(own.store)} == {TRACE}


def test_nothing_about_anybody_is_in_what_is_sent(own: world.Made, tmp_path: Path) -> None:
    """Planted wherever a caller can put a word; searched for in the bytes that the collector got, under two forms of answer."""
    secret = "ada-lovelace-4711"  # noqa: S105 - what must not be found
    features = {**DECLINED, "income": -1.73205, "debt": 0.987654}
    headers = {
        "traceparent": PARENT,
        "tracestate": f"bank={secret}",
        "baggage": f"customer={secret}",
        "user-agent": secret,
        "host": f"{secret}.example.org",
        "x-forwarded-for": "198.51.100.77",
        "cookie": f"id={secret}",
    }
    with traced(tmp_path, own) as (server, collector):
        sent = {"subject": secret, "features": features, "explain": True}
        status, answer = ask(server, sent, f"/v1/decisions?who={secret}", **headers)
        assert (status, answer["decision"], bool(answer["reasons"])) == (200, "declined", True)
        assert ask(server, {**sent, "features": {**features, secret: secret}}, **headers)[0] == 422
        assert ask(server, b'{"subject": "' + secret.encode(), **headers)[0] == 400
        for path in (f"/v1/decisions/{secret}", f"/v2/models/{secret}/infer", f"/v2/models/loan_approval/versions/{secret}/infer"):
            assert ask(server, sent, path, **headers)[0] in {404, 422}
        spans = collector.wait_for(3)
        assert server.stop() == 0
        raw = b"".join(collector.bodies)
    assert len(spans) == 3
    assert answer["id"].encode() in raw, "what may be there is found in the same way"
    (record,) = logged(own.store)
    score = answer["score"]
    for value in (
        secret,
        "198.51.100",
        "1.73205",
        "0.987654",
        "declined",
        repr(score),
        record["asked"]["subject"],
        record["asked"]["digest"],
    ):
        assert value.encode() not in raw, value
    for number in (score, -1.73205, 0.987654):
        assert struct.pack("<d", number) not in raw, number
    assert {s.state for s in spans} == {""}
    for reason in answer["reasons"]:
        assert reason["words"].encode() not in raw


def all_quick(server: Server, count: int = 60) -> bool:
    """Whether so many decisions take less than a second each."""
    over = server.connection()
    try:
        for _ in range(count):
            begun = time.perf_counter()
            assert server.ask("/v1/decisions", SENT, over)[0] == 200
            if time.perf_counter() - begun > 1:
                return False
        return True
    finally:
        over.close()


@pytest.mark.parametrize("how", ["away", "silent", "trickling", "refusing"])
def test_a_collector_in_trouble_keeps_no_decision_and_no_process(own: world.Made, tmp_path: Path, how: str) -> None:
    """More spans than fit the queue: they are thrown away, and every decision takes less than a second."""
    few = {**SOON, "OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}
    with silent() as nowhere, trickling() as slow, collecting(status=503) as refusing:
        address = {"away": f"http://127.0.0.1:{free_port()}", "silent": nowhere, "trickling": slow, "refusing": refusing.address}[how]
        with serving(tmp_path, own, **{LISTED: address}, **few) as server:
            assert all_quick(server)
            begun = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - begun < 12, "2 s for the traces, beside all else, also where much else is at work"
            assert '"traces"' in server.log
            assert "Traceback" not in server.log
    assert len(logged(own.store)) == 60


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        (LISTED, "no address"),
        ("OTEL_TRACES_SAMPLER", "perhaps"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1"),
    ],
)
def test_settings_of_traces_that_are_wrong_keep_nobody_from_deciding(own: world.Made, tmp_path: Path, name: str, value: str) -> None:
    with serving(tmp_path, own, **{LISTED: f"http://127.0.0.1:{free_port()}", **SOON, name: value}) as server:
        assert ask(server)[0] == 200
        assert server.stop() == 0
        assert re.search('"event": "(traces|decisions are not traced)"', server.log)


def test_a_collectors_key_stays_out_of_the_log(own: world.Made, tmp_path: Path) -> None:
    """A colon for an equals sign is soon typed."""
    wrong = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization: Bearer s3cr3t"}
    with serving(tmp_path, own, **{LISTED: f"http://127.0.0.1:{free_port()}", **wrong}) as server:
        assert ask(server)[0] == 200
        assert server.stop() == 0
        assert "OTEL_EXPORTER_OTLP_HEADERS cannot be read" in server.log
        assert "s3cr3t" not in server.log


def test_a_method_that_nobody_knows_names_no_span(own: world.Made, tmp_path: Path) -> None:
    with traced(tmp_path, own) as (server, collector):
        over = server.connection()
        over.request("PROPFIND", "/v1/decisions")
        assert over.getresponse().status == 405
        over.close()
        span = one(collector)
    assert (span.name, span.said["http.request.method"]) == ("HTTP /v1/decisions", "_OTHER")


def test_pipelined_requests_share_no_answers(own: world.Made, tmp_path: Path) -> None:
    """One that is sampled and, behind it on the same connection, many that are not: these must gather nowhere."""
    body = json.dumps(SENT).encode()

    def asked(flag: str) -> bytes:
        head = f"POST /v1/decisions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return f"{head}traceparent: 00-{TRACE}-{CALLER}-{flag}\r\n\r\n".encode() + body

    with traced(tmp_path, own) as (server, collector):
        over = server.connection()
        over.connect()
        assert over.sock is not None
        over.sock.sendall(asked("01") + asked("00") * 5)
        eventually(lambda: len(logged(own.store)) == 6 or len((tmp_path / "log" / "000000000001.jsonl").read_bytes().splitlines()) == 6)
        over.close()
        span = one(collector)
        assert server.stop() == 0
    assert "countersign.decision.count" not in span.said


def modules(own: world.Made, top: Path, **more: str) -> set[str]:
    """What of OpenTelemetry's a server has imported once it is made."""
    script = (
        "import os, sys; from pathlib import Path; from workflows.serve import release, server; from workflows.serve.front import Bounds; "
        "server.Process(server.settings(release.read(Path('release.json').read_bytes(), ''), os.environ), Bounds()); "
        "print(*{m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', 'workflows.serve.traces'))})"
    )
    (top / "release.json").write_bytes(world.release(own.variant()))
    env = {**os.environ, "PYTHONPATH": str(ROOT), **world.environment(top, own), **more}
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=top, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_nothing_is_imported_where_no_collector_is_named(own: world.Made, tmp_path: Path) -> None:
    assert modules(own, tmp_path) == set()
    assert modules(own, tmp_path, **{LISTED: ""}) == set()
    assert modules(own, tmp_path, **{LISTED: "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}) == set()
    assert {"opentelemetry.sdk.trace", "workflows.serve.traces"} <= modules(own, tmp_path, **{LISTED: "http://127.0.0.1:9"})


def test_the_frameworks_own_telemetry_stays_off() -> None:
    """It would tell of every path and query, and of exceptions word for word, to whatever provider a library has set up."""
    script = """if True:
        import asyncio, sys
        from fastapi import FastAPI
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from workflows.serve import api
        from workflows.serve.front import State

        found, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(found))
        trace.set_tracer_provider(provider)

        async def send(message):
            pass

        async def receive():
            return {"type": "http.request", "body": b""}

        for app in (api.make(State()), FastAPI()):
            scope = {"type": "http", "method": "GET", "path": "/v2", "query_string": b"who=ada", "headers": [], "http_version": "1.1"}
            asyncio.run(app({**scope, "root_path": "", "scheme": "http"}, receive, send))
            print(len(found.get_finished_spans()))
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    ours, framework = map(int, done.stdout.split())
    assert ours == 0
    assert framework > 0, "without being told not to, it does"
