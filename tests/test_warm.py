"""The process that starts programs says how each of them ended, to whoever reads that late, too."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests import warm


def test_how_a_program_ended_is_not_read_as_part_of_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = warm.Starter._ask
    (tmp_path / "ends.py").write_text("import sys; sys.exit('so it ended')")

    def and_then_late(self: warm.Starter, *given: Any) -> None:
        asked(self, *given)
        time.sleep(2)  # until the program has ended, and both of its numbers are there

    monkeypatch.setattr(warm.Starter, "_ask", and_then_late)
    assert warm.starter().run(["ends"], cwd=tmp_path, env=os.environ, within=60) == (1, "", "so it ended\n")
