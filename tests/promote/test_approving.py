"""Until when an approval holds, and which moments a person may write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.promote.world import NOW, SIGNERS, because, office, policies, run_in
from tests.prove import chain
from tests.prove.chain import but
from workflows import show_releases
from workflows.errors import BadInput
from workflows.promote.approving import Wish, draft, moment, until

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


def test_whoever_approves_is_told_whose_run_it_is(tmp_path: Path) -> None:
    """The seal says it, and the policy whose account that is."""

    def accounts(r: dict[str, Any]) -> None:
        r["roles"]["validator"]["members"][0]["accounts"] = ["vera@bank"]

    found = office(tmp_path, accounts, known_submitter=because(value=True))
    run_in(found.store, seal=but(submitter="vera@bank"))

    def doubts(who: str, run: str = chain.RUN) -> tuple[str, ...]:
        return draft(found.store, found.policies, Wish(run=run, environment="prod"), signer=SIGNERS[who], now=NOW).doubts

    assert doubts("vera") == ("vera@bank, which is you, submitted the run: whoever made it does not approve it",)
    assert doubts("victor") == ()
    run_in(found.store, "toy-bbbbbbbbbbbb")
    assert "nobody says who submitted the run" in doubts("victor", "toy-bbbbbbbbbbbb")[0]


def test_what_is_signed_is_shown_as_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An account may have any printable name: none of it is taken for a style, or for a picture."""
    account = "oidc:key:[admins]vera[/x]"
    found = office(tmp_path)
    run_in(found.store, seal=but(submitter=account))
    wish = Wish(run=chain.RUN, environment="prod")
    show_releases.draft(draft(found.store, found.policies, wish, signer=SIGNERS["vera"], now=NOW), found.policies, quiet=False)
    assert f"  submitted  by {account}\n" in capsys.readouterr().err
