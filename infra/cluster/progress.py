"""One line a phase: what, how it went, how long it took. Plain lines, as they are read in CI as well."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

BEAT_SECONDS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One thing that must hold. `holds` looks and changes nothing; `make` brings it about and may be cut short at any point.

    `takes` is said beforehand where a person would otherwise wonder.
    """

    name: str
    holds: Callable[[], bool]
    make: Callable[[], object]
    done: str = "done"
    takes: str = ""


def carry_out(phases: Iterable[Phase]) -> None:
    for phase in phases:
        began = time.monotonic()
        if phase.holds():
            line(phase.name, "already", time.monotonic() - began)
            continue
        with beating(phase.name, phase.takes):
            phase.make()
        line(phase.name, phase.done, time.monotonic() - began)


def line(name: str, what: str, seconds: float | None = None) -> None:
    timed = f"{name:<24}{what:<12}" + ("" if seconds is None else f"{seconds:7.1f} s")
    print(f"  {timed.rstrip()}", flush=True)


@contextmanager
def beating(name: str, takes: str) -> Iterator[None]:
    """Says that work goes on, so that nobody takes a long build for a hang."""
    if takes:
        line(name, f"started: {takes}")
    began, over = time.monotonic(), threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            line(name, "going on", time.monotonic() - began)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def wait_for(what: str, holds: Callable[[], bool], *, seconds: float, every: float = 0.5) -> None:
    """Until it holds; raises TimeoutError that names `what`."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not so within {seconds:.0f} s")
        time.sleep(every)
