"""A collector of traces, as OpenTelemetry's protocol has it: what it was sent, byte for byte and read. It can also stay silent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

ENDLESS = 256 * 2**20
"""Bytes; far more than lie in a connection's buffers."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A span as it arrived."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    error: bool
    seconds: float
    said: dict[str, Any]
    links: list[tuple[str, str, dict[str, Any]]]
    sender: dict[str, Any]
    state: str


class Collector:
    """Takes what is sent to it. `bodies` are the bytes of the requests, `paths` where they went."""

    def __init__(self, status: int = 200) -> None:
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                ours.paths.append(self.path)
                ours.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def spans(self) -> list[Span]:
        found = []
        for body in list(self.bodies):
            for r in ExportTraceServiceRequest.FromString(body).resource_spans:
                sender = _values(r.resource.attributes)
                found += [_read(s, sender) for scope in r.scope_spans for s in scope.spans]
        return found

    def wait_for(self, count: int, within: float = 20.0) -> list[Span]:
        """The spans, once there are so many."""
        end = time.monotonic() + within
        while len(self.spans) < count:
            assert time.monotonic() < end, f"{len(self.spans)} of {count} spans arrived"
            time.sleep(0.05)
        return self.spans

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def collecting(status: int = 200) -> Iterator[Collector]:
    collector = Collector(status)
    try:
        yield collector
    finally:
        collector.stop()


@contextmanager
def silent() -> Iterator[str]:
    """The address of a collector that lets everyone in and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as there:
        yield f"http://127.0.0.1:{there.getsockname()[1]}"


@contextmanager
def trickling() -> Iterator[str]:
    """The address of one that answers a byte every quarter of a second, so that no wait for the next byte is ever too long."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as there:
        thread = threading.Thread(target=_trickle, args=(there, over))
        thread.start()
        try:
            yield f"http://127.0.0.1:{there.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


@contextmanager
def endless() -> Iterator[tuple[str, list[int]]]:
    """The address of one whose answer never ends, and how many bytes of it each caller took."""
    took: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            took.append(0)
            with suppress(OSError):
                while took[-1] < ENDLESS:
                    took[-1] += self.wfile.write(b"x" * 65536)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", took
        server.shutdown()


def _trickle(there: socket.socket, over: threading.Event) -> None:
    there.settimeout(0.25)
    with ExitStack() as stack:
        callers: list[socket.socket] = []
        while not over.is_set():
            with suppress(TimeoutError):
                callers.append(stack.enter_context(there.accept()[0]))
                callers[-1].sendall(b"HTTP/1.1 200 OK\r\nx-slow: ")
            for caller in callers:
                with suppress(OSError):
                    caller.send(b"x")


def _read(s: Any, sender: dict[str, Any]) -> Span:
    return Span(
        name=s.name,
        trace=s.trace_id.hex(),
        id=s.span_id.hex(),
        parent=s.parent_span_id.hex(),
        kind=s.kind,
        error=s.status.code == 2,
        seconds=(s.end_time_unix_nano - s.start_time_unix_nano) / 1e9,
        said=_values(s.attributes),
        links=[(x.trace_id.hex(), x.span_id.hex(), _values(x.attributes)) for x in s.links],
        sender=sender,
        state=s.trace_state,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {a.key: _value(a.value) for a in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(v) for v in value.array_value.values] if kind == "array_value" else getattr(value, kind)
