"""What a cluster computed serves a laptop, and the other way round; what was changed since serves nobody."""

from __future__ import annotations

import pytest

from tests.cluster.real import Toy
from workflows.cluster.interface import Phase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def outcomes(toy: Toy, run: str) -> dict[str, str]:
    return {s["task"]: s["outcome"] for s in toy.steps(run)}


def test_a_laptop_reuses_what_a_cluster_computed(toy: Toy) -> None:
    name = toy.submit()
    assert toy.ended(name).phase is Phase.SUCCEEDED
    assert set(outcomes(toy, toy.sealed(name)).values()) == {"done"}
    run = toy.home.run("--again", env=toy.env)["run"]
    assert set(outcomes(toy, run).values()) == {"reused"}
    assert toy.verify(run)["verified"]


def test_a_laptop_computes_anew_what_was_changed_since(toy: Toy) -> None:
    name = toy.submit()
    assert toy.ended(name).phase is Phase.SUCCEEDED
    key = toy.key_of(toy.digest_of(name, "work(0:a)", "part"))
    toy.client.put_object(Bucket=toy.bucket, Key=key, Body=b"{}")
    assert toy.verify(toy.run_of(name))["code"] == 4
    run = toy.home.run("--again", env=toy.env)["run"]
    found = outcomes(toy, run)
    assert (found["work@a"], found["work@b"]) == ("done", "reused")
    assert toy.verify(run)["verified"], "what was computed took the place of what was changed"


def test_a_cluster_reuses_what_a_laptop_computed(toy: Toy) -> None:
    run = toy.home.run(env=toy.env)["run"]
    assert set(outcomes(toy, run).values()) == {"done"}
    name = toy.submit()
    assert toy.ended(name).phase is Phase.SUCCEEDED
    assert set(outcomes(toy, toy.sealed(name, "reused")).values()) == {"reused"}
