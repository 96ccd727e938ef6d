"""The champion of an environment, as the report that the next run's evaluation compares with (see `steps.evaluate`)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from workflows.declare import Pipeline
from workflows.errors import BadInput, NotVerified, Problem
from workflows.promote import ledger
from workflows.promote.ledger import Entry, Ledger
from workflows.promote.policy import Policies
from workflows.prove import canonical, digest
from workflows.prove.record import Item
from workflows.prove.release import Release, Variant
from workflows.prove.verify import verify
from workflows.run import keys
from workflows.run.reader import StoreReader
from workflows.run.store.interface import Store

NONE = {"status": "none"}


def report(store: Store, releases: Ledger, pipeline: Pipeline) -> bytes:
    """Canonical JSON: the model and the decision rule that decide most in the environment, or that there are none.

    The run is verified whole: what the next model is held against is no hearsay.
    """
    if pipeline.serves is None:
        raise BadInput(Problem(what="the pipeline declares nothing that is served", where=pipeline.name))
    serving = ledger.serving([e for e in releases.read() if e.begun.pipeline == pipeline.name])
    if not serving:
        return canonical.encode(NONE)
    champion = _deciding(serving[-1])
    checked = verify(champion.run, StoreReader(store), keys.ring(store), expected_root=champion.root)
    if not checked.ok or checked.seal is None:
        raise NotVerified(*(Problem(what=f.what, where=f.where) for f in checked.findings))
    made = {i.name: i for i in checked.seal.outputs}
    model, rule = (_item(made, pipeline.name, a.name, champion.run) for a in (pipeline.serves.model, pipeline.serves.rule))
    if model.sha256 != champion.model:
        raise NotVerified(Problem(what="the run's model is not the one that was released", where=champion.run))
    said = {"name": _name(serving[-1].begun), "model": _read(store, model).decode(), "decision_rule": canonical.read(_read(store, rule))}
    return canonical.encode({"status": "appointed", **said})


def others(store: Store, policies: Policies, pipeline: Pipeline, said: bytes) -> list[Release]:
    """Releases that serve, of environments that no other comes after, where a pipeline's source says another champion.

    Where the store has no release it is not known what serves: another store may have them.
    """
    found = []
    for environment in _last(policies, pipeline):
        entries = Ledger(store, policies, environment).read()
        serving = ledger.serving([e for e in entries if e.begun.pipeline == pipeline.name])
        if serving and not _is_that(said, entries, serving[-1]):
            found.append(serving[-1].begun)
    return found


def _is_that(said: bytes, entries: Sequence[Entry], serving: Entry) -> bool:
    """Whether a source names the run that decides in this release, by whichever release of it, and holds its model."""
    try:
        told = canonical.read(said)
    except canonical.NotCanonical:
        return False
    named = [e for e in entries if isinstance(told, dict) and _name(e.begun) == told.get("name")]
    champion = _deciding(serving)
    return (
        any(_deciding(e).root == champion.root for e in named) and digest.of_bytes(str(told.get("model")).encode()).sha256 == champion.model
    )


def _last(policies: Policies, pipeline: Pipeline) -> list[str]:
    """Environments that serve a pipeline, and that nothing comes after."""
    before = {e.after.value for e in policies.environments.values() if pipeline.name in e.pipelines}
    return [name for name, e in policies.environments.items() if pipeline.name in e.pipelines and name not in before]


def _deciding(entry: Entry) -> Variant:
    """The variant that decides most."""
    return max((v for v in entry.variants if not v.shadow), key=lambda v: v.share)


def _name(release: Release) -> str:
    return f"{release.environment} {release.sequence}"


def _item(made: dict[str, Item], pipeline: str, name: str, run: str) -> Item:
    if f"{pipeline}/{name}" not in made:
        raise NotVerified(Problem(what=f"the run made no {pipeline}/{name}", where=run))
    return made[f"{pipeline}/{name}"]


def _read(store: Store, item: Item) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "content"
        store.fetch_content(item, path)
        return path.read_bytes()
