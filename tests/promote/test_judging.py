"""Who may bring what where: each refusal shown, and that what is asked for suffices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.promote.world import EVIDENCE, KEYS, NOW, VERDICT, WHY, because, judged, members, policies, raw, signed, stamp
from workflows.promote.evidence import Evidence, Unreadable
from workflows.promote.policy import parse
from workflows.prove.record import Outcome
from workflows.prove.verify import Finding

BOTH = (signed("vera"), signed("olga"))
NO = {**VERDICT, "says": "no", "rules": [{**VERDICT["rules"][0], "value": 4, "says": "no"}]}


def test_a_sound_run_with_its_approvals_may_come() -> None:
    found = judged(*BOTH)
    assert found.allowed
    assert found.counted == tuple(sorted(a.sha256 for a in BOTH))


@pytest.mark.parametrize(
    ("by", "change", "why"),
    [
        ("vera", {"environment": "dev"}, "it is for dev"),
        ("vera", {"root": "c" * 64}, "it is for another run"),
        ("vera", {"run": "toy-ffffffffffff"}, "it is for another run"),
        ("vera", {"model": "c" * 64}, "it is for another model"),
        ("vera", {"verdicts": "c" * 64}, "the gates say something else"),
        ("vera", {"expires": stamp(NOW)}, "it expired at"),
        ("vera", {"at": stamp(NOW + timedelta(hours=1))}, "it is from the future"),
        ("vera", {"expires": stamp(NOW + timedelta(days=7))}, "it holds longer than 7 days"),
        ("mallory", {}, "the key has none of the roles asked for"),
        ("promoter", {}, "the key has none of the roles asked for"),
    ],
)
def test_an_approval_that_does_not_count(by: str, change: dict[str, Any], why: str) -> None:
    """Rule 4: for this root, model, verdicts and environment, in time, by a role that is asked for."""
    found = judged(signed(by, **change), signed("olga"))
    assert not found.allowed
    assert found.waiting
    assert found.reasons == (f"0 of 1 approvals by validator: {WHY}",)
    (said,) = [w.why_not for w in found.weighed if w.by == KEYS[by]]
    assert why in said


def test_whoever_made_the_run_does_not_approve_it() -> None:
    mine = replace(EVIDENCE, signers=(KEYS["pipeline"], KEYS["vera"]))
    found = judged(
        *BOTH, evidence=mine, policy=policies(lambda r: r["roles"]["pipeline"]["members"].append({"key": KEYS["vera"], "name": "vera"}))
    )
    assert [w.why_not for w in found.weighed if w.by == KEYS["vera"]] == ["whoever made the run does not approve it"]
    assert not found.allowed


def test_what_an_account_of_the_cluster_submitted_is_its_persons_own() -> None:
    def accounts(r: dict[str, Any]) -> None:
        r["roles"]["validator"]["members"][0]["accounts"] = ["vera@bank"]

    mine = replace(EVIDENCE, submitter="vera@bank")
    found = judged(*BOTH, evidence=mine, policy=policies(accounts))
    assert [w.why_not for w in found.weighed if w.by == KEYS["vera"]] == ["whoever made the run does not approve it"]
    assert found.waiting
    assert judged(signed("victor"), signed("olga"), evidence=mine, policy=policies(accounts)).allowed
    assert judged(*BOTH, evidence=replace(EVIDENCE, submitter="victor@bank"), policy=policies(accounts)).allowed
    assert judged(*BOTH, policy=policies(accounts)).allowed, "nobody is said to have submitted it"


def test_a_run_of_which_nobody_says_who_submitted_it() -> None:
    """Rule 1, where the policy asks: then no approval can be known to be somebody else's."""
    asks: dict[str, Any] = {"known_submitter": because(value=True)}
    found = judged(*BOTH, policy=policies(**asks))
    assert (found.allowed, found.waiting) == (False, False)
    assert found.reasons == (f"nobody says who submitted the run: {WHY}",)
    assert judged(*BOTH, evidence=replace(EVIDENCE, submitter="victor@bank"), policy=policies(**asks)).allowed


@pytest.mark.parametrize(
    ("since", "allowed"),
    [(None, False), (NOW - timedelta(days=2), False), (NOW - timedelta(days=1), False), (NOW - timedelta(hours=1), True)],
    ids=["ever", "before", "at that moment", "later"],
)
def test_a_revoked_key(since: Any, *, allowed: bool) -> None:
    """What it signed before counts only where the policy says since when the key is bad."""
    line = {"key": KEYS["vera"], "because": "the laptop was stolen", **({"since": since.isoformat()} if since else {})}
    found = judged(*BOTH, policy=policies(lambda r: r.update(revoked=[line])))
    assert found.allowed is allowed
    assert allowed or any("the key is revoked: the laptop was stolen" in w.why_not for w in found.weighed)


def test_a_key_counts_once() -> None:
    two: dict[str, Any] = {"approvals": [{"role": "validator", "count": 2, "because": WHY}]}
    again = (signed("vera"), signed("vera", comment="again"))
    found = judged(*again, policy=policies(**two))
    assert found.reasons == (f"1 of 2 approvals by validator: {WHY}",)
    assert [bool(w.role) for w in found.weighed].count(True) == 1
    assert judged(*again, signed("victor"), policy=policies(**two)).allowed
    assert not judged(signed("vera"), signed("vera"), policy=policies(**two)).allowed


def test_a_key_speaks_for_one_role() -> None:
    """Rule 5: whoever has two roles fills one seat; where it matters which, the others are seated around it."""
    both = policies(lambda r: r["roles"]["owner"]["members"].append({"key": KEYS["vera"], "name": "vera"}))
    assert not judged(signed("vera"), policy=both).allowed
    for order in permutations([signed("vera"), signed("victor")]):
        assert judged(*order, policy=both).allowed, "vera as owner, victor as validator"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"findings": (Finding(where="record x", what="changed"),)}, "the run does not verify: record x: changed"),
        ({"pipeline": "other"}, "pipeline other may not come here"),
        ({"model": None}, "the run made no toy/total"),
        ({"outcome": Outcome.FAILED}, "the run failed"),
        ({"outcome": Outcome.REFUSED}, "the run was refused"),
        ({"signers": ()}, "nobody signed the run"),
        ({"signers": (KEYS["mallory"],)}, "who has not the role pipeline"),
        ({"verdicts": ()}, "gate enough was not judged"),
        ({"verdicts": ({**VERDICT, "gate": "other"},)}, "gate enough was not judged"),
        ({"verdicts": (NO,)}, "gate enough says no"),
        ({"verdicts": (VERDICT, NO)}, "gate enough says no"),
        ({"verdicts": ({**NO, "says": "yes"},)}, "a gate's verdict cannot be trusted"),
        ({"verdicts": ({"gate": "enough", "says": "yes", "rules": []},)}, "a gate's verdict cannot be trusted"),
        ({"verdicts": ({"gate": "enough"},)}, "a gate's verdict cannot be trusted"),
    ],
)
def test_a_run_that_may_not_come(change: dict[str, Any], why: str) -> None:
    """Rules 1 and 2, whoever approved it."""
    evidence = replace(EVIDENCE, **change)
    found = judged(signed("vera", evidence), signed("olga", evidence), evidence=evidence)
    assert not found.allowed
    assert not found.waiting
    assert any(why in r for r in found.reasons), found.reasons


@pytest.mark.parametrize(("since", "allowed"), [(None, False), ("2026-02-01T00:00:00+00:00", False), ("2026-02-28T00:00:00+00:00", True)])
def test_a_run_signed_by_a_key_that_was_revoked(since: str | None, *, allowed: bool) -> None:
    line = {"key": KEYS["pipeline"], "because": "it leaked from a pod", "since": since}
    found = judged(*BOTH, policy=policies(lambda r: r.update(revoked=[line])))
    assert found.allowed is allowed
    assert allowed or any("whose key is revoked: it leaked" in r for r in found.reasons)


@pytest.mark.parametrize(("value", "allowed"), [(5, True), (4.5, True), (4.4, False), (None, False), (True, False), ("5", False)])
def test_an_environment_may_ask_for_more_than_the_gate_did(value: Any, *, allowed: bool) -> None:
    floor = {"gate": "enough", "metric": "total", "at_least": 4.5, "because": WHY}
    rule = {"metric": "total", "where": "total", "at_least": 1, "value": value, "says": "yes", "because": "just so"}
    evidence = replace(EVIDENCE, verdicts=({**VERDICT, "rules": [rule]},))
    found = judged(signed("vera", evidence), signed("olga", evidence), evidence=evidence, policy=policies(floors=[floor]))
    assert found.allowed is allowed


def test_a_floor_under_a_number_that_was_not_judged() -> None:
    floor = {"gate": "enough", "metric": "auc", "at_most": 1, "because": WHY}
    assert any("auc was not judged" in r for r in judged(*BOTH, policy=policies(floors=[floor])).reasons)


def test_what_was_not_served_before_does_not_come_further() -> None:
    after: dict[str, Any] = {"after": because("dev")}
    assert any("it was not served in dev before" in r for r in judged(*BOTH, policy=policies(**after)).reasons)
    assert judged(*BOTH, policy=policies(**after), served_before=True).allowed


def test_where_no_approval_is_asked_for_every_proof_still_is() -> None:
    anybodys = replace(EVIDENCE, signers=(KEYS["mallory"],))
    assert judged(evidence=anybodys, environment="dev").allowed
    assert not judged(evidence=replace(anybodys, findings=(Finding(where="x", what="y"),)), environment="dev").allowed
    assert not judged(evidence=replace(anybodys, verdicts=(NO,), outcome=Outcome.REFUSED), environment="dev").allowed


def test_what_cannot_be_read_counts_for_nothing() -> None:
    odd = Unreadable(sha256="f" * 64, why="signed by a key that is not at hand")
    found = judged(*BOTH, odd)  # type: ignore[arg-type]
    assert found.allowed
    assert odd.sha256 not in found.counted


names = st.sampled_from(["vera", "victor", "olga", "mallory"])


@given(st.lists(names, max_size=6), st.integers(1, 3), st.integers(1, 2), st.sets(names, max_size=2))
def test_it_is_allowed_exactly_where_people_can_be_seated(who: list[str], validators: int, owners: int, also: set[str]) -> None:
    """Against the plain definition: some choice of different keys fills every seat."""

    def change(r: dict[str, Any]) -> None:
        r["roles"]["owner"] = members(*sorted({"olga", *also}))

    asked = [{"role": "validator", "count": validators, "because": WHY}, {"role": "owner", "count": owners, "because": WHY}]
    has = {"validator": {"vera", "victor"}, "owner": {"olga", *also}}
    seats = ["validator"] * validators + ["owner"] * owners
    possible = any(all(n in has[s] for n, s in zip(p, seats, strict=True)) for p in permutations(sorted(set(who)), len(seats)))
    assert judged(*(signed(w) for w in who), policy=policies(change, approvals=asked)).allowed is possible


@given(st.permutations([signed("vera"), signed("victor"), signed("olga"), signed("mallory"), signed("vera", environment="dev")]))
def test_the_order_of_approvals_decides_nothing(approvals: list[Any]) -> None:
    assert judged(*approvals) == judged(*reversed(approvals))


def test_the_digest_of_a_policy_changes_with_what_decides() -> None:
    mine = policies().digest_of("prod")

    def elsewhere(r: dict[str, Any]) -> None:
        r["environments"]["dev"]["longest_days"]["value"] = 3

    assert policies(elsewhere).digest_of("prod") == mine
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda r: r["environments"]["prod"]["approvals"].pop(),
        lambda r: r["roles"]["owner"]["members"].pop(),
        lambda r: r.update(revoked=[{"key": KEYS["vera"], "because": "the laptop was stolen"}]),
    ]
    for change in changes:
        assert parse(raw(change)).digest_of("prod") != mine


def test_evidence_names_its_verdicts_by_all_that_they_say() -> None:
    def of(evidence: Evidence) -> str:
        return evidence.verdict_digest

    other = replace(EVIDENCE, verdicts=({**VERDICT, "rules": [{**VERDICT["rules"][0], "value": 21}]},))
    assert of(EVIDENCE) != of(other)
