"""What is known of a run that someone wants to promote: values that were verified, and nothing that was only said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflows.prove import canonical, digest
from workflows.prove.approval import Approval
from workflows.prove.record import Outcome, Record
from workflows.prove.verify import Finding, Verification, last_entries


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """A run as verification found it."""

    pipeline: str
    run: str
    root: str
    outcome: Outcome
    model: str | None
    """sha256 of its model; None where it made none of that name."""
    verdicts: tuple[Mapping[str, Any], ...]
    """What each gate said, with the numbers."""
    sealed: str
    """When, as its seal says."""
    signers: tuple[str, ...]
    """Key ids of whoever signed its records and its seal."""
    submitter: str | None
    """The account that submitted it to a cluster, as its seal says; None where it says nothing."""
    findings: tuple[Finding, ...]

    @property
    def verdict_digest(self) -> str:
        return digest_of(self.verdicts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """An approval whose signature fits the key that it names, and the digest of its envelope."""

    approval: Approval
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """What lies among the approvals and is none that can be trusted."""

    sha256: str
    why: str


def digest_of(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Digest of everything that a run's gates said, in the order of its tasks."""
    return digest.tagged("gate-verdicts", canonical.encode({"gates": [dict(v) for v in verdicts]}))


def evidence_of(verification: Verification, model: str) -> Evidence | None:
    """What a verification says of a run whose model is the artifact `model`; None where not even its seal could be read."""
    seal, root = verification.seal, verification.root
    if seal is None or root is None:
        return None
    last = last_entries(seal)
    standing: list[Record] = [r for t in seal.tasks if t in last and (r := verification.records.get(last[t].sha256))]
    made = {i.name: i.sha256 for i in seal.outputs}
    return Evidence(
        pipeline=seal.pipeline,
        run=seal.run,
        root=root,
        outcome=seal.outcome,
        model=made.get(f"{seal.pipeline}/{model}"),
        verdicts=tuple(v for r in standing for v in r.verdicts or ()),
        sealed=seal.sealed,
        signers=verification.signers,
        submitter=seal.submitter,
        findings=verification.findings,
    )
