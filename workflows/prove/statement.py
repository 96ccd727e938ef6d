"""What every signed statement of ours has in common: an in-toto Statement that is read only where it is written so again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from workflows.prove import canonical
from workflows.prove.record import STATEMENT

T = TypeVar("T")

ENVIRONMENT = re.compile(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?")
MAX_TEXT = 1000  # characters of what a person may say
MAX_STATEMENT = 256 * 1024  # bytes of an envelope: one that names a thousand approvals is smaller


class NotAStatement(ValueError):
    """The payload is not what this version of the statement's format says."""


def statement(kind: str, subjects: Mapping[str, str], predicate: Mapping[str, Any]) -> dict[str, Any]:
    """The statement of one kind about subjects, name -> sha256."""
    listed = [{"name": name, "digest": {"sha256": sha}} for name, sha in subjects.items()]
    return {"_type": STATEMENT, "subject": listed, "predicateType": kind, "predicate": dict(predicate)}


def decode(
    payload: bytes,
    what: str,
    *,
    read: Callable[[Any], T],
    wrong: Callable[[T], Iterable[tuple[bool, str]]],
    write: Callable[[T], Any],
) -> T:
    """The value that encodes to exactly these bytes. `read` takes the predicate, `wrong` gives rules and what each is about."""
    try:
        value = read(canonical.read(payload)["predicate"])
        bad = next((name for sound, name in wrong(value) if not sound), "")
        same = not bad and canonical.matches(write(value), payload)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise NotAStatement(f"not {what}: {type(error).__name__}: {error}") from None
    if not same:
        raise NotAStatement(f"not {what}: {f'bad {bad}' if bad else 'it has entries or a form that this format does not have'}")
    return value


def fits(form: re.Pattern[str], value: object) -> bool:
    """Whether a value is text of this form."""
    return isinstance(value, str) and form.fullmatch(value) is not None


def is_count(value: object, least: int) -> bool:
    """Whether a value is a whole number, and no truth value, of at least so much."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_words(value: object) -> bool:
    """Whether a value is text that may be shown to a person: no control characters, not without end."""
    return isinstance(value, str) and len(value) <= MAX_TEXT and all(c.isprintable() for c in value)
