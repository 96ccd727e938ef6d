"""What a person signs who approves a model for an environment, and what is signed when a key is not to be trusted any longer.

An approval is about one run by its root, one model by its digest, what the gates said, and one environment, for a time.
Whether it counts is not decided here (see `workflows.promote.judging`): a statement is what was said, by whom, when.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from workflows.prove import canonical
from workflows.prove.record import PIPELINE, RUN, SHA256, TIME
from workflows.prove.statement import ENVIRONMENT, decode, fits, is_words, statement

APPROVAL = "urn:countersign:approval:v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """One person's consent."""

    pipeline: str
    run: str
    root: str
    """sha256 of the envelope of the run's seal."""
    model: str
    """sha256 of the model itself."""
    verdicts: str
    """Digest of everything that the run's gates said: `workflows.promote.evidence.digest_of`."""
    environment: str
    by: str
    """Key id of who approves: that of the key which signs this."""
    at: str
    """RFC 3339, UTC, microseconds."""
    expires: str
    comment: str = ""


def encode_approval(approval: Approval) -> bytes:
    """The canonical bytes of an approval: an in-toto Statement about the model and the run's seal."""
    return canonical.encode(_statement(approval))


def decode_approval(payload: bytes) -> Approval:
    """The approval that encodes to exactly these bytes; anything else is `NotAStatement`."""
    return decode(payload, "an approval", read=lambda p: Approval(**p), wrong=_rules, write=_statement)


def _rules(a: Approval) -> tuple[tuple[bool, str], ...]:
    return (
        (fits(PIPELINE, a.pipeline), "pipeline"),
        (fits(RUN, a.run), "run"),
        (all(fits(SHA256, d) for d in (a.root, a.model, a.verdicts, a.by)), "digest or key id"),
        (fits(ENVIRONMENT, a.environment), "environment"),
        (fits(TIME, a.at) and fits(TIME, a.expires), "time"),
        (a.at < a.expires, "expiry: it ends before it begins"),
        (is_words(a.comment), "comment"),
    )


def _statement(a: Approval) -> dict[str, Any]:
    return statement(APPROVAL, {f"{a.pipeline}/model": a.model, f"{a.run}/root": a.root}, asdict(a))
