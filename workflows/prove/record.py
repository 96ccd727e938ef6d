"""What a step's record and a run's seal say, as in-toto Statements; values in, canonical bytes out, and back, strictly."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from workflows.prove import canonical, digest

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
SEAL = "urn:countersign:seal:v1"
BUILD_TYPE = "urn:countersign:step:v1"
BUILDER = "urn:countersign:driver:v1"


class NotARecord(ValueError):
    """The payload is not what this version of the record format says."""


class Outcome(StrEnum):
    """What came of an attempt, or of a run."""

    DONE = "done"
    REUSED = "reused"
    """An earlier record's outputs were taken, after checking them."""
    REFUSED = "refused"
    """The step ran, its outputs are kept, and a gate said no."""
    FAILED = "failed"

    @property
    def good(self) -> bool:
        return self in {Outcome.DONE, Outcome.REUSED}


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A file by name and digest. `name` is `pipeline/artifact`, with `@item` for one item of a fan-out."""

    name: str
    sha256: str
    md5: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """Another record: the task that left it and its digest."""

    task: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """What was executed: the git commit, whether the files differed from it, and digests of the files themselves."""

    step: str
    """Digest over the step's own modules: part of the cache key."""
    tree: str
    """Digest over every file of code, parameters and lock that a re-run needs."""
    commit: str | None = None
    dirty: bool = True
    snapshot: Item | None = None
    """An archive of the tree, kept where `commit` alone would not bring it back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One attempt at one task."""

    pipeline: str
    run: str
    task: str
    attempt: int
    outcome: Outcome
    started: str
    """RFC 3339, UTC, microseconds."""
    finished: str
    params: dict[str, Any]
    inputs: tuple[Item, ...]
    outputs: tuple[Item, ...]
    upstream: tuple[Link, ...]
    code: Code
    lock: str
    """sha256 of the locked requirements."""
    environment: dict[str, Any]
    cache_key: str
    secrets: dict[str, str] = field(default_factory=dict)
    """Fingerprints of the secret keys used, never the keys."""
    image: str | None = None
    reused: Link | None = None
    failure: dict[str, Any] | None = None
    verdicts: list[dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        return f"{self.pipeline}/{self.task}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SealEntry:
    """One record of a run, in the order they were written."""

    task: str
    attempt: int
    outcome: Outcome
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Seal:
    """The end of a run: every record it left, every artifact that stands, and what came of it."""

    pipeline: str
    run: str
    outcome: Outcome
    tasks: tuple[str, ...]
    """Every task of the declaration, in order: what must have a record."""
    records: tuple[SealEntry, ...]
    outputs: tuple[Item, ...]
    sealed: str


def encode_record(record: Record) -> bytes:
    """The statement's canonical bytes: in-toto Statement v1 with SLSA Provenance v1."""
    return canonical.encode(
        {
            "_type": STATEMENT,
            "subject": [_subject(i) for i in record.outputs] or [_failure_subject(record)],
            "predicateType": PROVENANCE,
            "predicate": {"buildDefinition": _definition(record), "runDetails": _details(record)},
        }
    )


def decode_record(payload: bytes) -> Record:
    """The record that encodes to exactly these bytes; anything else is `NotARecord`."""
    try:
        statement = canonical.decode(payload)
        record = _read(statement)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise NotARecord(f"not a step's record: {type(error).__name__}: {error}") from None
    if encode_record(record) != payload:
        raise NotARecord("not a step's record: it has entries that this format does not have")
    return record


def encode_seal(seal: Seal) -> bytes:
    return canonical.encode(
        {
            "_type": STATEMENT,
            "subject": [_subject(i) for i in seal.outputs] or [{"name": seal.run, "digest": {"sha256": _seal_chain(seal)}}],
            "predicateType": SEAL,
            "predicate": {
                "pipeline": seal.pipeline,
                "run": seal.run,
                "outcome": seal.outcome,
                "tasks": list(seal.tasks),
                "records": [asdict(e) for e in seal.records],
                "outputs": [asdict(i) for i in seal.outputs],
                "sealed": seal.sealed,
            },
        }
    )


def decode_seal(payload: bytes) -> Seal:
    try:
        p = canonical.decode(payload)["predicate"]
        seal = Seal(
            pipeline=p["pipeline"],
            run=p["run"],
            outcome=Outcome(p["outcome"]),
            tasks=tuple(p["tasks"]),
            records=tuple(SealEntry(**{**e, "outcome": Outcome(e["outcome"])}) for e in p["records"]),
            outputs=tuple(Item(**i) for i in p["outputs"]),
            sealed=p["sealed"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotARecord(f"not a run's seal: {type(error).__name__}: {error}") from None
    if encode_seal(seal) != payload:
        raise NotARecord("not a run's seal: it has entries that this format does not have")
    return seal


def _subject(item: Item) -> dict[str, Any]:
    return {"name": item.name, "digest": {"sha256": item.sha256}}


def _failure_subject(record: Record) -> dict[str, Any]:
    # in-toto wants a subject; where nothing was made, the failure itself is what the statement is about.
    return {"name": f"{record.name}#failure", "digest": {"sha256": digest.tagged("failure", canonical.encode(record.failure))}}


def _seal_chain(seal: Seal) -> str:
    return digest.tagged("seal", *(e.sha256 for e in seal.records))


def _dependency(name: str, item: Item) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": item.sha256}, "annotations": {"md5": item.md5, "size": item.size}}


def _definition(r: Record) -> dict[str, Any]:
    dependencies = [_dependency(f"artifact:{i.name}", i) for i in r.inputs]
    dependencies += [{"name": f"record:{link.task}", "digest": {"sha256": link.sha256}} for link in r.upstream]
    if r.reused:
        dependencies.append({"name": f"reused:{r.reused.task}", "digest": {"sha256": r.reused.sha256}})
    dependencies.append({"name": "code:step", "digest": {"sha256": r.code.step}})
    dependencies.append({"name": "code:tree", "digest": {"sha256": r.code.tree}, "annotations": {"dirty": r.code.dirty}})
    if r.code.snapshot:
        dependencies.append(_dependency("code:snapshot", r.code.snapshot))
    if r.code.commit:
        dependencies.append({"name": "code:commit", "digest": {"gitCommit": r.code.commit}})
    dependencies.append({"name": "requirements", "digest": {"sha256": r.lock}})
    if r.image:
        dependencies.append({"name": "image", "digest": {"sha256": r.image}})
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": r.params,
        "internalParameters": {
            "pipeline": r.pipeline,
            "run": r.run,
            "task": r.task,
            "attempt": r.attempt,
            "cacheKey": r.cache_key,
            "secrets": r.secrets,
        },
        "resolvedDependencies": dependencies,
    }


def _details(r: Record) -> dict[str, Any]:
    by: list[dict[str, Any]] = [{"name": i.name, "digest": {"md5": i.md5}, "annotations": {"size": i.size}} for i in r.outputs]
    by.append({"name": "environment", "annotations": r.environment})
    if r.verdicts is not None:
        by.append({"name": "verdicts", "annotations": {"gates": r.verdicts}})
    if r.failure is not None:
        by.append({"name": "failure", "annotations": r.failure})
    return {
        "builder": {"id": BUILDER},
        "metadata": {"invocationId": f"{r.run}/{r.task}/{r.attempt}", "startedOn": r.started, "finishedOn": r.finished},
        "byproducts": by,
        "countersign_outcome": r.outcome,
    }


def _read(statement: dict[str, Any]) -> Record:
    build = statement["predicate"]["buildDefinition"]
    details = statement["predicate"]["runDetails"]
    inner = build["internalParameters"]
    dependencies: dict[str, dict[str, Any]] = {d["name"]: d for d in build["resolvedDependencies"]}
    by = {b["name"]: b for b in details["byproducts"]}
    links = {
        k: Link(task=k.split(":", 1)[1], sha256=d["digest"]["sha256"])
        for k, d in dependencies.items()
        if ":" in k and "sha256" in d["digest"]
    }
    outcome = Outcome(details["countersign_outcome"])
    made = [] if statement["subject"][0]["name"].endswith("#failure") else statement["subject"]
    tree = dependencies["code:tree"]
    snapshot = dependencies.get("code:snapshot")
    return Record(
        pipeline=inner["pipeline"],
        run=inner["run"],
        task=inner["task"],
        attempt=inner["attempt"],
        outcome=outcome,
        started=details["metadata"]["startedOn"],
        finished=details["metadata"]["finishedOn"],
        params=build["externalParameters"],
        inputs=tuple(_item(k.removeprefix("artifact:"), d) for k, d in dependencies.items() if k.startswith("artifact:")),
        outputs=tuple(
            Item(
                name=s["name"],
                sha256=s["digest"]["sha256"],
                md5=by[s["name"]]["digest"]["md5"],
                size=by[s["name"]]["annotations"]["size"],
            )
            for s in made
        ),
        upstream=tuple(link for k, link in links.items() if k.startswith("record:")),
        code=Code(
            step=dependencies["code:step"]["digest"]["sha256"],
            tree=tree["digest"]["sha256"],
            dirty=tree["annotations"]["dirty"],
            commit=dependencies["code:commit"]["digest"]["gitCommit"] if "code:commit" in dependencies else None,
            snapshot=_item("code:snapshot", snapshot) if snapshot else None,
        ),
        lock=dependencies["requirements"]["digest"]["sha256"],
        image=dependencies["image"]["digest"]["sha256"] if "image" in dependencies else None,
        environment=by["environment"]["annotations"],
        cache_key=inner["cacheKey"],
        secrets=inner["secrets"],
        reused=next((link for k, link in links.items() if k.startswith("reused:")), None),
        failure=by["failure"]["annotations"] if "failure" in by else None,
        verdicts=by["verdicts"]["annotations"]["gates"] if "verdicts" in by else None,
    )


def _item(name: str, dependency: dict[str, Any]) -> Item:
    notes = dependency["annotations"]
    return Item(name=name, sha256=dependency["digest"]["sha256"], md5=notes["md5"], size=notes["size"])
