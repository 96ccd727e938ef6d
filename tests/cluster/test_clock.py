"""A node whose clock is wrong: its pods are refused by S3 and say why, nothing wrong is recorded, and the run verifies.

The node's own clock goes right: the pods of one step load libfaketime, from a ConfigMap.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests import skewed
from tests.cluster.real import Space, Toy, kubectl, new_space, toy_in
from tests.conftest import Home
from workflows.cluster.interface import Phase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
HOUR, TEN_MINUTES = 3600, 600
AT = Path("/skewed/libfaketime.so.1")


@pytest.fixture(scope="module")
def space(cluster: None) -> Iterator[Space]:
    del cluster
    name = f"clock-{os.environ.get('PYTEST_XDIST_WORKER', 'one')}"
    space = new_space(name)
    library = base64.b64encode(skewed.library().read_bytes()).decode()
    kept = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "skewed"}, "binaryData": {AT.name: library}}
    space.kubectl("create", "-f", "-", given=json.dumps(kept))
    yield space
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def toy(space: Space, home: Home, tmp_path: Path) -> Iterator[Toy]:
    found = toy_in(space, home)
    home.write("steps/toy.py", home.read("steps/toy.py") + f"\n# {tmp_path.name}\n".encode())
    yield found
    for name in found.submitted:
        space.kubectl("delete", "workflow", name, "--wait=false", check=False)


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


def checked(toy: Toy, name: str, outcome: str) -> str:
    run = toy.run_of(name)
    found: Any = toy.verify(run)
    assert (found["code"], found["verified"], found["outcome"]) == (0, True, outcome), found
    return run


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_an_hour_off_ends_with_words_and_goes_on_when_it_is_right(toy: Toy, seconds: int) -> None:
    off(toy, "work", seconds)
    name = toy.submit()
    assert toy.ended(name).phase is Phase.FAILED
    failed = toy.node(name, "work(0:a)")
    assert failed.exit_code == 75, failed
    assert "clock" in failed.message
    run = checked(toy, name, "failed")
    # Nothing but that it failed is recorded of the step, by the exit handler, whose clock is right.
    (record,) = [s for s in toy.steps(run) if s["task"] == "work@a"]
    assert record["outcome"] == "failed"
    assert any("clock" in p for p in record["problems"]), record
    right(toy)
    again = toy.submit("--again")
    assert toy.ended(again).phase is Phase.SUCCEEDED
    assert {s["task"]: s["outcome"] for s in toy.steps(checked(toy, again, "done"))}["pick"] == "reused"


def test_ten_minutes_behind_is_done_and_ends_after_it_began(toy: Toy) -> None:
    off(toy, "pick", -TEN_MINUTES)
    name = toy.submit()
    assert toy.ended(name).phase is Phase.SUCCEEDED
    steps = {s["task"]: s for s in toy.steps(checked(toy, name, "done"))}
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
    checked(toy, name, "failed")
