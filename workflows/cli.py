"""The command line: the only place that parses arguments, chooses adapters and exits, with `cli_audit` and `cli_decisions`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from workflows import show, show_cluster, show_runs
from workflows.cli_audit import AsJson, Context, Namespace, StoreUrl, audit, opened
from workflows.cli_decisions import decisions_app
from workflows.cli_promote import compare_champion, release
from workflows.cluster import connect, following, publishing, reconciling, results, submitting
from workflows.cluster.interface import Workflows
from workflows.cluster.places import store_url
from workflows.compile import dvc_lock, exported
from workflows.declare import Pipeline
from workflows.errors import BadInput, CountersignError, Problem, Temporary
from workflows.run import journal, keys
from workflows.run.driver import explained
from workflows.run.interrupt import heard_once
from workflows.run.local import run_pipeline
from workflows.run.lock import only_one
from workflows.run.parameters import overrides_of
from workflows.run.session import checkout, find_pipeline, imported_from, pipeline_names
from workflows.run.single import log_to, make_session, told
from workflows.run.store.interface import Store
from workflows.run.store.open import STORE, open_layers, open_store

app = typer.Typer(
    help="Run machine-learning pipelines so that someone who was not there can verify them.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# What Typer raises for any misuse: it exports only a kind of it.
USAGE_ERROR = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
keys_app = typer.Typer(help="Keys of this machine: they never leave it.")
app.add_typer(keys_app, name="keys")
app.add_typer(audit)
app.add_typer(release)
app.add_typer(decisions_app)

ClusterStore = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", envvar=STORE, help="The store that the cluster works with; else as its ConfigMap says."),
]


def _version(*, asked: bool) -> None:
    if asked:
        print(f"countersign {metadata.version('countersign')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    _asked: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    _help(context)


@keys_app.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    # Typer's own way of showing the help comes as an error that says "Usage:".
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(BadInput.exit_code)


@app.command()
def run(
    pipeline: Annotated[str, typer.Argument(help="Name of a pipeline, such as loan_approval.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="STEP.PARAMETER=VALUE", help="Override a parameter; it is recorded.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Make a new run even if nothing has changed.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute every step, reuse nothing.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Steps at work at the same time.")] = len(os.sched_getaffinity(0)),
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", envvar=STORE, help="Share results with others here, too: s3://BUCKET/PREFIX."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline here, without a cluster."""
    root = checkout()
    declared = find_pipeline(pipeline)
    with only_one(root):
        session = make_session(root, declared, set_ or [], reuse_results=not no_cache, store=open_layers(root, store))
        compare_champion(root, session.store, declared)
        with show.progress(quiet=as_json) as tell, _logging(root):
            finished = run_pipeline(session, again=again or no_cache, jobs=jobs, tell=tell)
        records = journal.standing(session.store, session.ring, finished.seal)
        dvc_lock.update(root, declared, session.settings, records)
        session.store.put_if_absent(journal.lock_document(finished.run), exported.text_of(root, declared, session.settings, records))
        show.finished(session, finished, as_json=as_json)
    if finished.error:
        raise typer.Exit(finished.error.exit_code) if as_json else finished.error


@app.command()
def submit(
    pipeline: Annotated[str, typer.Argument(help="Name of a pipeline, such as loan_approval.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="STEP.PARAMETER=VALUE", help="Override a parameter; it is recorded.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the workflow to its end, and end as countersign run does.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Make a new workflow even if the same was submitted before.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    store: ClusterStore = None,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline on a cluster.

    It needs Argo Workflows there, and runs this checkout's code as it is now. The same submission twice is one
    workflow: the second is told where the first is.

    \b
    countersign submit loan_approval --wait
    countersign submit loan_approval --set tune.trials=4 --namespace countersign-dev
    """
    root, declared = checkout(), find_pipeline(pipeline)
    overrides = overrides_of(set_ or [])
    submitting.check(root, declared, overrides)
    workflows = connect.workflows(context, namespace)
    kept = open_store(root, store_url(workflows, store))
    packed = publishing.pack(root)
    show_cluster.changes_go_along(packed)
    compare_champion(root, kept, declared)
    request = submitting.Request(pipeline=declared, overrides=overrides, code=packed.code, revision=packed.revision, clean=packed.clean)

    def publish() -> None:
        publishing.put_code(kept, packed)
        publishing.put_data(kept, root, root, [declared])

    done = submitting.submit(workflows, request, publish, again=again)
    if not wait:
        show_cluster.submitted(workflows, done, _watch_words(done.name, namespace, context, store), as_json=as_json)
        return
    if not as_json:
        show_cluster.started(workflows, done)
    _wait(
        workflows,
        done.name,
        declared,
        kept,
        watch=_watch_words(done.name, namespace, context, store),
        created=done.created,
        as_json=as_json,
    )


@app.command()
def watch(
    workflow: Annotated[str, typer.Argument(help="Name of a workflow that was submitted.")],
    namespace: Namespace = None,
    context: Context = None,
    store: ClusterStore = None,
    as_json: AsJson = False,
) -> None:
    """Follow a workflow to its end.

    It ends as countersign run does. Leaving with Ctrl-C does not stop the workflow.

    \b
    countersign watch loan-approval-38f6777c0ffe
    """
    root = checkout()
    workflows = connect.workflows(context, namespace)
    there = workflows.get(workflow)
    if there is None:
        raise BadInput(Problem(what="no such workflow", where=f"{workflow}, {workflows.place}"), hint="argo list shows those there are")
    declared = following.pipeline_of(there, [find_pipeline(n) for n in pipeline_names(root)])
    kept = open_store(root, store_url(workflows, store))
    _wait(workflows, workflow, declared, kept, watch=_watch_words(workflow, namespace, context, store), created=False, as_json=as_json)


@app.command()
def publish(
    templates: Annotated[bool, typer.Option("--templates", help="Also bring the cluster's WorkflowTemplates up to date.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    store: ClusterStore = None,
    as_json: AsJson = False,
) -> None:
    """Bring code and data to the cluster.

    What argo submit, the UI and a schedule start from then on is this checkout's code. For CI, after each push: a
    workflow that names only a commit finds that commit's code by what this wrote.

    \b
    countersign publish
    countersign publish --templates --namespace countersign-dev
    """
    root = checkout()
    pipelines = [find_pipeline(n) for n in pipeline_names(root)]
    manifests = publishing.manifests(root) if templates else []
    cluster = connect.cluster(context, namespace)
    kept = open_store(root, store_url(cluster, store))
    packed = publishing.pack(root)
    show_cluster.changes_go_along(packed)
    for declared in pipelines:
        compare_champion(root, kept, declared)
    publishing.put_code(kept, packed)
    data = publishing.put_data(kept, root, root, pipelines)
    applied = [cluster.apply(m) for m in manifests]
    cluster.configure({"code": packed.code, "revision": packed.revision})
    show_cluster.published(packed, data, applied, {"store": kept.place, "namespace": cluster.namespace}, as_json=as_json)


@app.command()
def reconcile(
    branch: Annotated[str | None, typer.Option(help="Look at this branch only.")] = None,
    since: Annotated[str | None, typer.Option(metavar="COMMIT", help="Look at every commit after this one, not only the newest.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be submitted; submit nothing.")] = False,
    context: Context = None,
    store: ClusterStore = None,
    as_json: AsJson = False,
) -> None:
    """Submit commits whose push was lost.

    Those of the branches in params/triggers.yaml, as the push would have. It reads this clone and fetches nothing: git fetch first.

    \b
    git fetch && countersign reconcile
    countersign reconcile --branch main --since v1.4.0 --dry-run
    """
    root = checkout()

    def place(namespace: str) -> reconciling.Place:
        workflows = connect.workflows(context, namespace)
        return reconciling.Place(workflows=workflows, store=open_store(root, store_url(workflows, store)))

    found = list(reconciling.reconcile(root, place, branch=branch, since=since, dry_run=dry_run))
    show_cluster.reconciled(found, dry_run=dry_run, as_json=as_json)
    if failed := [f.error for f in found if f.error]:
        raise failed[0]


def _wait(workflows: Workflows, name: str, declared: Pipeline, store: Store, *, watch: str, created: bool, as_json: bool) -> None:
    """Follow a workflow, say how its run ended, and end as it did."""
    try:
        last = show_cluster.followed(workflows, name, quiet=as_json)
    except KeyboardInterrupt:
        raise Temporary(f"interrupted; the workflow {name} goes on", hint=f"go on watching: {watch}") from None
    kept = results.opened(declared, store)
    done = results.finished_run(kept, last)
    if done is None:
        raise following.failure_of(last) or CountersignError(Problem(what="the workflow ended well, but sealed no run", where=name))
    about = show_cluster.about(workflows, name, phase=last.phase, created=created)
    show.finished(kept, done, as_json=as_json, workflow=about)
    if done.error:
        raise done.error


def _watch_words(name: str, namespace: str | None, context: str | None, store: str | None) -> str:
    """The command to go on watching, as it would be typed here."""
    given = {"--namespace": namespace, "--context": context, "--store": None if store == os.environ.get(STORE) else store}
    return shlex.join(["countersign", "watch", name, *(w for option, value in given.items() if value for w in (option, value))])


@app.command("compile")
def compile_(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail if a generated file is stale.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write dvc.yaml and the Argo manifests.

    They follow from the declarations and parameters, and are committed.
    """
    from workflows.compile import everything

    root = checkout()
    compiled = everything.compile_all(root)
    changed = everything.stale(root, compiled) if check else everything.write(root, compiled)
    if check and changed:
        raise BadInput(*(Problem(what="is not what the declarations say", where=p) for p in changed), hint="run: countersign compile")
    show.compiled(sorted(compiled.texts), changed, as_json=as_json)


@app.command("show")
def show_(
    run: Annotated[str | None, typer.Argument(help="A run's id, or @latest; without one, all runs are listed.")] = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the runs, or the steps of one.

    Of each step: its outcome, time, digests and gates.
    """
    kept = opened(store)
    ring = keys.ring(kept)
    if run is None:
        show_runs.listing(kept, ring, as_json=as_json)
    else:
        show_runs.steps(journal.Journal(kept, journal.find(kept, run)), ring, as_json=as_json)


@keys_app.command("show")
def show_keys(*, as_json: AsJson = False) -> None:
    """Say who you are to others.

    The id of your signing key, and the public key itself: what a policy or an auditor is given.
    """
    signer, _ = keys.signer()
    show.own_key(signer.keyid, signer.public_pem.decode(), as_json=as_json)


@keys_app.command()
def init(*, as_json: AsJson = False) -> None:
    """Make this machine's keys, if missing.

    One signs records, one masks identities. Keys that are there stay as they are.
    """
    show.keys_made(keys.init(), keys.folder(), as_json=as_json)


def _logging(root: Path) -> Any:
    path = root / ".countersign" / "log.jsonl"
    file = path.open("a")
    log_to(file.fileno())
    return file


def main(words: list[str] | None = None) -> None:
    """Run a command; exit as the table of exit codes says. No traceback reaches a person unless they ask for it."""
    words = sys.argv[1:] if words is None else words
    _use_code_of_checkout(words)
    show.warnings_to_terminal()
    debug = "--debug" in words
    if debug:
        os.environ["COUNTERSIGN_DEBUG"] = "1"
    plain = [w for w in words if w != "--debug"]
    with heard_once():
        code = _guarded(lambda: app(args=plain, prog_name="countersign", standalone_mode=False), words, debug=debug)
    sys.exit(code)


def _use_code_of_checkout(words: list[str]) -> None:
    """Start again with the code of the checkout that the person stands in, where an installed command came from another."""
    here = Path.cwd()
    root = next((f for f in (here, *here.parents) if (f / "workflows" / "declare.py").is_file()), None)
    if root and root != imported_from() and os.environ.get("COUNTERSIGN_CHECKOUT") != str(root):
        env = {**os.environ, "PYTHONPATH": str(root), "COUNTERSIGN_CHECKOUT": str(root)}
        os.execve(sys.executable, [sys.executable, "-m", "workflows.cli", *words], env)  # noqa: S606  # our own program


def _guarded(command: Callable[[], object], words: list[str], *, debug: bool) -> int:
    try:
        code = command()
        sys.stdout.flush()
    except typer.Exit as exit_:
        return exit_.exit_code
    except typer.Abort:
        return Temporary.exit_code
    except (SystemExit, BrokenPipeError):
        # Whoever read the answer has gone (rich exits by itself then), so nobody knows how it ended.
        _let_go_of_stdout()
        return Temporary.exit_code
    except USAGE_ERROR as error:
        # `format_message` is what Typer itself would print.
        return _tell(BadInput(error.format_message(), hint="countersign --help"), words)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        return _tell(explained(error, "countersign"), words)
    return code if isinstance(code, int) else 0


def _tell(error: CountersignError, words: list[str]) -> int:
    said = {"error": type(error).__name__, "problems": [str(p) for p in error.problems], "hint": error.hint}
    try:
        if "--json" in words:
            print(json.dumps(said), flush=True)
            return error.exit_code
    except OSError:
        _let_go_of_stdout()  # it may be what the error is about
    print(told(error), file=sys.stderr)
    return error.exit_code


def _let_go_of_stdout() -> None:
    """Let the interpreter, which flushes stdout at its end, find nothing to complain about."""
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # stays open until the process ends


if __name__ == "__main__":
    main()
