"""Programs whose clock is wrong, while the machine's own goes right: Debian's libfaketime, loaded before the C library."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import lacking

VARIABLES = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
"""What measures durations, and the times of files, stay as they are."""


def library() -> Path:
    """The version of it for programs with threads."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else lacking("libfaketime: apt-get install libfaketime")


def clock(seconds: int, at: Path | None = None) -> dict[str, str]:
    """The environment of a program whose clock is so many seconds ahead; `at` is where it finds the library."""
    return {"LD_PRELOAD": str(at or library()), "FAKETIME": f"{seconds:+d}", **VARIABLES}
