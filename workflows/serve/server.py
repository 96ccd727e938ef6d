"""The process: listen at once, verify, then be ready; on SIGTERM say no, finish what goes on, flush the log and go.

| from the environment | what | else |
|---|---|---|
| `COUNTERSIGN_STORE` | the store with the runs, which gets the log | needed |
| `COUNTERSIGN_TRUSTED_KEYS` | folder of public keys (PEM) that may have signed a run | needed |
| `COUNTERSIGN_SIGNING_KEY_FILE` | the key that signs the log | the key folder's |
| `COUNTERSIGN_SUBJECT_KEY_FILE` | the key that subjects are hidden by, hexadecimal | the key folder's |
| `COUNTERSIGN_LOG` | folder of the decision log, this process's own | needed |
| `COUNTERSIGN_LOG_MODE` | `strict`, or `batched` | `strict` |
| `COUNTERSIGN_LOG_SIZE` | how much the log's folder may take, as Kubernetes writes it: `1Gi` | the disk |
| `COUNTERSIGN_HOST`, `_PORT`, `_METRICS_PORT` | where it listens | `0.0.0.0`, 8080, 9090 |
| `COUNTERSIGN_DRAIN` | seconds without a request, after SIGTERM, until it no longer listens; at most 5 more | 5 |
| `COUNTERSIGN_SEND` | seconds that it goes on trying to send the rest of the log, at the end | 25 |
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from prometheus_client import start_http_server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from workflows.errors import BadInput, CountersignError, NotVerified, Problem, Temporary
from workflows.prove.signature import Keyring, Signer
from workflows.run import keys, tracing
from workflows.run.logs import structlog
from workflows.run.pod import TRUSTED
from workflows.run.session import now
from workflows.run.store.interface import Store
from workflows.run.store.open import STORE, open_store
from workflows.serve import api, loading, shipping
from workflows.serve.disk import Disk, Owner, clear, unsent
from workflows.serve.entry import Keeper
from workflows.serve.front import Bounds, Front, State
from workflows.serve.log import DecisionLog, Limits, settle
from workflows.serve.release import Release
from workflows.serve.service import Service
from workflows.serve.watch import Metrics

if TYPE_CHECKING:
    from workflows.serve.traces import Traces

SHIP = 2.0  # seconds between two looks for batches to send
AGAIN = 10.0  # seconds until a store that was away is asked again
AT_THE_END = 1.0  # the same, where the process is about to end
KEEP = 1024**3  # bytes of the log that stay on the disk where all is sent; at most half of what it may take
FULL = 0.9  # of what the log may take: a volume that is larger than it may be costs the pod, with what is not in the store yet
HEADERS = 10.0  # seconds
LAST_ANSWERS = 20  # seconds that requests which go on have to end, once nobody new is let in
STILL_SENT = 5  # of these, those that it listens longer than it was told to, where requests still come
MOST_CONNECTIONS = 2048
UNITS = {"": 1} | {u: 1000**i for i, u in enumerate("kMGT", 1)} | {f"{u}i": 1024**i for i, u in enumerate("KMGT", 1)}
SIZE = re.compile(rf"([1-9][0-9]*)({'|'.join(UNITS)})")
log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a process is given, checked."""

    release: Release
    store: Store
    ring: Keyring
    signer: Signer
    keeper: Keeper
    folder: Path
    size: int | None
    """Bytes that the folder may take; None where only its disk sets a limit."""
    strict: bool
    host: str
    port: int
    metrics_port: int
    drain: float
    """Seconds without a request, after SIGTERM, until it no longer listens; at most `STILL_SENT` more."""
    send: float
    """Seconds that the rest of the log has to come to the store, at the end."""


def settings(release: Release, environment: Mapping[str, str]) -> Settings:
    """From the environment; `BadInput` names every variable that is missing or cannot be used."""
    wrong = [Problem(what="not set", where=name) for name in (STORE, TRUSTED, "COUNTERSIGN_LOG") if not environment.get(name)]
    mode = environment.get("COUNTERSIGN_LOG_MODE", "strict")
    if mode not in {"strict", "batched"}:
        wrong.append(Problem(what="unknown mode", where="COUNTERSIGN_LOG_MODE", expected="strict or batched", got=mode))
    numbers = {"COUNTERSIGN_PORT": "8080", "COUNTERSIGN_METRICS_PORT": "9090", "COUNTERSIGN_DRAIN": "5", "COUNTERSIGN_SEND": "25"}
    said = {n: environment.get(n, default) for n, default in numbers.items()}
    wrong += [Problem(what="not a whole number", where=n, got=v) for n, v in said.items() if not (v.isascii() and v.isdigit())]
    size = environment.get("COUNTERSIGN_LOG_SIZE", "")
    matched = SIZE.fullmatch(size)
    if size and not matched:
        wrong.append(Problem(what="not a size", where="COUNTERSIGN_LOG_SIZE", expected="bytes, as 512Mi or 1Gi", got=size))
    if wrong:
        raise BadInput(*wrong)
    signer, _ = keys.signer()
    return Settings(
        release=release,
        store=open_store(Path.cwd(), environment[STORE]),
        ring=keys.ring_with(signer, tuple(sorted(Path(environment[TRUSTED]).glob("*.pem")))),
        signer=signer,
        keeper=Keeper(keys.secret("subject_key", make=False)),
        folder=Path(environment["COUNTERSIGN_LOG"]),
        size=int(matched[1]) * UNITS[matched[2]] if matched else None,
        strict=mode == "strict",
        host=environment.get("COUNTERSIGN_HOST", "0.0.0.0"),  # noqa: S104 - in a pod, that is what reaches it
        port=int(said["COUNTERSIGN_PORT"]),
        metrics_port=int(said["COUNTERSIGN_METRICS_PORT"]),
        drain=float(said["COUNTERSIGN_DRAIN"]),
        send=float(said["COUNTERSIGN_SEND"]),
    )


class _Uvicorn(uvicorn.Server):
    """Signals are ours: uvicorn would stop listening before anybody knows that this server goes."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """Whoever opens a connection or begins a request, and does not say what is asked within `HEADERS` seconds, is cut off."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._done()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._done()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._done()
        self._late = self.loop.call_later(HEADERS, self.transport.close)

    def _done(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None


class Process:
    """One model server, from start to end."""

    def __init__(self, given: Settings, bounds: Bounds) -> None:
        self.given = given
        self.state = State()
        self.metrics = Metrics()
        front = Front(self.state, api.make(self.state), self.metrics, bounds, self._crowded)
        self._traces = _traces(given.release)
        config = uvicorn.Config(
            self._traces.around(front) if self._traces else front,
            host=given.host,
            port=given.port,
            loop="uvloop",
            http=_Protocol,
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=LAST_ANSWERS,
        )
        self._server = _Uvicorn(config)
        self._log: DecisionLog | None = None

    async def run(self) -> int:
        """Serve until told to stop; the exit code."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        metrics, _ = start_http_server(self.given.metrics_port, self.given.host, self.metrics.registry)
        serving = asyncio.create_task(self._server.serve())
        working = asyncio.create_task(self._work())
        stopped = asyncio.create_task(stop.wait())
        # A log that nobody signs and sends any more is no log: what ends that work by itself ends the process, and it starts anew.
        await asyncio.wait({serving, working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        code = 0 if stop.is_set() else 1
        self.state.draining = True
        self.metrics.ready.set(0)
        if stop.is_set():
            log.info("draining", seconds=self.given.drain)
            await self._nobody_is_sent_here()
        self._server.should_exit = True
        await serving
        working.cancel()
        try:
            await working
        except asyncio.CancelledError:
            pass
        except Exception:
            log.exception("the work on the log ended")
        traces = asyncio.create_task(self._traces.close()) if self._traces else None
        unfinished = await self._finish()
        if traces:
            await traces
        metrics.shutdown()
        return code or unfinished

    async def _nobody_is_sent_here(self) -> None:
        """Whoever connects to a server that no longer listens is refused: a cluster that is slow to hear of it gets more time."""
        began = time.monotonic()
        most = began + self.given.drain + STILL_SENT
        while (left := min(max(began, self.state.asked) + self.given.drain, most) - time.monotonic()) > 0:  # noqa: ASYNC110 - no event ends it
            await asyncio.sleep(left)
        longer = time.monotonic() - began - self.given.drain
        self._server.config.timeout_graceful_shutdown = LAST_ANSWERS - min(math.ceil(longer), STILL_SENT)

    def _crowded(self) -> bool:
        return len(self._server.server_state.connections) >= MOST_CONNECTIONS

    async def _work(self) -> None:
        """Load, then send the log for as long as the server runs."""
        while True:
            if there := await self._loaded():
                break
            await asyncio.sleep(AGAIN)
        async with asyncio.TaskGroup() as group:
            group.create_task(there.run())
            group.create_task(self._ship())

    def _open_log(self) -> DecisionLog:
        g = self.given
        owner = Owner(environment=g.release.environment, pipeline=g.release.pipeline, signer=g.signer, keys=g.ring, now=now)
        return DecisionLog(Disk(g.folder, owner, most=int(g.size * FULL) if g.size else None), Limits(strict=g.strict))

    async def _loaded(self) -> DecisionLog | None:
        """The log, once it and the models are there. Whatever is wrong is said, and looked at again: somebody may mend it."""
        g, began = self.given, time.perf_counter()
        try:
            self._log = self._log or self._open_log()
            served = await asyncio.to_thread(loading.load, g.release, g.store, g.ring)
            make = self._traces.service if self._traces else Service
            self.state.service = make(g.release, served, self._log, g.keeper, self.metrics)
        except CountersignError as error:
            self._unready(error)
            return None
        except OSError as error:  # such as a disk that has no room for the log's next file
            self._unready(Temporary(Problem(what=f"cannot be read or written: {error.strerror}", where=str(error.filename or g.folder))))
            return None
        self.state.why = []
        self.metrics.ready.set(1)
        log.info("ready", release=g.release.sequence, variants=len(served), seconds=round(time.perf_counter() - began, 3))
        return self._log

    def _unready(self, error: CountersignError) -> None:
        self.state.why = [str(p) for p in error.problems]
        log.error("not ready", kind=type(error).__name__, problems=self.state.why, hint=error.hint)

    async def _ship(self) -> None:
        while True:
            self._measure()
            try:
                await _aside(self._send)
                self.metrics.log_sent_at.set(time.time())
            except (Temporary, BadInput, OSError) as error:
                log.warning("the decision log cannot be sent; it stays on the disk", why=str(error))
            except NotVerified:
                log.exception("the decision log on the disk was changed")
            await asyncio.sleep(SHIP)

    def _send(self) -> None:
        g = self.given
        shipping.ship(g.folder, g.store, g.signer, g.ring)
        there = g.size or shutil.disk_usage(g.folder).total
        clear(g.folder, min(KEEP, there // 2))

    def _measure(self) -> None:
        if self._log:
            self.metrics.ready.set(0 if self.state.problems else 1)
            self.metrics.log_waiting.set(self._log.waiting)
            self.metrics.log_unsigned.set(self._log.disk.waiting)
            self.metrics.log_unsent.set(len(unsent(self.given.folder)))
            self.metrics.log_failures.set(self._log.failures)
            self.metrics.log_records.labels(self._log.disk.chain).set(self._log.disk.head.number)

    async def _finish(self) -> int:
        """Everything that was answered is signed, and sent as soon as the store is there; else the exit code says that it is not.

        What is not sent lies on the disk for the next process. Where the disk goes with this one, as a pod's emptyDir does, it is lost.
        """
        why, unsigned = "", 0
        if self._log is not None:
            await self._log.close()
            unsigned = self._log.disk.waiting + self._log.waiting
            try:
                async with asyncio.timeout(self.given.send):
                    while why := await self._missed():  # noqa: ASYNC110 - nothing tells when the store is back
                        await asyncio.sleep(AT_THE_END)
            except TimeoutError:
                why = why or "the store gave no answer in time"
        batches = len(unsent(self.given.folder))
        if not batches and not unsigned:
            return 0
        log.error(
            "decisions that were answered are not in the store: keep the log's folder, and start a server on it, which sends them",
            folder=str(self.given.folder),
            batches=batches,
            unsigned=unsigned,
            why=why or ("the disk has no room to sign them" if unsigned else "the log was not opened"),
        )
        return Temporary.exit_code

    async def _missed(self) -> str:
        """Send what is signed; why it is not sent, or nothing."""
        try:
            await _aside(self._send)
        except (CountersignError, OSError) as error:
            return str(error) or type(error).__name__
        return ""


async def _aside(do: Callable[[], object]) -> None:
    """Do it in a thread that the end of the process does not wait for: a store that is away may take minutes to say so."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def work() -> None:
        failed: Exception | None = None
        try:
            do()
        except Exception as error:  # noqa: BLE001 - whoever waits for it is told
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, told, failed)

    try:
        threading.Thread(target=work, name="decision-log-sender", daemon=True).start()
    except RuntimeError as error:
        raise Temporary(Problem(what=f"no thread to be had: {error}", where="the sender of the decision log")) from error
    await told


def _traces(release: Release) -> Traces | None:
    """What makes spans of decisions; None, and nothing is imported for it, where no collector is named."""
    if not tracing.wanted():
        return None
    try:
        from workflows.serve.traces import Traces

        return Traces(release)
    except Exception as error:  # noqa: BLE001 - OpenTelemetry's own settings, some of which it reads when imported
        log.warning("decisions are not traced", why=str(error))
        return None


def serve(release: Release) -> int:
    """Run a server in this process."""
    process = Process(settings(release, os.environ), Bounds())
    sys.setswitchinterval(0.0005)  # the log's thread holds the interpreter for microseconds, and answers wait for it
    with asyncio.Runner(loop_factory=_loop) as runner:
        return runner.run(process.run())


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()
