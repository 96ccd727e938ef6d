"""`python -m workflows.serve --release FILE`: one model server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from workflows.errors import BadInput, CountersignError, Problem
from workflows.run.single import log_to, told
from workflows.serve import release


def main() -> int:
    """Serve until told to stop; the exit code as the table of exit codes says."""
    parser = argparse.ArgumentParser(prog="python -m workflows.serve", description="Serve a release of models.")
    parser.add_argument("--release", type=Path, required=True, metavar="FILE", help="what to serve, as JSON")
    path: Path = parser.parse_args().release
    log_to(sys.stderr.fileno())
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
