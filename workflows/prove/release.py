"""What is signed when an environment is brought to serve something: before it is tried, and after.

The statements of an environment form a chain: each names the one before it. A number is taken by a statement that says
`begun`, which is there before anything is touched; a second one of the same number says how it ended.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from workflows.prove import canonical
from workflows.prove.record import PIPELINE, RUN, SHA256, TIME
from workflows.prove.statement import ENVIRONMENT, decode, fits, is_count, is_words, statement

RELEASE = "urn:countersign:release:v1"
VARIANT = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
MAX_VARIANTS = 8


class Kind(StrEnum):
    """Why an environment was changed."""

    PROMOTION = "promotion"
    ROLLBACK = "rollback"


class State(StrEnum):
    """How far a release is."""

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"
    """It was tried and did not come to serve; what served before serves on."""
    ABORTED = "aborted"
    """It came to serve a share, was found bad by analysis, and was taken back."""

    @property
    def ended(self) -> bool:
        return self is not State.BEGUN


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A model that takes a share of the decisions, or none and looks on (`shadow`)."""

    name: str
    run: str
    root: str
    model: str
    share: float
    shadow: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """What the installation says of itself afterwards."""

    release: str
    """Its name for Helm."""
    namespace: str
    revision: int
    values: str
    """sha256 of the values that it was given, in full, as canonical JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """One step in the history of an environment."""

    environment: str
    sequence: int
    """1, 2, ... without a gap."""
    state: State
    previous: str | None
    """`begun`: sha256 of the envelope that ended the release before, None for the first. Else that of this release's beginning."""
    kind: Kind
    pipeline: str
    variants: tuple[Variant, ...]
    approvals: tuple[str, ...]
    """sha256 of the envelopes of the approvals that counted, sorted."""
    policy: str
    """Digest of the environment's policy that it was judged by."""
    by: str
    """Key id of who signs this."""
    holder: str
    """Which process does it, so that what a dead one left is told from what one is at."""
    at: str
    reason: str = ""
    deployed: Deployed | None = None


def encode_release(release: Release) -> bytes:
    """The canonical bytes of a release: an in-toto Statement about the models that it brings."""
    return canonical.encode(_statement(release))


def decode_release(payload: bytes) -> Release:
    """The release that encodes to exactly these bytes; anything else is `NotAStatement`."""
    return decode(payload, "a release", read=_read, wrong=_rules, write=_statement)


def wrong_shares(variants: tuple[Variant, ...]) -> str:
    """What is wrong with how variants share the decisions; empty where nothing is."""
    served = [v for v in variants if not v.shadow]
    if not variants or len(variants) > MAX_VARIANTS or len({v.name for v in variants}) != len(variants):
        return f"expected 1 to {MAX_VARIANTS} variants, each with a name of its own"
    if any(v.share for v in variants if v.shadow) or any(v.share <= 0 for v in served):
        return "a variant in shadow has share 0, and every other one more"
    total = sum(v.share for v in served)
    return "" if abs(total - 1) < 1e-9 else f"shares come to {total:g}, expected 1"  # noqa: PLR2004  # of what floats lose


def _read(p: Mapping[str, Any]) -> Release:
    variants = tuple(Variant(**v) for v in p["variants"])
    deployed = Deployed(**p["deployed"]) if p["deployed"] is not None else None
    words = {"state": State(p["state"]), "kind": Kind(p["kind"])}
    return Release(**{**p, **words, "variants": variants, "approvals": tuple(p["approvals"]), "deployed": deployed})


def _rules(r: Release) -> tuple[tuple[bool, str], ...]:
    digests = [r.policy, r.by, *r.approvals, *(d for v in r.variants for d in (v.root, v.model))]
    shares = [v.share for v in r.variants]
    return (
        (fits(ENVIRONMENT, r.environment), "environment"),
        (is_count(r.sequence, 1), "sequence"),
        ((r.previous is None and r.sequence == 1 and not r.state.ended) or fits(SHA256, r.previous), "previous release"),
        (fits(PIPELINE, r.pipeline), "pipeline"),
        (all(fits(VARIANT, v.name) and fits(RUN, v.run) and isinstance(v.shadow, bool) for v in r.variants), "variant"),
        (all(isinstance(s, float) for s in shares) and not wrong_shares(r.variants), "shares"),
        (all(fits(SHA256, d) for d in digests), "digest or key id"),
        (list(r.approvals) == sorted(set(r.approvals)), "approvals: not each once and sorted"),
        (fits(TIME, r.at), "time"),
        (is_words(r.reason) and is_words(r.holder), "words"),
        (r.deployed is None or _is_deployed(r.deployed), "deployment"),
        (r.state.ended or r.deployed is None, "deployment: it has only begun"),
    )


def _is_deployed(d: Deployed) -> bool:
    return is_words(d.release) and is_words(d.namespace) and is_count(d.revision, 1) and fits(SHA256, d.values)


def _statement(r: Release) -> dict[str, Any]:
    predicate = {**asdict(r), "variants": [asdict(v) for v in r.variants], "approvals": list(r.approvals)}
    return statement(RELEASE, {f"{r.pipeline}/{v.name}": v.model for v in r.variants}, predicate)
