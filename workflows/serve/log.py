"""Decisions into the log while requests come in: one write and one sync for all that wait, and answers only after it.

In strict mode a decision is durable before its answer leaves. In batched mode answers do not wait; what waits is bounded,
and what a crash can lose is what was decided within `FLUSH` seconds, and while the last write went on. Neither takes more while
the disk takes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread

from workflows.errors import Temporary
from workflows.run.logs import structlog
from workflows.serve.chain import Head
from workflows.serve.disk import Disk, Records

FLUSH = 0.1  # seconds between two writes in batched mode
TICK = 0.5
log = structlog.get_logger()


class NotKept(Exception):
    """The decision could not be made durable, so it must not be answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """When the log signs, and how much may wait in it."""

    strict: bool = True
    seal_seconds: float = 5.0
    seal_records: int = 5_000
    most_waiting: int = 10_000
    """Decisions, in batched mode; then it takes no more."""


@dataclass(kw_only=True, slots=True)
class _Waiting:
    records: Records
    told: asyncio.Future[list[Head]] | None


Then = Callable[[object, BaseException | None], None]
"""Is told in the loop what the thread has found, or why it failed."""


def settle(told: asyncio.Future[None], error: BaseException | None) -> None:
    """Tell whoever waits, unless nobody does any more."""
    if told.done():
        return
    if error:
        told.set_exception(error)
    else:
        told.set_result(None)


def _one_by_one(todo: SimpleQueue[Callable[[], None] | None]) -> None:
    """What the thread does. An executor, with a future for the loop, takes twice as long to hand over and back."""
    while work := todo.get():
        work()


class DecisionLog:
    """Belongs to one event loop. A thread of its own does nothing but write, sync and sign."""

    def __init__(self, disk: Disk, limits: Limits) -> None:
        self.disk, self.limits = disk, limits
        self.failures = 0
        self.well = True
        """False while the disk takes nothing."""
        self.waiting = 0
        """Decisions that are not on the disk yet."""
        self._waiting: list[_Waiting] = []
        self._turns: deque[tuple[Callable[[], object], Then]] = deque()
        self._busy = self._due = False
        self._sealed_at = time.monotonic()
        self._todo: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=_one_by_one, args=(self._todo,), name="decision-log", daemon=True)
        self._thread.start()
        self._idle = asyncio.Event()
        self._idle.set()

    async def keep(self, body: bytes, at: int) -> Head | None:
        """Keep a record; where it stands, in strict mode. `NotKept` where it is not to be had."""
        heads = await self.keep_all([(body, at)])
        return heads[0] if heads else None

    async def keep_all(self, records: Records) -> list[Head] | None:
        """Keep the records of one request, all of them or none; where they stand, in strict mode. `NotKept` where that is not to be had."""
        loop = asyncio.get_running_loop()
        told = loop.create_future() if self.limits.strict else None
        if told is None and (not self.well or self.waiting + len(records) > self.limits.most_waiting):
            self.failures += 1
            raise NotKept(f"{self.waiting} decisions wait to be written")
        self._waiting.append(_Waiting(records=records, told=told))
        self.waiting += len(records)
        if not self._due:
            self._due = True
            # Not at once: requests that are read in the same turn of the loop share the write.
            loop.call_soon(self._next) if told else loop.call_later(FLUSH, self._next)
        return await told if told else None

    def _next(self) -> None:
        self._due = False
        self._pump()

    def _pump(self) -> None:
        """Begin what waits, unless something goes on: signing before writing, which under load would never leave it a turn."""
        if self._busy:
            return
        if self._turns:
            self._work(*self._turns.popleft())
        elif self._waiting and not self._due:
            taken, self._waiting = self._waiting, []
            self._work(lambda: self.disk.append(*(w.records for w in taken)), lambda heads, error: self._written(taken, heads, error))

    def _work(self, do: Callable[[], object], then: Then) -> None:
        """One thing in the thread; afterwards, what has come up meanwhile."""
        self._busy = True
        self._idle.clear()
        loop = asyncio.get_running_loop()

        def work() -> None:
            found, failed = None, None
            try:
                found = do()
            except BaseException as error:  # noqa: BLE001 - whoever waits for it is told, and the thread goes on
                failed = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done, found, failed)

        def done(found: object, error: BaseException | None) -> None:
            self._busy = False
            try:
                then(found, error)
            finally:
                self._pump()
                if not self._busy:
                    self._idle.set()

        self._todo.put(work)

    def _written(self, taken: list[_Waiting], heads: object, error: BaseException | None) -> None:
        if error is None or self.limits.strict:
            self.waiting -= sum(len(w.records) for w in taken)
        if error is None:
            self.well = True
            for w, head in zip(taken, heads, strict=True):  # type: ignore[call-overload]  # a list of heads each
                if w.told and not w.told.done():
                    w.told.set_result(head)
            return
        for w in taken:
            if w.told and not w.told.done():
                w.told.set_exception(NotKept(f"the decision log cannot be written: {error}"))
        if not self.limits.strict:
            self._waiting = [*taken, *self._waiting]
            self._due = True
            asyncio.get_running_loop().call_later(TICK, self._next)
        self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self.failures += 1
        was, self.well = self.well, False
        if was:
            log.error("the decision log cannot be written; decisions are refused", why=str(error))

    async def run(self) -> None:
        """Sign what is due and see whether a disk that was full takes more, for as long as the server runs."""
        while True:
            await asyncio.sleep(TICK)
            old = time.monotonic() - self._sealed_at >= self.limits.seal_seconds
            if not self.well:
                await self._try()
            elif self.disk.waiting and (old or self.disk.waiting >= self.limits.seal_records):
                await self.seal()

    async def _try(self) -> None:
        with contextlib.suppress(OSError, Temporary):
            await self._in_turn(self.disk.probe)
            self.well = True
            log.warning("the decision log can be written again")

    async def seal(self) -> None:
        """Sign what is on the disk. A full disk puts it off."""
        try:
            await self._in_turn(self.disk.seal)
            self._sealed_at = time.monotonic()
        except (OSError, Temporary) as error:
            self._failed(error)

    async def _in_turn(self, do: Callable[[], object]) -> None:
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def then(_found: object, error: BaseException | None) -> None:
            settle(told, error)

        self._turns.append((do, then))
        self._pump()
        await told

    async def close(self) -> None:
        """Write and sign everything. Called when no more requests come in."""
        while self._waiting or self._busy or self._turns:
            self._next()
            await self._idle.wait()
            if not self.well:
                break
        await self.seal()
        self._todo.put(None)
        self._thread.join()
        self.disk.close(whole=not self._waiting)
