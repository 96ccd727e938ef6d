"""`python -m workflows.serve --release FILE`: one model server."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TextIO, cast

from workflows.errors import BadInput, CountersignError, Problem
from workflows.run.logs import structlog
from workflows.run.single import log_to, told
from workflows.serve import release


class _Unfailing(io.TextIOBase):
    """Where lines of the log go. One that cannot be written, as on a full disk, is lost: it must not take a request with it."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            os.write(self._handle, text.encode(errors="replace"))
        return len(text)


def main() -> int:
    """Serve until told to stop; the exit code as the table of exit codes says."""
    parser = argparse.ArgumentParser(prog="python -m workflows.serve", description="Serve a release of models.")
    parser.add_argument("--release", type=Path, required=True, metavar="FILE", help="what to serve, as JSON")
    path: Path = parser.parse_args().release
    log_to(sys.stderr.fileno())
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Unfailing(sys.stderr.fileno()))))
    try:
        data = path.read_bytes()
    except OSError as error:
        return _failed(BadInput(Problem(what=f"cannot be read: {error.strerror}", where=str(path))))
    from workflows.serve.server import serve

    try:
        return serve(release.read(data, str(path)))
    except CountersignError as error:
        return _failed(error)


def _failed(error: CountersignError) -> int:
    sys.stderr.write(f"{told(error)}\n")
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
