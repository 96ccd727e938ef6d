"""Being told to stop: once is enough, whether by Ctrl-C or by a system that ends the process.

An exception that a signal handler raises can get lost: Python throws it away where it comes up in a finalizer, and so do
extension modules in code that may not fail; an import that it breaks off often ends as another error. So it is raised again
until someone answers it, and what fails meanwhile counts as the interruption that it comes from.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = 0.2  # seconds until it is said again to who has not heard


class Stopped(KeyboardInterrupt):
    """Told to stop. A class of its own: a `KeyboardInterrupt` that passed through `exec` makes Python end by SIGINT, caught or not."""


@contextmanager
def heard_once() -> Iterator[None]:
    """While this lasts, the first SIGINT or SIGTERM raises `Stopped`, until `answered`, and later ones are not heard.

    A terminal's Ctrl-C reaches a run and each of its steps, and the run passes it on to them; who is impatient presses it
    again. Without this, the second one would hit a step while it writes the record of the first. Processes forked
    meanwhile inherit it, each with a first of its own. A process that was told to stop stays deaf until it ends.
    """
    before = {s: signal.signal(s, _first) for s in SIGNALS}
    try:
        yield
    finally:
        answered()
        if not told():
            for s, handler in before.items():
                signal.signal(s, handler)


def told() -> bool:
    """Whether this process was told to stop."""
    return signal.getsignal(signal.SIGALRM) is _once_more


def answered() -> None:
    """The interruption was heard and is being seen to: do not raise it again."""
    if told():
        signal.setitimer(signal.ITIMER_REAL, 0)


def _first(_signal: int, _frame: FrameType | None) -> None:
    for s in SIGNALS:
        signal.signal(s, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, _once_more)
    signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
    raise Stopped


def _once_more(_signal: int, _frame: FrameType | None) -> None:
    error = sys.exception()
    while error is not None:
        if isinstance(error, Stopped):
            return  # someone cleans up after it
        error = error.__context__
    raise Stopped
