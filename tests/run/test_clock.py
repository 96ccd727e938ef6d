"""A machine whose clock is wrong: a real S3 server refuses what it signs, and nothing wrong is recorded or believed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests import s3server
from tests.conftest import Home, Said, make_home
from tests.pods import Pods
from tests.skewed import clock

pytestmark = pytest.mark.timeout(300)
HOUR, TEN_MINUTES = 3600, 600
LOOK = """
import os
from pathlib import Path
from workflows.prove.record import Item
from workflows.run.store.open import open_store
open_store(Path.cwd(), os.environ["COUNTERSIGN_STORE"]).holds(Item(name="any", sha256="0" * 64, md5="0" * 32, size=1))
"""


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """A workflow of the toy pipeline that was planned while all clocks were right."""

    pods: Pods
    prefix: str

    @property
    def env(self) -> dict[str, str]:
        return {**self.pods.server.env, "COUNTERSIGN_STORE": self.pods.url}

    def written(self) -> list[str]:
        return [k for k in self.pods.server.objects() if k.startswith(self.prefix)]

    def step(self, name: str, item: str | None = None, *, off: int = 0) -> Said:
        return self.pods.step(name, item, **(clock(off) if off else {}))

    def done(self, name: str, item: str | None = None, *, off: int = 0) -> None:
        said = self.step(name, item, off=off)
        assert said.code == 0, said.err

    def rest(self, *, off: int = 0) -> None:
        """The steps after the first, with clocks that are right, and the seal, with one that is so much off."""
        for name, item in (("work", "a"), ("work", "b"), ("join", None)):
            self.done(name, item)
        said = self.pods.seal(**(clock(off) if off else {}))
        assert "the run is sealed" in said.err, said.err

    def ask(self, *words: str, off: int = 0) -> Said:
        return self.pods.home.ask(*words, env={**self.env, **(clock(off) if off else {})})

    def verified(self, *, off: int = 0) -> tuple[int, bool]:
        said = self.ask("verify", self.pods.run, "--json", off=off)
        assert said.code == 0, said.out + said.err
        return said.code, said.json["verified"]


@pytest.fixture
def workflow(template: Path, real_s3: s3server.Server, tmp_path: Path) -> Workflow:
    shutil.copytree(template, tmp_path / "repo")
    home: Home = make_home(tmp_path / "repo", tmp_path)
    pods = Pods(home=home, server=real_s3, url=f"s3://bank/{tmp_path.name}", pipeline="toy", scratch=tmp_path / "pods")
    pods.publish()
    said = pods.plan()
    assert said.code == 0, said.err
    return Workflow(pods=pods, prefix=f"{tmp_path.name}/")


@pytest.mark.parametrize("off", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_an_hour_off_is_said_at_once_and_nothing_is_written(workflow: Workflow, off: int) -> None:
    before = workflow.written()
    said = workflow.step("pick", off=off)
    assert said.code == 75, said.err
    assert "this machine's clock and its own are apart (RequestTimeTooSkewed); expected 20" in said.err
    assert "hint: set the wrong one of the two right (NTP)" in said.err
    assert workflow.written() == before
    workflow.done("pick")
    workflow.rest()
    assert workflow.verified() == (0, True)


def test_a_question_that_s3_may_not_answer_in_words_is_understood_by_its_date(workflow: Workflow) -> None:
    """To a HEAD there is no body, only 403: without a look at the clocks it reads as a want of rights."""
    said = workflow.pods.home.finish(workflow.pods.home.start("-c", LOOK, env={**workflow.env, **clock(-HOUR)}))
    assert "Temporary" in said.err
    assert "S3 refuses HeadObject, as this machine's clock and its own are apart" in said.err


def test_ten_minutes_behind_is_done_and_ends_after_it_began(workflow: Workflow) -> None:
    workflow.done("pick", off=-TEN_MINUTES)
    workflow.rest(off=-TEN_MINUTES)
    assert workflow.verified() == (0, True)
    steps: list[dict[str, Any]] = workflow.ask("show", workflow.pods.run, "--json").json["steps"]
    assert all(s["seconds"] >= 0 for s in steps)
    (pick,) = [s for s in steps if s["task"] == "pick"]
    ago = datetime.now(UTC) - datetime.fromisoformat(pick["started"])
    assert ago.total_seconds() > TEN_MINUTES, "the clock was wrong, and the record says what it said"


def test_what_builds_on_the_future_is_not_run(workflow: Workflow) -> None:
    """By the clock of the second machine the first has not finished yet: one of the two is wrong, and nobody can tell which."""
    workflow.done("pick", off=TEN_MINUTES)
    said = workflow.step("work", "a")
    assert said.code == 75
    assert "a clock is wrong: by the clock here, what this step builds on was finished in the future" in said.err
    assert "hint: set right the clock of this machine, or of the one that ran pick" in said.err


def test_the_verifier_s_own_clock_decides_nothing(workflow: Workflow) -> None:
    workflow.done("pick")
    workflow.rest()
    for off in (TEN_MINUTES, -TEN_MINUTES):
        assert workflow.verified(off=off) == (0, True)
    said = workflow.ask("verify", workflow.pods.run, off=HOUR)
    assert said.code == 75
    assert "clock" in said.err
