"""People step in: they submit twice, change a template, stop, retry, suspend and resume; and a gate that stops a run."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.real import SLOW, Toy, wait
from workflows.cluster.interface import Phase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
AFTER = b"""        Step(name="after", run="steps.toy:after", inputs=(total,), outputs=(last,)),
"""
AFTER_STEP = b"""

class After(NamedTuple):
    \"\"\"What comes behind the gate.\"\"\"

    last: Report


def after(*, total: Report) -> After:
    \"\"\"The sum, once more.\"\"\"
    return After({"total": total["total"]})
"""


def test_a_template_that_changes_in_a_run_changes_nothing_in_it(toy: Toy) -> None:
    name = toy.submit(*SLOW)
    toy.until(name, "work(0:a)", Phase.RUNNING)
    manifest = toy.space.get("workflowtemplate", "toy")
    join = next(t for t in manifest["spec"]["templates"] if t["name"] == "join")
    join["container"]["args"] = ["python", "-m", "workflows.run.driver", "toy", "nothing"]
    toy.space.replace(manifest)
    assert toy.ended(name).phase is Phase.SUCCEEDED
    toy.sealed(name)


def test_two_identical_submissions_at_once_are_one(toy: Toy) -> None:
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda _: toy.ask("submit", "toy", "--namespace", toy.space.name, "--json"), range(2)))
    assert [s.code for s in said] == [0, 0]
    names = {s.json["workflow"] for s in said}
    assert len(names) == 1
    assert sorted(s.json["created"] for s in said) == [False, True]
    toy.submitted.extend(names)
    assert toy.ended(names.pop()).phase is Phase.SUCCEEDED


def test_stopped_by_hand_and_retried(toy: Toy) -> None:
    name = toy.submit(*SLOW)
    toy.until(name, "work(0:a)", Phase.RUNNING)
    toy.space.patch("workflow", name, {"spec": {"shutdown": "Stop"}})
    assert toy.ended(name).phase in {Phase.FAILED, Phase.ERROR}
    first = toy.sealed(name, "failed")
    toy.argo("retry", name)
    assert toy.ended(name).phase is Phase.SUCCEEDED
    second = wait(lambda: (r := toy.run_of(name)) != first and r, "the second run is noted")
    assert second == f"{first}-2"
    toy.sealed(name)
    assert toy.verify(first)["verified"], "the first run is as it was"


def test_terminated_by_hand_it_is_not_sealed_and_a_retry_seals_it(toy: Toy) -> None:
    """Argo starts no exit handler then."""
    name = toy.submit(*SLOW)
    toy.begun(name, "work(0:a)")
    toy.argo("terminate", name)
    assert toy.ended(name).phase.bad
    assert toy.node(name, "seal") is None
    run = toy.planned_run(name)
    assert {r["run"]: r["outcome"] for r in toy.runs()}[run] == "open"
    checked = toy.verify(run)
    assert (checked["code"], checked["verified"]) == (4, False)
    assert [p["what"] for p in checked["findings"]] == ["the run has no seal: it was not finished, or its root is missing"]
    toy.argo("retry", name)
    assert toy.ended(name).phase is Phase.SUCCEEDED
    assert wait(lambda: toy.workflow(name).annotations.get("countersign/run"), "the run is noted") == run
    toy.sealed(name)


def test_suspended_by_hand_nothing_starts_until_it_is_resumed(toy: Toy) -> None:
    name = toy.submit()
    toy.suspend_after(name, "plan")
    time.sleep(10)
    assert [n.name for n in toy.workflow(name).nodes if n.kind == "Pod"] == ["plan(0)"]
    toy.argo("resume", name)
    assert toy.ended(name).phase is Phase.SUCCEEDED
    toy.sealed(name)


def test_a_gate_that_says_no_ends_the_workflow_with_its_evidence(toy: Toy) -> None:
    toy.home.write("params/policies/toy.yaml", toy.home.read("params/policies/toy.yaml").replace(b"at_least: 100", b"at_least: 1000"))
    name = toy.submit()
    assert toy.ended(name).phase is Phase.FAILED
    (refused,) = toy.attempts(name, "join")
    assert refused.exit_code == 3
    assert "gate enough" in refused.message
    assert "expected at least 1000, got 240" in refused.message
    toy.sealed(name, "refused")


def test_behind_a_gate_that_says_no_nothing_is_started(toy: Toy) -> None:
    home = toy.home
    home.write(
        "workflows/toy.py",
        home.read("workflows/toy.py")
        .replace(b"    ),\n    results=(total,),", b"%b    ),\n    results=(total, last)," % AFTER)
        .replace(b"pipeline = ", b'last = Artifact(name="last", kind=Kind.REPORT)\n\npipeline = '),
    )
    home.write("steps/toy.py", home.read("steps/toy.py") + AFTER_STEP)
    home.write("params/policies/toy.yaml", home.read("params/policies/toy.yaml").replace(b"at_least: 100", b"at_least: 1000"))
    compiled = home.ask("compile")
    assert compiled.code == 0, compiled.err
    toy.space.kubectl("apply", "-f", str(home.path / "infra/argo/workflows/toy.yaml"))
    name = toy.submit()
    assert toy.ended(name).phase is Phase.FAILED
    assert [n.exit_code for n in toy.attempts(name, "join")] == [3]
    assert toy.attempts(name, "after") == []
    assert "after" not in {s["task"] for s in toy.steps(toy.sealed(name, "refused"))}
    # The same with a limit that is met: it is the gate, and nothing else, that kept it from starting.
    home.write("params/policies/toy.yaml", home.read("params/policies/toy.yaml").replace(b"at_least: 1000", b"at_least: 100"))
    allowed = toy.submit()
    assert toy.ended(allowed).phase is Phase.SUCCEEDED
    assert len(toy.attempts(allowed, "after")) == 1
