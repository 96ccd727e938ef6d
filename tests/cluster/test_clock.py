"""A node whose clock is wrong: its pods are refused by S3 and say why, nothing wrong is recorded, and the run verifies.

The node's own clock goes right: the pods of one step load libfaketime, from a ConfigMap.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime
from pathlib import Path

import pytest

from tests import skewed
from tests.cluster.real import Space, Toy
from workflows.cluster.interface import Phase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
HOUR, TEN_MINUTES = 3600, 600
AT = Path("/skewed/libfaketime.so.1")


@pytest.fixture(scope="module")
def space(space: Space) -> Space:
    """A namespace that has the library."""
    library = base64.b64encode(skewed.library().read_bytes()).decode()
    kept = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "skewed"}, "binaryData": {AT.name: library}}
    space.kubectl("create", "-f", "-", given=json.dumps(kept))
    return space


def off(toy: Toy, step: str, seconds: int) -> None:
    """From now on the clocks of this step's pods are so much ahead."""
    manifest = toy.space.get("workflowtemplate", "toy")
    template = next(t for t in manifest["spec"]["templates"] if t["name"] == step)
    template["container"]["env"] += [{"name": k, "value": v} for k, v in skewed.clock(seconds, AT).items()]
    template["container"]["volumeMounts"].append({"name": "skewed", "mountPath": str(AT.parent), "readOnly": True})
    template["volumes"].append({"name": "skewed", "configMap": {"name": "skewed"}})
    template["retryStrategy"]["limit"] = "1"
    toy.space.replace(manifest)


def right(toy: Toy) -> None:
    """All clocks are right again."""
    toy.space.kubectl("apply", "-f", str(toy.home.path / "infra/argo/workflows/toy.yaml"))


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_an_hour_off_ends_with_words_and_goes_on_when_it_is_right(toy: Toy, seconds: int) -> None:
    off(toy, "work", seconds)
    name = toy.submit()
    assert toy.ended(name).phase is Phase.FAILED
    failed = toy.node(name, "work(0:a)")
    assert failed.exit_code == 75, failed
    assert "clock" in failed.message
    run = toy.sealed(name, "failed")
    # Nothing but that it failed is recorded of the step, by the exit handler, whose clock is right.
    (record,) = [s for s in toy.steps(run) if s["task"] == "work@a"]
    assert record["outcome"] == "failed"
    assert any("clock" in p for p in record["problems"]), record
    right(toy)
    again = toy.submit("--again")
    assert toy.ended(again).phase is Phase.SUCCEEDED
    assert {s["task"]: s["outcome"] for s in toy.steps(toy.sealed(again, "done"))}["pick"] == "reused"


def test_ten_minutes_behind_is_done_and_ends_after_it_began(toy: Toy) -> None:
    off(toy, "pick", -TEN_MINUTES)
    name = toy.submit()
    assert toy.ended(name).phase is Phase.SUCCEEDED
    steps = {s["task"]: s for s in toy.steps(toy.sealed(name, "done"))}
    assert all(s["seconds"] >= 0 for s in steps.values())
    began = {t: datetime.fromisoformat(s["started"]) for t, s in steps.items()}
    assert (began["work@a"] - began["pick"]).total_seconds() > TEN_MINUTES, "its record says what its clock said"


def test_what_builds_on_the_future_is_not_run(toy: Toy) -> None:
    off(toy, "work", -TEN_MINUTES)
    name = toy.submit()
    assert toy.ended(name).phase is Phase.FAILED
    failed = toy.node(name, "work(0:a)")
    assert failed.exit_code == 75
    assert "a clock is wrong: by the clock here, what this step builds on was finished in the future" in failed.message
    toy.sealed(name, "failed")
