"""The command line's part for whoever approves, releases, rolls back, and asks what served."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from workflows import show_cluster, show_releases
from workflows.cli_audit import AsJson, Context, Namespace, Run, StoreUrl, opened
from workflows.cluster import connect, following
from workflows.declare import Pipeline
from workflows.errors import BadInput, CountersignError
from workflows.promote import approving, ledger, policy, promoting, submitting
from workflows.promote import champion as appointed
from workflows.promote.desk import Target, at_desk
from workflows.promote.history import with_approvers
from workflows.promote.promoting import Desk
from workflows.run import files, journal, keys
from workflows.run.session import checkout, find_pipeline, now
from workflows.run.store.interface import Store

release = typer.Typer()
POLICY = "COUNTERSIGN_POLICY"

Env = Annotated[str, typer.Option("--env", metavar="ENVIRONMENT", help="The environment, as params/environments.yaml names it.")]
PolicyFile = Annotated[Path | None, typer.Option("--policy", envvar=POLICY, help="Another file than params/environments.yaml.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]
Values = Annotated[
    Path | None,
    typer.Option(
        "--values", help="The environment's own values for the chart; else infra/charts/model-server/environments/ENVIRONMENT.yaml."
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Where a workflow does it: follow it to its end, and end as it does.")]
ReleaseFile = Annotated[Path | None, typer.Option("--file", help="Also write here what a server is started with.")]


@release.command()
def approve(
    run: Run,
    env: Env,
    expires: Annotated[str, typer.Option(help="12h, 3d, or a moment; else as long as the policy allows.")] = "",
    comment: Annotated[str, typer.Option(help="What you want to say with it; it is signed, too.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
    policy_file: PolicyFile = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Sign your consent to a model.

    It shows everything that is signed, and asks. Who may approve what is in params/environments.yaml.

    \b
    countersign approve loan-approval-a58643166e53 --env prod --expires 3d
    """
    kept = opened(store)
    policies = _policies(policy_file)
    wish = approving.Wish(run=journal.find(kept, run), environment=env, expires=expires, comment=comment)
    signer, _ = keys.signer()
    drafted = approving.draft(kept, policies, wish, signer=signer, now=datetime.fromisoformat(now()))
    show_releases.draft(drafted, policies, quiet=as_json and yes)
    if not yes:
        _confirm("Sign this?")
    show_releases.approved(drafted.approval, approving.sign(kept, signer, drafted), kept.place, as_json=as_json)


@release.command()
def promote(
    run: Run,
    env: Env,
    challenger: Annotated[str | None, typer.Option(metavar="RUN", help="A second run beside it, which must pass all the same.")] = None,
    share: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="The challenger's share of the decisions; 0: it looks on, in shadow.")
    ] = 0.0,
    reason: Reason = "",
    check: Annotated[bool, typer.Option("--check", help="Say whether it may, and change nothing.")] = False,
    file: ReleaseFile = None,
    wait: Wait = False,
    values: Values = None,
    policy_file: PolicyFile = None,
    namespace: Namespace = None,
    context: Context = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Bring a model to an environment.

    Its chain, its gates and its approvals are verified first. What came of it is recorded, signed and chained.

    \b
    countersign promote loan-approval-a58643166e53 --env staging --check
    countersign promote loan-approval-a58643166e53 --env prod --reason "quarterly rebuild"
    """
    kept = opened(store)
    desk = at_desk(kept, env, _policies(policy_file), Target(namespace=namespace, context=context, values=values))
    found = journal.find(kept, run)
    if check:
        looked = promoting.look(desk, found)
        show_releases.looked(looked, env, desk.policies, as_json=as_json)
        raise typer.Exit(0 if looked.judgement.allowed else 3)
    second = journal.find(kept, challenger) if challenger else None
    asked = promoting.asked_of(found, second, share)
    if desk.policy.deploy.value == "workflow":
        promoting.refuse_for_good(desk, asked)
        arguments = {"run": found, "challenger": second or "", "share": f"{share:g}" if second else "", "reason": reason}
        _ask_promoter(desk, submitting.PROMOTE, arguments, namespace, context, wait=wait, as_json=as_json)
        return
    _finish(promoting.promote(desk, asked, reason=reason), file, as_json=as_json)


@release.command()
def rollback(
    env: Env,
    pipeline: Annotated[str | None, typer.Option(help="Which pipeline's server, where the environment serves several.")] = None,
    reason: Reason = "",
    file: ReleaseFile = None,
    wait: Wait = False,
    values: Values = None,
    policy_file: PolicyFile = None,
    namespace: Namespace = None,
    context: Context = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Go back to what served before.

    To the last release that served and that no rollback took away. Its runs are verified anew; it asks for no new approval.

    \b
    countersign rollback --env prod --reason "declines doubled"
    """
    kept, policies = opened(store), _policies(policy_file)
    desk = at_desk(kept, env, policies, Target(namespace=namespace, context=context, values=values))
    asked_at = desk.now  # a dead promotion is put right first: what somebody saw of it is gone then
    chosen = pipeline or promoting.only_pipeline(desk)
    if desk.policy.deploy.value == "workflow":
        arguments = {"pipeline": chosen, "reason": reason}
        _ask_promoter(desk, submitting.ROLLBACK, arguments, namespace, context, wait=wait, as_json=as_json)
        return
    _finish(promoting.rollback(desk, chosen, reason=reason, asked_at=asked_at), file, as_json=as_json)


@release.command()
def history(
    env: Env,
    at: Annotated[str | None, typer.Option(metavar="DATE", help="What served then: 2026-11-23T12:00Z.")] = None,
    policy_file: PolicyFile = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say what served, and who approved it.

    Every release of an environment is verified: its signature, its place in the chain, its approvals.

    \b
    countersign history --env prod
    countersign history --env prod --at 2026-11-23T12:00Z --json
    """
    kept, policies = opened(store), _policies(policy_file)
    entries = ledger.Ledger(kept, policies, env).read()
    moment = approving.moment(at, "--at") if at else None
    serving = ledger.serving_at(entries, moment)
    chosen = (*serving, *ledger.on_their_way(entries, moment)) if moment else entries
    show_releases.history(with_approvers(kept, chosen), serving, policies, at=at, as_json=as_json)


@release.command()
def champion(
    pipeline: Annotated[str, typer.Argument(help="Name of a pipeline, such as loan_approval.")],
    env: Env,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write it here, as the source that the pipeline reads.")] = None,
    policy_file: PolicyFile = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say which model serves, to compare with.

    What the next run's evaluation holds its model against: the model and the decision rule that decide most in the environment.

    \b
    countersign champion loan_approval --env prod -o data/loan_approval/champion/champion.json
    """
    kept = opened(store)
    data = appointed.report(kept, ledger.Ledger(kept, _policies(policy_file), env), find_pipeline(pipeline))
    if output:
        files.write(output, data + b"\n")
    show_releases.champion(data, output, as_json=as_json)


def compare_champion(root: Path, kept: Store, declared: Pipeline) -> None:
    """Say so before a run is made that would be compared with another model than the one that serves, as far as this store knows it."""
    path = Path(os.environ.get(POLICY) or root / policy.PATH)
    source = declared.schedule.champion.at if declared.schedule else ""
    if not source or not path.is_file() or not (root / source).is_file():
        return
    try:
        others = appointed.others(kept, policy.read(path, str(path)), declared, (root / source).read_bytes())
    except CountersignError as error:
        show_releases.champion_unknown(source, error)
        return
    for serving in others:
        show_releases.other_champion(declared.name, source, serving)


def _policies(path: Path | None) -> policy.Policies:
    return policy.read(path, str(path)) if path else policy.read(checkout() / policy.PATH)


def _ask_promoter(  # what was typed
    desk: Desk, template: str, arguments: dict[str, str], namespace: str | None, context: str | None, *, wait: bool, as_json: bool
) -> None:
    """Submit a workflow to the environment's own promoter; with `wait`, end as it does."""
    workflows = connect.workflows(context, namespace or desk.policy.namespace.value)
    done = submitting.submit(workflows, template, desk.environment, arguments)
    if not wait:
        watch = f"argo get -n {workflows.namespace} {done.name}"
        show_cluster.submitted(workflows, done, watch, again="", as_json=as_json)
        return
    if not as_json:
        show_cluster.started(workflows, done)
    last = show_cluster.followed(workflows, done.name, quiet=as_json)
    if failure := following.failure_of(last, again=submitting.AGAIN):
        raise failure
    show_releases.promoted(submitting.came_of(last, desk.ledger.read()), as_json=as_json)


def _confirm(question: str) -> None:
    """Ask on the terminal. Whoever cannot be asked has not said yes."""
    try:
        said = typer.confirm(question, err=True)
    except typer.Abort:
        raise BadInput("nobody answered: nothing was signed", hint="look at it, then: --yes") from None
    if not said:
        raise BadInput("not signed")


def _finish(done: promoting.Promoted, file: Path | None, *, as_json: bool) -> None:
    if file:
        show_releases.write_file(file, done.entry)
    show_releases.promoted(done, as_json=as_json, file=file)
