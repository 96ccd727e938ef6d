"""What a step pays before its own work begins is kept small: by what the driver does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "boto3",
    "rich",
    "typer",
    "hera",
    "dvc",
    "pandas",
    "lightgbm",
    "sklearn",
    "scipy",
    "fairlearn",
    "alibi_detect",
    "optuna",
    "pyarrow",
}


@pytest.mark.parametrize("module", ["workflows.run.driver", "workflows.run.single"])
def test_the_driver_imports_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == ""


def test_what_was_left_out_can_still_be_imported() -> None:
    script = "import workflows.run.single, boto3, rich.console; boto3.Session; rich.console.Console()"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
