"""Approving: what a person is shown is what they sign."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from workflows.errors import BadInput, GateRefused, NotVerified, Problem
from workflows.promote import approvals
from workflows.promote.evidence import Evidence
from workflows.promote.judging import gate_reasons, unknown_submitter
from workflows.promote.policy import Environment, Policies, of
from workflows.promote.promoting import found_evidence
from workflows.prove.approval import Approval
from workflows.prove.signature import Signer
from workflows.run.store.interface import Store

HOURS = {"h": 1, "d": 24}
DURATION = re.compile(r"([1-9][0-9]{0,3})([hd])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """An approval before it is signed, and what it rests on."""

    approval: Approval
    evidence: Evidence
    roles: tuple[str, ...]
    """Roles that the policy asks for and this key has; empty: it would not count."""
    doubts: tuple[str, ...]
    """Why it would not count, or not suffice, as things stand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a person wants to approve."""

    run: str
    environment: str
    expires: str = ""
    """`12h`, `3d` or a moment; empty: as long as the policy allows."""
    comment: str = ""


def draft(store: Store, policies: Policies, wish: Wish, *, signer: Signer, now: datetime) -> Draft:
    """What this person would sign. `NotVerified` and `GateRefused` where there is nothing that may be approved."""
    run, environment = wish.run, wish.environment
    policy = of(policies, environment)
    evidence = found_evidence(store, policy, run)
    if evidence.findings:
        raise NotVerified(
            *(Problem(what=f.what, where=f.where) for f in evidence.findings), hint="a run that does not verify is not approved"
        )
    if evidence.model is None or evidence.pipeline not in policy.pipelines:
        raise BadInput(Problem(what=f"no model of {evidence.pipeline} may come to {environment}", where=run))
    if refused := gate_reasons(policy, evidence):
        raise GateRefused(*(Problem(what=r, where=run) for r in refused), hint="what a gate refused is not approved")
    approval = Approval(
        pipeline=evidence.pipeline,
        run=evidence.run,
        root=evidence.root,
        model=evidence.model,
        verdicts=evidence.verdict_digest,
        environment=environment,
        by=signer.keyid,
        at=_stamp(now),
        expires=_stamp(until(wish.expires, now, policy)),
        comment=wish.comment,
    )
    roles = tuple(n.role for n in policy.approvals if signer.keyid in (policies.keys_of(n.role) or ()))
    return Draft(approval=approval, evidence=evidence, roles=roles, doubts=tuple(_doubts(policies, policy, evidence, approval, roles)))


def sign(store: Store, signer: Signer, drafted: Draft) -> str:
    """Sign and keep an approval; the digest of its envelope."""
    return approvals.keep(store, signer, drafted.approval)


def until(text: str, now: datetime, policy: Environment) -> datetime:
    """`12h`, `3d` or a moment in RFC 3339; empty: as long as the policy allows."""
    longest = now + timedelta(days=policy.longest_days.value)
    if not text:
        return longest
    if matched := DURATION.fullmatch(text):
        ends = now + timedelta(hours=int(matched[1]) * HOURS[matched[2]])
    else:
        ends = moment(text, "--expires")
    if ends <= now:
        raise BadInput(Problem(what="it would have expired already", where="--expires", got=text))
    if ends > longest:
        raise BadInput(
            Problem(what=f"longer than {policy.longest_days.value} days: {policy.longest_days.because}", where="--expires", got=text)
        )
    return ends


def moment(text: str, where: str) -> datetime:
    """A moment that a person wrote, in UTC where they name no zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(Problem(what="not a moment", where=where, expected="such as 2026-11-23T12:00Z, or 2026-11-23", got=text)) from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _doubts(policies: Policies, policy: Environment, evidence: Evidence, approval: Approval, roles: tuple[str, ...]) -> list[str]:
    said = []
    if not policy.approvals:
        said.append(f"this environment asks for no approval: {policy.approvals_because}")
    elif not roles:
        said.append(
            f"your key has none of the roles that are asked for ({', '.join(n.role for n in policy.approvals)}): it would not count"
        )
    if approval.by in evidence.signers:
        said.append("your key signed the run: whoever made it does not approve it")
    if evidence.submitter in policies.accounts_of(approval.by):
        said.append(f"{evidence.submitter}, which is you, submitted the run: whoever made it does not approve it")
    if unknown := unknown_submitter(policy, evidence):
        said.append(unknown)
    if why := policies.why_revoked(approval.by, approval.at):
        said.append(f"your key is revoked: {why}")
    return said


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="microseconds")
