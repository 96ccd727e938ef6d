"""`python infra/cluster up`: puts the checkout on the path, so that this folder is the package `infra.cluster`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from infra.cluster.cli import main  # noqa: E402 (the path comes first)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
