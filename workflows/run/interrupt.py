"""Being told to stop: once is enough, whether by Ctrl-C or by a system that ends the process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def heard_once() -> Iterator[None]:
    """While this lasts, the first SIGINT or SIGTERM raises `KeyboardInterrupt` and later ones are not heard.

    A terminal's Ctrl-C reaches a run and each of its steps, and the run passes it on to them; who is impatient presses it
    again. Without this, the second one would hit a step while it writes the record of the first. Processes forked
    meanwhile inherit it, each with a first of its own. A process that was told to stop stays deaf until it ends.
    """
    before = {s: signal.signal(s, _first) for s in SIGNALS}
    try:
        yield
    finally:
        if signal.getsignal(SIGNALS[0]) is _first:
            for s, handler in before.items():
                signal.signal(s, handler)


def _first(_signal: int, _frame: FrameType | None) -> None:
    for s in SIGNALS:
        signal.signal(s, signal.SIG_IGN)
    raise KeyboardInterrupt
