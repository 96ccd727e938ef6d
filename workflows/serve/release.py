"""What a server is told to serve: one JSON file, read strictly. It names digests; what they hold is verified elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workflows.errors import BadInput, Problem

SHA256 = r"^[0-9a-f]{64}$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Release(_Strict):
    environment: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")
    sequence: int = Field(ge=0)
    sha256: str | None = Field(pattern=SHA256)


class _Variant(_Strict):
    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")
    run: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,199}$")
    root: str = Field(pattern=SHA256)
    model: str = Field(pattern=SHA256)
    share: float = Field(ge=0, le=1)
    shadow: bool


class _File(_Strict):
    release: _Release
    pipeline: str = Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")
    variants: list[_Variant] = Field(min_length=1, max_length=16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One model: the run it comes from, that run's root, the model's sha256, and its part of the decisions.

    A shadow decides on everything and answers nothing.
    """

    name: str
    run: str
    root: str
    model: str
    share: float
    shadow: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A release as a server knows it. `sha256` is the digest of the signed statement, where there is one."""

    environment: str
    sequence: int
    sha256: str | None
    pipeline: str
    variants: tuple[Variant, ...]

    @property
    def answering(self) -> tuple[Variant, ...]:
        return tuple(v for v in self.variants if not v.shadow)

    @property
    def shadows(self) -> tuple[Variant, ...]:
        return tuple(v for v in self.variants if v.shadow)


def read(data: bytes, where: str) -> Release:
    """The release in the bytes of a file; `BadInput` with everything that is wrong with it."""
    try:
        found = _File.model_validate_json(data)
    except ValidationError as error:
        problems = [Problem(what=e["msg"], where=".".join((where, *map(str, e["loc"])))) for e in error.errors()]
        raise BadInput(*problems) from None
    variants = tuple(Variant(**v.model_dump()) for v in found.variants)
    if wrong := [Problem(what=w, where=f"{where}: variants") for w in _wrong_with(variants)]:
        raise BadInput(*wrong)
    return Release(**found.release.model_dump(), pipeline=found.pipeline, variants=variants)


def _wrong_with(variants: Sequence[Variant]) -> list[str]:
    wrong = []
    if len({v.name for v in variants}) != len(variants):
        wrong.append("a name stands twice")
    total = sum(v.share for v in variants if not v.shadow)
    if abs(total - 1.0) > 1e-9:  # noqa: PLR2004 - shares are decimal fractions, whose sum rounds
        wrong.append(f"the shares of those that answer come to {total:.12g}, not 1")
    if any(v.share for v in variants if v.shadow):
        wrong.append("a shadow has a share")
    return wrong


def chosen(variants: Sequence[Variant], at: float) -> Variant:
    """The variant of a subject whose keyed hash lies at `at`, from 0 to below 1: shares are laid end to end in their order."""
    end = 0.0
    for v in variants:
        end += v.share
        if at < end:
            return v
    return next(v for v in reversed(variants) if v.share)  # the sum fell short of 1 by a rounding


def to_json(release: Release) -> Mapping[str, Any]:
    """What a decision's record says of the release."""
    return {"environment": release.environment, "sequence": release.sequence, "sha256": release.sha256}
