"""What `make` does before anything runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_tutorial import clone

SOURCE = "data/loan_approval/application/application.csv"


@pytest.fixture
def make(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """The Makefile asked for the data in a fresh clone whose environment is there already."""
    clone(tmp_path / "clone")
    (tmp_path / "clone/.venv").mkdir()
    (tmp_path / "clone/.venv/installed").touch()
    return again(tmp_path)


def again(scratch: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_SITE_CACHE_DIR": str(scratch / "dvc")}
    return subprocess.run(["make", SOURCE], cwd=scratch / "clone", env=env, capture_output=True, text=True, check=False)


def test_data_comes_when_it_is_missing_and_stays_when_somebody_changed_it(make: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    assert make.returncode == 0, make.stderr
    source = tmp_path / "clone" / SOURCE
    kept = source.read_bytes()
    assert kept.count(b"\n") == 1990
    assert "up to date" in again(tmp_path).stdout
    source.write_bytes(kept[:-10])
    assert again(tmp_path).returncode == 0
    assert source.read_bytes() == kept[:-10]
    source.unlink()
    assert again(tmp_path).returncode == 0
    assert source.read_bytes() == kept
