"""A pipeline's limit on how many tasks run at once, on a real cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.real import Toy, toy_in
from workflows.cluster.interface import Phase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_no_more_run_at_once_than_the_pipeline_allows(toy: Toy) -> None:
    declared = Path(toy.home.path / "workflows/toy.py")
    text = declared.read_text().replace('over=("a", "b")', 'over=("a", "b", "c", "d")')
    declared.write_text(text.replace('name="toy",', 'name="toy",\n    parallelism=2,', 1))
    toy_in(toy.space, toy.home)
    name = toy.submit("--set", "work.mode=slow", "--set", "work.seconds=8")
    done = toy.ended(name)
    assert done.phase is Phase.SUCCEEDED, done.message
    spans = [(n.started, n.finished) for n in done.nodes if n.kind == "Pod" and n.name.startswith("work(")]
    assert len(spans) == 4
    assert max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans) == 2
