"""Cron lines as Argo reads them: minute, hour, day of month, month, day of week. What Argo would refuse is refused here."""

from __future__ import annotations

import re

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 6))
NAMES = {
    "month": {name: str(n) for n, name in enumerate(MONTHS, 1)},
    "day of week": {name: str(n) for n, name in enumerate(DAYS)},
}
PART = re.compile(r"(?:[*?]|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,2}))?")
LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def problem_of(line: str) -> str | None:
    """What is wrong with a line, in words; None where nothing is."""
    fields = line.split()
    if len(fields) != len(FIELDS):
        return f"has {len(fields)} fields, not five (minute, hour, day of month, month, day of week)"
    times: dict[str, frozenset[int]] = {}
    for text, (name, low, high) in zip(fields, FIELDS, strict=True):
        found = _values(text, name, low, high)
        if found is None:
            return f"has a {name} that cannot be read: {text} ({low} to {high})"
        times[name] = found
    # With a day of week beside it, either will do; alone, the day must exist.
    if fields[4] in {"*", "?"} and not any(d <= LONGEST[m - 1] for m in times["month"] for d in times["day of month"]):
        return "names a date that never comes"
    return None


def in_numbers(line: str) -> str:
    """A sound line without names of months and days: the API server refuses those, though Argo's own linter takes them."""
    return " ".join(_numbers(text, name) for text, (name, _, _) in zip(line.split(), FIELDS, strict=True))


def _numbers(text: str, name: str) -> str:
    return re.sub(r"[a-z]+", lambda m: NAMES.get(name, {}).get(m[0], m[0]), text.lower())


def _values(text: str, name: str, low: int, high: int) -> frozenset[int] | None:
    found: set[int] = set()
    for part in _numbers(text, name).split(","):
        match = PART.fullmatch(part)
        if match is None:
            return None
        first, last, step = match.groups()
        start = low if first is None else int(first)
        # A single number with a step runs on to the end, as in cron.
        end = int(last) if last else high if first is None or step else start
        if not low <= start <= end <= high or step in {"0", "00"}:
            return None
        found.update(range(start, end + 1, int(step or 1)))
    return frozenset(found)
