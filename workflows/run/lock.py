"""One run at a time in a checkout: two would write the same files."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from workflows.errors import Problem, Temporary


@contextlib.contextmanager
def only_one(root: Path) -> Iterator[None]:
    """Hold the checkout's lock; `Temporary` names the process that has it. The kernel frees it when the holder dies."""
    path = root / ".countersign" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Temporary(
                Problem(what=f"another run is at work in this checkout: process {file.read().strip() or 'unknown'}", where=str(root)),
                hint="wait for it, or work in another clone",
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
