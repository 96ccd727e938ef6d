"""How long a store that does not answer is waited for, and how often it is asked."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

PATIENCE = 75.0  # seconds that a store may be away before a command gives up: a restart or a failover takes half a minute
FIRST, LONGEST = 0.2, 5.0  # seconds between tries, doubled each time, with jitter so that many clients do not come back at once


@dataclass(kw_only=True)
class Patience:
    """Shared by all requests to one store: when it is away, it is away for all of them, and they give up together."""

    seconds: float = PATIENCE
    _since: float | None = None
    _last: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def answered(self) -> None:
        """The store is there."""
        self._since = None

    def failed(self) -> tuple[float, bool]:
        """Note that it did not answer: the seconds that it is still worth waiting for, and whether this is the first anyone knows of it."""
        now = time.monotonic()
        with self._lock:
            # What was given up long ago says nothing about now.
            first = self._since is None or now - self._last > self.seconds
            since = self._since = now if first or self._since is None else self._since
            self._last = now
        return since + self.seconds - now, first


def delay(tries: int) -> float:
    """Seconds to wait before the next try, after so many that failed."""
    longest = min(FIRST * 2.0 ** (tries - 1), LONGEST)
    return longest * (0.5 + random.random() / 2)  # noqa: S311  # no secret depends on it
