"""May this model come to this environment? Values in, yes or every reason why not out. It knows no store and no clock.

The rules, each held by a test:
1. the run verifies, its seal says it passed and, where the policy asks for that, who submitted it, and only keys of the role
   `runs_by` signed it;
2. every gate that the environment names was judged and said yes, and every number meets the environment's floors;
3. the same root was served in the environment before, where the policy names one;
4. an approval counts only if it is for this root, model, verdicts and environment, has begun, has not expired, holds no
   longer than the policy allows, was signed by a key that has a role asked for, is not revoked and did not sign the run, and no
   account of its owner submitted that;
5. each role asked for has its number of approvals, no key counts twice, and no key for two roles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from workflows.promote.evidence import Evidence, Signed, Unreadable
from workflows.promote.policy import Environment, Floor, Policies, of
from workflows.prove.approval import Approval
from workflows.prove.gate import BadVerdict, says
from workflows.prove.record import Outcome
from workflows.prove.verify import CLOCK_SKEW


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighed:
    """An approval, and why it does not count; empty where it does."""

    sha256: str
    by: str
    why_not: str = ""
    role: str = ""
    """For which role it counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What came of it. `reasons` is empty only where it is allowed."""

    reasons: tuple[str, ...]
    waiting: bool
    """Whether approvals are all that is missing."""
    weighed: tuple[Weighed, ...]

    @property
    def allowed(self) -> bool:
        return not self.reasons

    @property
    def counted(self) -> tuple[str, ...]:
        """Digests of the approvals that count, sorted."""
        return tuple(sorted(w.sha256 for w in self.weighed if w.role))


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is to be judged, by what, when."""

    policies: Policies
    environment: str
    evidence: Evidence
    now: datetime
    served_before: bool
    """Whether the run's root was served in the environment that the policy's `after` names."""

    @property
    def policy(self) -> Environment:
        return of(self.policies, self.environment)


def judge(case: Case, approvals: Sequence[Signed | Unreadable]) -> Judgement:
    """Whether the run may come to the environment now."""
    policy = case.policy
    unmet = [*_run(case.policies, policy, case.evidence), *_gates(policy, case.evidence)]
    if policy.after.value and not case.served_before:
        unmet.append(f"it was not served in {policy.after.value} before: {policy.after.because}")
    weighed, missing = _count(case.policies, policy, [_weigh(case, a) for a in _each_once(approvals)])
    return Judgement(reasons=(*unmet, *missing), waiting=bool(missing) and not unmet, weighed=tuple(weighed))


def gate_reasons(policy: Environment, evidence: Evidence) -> list[str]:
    """Why the gates do not let it into the environment."""
    return list(_gates(policy, evidence))


def unknown_submitter(policy: Environment, evidence: Evidence) -> str:
    """Why a run that names no submitter does not get into the environment; empty where that is no matter."""
    if evidence.submitter is not None or not policy.known_submitter.value:
        return ""
    return f"nobody says who submitted the run: {policy.known_submitter.because}"


def _run(policies: Policies, policy: Environment, evidence: Evidence) -> Iterator[str]:
    if evidence.findings:
        yield from (f"the run does not verify: {f}" for f in evidence.findings)
    if evidence.pipeline not in policy.pipelines:
        yield f"pipeline {evidence.pipeline} may not come here; those that may: {', '.join(sorted(policy.pipelines))}"
    elif evidence.model is None:
        yield f"the run made no {evidence.pipeline}/{policy.pipelines[evidence.pipeline]}"
    if evidence.outcome is Outcome.FAILED:
        yield "the run failed"
    if not evidence.signers:
        yield "nobody signed the run"
    if unknown := unknown_submitter(policy, evidence):
        yield unknown
    allowed = policies.keys_of(policy.runs_by.value)
    for key in evidence.signers:
        if allowed is not None and key not in allowed:
            yield f"the run is signed by {policies.name_of(key)}, who has not the role {policy.runs_by.value}: {policy.runs_by.because}"
        if why := policies.why_revoked(key, evidence.sealed):
            yield f"the run is signed by {policies.name_of(key)}, whose key is revoked: {why}"


def _gates(policy: Environment, evidence: Evidence) -> Iterator[str]:
    said: dict[str, str] = {}
    for v in evidence.verdicts:
        try:
            word = says(v)
        except BadVerdict as error:
            yield f"a gate's verdict cannot be trusted: {error}"
            continue
        name = str(v["gate"])
        said[name] = "no" if "no" in {word, said.get(name)} else "yes"
    for gate in policy.gates.value:
        if gate not in said:
            yield f"gate {gate} was not judged: {policy.gates.because}"
    yield from (f"gate {gate} says no" for gate in sorted(said) if said[gate] == "no")
    if evidence.outcome is Outcome.REFUSED and "no" not in said.values():
        yield "the run was refused"
    for floor in policy.floors:
        yield from _floor(floor, evidence)


def _floor(floor: Floor, evidence: Evidence) -> Iterator[str]:
    listed = [v["rules"] for v in evidence.verdicts if v.get("gate") == floor.gate and isinstance(v.get("rules"), list)]
    values = [r.get("value") for rules in listed for r in rules if isinstance(r, Mapping) and r.get("metric") == floor.metric]
    limit = f">= {floor.at_least:g}" if floor.at_least is not None else f"<= {floor.at_most:g}"
    if not values:
        yield f"{floor.gate}: {floor.metric} was not judged, and must be {limit} here: {floor.because}"
    for value in values:
        if not _meets(floor, value):
            yield f"{floor.gate}: {floor.metric} is {value}, and must be {limit} here: {floor.because}"


def _meets(floor: Floor, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return bool(value >= floor.at_least) if floor.at_least is not None else bool(floor.at_most is not None and value <= floor.at_most)


def _each_once(approvals: Sequence[Signed | Unreadable]) -> list[Signed | Unreadable]:
    return list({a.sha256: a for a in sorted(approvals, key=lambda a: a.sha256)}.values())


def _weigh(case: Case, found: Signed | Unreadable) -> Weighed:
    if isinstance(found, Unreadable):
        return Weighed(sha256=found.sha256, by="", why_not=found.why)
    a = found.approval
    return Weighed(sha256=found.sha256, by=a.by, why_not=next(_against(case, a), ""))


def _against(case: Case, a: Approval) -> Iterator[str]:
    """Why an approval does not count, the plainest reason first."""
    yield from _about_something_else(case, a)
    if why := case.policies.why_revoked(a.by, a.at):
        yield f"the key is revoked: {why}"
    if a.by in case.evidence.signers or case.evidence.submitter in case.policies.accounts_of(a.by):
        yield "whoever made the run does not approve it"
    asked = [n.role for n in case.policy.approvals]
    if not any(a.by in (case.policies.keys_of(role) or ()) for role in asked):
        yield f"the key has none of the roles asked for: {', '.join(asked) or 'none is asked for'}"
    yield from _out_of_time(case, a)


def _about_something_else(case: Case, a: Approval) -> Iterator[str]:
    evidence = case.evidence
    if a.environment != case.environment:
        yield f"it is for {a.environment}"
    if (a.pipeline, a.run, a.root) != (evidence.pipeline, evidence.run, evidence.root):
        yield f"it is for another run: {a.run}, root {a.root}"
    if a.model != evidence.model:
        yield f"it is for another model: {a.model}"
    if a.verdicts != evidence.verdict_digest:
        yield "the gates say something else than what was approved"


def _out_of_time(case: Case, a: Approval) -> Iterator[str]:
    begins, ends = datetime.fromisoformat(a.at), datetime.fromisoformat(a.expires)
    longest = case.policy.longest_days
    if begins > case.now + CLOCK_SKEW:
        yield f"it is from the future: {a.at}"
    if ends <= case.now:
        yield f"it expired at {a.expires}"
    if ends - begins > timedelta(days=longest.value):
        yield f"it holds longer than {longest.value} days: {longest.because}"


def _count(policies: Policies, policy: Environment, weighed: Sequence[Weighed]) -> tuple[list[Weighed], list[str]]:
    """Give each role its approvals: as many as can be at once, each key for one role. What is missing, in words."""
    sound = {w.by: w for w in weighed if not w.why_not}  # the last of a key's, in the order of digests: any one will do
    seats = [(n.role, i) for n in policy.approvals for i in range(n.count)]
    taken = _match(seats, {key: {n.role for n in policy.approvals if key in (policies.keys_of(n.role) or ())} for key in sorted(sound)})
    role_of = {key: seat[0] for seat, key in taken.items()}
    out = [_seated(w, sound, role_of) for w in weighed]
    missing = []
    for n in policy.approvals:
        have = sum(role == n.role for role in role_of.values())
        if have < n.count:
            missing.append(f"{have} of {n.count} approvals by {n.role}: {n.because}")
    return out, missing


def _seated(w: Weighed, sound: Mapping[str, Weighed], role_of: Mapping[str, str]) -> Weighed:
    if w.why_not:
        return w
    if sound[w.by] is not w:
        return Weighed(sha256=w.sha256, by=w.by, why_not="the same key approved already: it counts once")
    role = role_of.get(w.by, "")
    return Weighed(sha256=w.sha256, by=w.by, role=role, why_not="" if role else "enough have approved without it")


def _match(seats: Sequence[tuple[str, int]], roles: Mapping[str, set[str]]) -> dict[tuple[str, int], str]:
    """Seat -> key, as many as can be: the usual augmenting paths of a bipartite matching."""
    taken: dict[tuple[str, int], str] = {}

    def place(key: str, seen: set[tuple[str, int]]) -> bool:
        for seat in seats:
            if seat[0] in roles[key] and seat not in seen:
                seen.add(seat)
                if seat not in taken or place(taken[seat], seen):
                    taken[seat] = key
                    return True
        return False

    for key in roles:
        place(key, set())
    return taken
