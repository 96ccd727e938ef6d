"""What a step's record and a run's seal say, as in-toto Statements; values in, canonical bytes out, and back, strictly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from workflows.prove import canonical, digest
from workflows.prove.digest import Digests

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
SEAL = "urn:countersign:seal:v1"
BUILD_TYPE = "urn:countersign:step:v1"
BUILDER = "urn:countersign:driver:v1"

MAX_RECORD = 64 * 1024 * 1024  # bytes: the seal of a run of 100,000 tasks is smaller

# What may stand in a record. Names and digests become paths and lines on a terminal, so nothing else is let in.
SHA256 = re.compile(r"[0-9a-f]{64}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
RUN = re.compile(r"[a-z0-9][a-z0-9-]{0,199}")
PIPELINE = re.compile(r"[a-z][a-z0-9_]{0,99}")
TASK = re.compile(r"[a-z][a-z0-9_]{0,99}(@[a-z0-9-]{1,99})?")
TIME = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]\.[0-9]{6}\+00:00")
ACCOUNT = re.compile(r"[!-~]([ -~]{0,251}[!-~])?")
SNAPSHOT = "code:snapshot"


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

    @classmethod
    def of(cls, name: str, digests: Digests) -> Item:
        return cls(name=name, sha256=digests.sha256, md5=digests.md5, size=digests.size)

    @property
    def digests(self) -> Digests:
        """What the file is, whatever its name."""
        return Digests(sha256=self.sha256, md5=self.md5, size=self.size)


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
    submitter: str | None = None
    """The account that submitted the run, as the cluster's API server knows it; None where none is known, as on a laptop."""


def encode_record(record: Record) -> bytes:
    """The statement's canonical bytes: in-toto Statement v1 with SLSA Provenance v1."""
    return canonical.encode(_statement(record))


def decode_record(payload: bytes) -> Record:
    """The record that encodes to exactly these bytes; anything else is `NotARecord`."""
    try:
        record = _read(canonical.read(payload))
        wrong = _wrong_with(record)
        same = not wrong and canonical.matches(_statement(record), payload)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise NotARecord(f"not a step's record: {type(error).__name__}: {error}") from None
    if not same:
        raise NotARecord(f"not a step's record: {wrong or 'it has entries or a form that this format does not have'}")
    return record


def encode_seal(seal: Seal) -> bytes:
    """The canonical bytes of a run's seal, an in-toto Statement about the artifacts that stand."""
    return canonical.encode(_seal_statement(seal))


def decode_seal(payload: bytes) -> Seal:
    """The seal that encodes to exactly these bytes; anything else is `NotARecord`."""
    try:
        p = canonical.read(payload)["predicate"]
        seal = Seal(
            pipeline=p["pipeline"],
            run=p["run"],
            outcome=Outcome(p["outcome"]),
            tasks=tuple(p["tasks"]),
            records=tuple(SealEntry(**{**e, "outcome": Outcome(e["outcome"])}) for e in p["records"]),
            outputs=tuple(Item(**i) for i in p["outputs"]),
            sealed=p["sealed"],
            submitter=p.get("submitter"),
        )
        wrong = _wrong_with_seal(seal)
        same = not wrong and canonical.matches(_seal_statement(seal), payload)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotARecord(f"not a run's seal: {type(error).__name__}: {error}") from None
    if not same:
        raise NotARecord(f"not a run's seal: {wrong or 'it has entries or a form that this format does not have'}")
    return seal


def outcome_of(tasks: Iterable[str], last: Mapping[str, Outcome]) -> Outcome:
    """What a run came to, from the outcome of the last attempt at each task; a task without one failed."""
    outcomes = {last.get(t, Outcome.FAILED) for t in tasks}
    if outcomes <= {Outcome.REUSED}:
        return Outcome.REUSED
    if all(o.good for o in outcomes):
        return Outcome.DONE
    # A task that never began because one before it was refused has no record, and is no failure.
    return Outcome.REFUSED if Outcome.REFUSED in outcomes and Outcome.FAILED not in last.values() else Outcome.FAILED


def _wrong_with(r: Record) -> str:
    """The first thing in a record that must not stand there; empty where all is sound."""
    names = [i.name for i in (*r.inputs, *r.outputs)]
    tasks = [r.task, *(link.task for link in _links_of(r))]
    digests = [r.code.step, r.code.tree, r.lock, r.cache_key, *(link.sha256 for link in _links_of(r)), *([r.image] if r.image else [])]
    snapshot = [r.code.snapshot] if r.code.snapshot else []
    rules = (
        (_is(PIPELINE, r.pipeline), "pipeline"),
        (_is(RUN, r.run), "run"),
        (all(_is(TASK, t) for t in tasks), "name of a task"),
        (_is_count(r.attempt, 1), "attempt"),
        (all(_is_name(r.pipeline, n) for n in names), "name of an artifact"),
        (len({i.name for i in r.outputs}) == len(r.outputs), "artifact made twice"),
        (all(_is_item(i) for i in (*r.inputs, *r.outputs, *snapshot)), "digest or size of an artifact"),
        (all(_is(SHA256, d) for d in digests), "digest"),
        (r.code.commit is None or _is(_COMMIT, r.code.commit), "commit"),
        (isinstance(r.code.dirty, bool), "dirty"),
        (_is(TIME, r.started) and _is(TIME, r.finished), "time"),
        (all(isinstance(x, dict) for x in (r.params, r.environment, r.secrets)), "parameters, environment or secrets"),
        (r.failure is None or isinstance(r.failure, dict), "failure"),
        (r.verdicts is None or isinstance(r.verdicts, list), "verdicts"),
    )
    return next((f"bad {what}" for sound, what in rules if not sound), "")


def _wrong_with_seal(s: Seal) -> str:
    rules = (
        (_is(PIPELINE, s.pipeline), "pipeline"),
        (_is(RUN, s.run), "run"),
        (all(_is(TASK, t) for t in (*s.tasks, *(e.task for e in s.records))), "name of a task"),
        (all(_is_count(e.attempt, 1) and _is(SHA256, e.sha256) for e in s.records), "entry"),
        (all(_is_name(s.pipeline, i.name) and _is_item(i) for i in s.outputs), "artifact"),
        (_is(TIME, s.sealed), "time"),
        (s.submitter is None or _is(ACCOUNT, s.submitter), "submitter"),
    )
    return next((f"bad {what}" for sound, what in rules if not sound), "")


def _links_of(r: Record) -> tuple[Link, ...]:
    return (*r.upstream, r.reused) if r.reused else r.upstream


def _is(form: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _is_name(pipeline: str, value: object) -> bool:
    return isinstance(value, str) and value.startswith(f"{pipeline}/") and _is(TASK, value[len(pipeline) + 1 :])


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_item(item: Item) -> bool:
    return _is(SHA256, item.sha256) and _is(_MD5, item.md5) and _is_count(item.size, 0)


def _statement(record: Record) -> dict[str, Any]:
    return {
        "_type": STATEMENT,
        "subject": [_subject(i) for i in record.outputs] or [_failure_subject(record)],
        "predicateType": PROVENANCE,
        "predicate": {"buildDefinition": _definition(record), "runDetails": _details(record)},
    }


def _seal_statement(seal: Seal) -> dict[str, Any]:
    return {
        "_type": STATEMENT,
        "subject": [_subject(i) for i in seal.outputs] or [{"name": seal.run, "digest": {"sha256": _seal_chain(seal)}}],
        "predicateType": SEAL,
        "predicate": {
            "pipeline": seal.pipeline,
            "run": seal.run,
            "outcome": seal.outcome,
            "tasks": list(seal.tasks),
            "records": [{"task": e.task, "attempt": e.attempt, "outcome": e.outcome, "sha256": e.sha256} for e in seal.records],
            "outputs": [{"name": i.name, "sha256": i.sha256, "md5": i.md5, "size": i.size} for i in seal.outputs],
            "sealed": seal.sealed,
            **({} if seal.submitter is None else {"submitter": seal.submitter}),
        },
    }


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
        dependencies.append(_dependency(SNAPSHOT, r.code.snapshot))
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
    snapshot = dependencies.get(SNAPSHOT)
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
            snapshot=_item(SNAPSHOT, snapshot) if snapshot else None,
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
