"""The decision log's part of the command line: is it whole, and would this decision be the same again?"""

from __future__ import annotations

from typing import Annotated

import typer

from workflows import show_decisions
from workflows.cli_audit import AsJson, Keys, StoreUrl, opened
from workflows.errors import BadInput, NotVerified, Problem
from workflows.run import keys
from workflows.run.store.interface import Store

decisions_app = typer.Typer()
Environments = Annotated[
    list[str] | None, typer.Option("--env", metavar="ENV", help="Look only in this environment's logs. May be repeated.")
]


@decisions_app.command()
def replay(
    decision: Annotated[str, typer.Argument(help="The id that the answer gave.")],
    env: Environments = None,
    key: Keys = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Decide again, and compare.

    The record is found in the log and verified, the archived model of the run that it names likewise; then score and
    reasons must be the same, bit for bit. What the log keeps sealed needs the server's subject key.

    \b
    countersign replay 8c3826b054ad-1a211fb031a-c47059ded6d72222 --env prod --store s3://bank/countersign
    """
    # It reads models, which no other command does.
    from workflows.serve.entry import Keeper
    from workflows.serve.replay import replay as again

    kept = opened(store)
    keeper = Keeper(keys.secret("subject_key", make=False))
    found = again(decision, kept, env or _environments(kept), keys.ring(kept, tuple(key or ())), keeper)
    show_decisions.replayed(found, as_json=as_json)
    if not found.same:
        raise typer.Exit(NotVerified.exit_code)


@decisions_app.command()
def decisions(
    env: Environments = None,
    noted: Annotated[
        list[str] | None,
        typer.Option(metavar="CHAIN=DIGEST", help="What is known of a chain from elsewhere: a receipt, or its end. May be repeated."),
    ] = None,
    key: Keys = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Check the decision logs.

    Every batch's signature, every record's place in its chain, and that none is missing between the first and the last.

    \b
    countersign decisions --env prod --store s3://bank/countersign --key server.pem
    """
    from workflows.serve.shipping import verify_logs

    kept = opened(store)
    ring = keys.ring(kept, tuple(key or ()))
    known = dict(map(_noted, noted or ()))
    found = {e: verify_logs(kept, e, ring, known) for e in env or _environments(kept)}
    show_decisions.logs(found, as_json=as_json)
    if any(said.findings for logs in found.values() for said in logs):
        raise typer.Exit(NotVerified.exit_code)


def _environments(kept: Store) -> list[str]:
    return kept.list_folders("decisions")


def _noted(text: str) -> tuple[str, str]:
    chain, equals, digest = text.partition("=")
    if not equals or len(digest) != 64:  # noqa: PLR2004 - hexadecimal digits of a sha256
        raise BadInput(Problem(what="cannot be read", where=f"--noted {text}", expected="CHAIN=DIGEST, a sha256"))
    return chain, digest
