"""Many things at once that mostly wait for a network: in order, a bounded number ahead, and nothing left running."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
THREADS = 16


def at_once(look: Callable[[T], R], things: Sequence[T]) -> Iterable[R]:
    """Likewise for a few small things; one thing needs no thread."""
    return in_order(look, things) if len(things) > 1 else map(look, things)


def in_order(look: Callable[[T], R], things: Iterable[T], *, threads: int = THREADS, stop: threading.Event | None = None) -> Generator[R]:
    """What `look` says of each thing, in their order; no more than `threads` are looked at or wait to be taken.

    When the caller leaves, for whatever reason, `stop` is set, what has not begun is dropped, and what has is waited for.
    """
    things = iter(things)
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[R]] = deque()
    try:
        waiting.extend(pool.submit(look, t) for t in islice(things, threads))
        while waiting:
            said = waiting.popleft().result()
            yield said
            del said  # it may be large, and the next is on its way
            waiting.extend(pool.submit(look, t) for t in islice(things, 1))
    finally:
        if stop:
            stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
