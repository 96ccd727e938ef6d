"""The auditor's part of the command line: verify, reproduce, compare, hand on. Nothing here writes into a store, but `anchor`."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from workflows import show, show_runs
from workflows.cluster.anchors import at_hand
from workflows.cluster.anchors.git_note import GitNotes
from workflows.cluster.anchors.interface import ANNOTATION, GIT_NOTE, OBJECT_LOCK, Anchor
from workflows.cluster.anchors.object_lock import LockedObjects, Mode
from workflows.compile import exported
from workflows.declare import Pipeline
from workflows.errors import BadInput, NotVerified, Problem
from workflows.prove.anchor import State, findings
from workflows.prove.bundle import verify_bundle
from workflows.prove.compare import Grade
from workflows.prove.verify import Finding, Verification, commits_of
from workflows.prove.verify import verify as verify_chain
from workflows.run import journal, keys, packing, workspace
from workflows.run import reproduce as again
from workflows.run.comparing import compare_runs
from workflows.run.reader import StoreReader
from workflows.run.session import checkout, find_pipeline, imported_from, local_store, nearest_checkout, pipeline_names
from workflows.run.store.interface import Store
from workflows.run.store.open import STORE, open_store

audit = typer.Typer()


class AnchorName(StrEnum):
    """The anchors, as words of the command line."""

    GIT_NOTE = GIT_NOTE
    ANNOTATION = ANNOTATION
    OBJECT_LOCK = OBJECT_LOCK


AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Run = Annotated[str, typer.Argument(help="A run's id, or @latest.")]
RunOrBundle = Annotated[str, typer.Argument(help="A run's id, @latest, or the file of a bundle.")]
Keys = Annotated[list[Path] | None, typer.Option("--key", help="Trust only this public key (PEM). May be repeated.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="URL", envvar=STORE, help="A store that is shared, s3://BUCKET/PREFIX, instead of this checkout's own."
    ),
]
Namespace = Annotated[str | None, typer.Option(help="Namespace to work in; else the context's, or ARGO_NAMESPACE.")]
Context = Annotated[str | None, typer.Option(help="Context of KUBECONFIG; else its current one.")]


@audit.command()
def verify(
    run: RunOrBundle,
    key: Keys = None,
    root: Annotated[str | None, typer.Option(help="The root that was noted elsewhere when the run was made.")] = None,
    require_anchor: Annotated[
        list[AnchorName] | None, typer.Option(help="Fail unless this anchor has the run's root. May be repeated.")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Check a run's records and artifacts.

    Every signature, every rule of the chain, every artifact byte for byte, in the store and in this checkout's
    artifacts/, and every place outside the store where the run's root is noted.

    \b
    countersign verify loan-approval-a58643166e53 --store s3://bank/countersign --key bank.pem
    countersign verify @latest --require-anchor git-note
    """
    given, is_bundle = tuple(key or ()), packing.is_bundle(run)
    kept = None if is_bundle and not store else opened(store)
    known = at_hand.anchors(Path.cwd(), kept, namespace=namespace, context=context, bundle=is_bundle)
    came = "bundle" if is_bundle else "store" if store else ""
    if is_bundle or kept is None:
        result = verify_bundle(packing.open_bundle(Path(run)), keys.given_ring(given) if given else None, expected_root=root)
    else:
        result = verify_chain(_found(kept, run, known), StoreReader(kept), keys.ring(kept, given), expected_root=root)
        result = replace(result, findings=(*result.findings, *_changed_here(result, kept)))
    said = at_hand.verdicts(known, result.run, result.root)
    result = replace(result, findings=(*result.findings, *findings(said, result.root, {a.value for a in require_anchor or ()})))
    trust = "given with --key" if given else f"came with the {came}" if came else "unregistered local key"
    show.verification(result, said, as_json=as_json, trust=trust, note=show.OWN_KEYS.format(came) if came and not given else "")
    if not result.ok:
        raise typer.Exit(NotVerified.exit_code)


@audit.command()
def compare(
    a: Annotated[str, typer.Argument(help="A run's id, or @latest.")],
    b: Annotated[str, typer.Argument(help="Another run's id.")],
    key: Keys = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say how equal two runs are, by artifact.

    An artifact has the same bytes, the same content, the same decisions, numbers within its tolerance, or differs.
    """
    kept = opened(store)
    one, two = (verified(kept, journal.find(kept, name), key) for name in (a, b))
    with tempfile.TemporaryDirectory() as scratch:
        found = compare_runs((one, kept), (two, kept), known_pipeline(one), Path(scratch))
    show_runs.comparison(one.run, two.run, found, as_json=as_json)
    if found.grade is Grade.DIFFERS:
        raise typer.Exit(NotVerified.exit_code)


@audit.command()
def reproduce(
    run: RunOrBundle,
    into: Annotated[Path | None, typer.Option(help="An empty folder to work in, which is kept. Without it, a temporary one.")] = None,
    key: Keys = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run a run again elsewhere, and compare.

    It is done apart from this checkout, with the run's code, parameters and data. Every artifact is compared.
    """
    kept, root = opened(store), nearest_checkout()
    if packing.is_bundle(run):
        checked = verify_bundle(packing.open_bundle(Path(run)), keys.given_ring(tuple(key)) if key else None)
    else:
        checked = verified(kept, journal.find(kept, run), key)
    original = again.original_of(checked, kept)
    warnings = again.warnings_of(original)
    show_runs.envelope(warnings)
    with tempfile.TemporaryDirectory(prefix="countersign-") as scratch:
        workspace = into.absolute() if into else Path(scratch) / "workspace"  # the second run has another current folder
        code = again.prepare(original, root, workspace)
        answer = again.execute(original, workspace)
        second = local_store(workspace)
        found = compare_runs((checked, kept), (verified(second, answer["run"]), second), known_pipeline(checked), Path(scratch))
        show_runs.comparison(checked.run, answer["run"], found, as_json=as_json, warnings=warnings, code=code)
    if found.grade is Grade.DIFFERS:
        raise typer.Exit(NotVerified.exit_code)


@audit.command()
def bundle(run: Run, output: Output, force: Force = False, key: Keys = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Put a run's proof into one file.

    Records, keys, verdicts and reports, for someone who has nothing else.
    """
    kept = opened(store)
    checked = verified(kept, journal.find(kept, run), key)
    data = packing.pack(checked, kept, nearest_checkout(), known_pipeline(checked))
    packing.write(output, data, force=force)
    show_runs.packed(output, data, checked, as_json=as_json)


@audit.command()
def export(run: Run, output: Output, force: Force = False, key: Keys = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Write a run's dvc.lock, checked.

    It is held against the run's records, and serves dvc pull and dvc repro.

    \b
    countersign export loan-approval-a58643166e53 -o dvc.lock --store s3://bank/countersign
    """
    kept = opened(store)
    checked = verified(kept, journal.find(kept, run), key)
    data = exported.lock_of(checked, kept)
    packing.write(output, data, force=force)
    show_runs.exported(output, data, checked, as_json=as_json)


@audit.command()
def anchor(
    run: Run,
    git_note: Annotated[bool, typer.Option("--git-note", help="Note the root on the run's commit in this clone.")] = False,
    lock_days: Annotated[
        int | None, typer.Option(metavar="DAYS", help="Note it in the store as an object that is locked for so long.")
    ] = None,
    lock_mode: Annotated[Mode, typer.Option(help="Who may undo the lock: nobody, or whoever has the right to.")] = Mode.COMPLIANCE,
    key: Keys = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Note a run's root outside its store.

    Then not even the holder of a signing key can rewrite the run unseen.

    \b
    countersign anchor @latest --git-note
    countersign anchor loan-approval-a58643166e53 --lock-days 3650 --store s3://bank/countersign
    """
    if not git_note and lock_days is None:
        raise BadInput("nothing is asked for", hint="--git-note, --lock-days DAYS, or both")
    kept = opened(store)
    checked = verified(kept, journal.find(kept, run), key)
    if not checked.ok or checked.root is None:
        problems = [Problem(what=f.what, where=f.where) for f in checked.findings]
        raise NotVerified(*problems, hint="a run that does not verify is noted nowhere")
    done = [_note(checked)] if git_note else []
    if lock_days is not None:
        done.append(_lock(checked, kept, lock_days, lock_mode))
    show_runs.anchored(checked.run, checked.root, done, as_json=as_json)


def _note(checked: Verification) -> tuple[str, str]:
    commits = commits_of(checked)
    if not commits:
        raise BadInput(Problem(what="the run names no commit that a note could be on", where=checked.run), hint="--lock-days needs none")
    new = GitNotes(root=checkout()).add(checked.run, str(checked.root), commits[-1])
    return GIT_NOTE, f"{'noted' if new else 'stood there already'}, commit {commits[-1]}"


def _lock(checked: Verification, kept: Store, days: int, mode: Mode) -> tuple[str, str]:
    locked = at_hand.locked_objects(kept)
    if not isinstance(locked, LockedObjects):
        raise BadInput(Problem(what=locked.why, where=kept.place), hint="--store s3://BUCKET/PREFIX names one that may")
    return OBJECT_LOCK, f"locked{locked.lock(checked.run, str(checked.root), days, mode).where}"


def opened(store: str | None) -> Store:
    """A store that is named can be read from anywhere; without a name it is the checkout's own."""
    return open_store(Path.cwd() if store else checkout(), store)


def _changed_here(result: Verification, kept: Store) -> tuple[Finding, ...]:
    """What is wrong with the files that people open, where this is a checkout that runs leave them in."""
    root = imported_from()
    if result.seal is None or not Path.cwd().is_relative_to(root):
        return ()
    own = local_store(root)
    return workspace.changed(root, result.seal, lambda item: own.holds(item) or kept.holds(item))


def verified(store: Store, run: str, key: list[Path] | None = None) -> Verification:
    """A run of the store, checked whole. Whoever uses it looks at `ok`."""
    return verify_chain(run, StoreReader(store), keys.ring(store, tuple(key or ())))


def known_pipeline(verification: Verification) -> Pipeline | None:
    """The declaration of a run's pipeline, where this checkout has it."""
    name, root = verification.seal.pipeline if verification.seal else "", nearest_checkout()
    return find_pipeline(name) if root and name in pipeline_names(root) else None


def _found(kept: Store, run: str, known: list[Anchor]) -> str:
    """The run's id. A run that the store lost, but an anchor knows, is no typing mistake."""
    try:
        return journal.find(kept, run)
    except BadInput:
        if gone := [v for v in at_hand.verdicts(known, run, None) if v.state is State.OTHER]:
            what = "the store has no such run, but its root is noted"
            raise NotVerified(*(Problem(what=what, where=f"anchor {v.anchor}", got=v.said) for v in gone)) from None
        raise
