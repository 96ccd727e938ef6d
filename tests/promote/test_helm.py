"""What Helm and Argo Rollouts cannot be made to do when a test wants it: a canary whose promoter died, a cluster that goes away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workflows.errors import BadInput, Temporary
from workflows.promote import helm
from workflows.promote.deployer import NotServed
from workflows.promote.helm import Helm, Said
from workflows.prove import canonical
from workflows.prove.release import State

ARRIVED = "2" * 64
RELEASE = '{"pipeline":"toy","release":{"environment":"prod","sequence":2,"sha256":"' + ARRIVED + '"}}'
VALUES = {"release": RELEASE, "canary": {"enabled": True}}
HISTORY = [{"revision": 4, "status": "superseded"}, {"revision": 5, "status": "deployed"}]


class Programs:
    """helm and kubectl that answer what they are told to; they keep what they were asked, what they brought and what may serve."""

    def __init__(
        self,
        *phases: tuple[str, bool],
        seen: int = 3,
        err: str = "",
        status: str = "deployed",
        history: Any = HISTORY,
        values: Any = VALUES,
        tested: str = "",
    ) -> None:
        self.phases, self.seen, self.err, self.status, self.history = list(phases), seen, err, status, list(history)
        self.values, self.tested = values, tested
        self.refuses: dict[str, str] = {}
        """How a command begins -> what is wrong with it."""
        self.took: dict[str, float] = {}
        """How a command begins -> seconds that it takes."""
        self.time = 0.0
        self.of: dict[int, Any] = {}
        """Revision -> its values, where they are others than `values`."""
        self.approved: dict[str, str] = {}
        self.brought: list[Any] = []
        self.asked: list[str] = []

    def __call__(self, words: Sequence[str]) -> Said:
        said = " ".join(words)
        self.asked.append(said)
        self.time += next((t for start, t in self.took.items() if said.startswith(start)), 0.0)
        if self.err:
            return Said(code=1, out="", err=self.err)
        if wrong := next((w for start, w in self.refuses.items() if said.startswith(start)), ""):
            return Said(code=1, out="", err=wrong)
        if said.startswith("helm upgrade"):
            self.brought.append(json.loads(Path(words[words.index("--values") + 1]).read_text()))
            self.arrive(self.brought[-1])
        if said.startswith("helm rollback"):
            self.arrive(self.values_of(int(words[3])))
        if said.startswith("helm test") and self.tested:
            return Said(code=1, out="", err=self.tested)
        status = {"info": {"status": self.status}, "version": self.history[-1]["revision"]}
        answers = {"helm status": status, "helm history": self.history}
        found: Any = next((a for start, a in answers.items() if said.startswith(start)), {})
        if said.startswith("helm get values"):
            found = self.values_of(int(words[words.index("--revision") + 1]))
        if said.startswith("kubectl get rollout"):
            phase, aborted = self.phases.pop(0) if len(self.phases) > 1 else self.phases[0]
            status = {"phase": phase, "abort": aborted, "message": "metric shift", "observedGeneration": str(self.seen)}
            found = {"metadata": {"generation": 3}, "status": status}
        if said.startswith("kubectl get configmap"):
            found = {"data": self.approved}
        if said.startswith("kubectl patch configmap"):
            change = json.loads(words[words.index("-p") + 1])["data"]
            self.approved = {k: v for k, v in {**self.approved, **change}.items() if v is not None}
        return Said(code=0, out=json.dumps(found), err="")

    def timeouts(self) -> list[tuple[str, int]]:
        """What Helm was told to do, each with the seconds that it was given."""
        words = [a.split() for a in self.asked if " --timeout " in a]
        return [(w[1], int(w[w.index("--timeout") + 1].removesuffix("s"))) for w in words]

    def values_of(self, revision: int) -> Any:
        return self.of.get(revision, self.values)

    def arrive(self, values: Any) -> None:
        """A revision more, as after every upgrade and every rollback that Helm brought."""
        new = self.history[-1]["revision"] + 1
        self.of[new] = values
        before = [{**r, "status": "superseded"} if r["status"] == "deployed" else r for r in self.history]
        self.history = [*before, {"revision": new, "status": "deployed"}]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helm, "EVERY", 0.0)


def promoter(programs: Programs, minutes: int = 1) -> Helm:
    return Helm(release="toy", namespace="prod", chart=Path("chart"), minutes=minutes, run=programs, clock=lambda: programs.time)


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    (tmp_path / "values.yaml").write_text("release: ''\n")
    return tmp_path


def release(sequence: int) -> str:
    told = {"environment": "prod", "sequence": sequence, "sha256": f"{sequence}" * 64}
    return canonical.encode({"pipeline": "toy", "release": told}).decode()


def test_what_serves_stays_approved_however_many_after_it_are_refused(chart: Path) -> None:
    """Or the cluster would refuse its next pod, and the way back to it."""
    asked = Programs(("Degraded", True))
    asked.approved = {"toy.2": RELEASE, "other.1": "another pipeline's"}
    for n in (3, 4, 5, 6):
        with pytest.raises(NotServed, match="metric shift"):
            replace(promoter(asked), chart=chart).deploy({**VALUES, "release": release(n)})
        assert asked.approved["toy.2"] == RELEASE
        assert asked.approved[f"toy.{n}"] == release(n)
    assert sorted(asked.approved) == ["other.1", "toy.2", "toy.5", "toy.6"], "the last one refused may still have pods"


def test_what_serves_and_is_not_listed_is_put_back(chart: Path) -> None:
    """Somebody took it out: neither its next pod nor the way back would be let in."""
    asked = Programs(("Healthy", False))
    asked.approved = {"toy.1": release(1), "toy.2": "something else", "other.2": RELEASE}
    replace(promoter(asked), chart=chart).deploy({**VALUES, "release": release(3)})
    assert asked.approved == {"toy.1": release(1), "toy.2": RELEASE, "toy.3": release(3), "other.2": RELEASE}
    asked = Programs(("Healthy", False))
    asked.refuses = {"kubectl get configmap": "Error from server (NotFound)"}
    replace(promoter(asked), chart=chart).deploy({**VALUES, "release": release(3)})
    (made,) = [a for a in asked.asked if a.startswith("kubectl create")]
    assert f"--from-literal=toy.2={RELEASE}" in made
    assert f"--from-literal=toy.3={release(3)}" in made


@pytest.mark.parametrize(
    "text", [None, "", "{}", "by hand", RELEASE.replace("toy", "other"), '{"pipeline":"toy","release":{"sequence":"x"}}']
)
def test_what_serves_and_is_no_release_of_this_pipeline_is_not_listed(chart: Path, text: str | None) -> None:
    asked = Programs(("Healthy", False), values={**VALUES, "release": text})
    replace(promoter(asked), chart=chart).deploy({**VALUES, "release": release(3)})
    assert asked.approved == {"toy.3": release(3)}


def test_a_way_back_without_steps_is_called_no_canary() -> None:
    asked = Programs(("Progressing", False), ("Healthy", False), values=WHAT_SERVED)
    assert promoter(asked).heal(ARRIVED) == "it went on by itself"
    with pytest.raises(NotServed, match=r"^it was taken back: metric shift$"):
        promoter(Programs(("Degraded", False), values=WHAT_SERVED)).heal(ARRIVED)


def test_a_canary_that_outlived_its_promoter_is_seen_to_its_end() -> None:
    asked = Programs(("Progressing", False), ("Paused", False), ("Healthy", False))
    assert promoter(asked).heal(ARRIVED) == "its canary went on by itself"
    there = promoter(asked).installed()
    assert there
    assert there.release == ARRIVED
    assert not [a for a in asked.asked if a.startswith("helm rollback")]


def test_one_that_was_taken_back_in_the_meantime_goes_back_in_helm_too() -> None:
    asked = Programs(("Degraded", True))
    with pytest.raises(NotServed, match=r"^the canary was taken back: metric shift$") as caught:
        promoter(asked).heal(ARRIVED)
    assert caught.value.state is State.ABORTED
    assert caught.value.deployed == promoter(asked)._deployed(5, VALUES)
    assert [a for a in asked.asked if a.startswith("helm rollback toy 4 ")], "the revision before it"


REFUSED = "Error: pod toy-test failed"
BEFORE = {**VALUES, "rollback": False}
WHAT_SERVED = {**BEFORE, "rollback": True}


def test_what_its_test_refuses_after_a_good_canary_gives_way_without_a_canary(chart: Path) -> None:
    """Argo Rollouts takes the refused release for the good one: what served before would be a canary that nobody follows."""
    asked = Programs(("Healthy", False), ("Progressing", False), ("Healthy", False), values=BEFORE, tested=REFUSED)
    with pytest.raises(NotServed, match=r"helm test: pod toy-test failed$") as caught:
        replace(promoter(asked), chart=chart).deploy({**VALUES, "release": release(3), "rollback": False})
    assert caught.value.state is State.FAILED
    assert asked.brought[1:] == [WHAT_SERVED]
    assert asked.phases == [("Healthy", False)], "it was waited for"
    assert not [a for a in asked.asked if a.startswith("helm rollback")]


def test_the_way_back_brings_what_the_revision_before_held(chart: Path) -> None:
    """Not what the newest holds, which was refused, nor what any other does."""
    held = {n: {**VALUES, "release": release(n)} for n in (3, 4, 5)}
    asked = Programs(("Healthy", False), tested=REFUSED)
    asked.of = dict(held)
    with pytest.raises(NotServed):
        replace(promoter(asked), chart=chart).deploy({**VALUES, "release": release(6)})
    assert asked.brought[1:] == [{**held[5], "rollback": True}]
    asked = Programs(("Healthy", False), tested=REFUSED)
    asked.of = dict(held)
    with pytest.raises(NotServed):
        promoter(asked).heal("5" * 64)
    assert asked.brought == [{**held[4], "rollback": True}]


def test_what_served_before_and_does_not_come_back_is_said(chart: Path) -> None:
    asked = Programs(("Healthy", False), ("Degraded", False), values=BEFORE, tested=REFUSED)
    with pytest.raises(NotServed, match="pod toy-test failed; what served before does not come back: metric shift"):
        replace(promoter(asked), chart=chart).deploy({**VALUES, "release": release(3)})


@pytest.mark.parametrize(("values", "back"), [(VALUES, "helm upgrade"), ({"release": RELEASE}, "helm rollback")])
def test_a_way_back_that_helm_refuses_hides_not_why_it_was_taken(values: Any, back: str) -> None:
    asked = Programs(("Healthy", False), values=values, tested=REFUSED)
    asked.refuses = {back: "Error: admission webhook said no"}
    with pytest.raises(NotServed, match="pod toy-test failed; what served before does not come back: admission webhook said no") as caught:
        promoter(asked).heal(ARRIVED)
    assert (caught.value.state, caught.value.deployed) == (State.FAILED, promoter(asked)._deployed(5, values))
    asked.refuses = {back: "Error: dial tcp 10.0.0.1:443: connect: connection refused"}
    with pytest.raises(Temporary):
        promoter(asked).heal(ARRIVED)


def test_the_way_back_from_a_refused_release_goes_on_where_it_was_killed() -> None:
    history = [{"revision": n, "status": s} for n, s in enumerate(("superseded", "deployed", "pending-upgrade"), 1)]
    asked = Programs(("Healthy", False), status="pending-upgrade", history=history, values=WHAT_SERVED)
    assert promoter(asked).heal("3" * 64) == "Helm was at pending-upgrade: what it was going back to was brought again"
    assert [a for a in asked.asked if a.startswith("helm rollback toy 3 ")], "not 2, which was refused"


WENT_BACK = [(VALUES, "helm upgrade --install toy "), ({"release": RELEASE}, "helm rollback toy 4 ")]


@pytest.mark.parametrize(("values", "back"), WENT_BACK, ids=["canary", "at once"])
def test_what_arrived_without_its_promoter_must_stand_its_own_test(values: Any, back: str) -> None:
    asked = Programs(("Healthy", False), values=values, tested=REFUSED)
    with pytest.raises(NotServed, match=r"^helm test: pod toy-test failed$") as caught:
        promoter(asked).heal(ARRIVED)
    assert caught.value.state is State.FAILED
    assert [a for a in asked.asked if a.startswith(back)], asked.asked
    asked = Programs(("Healthy", False), values=values)
    assert promoter(asked).heal(ARRIVED) == ""
    assert [a for a in asked.asked if a.startswith("helm test toy ")]


def test_what_served_before_is_let_alone_where_nothing_arrived() -> None:
    asked = Programs(("Degraded", True), tested=REFUSED)
    assert promoter(asked).heal("3" * 64) == ""
    assert not [a for a in asked.asked if a.startswith(("helm test", "helm rollback"))]


PENDING: list[tuple[list[tuple[str, str]], str]] = [
    ([("superseded", ""), ("deployed", ""), ("pending-upgrade", "")], "rollback toy 2 "),
    ([("superseded", ""), ("deployed", "the canary that was aborted"), ("pending-rollback", "Rollback to 1")], "rollback toy 3 "),
    ([("failed", ""), ("pending-install", "")], "uninstall toy "),
    ([("deployed", ""), ("superseded", "what Helm went back from"), ("failed", "Rollback to 1")], "rollback toy 1 "),
    ([("superseded", ""), ("deployed", ""), ("failed", "an upgrade")], "rollback toy 2 "),
]


@pytest.mark.parametrize(("states", "asked_for"), PENDING, ids=["upgrade", "rollback", "install", "way back", "refused"])
def test_what_a_killed_helm_left_goes_back_to_what_served(states: list[tuple[str, str]], asked_for: str) -> None:
    """Never to what a rollback was leading away from, though Helm lists it as deployed until the rollback ends."""
    history = [{"revision": n, "status": s, "description": d} for n, (s, d) in enumerate(states, 1)]
    asked = Programs(status=states[-1][0], history=history)
    assert promoter(asked).heal(ARRIVED).startswith(f"Helm was at {states[-1][0]}")
    assert [a for a in asked.asked if a.startswith(f"helm {asked_for}")], asked.asked


NOT_READY = """\
Error: UPGRADE FAILED: release toy failed: resource Deployment/prod/toy not ready. status: InProgress, message: Replicas: 0/1
context deadline exceeded
"""


@pytest.mark.parametrize("values", [VALUES, {"release": RELEASE}], ids=["canary", "at once"])
def test_what_helm_did_not_put_back_is_put_back(chart: Path, values: Any) -> None:
    """One glance at a Deployment that has not begun to recover, and Helm calls its own way back failed."""
    history = [{"revision": n, "status": s} for n, s in enumerate(("superseded", "deployed", "superseded", "failed"), 1)]
    asked = Programs(("Healthy", False), history=history, status="failed", values=values)
    asked.refuses = {"helm upgrade": NOT_READY}
    with pytest.raises(NotServed, match=r"^helm: UPGRADE FAILED: .* message: Replicas: 0/1$") as caught:
        replace(promoter(asked), chart=chart).deploy(values)
    assert caught.value.hint == "what served before serves on"
    assert [a for a in asked.asked if a.startswith("helm rollback toy 2 ")], asked.asked
    asked.refuses["helm rollback"] = "Error: admission webhook said no"
    with pytest.raises(NotServed, match="Replicas: 0/1; what served before does not come back: admission webhook said no") as caught:
        replace(promoter(asked), chart=chart).deploy(values)
    assert not caught.value.hint
    asked.refuses["helm rollback"] = "Error: dial tcp 10.0.0.1:443: connect: connection refused"
    with pytest.raises(Temporary):
        replace(promoter(asked), chart=chart).deploy(values)


def test_what_helm_put_back_by_itself_is_let_alone(chart: Path) -> None:
    asked = Programs(values=WHAT_SERVED)
    asked.refuses = {"helm upgrade": NOT_READY}
    with pytest.raises(NotServed):
        replace(promoter(asked), chart=chart).deploy(WHAT_SERVED)
    assert not [a for a in asked.asked if a.startswith("helm rollback")]


def test_what_argo_rollouts_has_not_seen_yet_says_nothing() -> None:
    """Its last word is about what was there before: Healthy then is no word about now."""
    asked = Programs(("Healthy", False), seen=2)
    assert promoter(asked).installed() is None


def test_a_canary_that_never_ends_is_taken_back() -> None:
    asked = Programs(("Progressing", False))
    with pytest.raises(NotServed) as caught:
        promoter(asked, minutes=0)._follow_canary(VALUES, promoter(asked)._deployed(5, VALUES), 4)
    assert caught.value.state is State.ABORTED


def test_all_of_a_release_has_one_time_of_which_each_part_gets_what_is_left(chart: Path) -> None:
    asked = Programs(*[("Progressing", False)] * 9, ("Healthy", False), tested=REFUSED)
    asked.took = {"helm upgrade": 300, "kubectl get rollout": 60, "helm test": 200}
    with pytest.raises(NotServed, match="helm test"):
        replace(promoter(asked, minutes=60), chart=chart).deploy(VALUES)
    assert asked.timeouts() == [("upgrade", 3000), ("test", 3000 - 300 - 600), ("upgrade", 3600 - 300 - 600 - 200)]


def test_a_canary_that_used_all_its_time_leaves_enough_for_the_way_back(chart: Path) -> None:
    asked = Programs(("Progressing", False))
    asked.took = {"helm upgrade": 300, "kubectl get rollout": 60}
    with pytest.raises(NotServed, match="the canary was taken back: metric shift"):
        replace(promoter(asked, minutes=60), chart=chart).deploy(VALUES)
    assert asked.time <= 3600 - helm.RESERVE + 60
    (_, left) = asked.timeouts()[-1]
    assert helm.RESERVE - 60 <= left <= helm.RESERVE
    asked.asked.clear()
    with pytest.raises(NotServed, match="the canary was taken back: metric shift"):
        replace(promoter(asked, minutes=60), chart=chart).heal(ARRIVED)
    assert asked.timeouts()[-1][1] >= helm.RESERVE - 60, "it has a time of its own"


def test_what_goes_back_by_itself_has_half_of_the_time_for_it(chart: Path) -> None:
    asked = Programs()
    asked.took = {"helm upgrade": 600}
    replace(promoter(asked, minutes=60), chart=chart).deploy({"release": RELEASE})
    assert asked.timeouts() == [("upgrade", 1800), ("test", 3000 - 600)]


def test_helm_is_never_given_no_time_which_is_no_limit() -> None:
    asked = Programs()
    promoter(asked, minutes=0)._back(4)
    assert asked.timeouts() == [("rollback", 1)]


def test_what_is_recorded_is_complete() -> None:
    own = {"a": {"b": 1, "c": 0.5}, "list": [1, 2], "map": {}}
    given = {"a": {"b": 2.0}, "list": [3], "map": {"x": "y"}, "new": {"z": 1.0}}
    assert helm._over(own, given) == {"a": {"b": 2, "c": 0.5}, "list": [3], "map": {"x": "y"}, "new": {"z": 1}}
    assert json.dumps(helm._over(own, given)).count(".") == 1, "Helm gives 2.0 back as 2"


@pytest.mark.parametrize(
    ("err", "kind"),
    [
        ("Error: Kubernetes cluster unreachable: dial tcp 10.0.0.1:443: connect: connection refused", Temporary),
        ("Error: Get https://10.0.0.1: net/http: TLS handshake timeout", Temporary),
        ("Error: another operation (install/upgrade/rollback) is in progress", Temporary),
        ("Error: values don't meet the specifications of the schema", BadInput),
    ],
)
def test_what_may_pass_is_told_from_what_will_not(err: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        promoter(Programs(err=err)).installed()
