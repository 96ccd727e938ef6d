"""What every request meets first: limits on time, size and number, and the way to a decision. Plain ASGI.

Decisions go past the framework, which would take longer than the model does; everything else goes to it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from workflows.run.logs import structlog
from workflows.serve.contract import BadApplication
from workflows.serve.decide import Undecidable
from workflows.serve.log import NotKept
from workflows.serve.service import Service
from workflows.serve.watch import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DECISIONS = "/v1/decisions"
INFERENCE = "/v2"
"""What the paths of the Open Inference Protocol begin with."""
INFER = "/v2/models/{name}/infer"
"""What requests for decisions by that protocol are counted as, whatever model and version they name."""
OTHER = "other"
ARRIVED = "countersign.arrived"
"""Where a request's scope says when its last byte was there."""
LATE = "should the decision log hold a decision all the same, nobody was given it"
HEALTH = ("/v2/health/live", "/v2/health/ready")
TRACEPARENT = re.compile(rb"00-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")
JSON = re.compile(rb"application/json *(; *charset=\"?utf-8\"?)?", re.IGNORECASE)
log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a request may take."""

    body: int = 64 * 1024
    """Bytes."""
    seconds: float = 5.0
    """To send the request, and to answer it."""
    at_once: int = 256
    """Requests that have arrived and are worked on; more are sent away."""


class Refused(Exception):
    """A request that is not answered as asked: status, what to do about it, and all problems found."""

    def __init__(
        self, status: int, title: str, detail: str = "", *, problems: list[dict[str, str]] | None = None, retry: int | None = None
    ) -> None:
        self.status, self.title, self.detail, self.problems, self.retry = status, title, detail, problems, retry
        super().__init__(title)

    def body(self, path: str) -> bytes:
        """A problem as RFC 9457 has it; on paths of the Open Inference Protocol with its `error`, all in one text."""
        said: dict[str, Any] = {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail}
        if self.problems is not None:
            said["problems"] = self.problems
        if path.startswith(INFERENCE):
            whats = [f"{p['where']}: {p['what']}" for p in self.problems or ()]
            said["error"] = f"{self.title}: {'; '.join(whats) or self.detail}"
        return json.dumps(said).encode()


def trace_in(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The trace that a request belongs to: the one named last, which is our own span's where there is one."""
    named = [found["trace"].decode() for name, value in headers if name == b"traceparent" and (found := TRACEPARENT.fullmatch(value))]
    return named[-1] if named else None


def route_of(path: str) -> str:
    """One of three: a label that a caller could choose would grow without end."""
    if path == DECISIONS:
        return DECISIONS
    return INFER if path.startswith("/v2/models/") and path.endswith("/infer") else OTHER


class State:
    """What is served just now, or why nothing is."""

    def __init__(self) -> None:
        self.service: Service | None = None
        self.why: list[str] = ["models are being loaded and verified"]
        self.draining = False
        """Told to go, and not ready: but whoever is sent here all the same is answered, and asked to connect elsewhere next time."""
        self.asked = 0.0
        """When somebody last asked for anything but its health, on the monotonic clock."""

    @property
    def problems(self) -> list[str]:
        """Why no decision is taken; empty where decisions are."""
        if self.draining:
            return ["the server is being shut down"]
        if self.service is None:
            return self.why
        return [] if self.service.log.well else ["the decision log cannot be written"]


class Front:
    """The application that the server runs."""

    def __init__(self, state: State, rest: App, metrics: Metrics, bounds: Bounds, crowded: Callable[[], bool] = lambda: False) -> None:
        """`crowded` says whether all the connections are taken that may be open at a time."""
        self.state, self.rest, self.metrics, self.bounds, self.crowded = state, rest, metrics, bounds, crowded
        self.at_work = 0
        self._seconds: dict[str, Callable[[float], None]] = {}
        self._counts: dict[tuple[str, int], Callable[[], None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.rest(scope, receive, send)
            return
        path = scope["path"]
        if path in HEALTH:  # never sent away: a busy server is alive, and so is one that has all the connections it takes
            await self.rest(scope, receive, send)
            return
        self.state.asked = time.monotonic()
        route = route_of(path)
        status = 500
        try:
            if self.crowded():
                raise Refused(503, "too many connections", "try again, and keep connections open for more requests", retry=1)
            self._find_room()
            if route == DECISIONS:
                answer = await self._decision(scope, receive)
                status = 200
                await reply(send, 200, answer, closing=self.state.draining)
            else:
                status = await self._other(scope, receive, send)
        except Refused as refused:
            status = refused.status
            closing = self.state.draining or self.crowded() or status in {408, 413}
            await reply(send, status, refused.body(path), retry=refused.retry, problem=True, closing=closing)
        except Gone:
            status = 499  # as nginx calls it: nobody is there to be answered
        except Exception:
            log.exception("a request failed", route=route)
            await reply(send, 500, internal_error().body(path), problem=True)
        finally:
            self._measured(route, status, scope.get(ARRIVED))

    def _find_room(self) -> None:
        if self.at_work >= self.bounds.at_once:
            raise Refused(
                503, "too many requests at once", f"at most {self.bounds.at_once} are answered at the same time; try again", retry=1
            )

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """A request has arrived and is worked on. Those that still arrive take no place: slow ones would keep others out."""
        self._find_room()
        self.at_work += 1
        self.metrics.in_flight.set(self.at_work)
        try:
            yield
        finally:
            self.at_work -= 1
            self.metrics.in_flight.set(self.at_work)

    async def _decision(self, scope: Scope, receive: Receive) -> bytes:
        if scope["method"] != "POST":
            raise Refused(405, "method not allowed", "POST an application")
        service = self.state.service
        if service is None:
            raise Refused(503, "not ready", "; ".join(self.state.problems), retry=1)
        self._headers(scope)
        data = await self._arrived(scope, receive)
        body = parsed(data)
        try:
            with self._at_work():
                async with asyncio.timeout(self.bounds.seconds):
                    answer = await service.decide(body, trace_in(scope["headers"]))
        except BadApplication as error:
            self.metrics.problems.labels(error.problems[0].what).inc()
            raise Refused(
                422, "the application cannot be decided", "see problems", problems=[p.to_json() for p in error.problems]
            ) from None
        except Undecidable as error:
            log.warning("no decision without a reason", why=str(error))
            raise Refused(500, "no decision", str(error)) from None
        except NotKept:
            raise Refused(503, "not decided", "the decision log cannot be written; nothing was decided", retry=1) from None
        except TimeoutError:
            raise Refused(503, "not decided in time", f"the decision log is slow; {LATE}", retry=1) from None
        return json.dumps(answer.to_json()).encode()

    def _headers(self, scope: Scope) -> None:
        """Refuse what the headers already rule out."""
        kind = b""
        for name, value in scope["headers"]:
            if name == b"content-type":
                kind = value
            elif name == b"content-length" and (not value.isdigit() or len(value) > 18 or int(value) > self.bounds.body):  # noqa: PLR2004 - an int64
                raise too_large(self.bounds.body)
        if not JSON.fullmatch(kind):
            raise Refused(415, "not JSON", "content-type: application/json")

    async def _arrived(self, scope: Scope, receive: Receive) -> bytes:
        """The body, and in the scope when its last byte was there."""
        try:
            async with asyncio.timeout(self.bounds.seconds):
                data = await whole(receive, self.bounds.body)
        except TimeoutError:
            raise Refused(408, "the request took too long to arrive", f"at most {self.bounds.seconds:g} seconds") from None
        scope[ARRIVED] = time.perf_counter()
        return data

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> int:
        """What the framework answers. It gets a request when that is whole."""
        status = 0
        data = await self._arrived(scope, receive)
        waiting = [{"type": "http.request", "body": data, "more_body": False}]

        async def once() -> Message:
            return waiting.pop() if waiting else await receive()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.state.draining:
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        try:
            with self._at_work():
                async with asyncio.timeout(2 * self.bounds.seconds):
                    await self.rest(scope, once, noted)
        except Exception as error:
            if not status:
                if isinstance(error, TimeoutError):
                    raise Refused(503, "not answered in time", f"try again; {LATE}", retry=1) from None
                raise
            log.exception("a request failed", route=route_of(scope["path"]))  # its answer has begun, and there is no second one
        return status

    def _measured(self, route: str, status: int, arrived: float | None) -> None:
        """A request that never arrived whole has no latency. Children of a metric are looked up once: that takes longer than counting."""
        if route not in self._seconds:
            self._seconds[route] = self.metrics.seconds.labels(route).observe
        if (route, status) not in self._counts:
            self._counts[route, status] = self.metrics.requests.labels(route, str(status)).inc
        if arrived is not None:
            self._seconds[route](time.perf_counter() - arrived)
        self._counts[route, status]()


class Gone(Exception):
    """The client hung up before its request was whole."""


def internal_error() -> Refused:
    """A defect of ours, of which a caller learns no more."""
    return Refused(500, "internal error", "it was logged")


def too_large(most: int) -> Refused:
    return Refused(413, "too large", f"at most {most} bytes")


async def whole(receive: Receive, most: int) -> bytes:
    """The request's body; `Refused` as soon as it is larger than allowed, `Gone` where it never ends."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        data: bytes = message.get("body", b"")
        if len(data) > most:
            raise too_large(most)
        return data
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise Gone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise too_large(most)
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()


def parsed(data: bytes) -> object:
    """The JSON value of a body; `Refused` for what is no JSON, says a key twice, or nests too deeply."""
    try:
        return _DECODER.decode(data.decode())
    except UnicodeDecodeError as error:
        raise Refused(400, "malformed JSON", f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise Refused(400, "malformed JSON", f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise Refused(400, "malformed JSON", "nested too deeply; an application is an object of objects") from None
    except ValueError as error:
        raise Refused(400, "malformed JSON", str(error)[:200]) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object: it is not clear which is meant")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON; a missing value is null")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)
_PLAIN = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", b"application/problem+json")


async def reply(  # noqa: PLR0913 - one argument a header
    send: Send, status: int, body: bytes, *, retry: int | None = None, problem: bool = False, closing: bool = False
) -> None:
    """Send a whole answer."""
    headers = [_PROBLEM if problem else _PLAIN, (b"content-length", str(len(body)).encode())]
    if retry is not None:
        headers.append((b"retry-after", str(retry).encode()))
    if status == 405:  # noqa: PLR2004  # HTTP names it by this number
        headers.append((b"allow", b"POST"))
    if closing:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
