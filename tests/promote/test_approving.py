"""Until when an approval holds, and which moments a person may write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.promote.world import NOW, policies
from workflows.errors import BadInput
from workflows.promote.approving import moment, until

PROD = policies().environments["prod"]


@pytest.mark.parametrize(
    ("text", "after"),
    [("", timedelta(days=7)), ("12h", timedelta(hours=12)), ("3d", timedelta(days=3)), ("2026-03-02", timedelta(hours=12)),
     ("2026-03-01T14:00:00+01:00", timedelta(hours=1)), ("2026-03-01T13:00Z", timedelta(hours=1))],
)  # fmt: skip
def test_until_when(text: str, after: timedelta) -> None:
    assert until(text, NOW, PROD) == NOW + after


@pytest.mark.parametrize(
    ("text", "why"), [("soon", "not a moment"), ("8d", "longer than 7 days"), ("169h", "longer"), ("2026-03-01", "expired already")]
)
def test_until_then_it_does_not_hold(text: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        until(text, NOW, PROD)


def test_a_moment_without_a_zone_is_in_utc() -> None:
    assert moment("2026-11-23T12:00", "--at") == datetime(2026, 11, 23, 12, tzinfo=UTC)
