"""Verification: is this run what its seal says, record by record and byte by byte? Reads through a port, decides in memory.

The rules, each held by a test:
1. the root names a seal whose bytes have that digest and whose signature fits a key at hand;
2. the run's folder holds exactly the records that the seal lists, at their places, and nothing else beside the root;
3. every record's bytes have the digest under which it is named, and its signature fits;
4. a record says it is of this run, this task, this attempt, with this outcome;
5. the seal lists tasks once and in order, attempts from 1 without a gap; a good run has a good last record for each
   task, and the run's outcome is what its last records come to;
6. what a record builds on is in the same seal, before it; what it read from there is what was made there; what stands
   was made of what stands; one name of an artifact or source means one thing throughout the run;
7. a reused record names an earlier record of the same task with the same code, cache key, parameters, inputs and outputs;
8. nothing started before what it builds on was finished (clocks may be apart by `CLOCK_SKEW`);
9. the seal's artifacts are those of the last records, and each artifact's bytes have the digest they are named by;
10. what a record says of its gates follows from the numbers it gives, agrees with its outcome, and is what was reported.

Not checked here: that a step's code does what its name says, that the declaration is the one you expected, and who
holds the keys. A run rewritten as a whole by the holder of a trusted key needs an expected root to be noticed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from workflows.prove import canonical
from workflows.prove.digest import Digests, in_parallel
from workflows.prove.gate import BadVerdict, says
from workflows.prove.record import (
    MAX_RECORD,
    SHA256,
    Item,
    Link,
    NotARecord,
    Outcome,
    Record,
    Seal,
    SealEntry,
    decode_record,
    decode_seal,
    outcome_of,
)
from workflows.prove.signature import BadSignature, Keyring

CLOCK_SKEW = timedelta(seconds=60)
POINTER = re.compile(rb"[0-9a-f]{64}\n")


class Reader(Protocol):
    """Where a run lies: a store or a bundle. Nothing it answers is trusted."""

    def root(self, run: str) -> str | None:
        """The digest of the run's seal as the run's folder has it."""

    def index(self, run: str) -> Mapping[str, str]:
        """Everything in the run's folder but its root, by path: `steps/TASK/ATTEMPT` -> the digest of a record."""

    def record(self, sha256: str) -> bytes | None:
        """The bytes kept under a record's digest; None where there are none."""

    def content(self, item: Item) -> Digests | None:
        """The digests of the bytes kept at an artifact's address; None where there are none."""

    @property
    def holds_content(self) -> bool:
        """False where artifacts are not expected to be at hand, as in a bundle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is not as the chain says."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was found, and what was looked at. `ok` only where there are no findings and a seal was read."""

    run: str
    root: str | None
    seal: Seal | None = None
    records: Mapping[str, Record] = field(default_factory=dict)
    """By digest, those that could be trusted."""
    findings: tuple[Finding, ...] = ()
    signers: tuple[str, ...] = ()
    checked: int = 0
    """Artifacts whose bytes were hashed."""
    elsewhere: int = 0
    """Artifacts known by digest only, their bytes not at hand."""

    @property
    def ok(self) -> bool:
        return self.seal is not None and not self.findings


def digest_in(pointer: bytes) -> str:
    """The digest that a pointer file (`root`, `steps/...`) holds; anything else comes back in a form that is no digest."""
    return pointer.decode()[:-1] if POINTER.fullmatch(pointer) else f"unreadable {pointer[:80]!r}"


def verify(run: str, reader: Reader, keys: Keyring, *, expected_root: str | None = None) -> Verification:
    """Everything that is wrong with a run, as far as it can be read.

    `expected_root` is the digest that was noted outside (an anchor); without one, a run rewritten as a whole by someone
    with a trusted key cannot be told from the original.
    """
    root = reader.root(run)
    if root is None:
        lost = Finding(where=run, what="the run has no seal: it was not finished, or its root is missing")
        return Verification(run=run, root=None, findings=(lost,))
    findings: list[Finding] = []
    if expected_root is not None and root != expected_root:
        findings.append(Finding(where=f"{run}/root", what=f"the root is {root}, expected {expected_root}"))
    read = _read_seal(run, root, reader, keys)
    if isinstance(read, Finding):
        return Verification(run=run, root=root, findings=(*findings, read))
    seal, signer = read
    records, signers, more = _read_records(seal, reader, keys)
    findings += _seal_fits(run, seal, reader.index(run)) + more
    for rule in (_seal_is_sound, _links, _names, _clocks, _gates):
        findings += rule(seal, records)
    findings += _reuse(records, reader, keys)
    checked, elsewhere, wrong = _contents(seal, records, reader)
    return Verification(
        run=run,
        root=root,
        seal=seal,
        records=records,
        findings=(*findings, *wrong),
        signers=tuple(sorted({signer, *signers})),
        checked=checked,
        elsewhere=elsewhere,
    )


def _read_seal(run: str, root: str, reader: Reader, keys: Keyring) -> tuple[Seal, str] | Finding:
    if not SHA256.fullmatch(root):
        return Finding(where=f"{run}/root", what=f"not the digest of a seal: {root!r}")
    opened = _open(f"seal {root}, named by {run}/root", root, reader, keys)
    if isinstance(opened, Finding):
        return opened
    try:
        return decode_seal(opened[0]), opened[1]
    except NotARecord as error:
        return Finding(where=f"seal {root}, named by {run}/root", what=str(error))


def _open(where: str, sha256: str, reader: Reader, keys: Keyring) -> tuple[bytes, str] | Finding:
    data = reader.record(sha256)
    if data is None:
        return Finding(where=where, what="missing, or cannot be read")
    if len(data) > MAX_RECORD:
        return Finding(where=where, what=f"larger than any record: {len(data)} bytes")
    got = hashlib.sha256(data).hexdigest()
    if got != sha256:
        return Finding(where=where, what=f"changed: its bytes have sha256 {got}")
    try:
        opened = keys.open(data)
    except BadSignature as error:
        return Finding(where=where, what=str(error))
    return opened.payload, opened.keyid


def _read_one(where: str, sha256: str, reader: Reader, keys: Keyring) -> tuple[Record, str] | Finding:
    opened = _open(where, sha256, reader, keys)
    if isinstance(opened, Finding):
        return opened
    try:
        return decode_record(opened[0]), opened[1]
    except NotARecord as error:
        return Finding(where=where, what=str(error))


def _read_records(seal: Seal, reader: Reader, keys: Keyring) -> tuple[dict[str, Record], set[str], list[Finding]]:
    records: dict[str, Record] = {}
    signers: set[str] = set()
    findings: list[Finding] = []
    for entry in seal.records:
        where = f"record {entry.task}/{entry.attempt} ({entry.sha256})"
        read = _read_one(where, entry.sha256, reader, keys)
        if isinstance(read, Finding):
            findings.append(read)
            continue
        record, signer = read
        said = (record.pipeline, record.run, record.task, record.attempt, record.outcome)
        expected = (seal.pipeline, seal.run, entry.task, entry.attempt, entry.outcome)
        if said != expected:
            findings.append(Finding(where=where, what=f"it is the record of {_words(said)}, in the place of {_words(expected)}"))
            continue
        records[entry.sha256] = record
        signers.add(signer)
    return records, signers, findings


def _words(parts: tuple[object, ...]) -> str:
    return " ".join(map(str, parts))


def _seal_fits(run: str, seal: Seal, index: Mapping[str, str]) -> list[Finding]:
    if seal.run != run:
        return [Finding(where=f"{run}/root", what=f"it names the seal of another run, {seal.run}")]
    sealed = {f"steps/{e.task}/{e.attempt}": e.sha256 for e in seal.records}
    return [
        Finding(where=f"{run}/{k}", what=_misplaced(index.get(k), sealed.get(k)))
        for k in sorted({*index, *sealed})
        if index.get(k) != sealed.get(k)
    ]


def _misplaced(there: str | None, sealed: str | None) -> str:
    if sealed is None:
        return "stands in the run's folder, but not in its seal"
    if there is None:
        return f"missing; the seal has record {sealed} there"
    return f"it names record {there}, the seal says {sealed}"


def _seal_is_sound(seal: Seal, records: Mapping[str, Record]) -> list[Finding]:
    where = f"seal of {seal.run}"
    last = last_entries(seal)
    said: list[str] = []
    if not seal.tasks or len(set(seal.tasks)) != len(seal.tasks):
        said.append("it lists no task, or one twice")
    said += [f"task {t} is not in the declaration it lists" for t in last if t not in seal.tasks]
    in_order = [(t, n) for t in seal.tasks if t in last for n in range(1, last[t].attempt + 1)] if _few(seal) else []
    if [(e.task, e.attempt) for e in seal.records] != in_order:
        said.append("its records are not every attempt at every task, once and in order")
    if seal.outcome.good:
        said += [f"it says {seal.outcome}, but task {t} has no record" for t in seal.tasks if t not in last]
        said += [f"it says {seal.outcome}, but task {e.task} {e.outcome}" for e in last.values() if not e.outcome.good]
    if (outcome := outcome_of(seal.tasks, {t: e.outcome for t, e in last.items()})) != seal.outcome:
        said.append(f"it says {seal.outcome}, but its records come to {outcome}")
    standing = [records.get(last[t].sha256) for t in seal.tasks if t in last]
    if all(standing) and tuple(i for r in standing if r for i in r.outputs) != seal.outputs:
        said.append("its artifacts are not those of its last records")
    return [Finding(where=where, what=what) for what in said]


def _few(seal: Seal) -> bool:
    # An attempt's number comes from outside: counting up to it must not take longer than the seal is long.
    return all(e.attempt <= len(seal.records) for e in seal.records)


def last_entries(seal: Seal) -> dict[str, SealEntry]:
    """The last attempt at each task: the one that stands."""
    last: dict[str, SealEntry] = {}
    for e in seal.records:
        if e.task not in last or e.attempt > last[e.task].attempt:
            last[e.task] = e
    return last


def commits_of(verification: Verification) -> list[str]:
    """The git commits that the records of a run say their code is of, or was before someone changed it; one, as a rule."""
    listed = [e.sha256 for e in verification.seal.records] if verification.seal else []
    codes = [verification.records[sha].code for sha in listed if sha in verification.records]
    return list(dict.fromkeys(c.commit for c in codes if c.commit))


def _links(seal: Seal, records: Mapping[str, Record]) -> list[Finding]:
    findings: list[Finding] = []
    listed = {e.sha256 for e in seal.records}
    last = last_entries(seal)
    makers = {i.name for r in records.values() for i in r.outputs}
    seen: set[str] = set()
    for sha, r in records.items():
        where = f"record {r.task}/{r.attempt} ({sha})"
        seen.add(sha)
        made: dict[str, Item] = {}
        for link in r.upstream:
            if link.sha256 not in listed:
                findings.append(Finding(where=where, what=f"it builds on {link.task} ({link.sha256}), which the seal does not list"))
            elif link.sha256 in records:
                findings += _one_link(where, link, records[link.sha256], first=link.sha256 in seen)
                made |= {i.name: i for i in records[link.sha256].outputs}
                stands = records.get(last[link.task].sha256) if link.task in last else None
                if last[r.task].sha256 == sha and stands and stands.outputs != records[link.sha256].outputs:
                    findings.append(Finding(where=where, what=f"it stands, but the {link.task} it builds on does not"))
        for i in r.inputs:
            if i.name in made and made[i.name] != i:
                findings.append(Finding(where=where, what=f"it read {i.name} as {i.sha256}, but {made[i.name].sha256} was made"))
            elif i.name not in made and i.name in makers and all(link.sha256 in records for link in r.upstream):
                findings.append(Finding(where=where, what=f"it read {i.name} without naming the record that made it"))
    return findings


def _one_link(where: str, link: Link, upstream: Record, *, first: bool) -> Iterator[Finding]:
    if upstream.task != link.task:
        yield Finding(where=where, what=f"it builds on {link.task}, but names the record of {upstream.task}")
    if not first:
        yield Finding(where=where, what=f"it stands before {link.task}, which it builds on")
    if not upstream.outcome.good:
        yield Finding(where=where, what=f"it builds on {link.task}, which {upstream.outcome}")


def _names(_seal: Seal, records: Mapping[str, Record]) -> list[Finding]:
    """Two tasks that make one artifact, or two steps that were given different data under one name."""
    findings: list[Finding] = []
    maker: dict[str, str] = {}
    source: dict[str, Item] = {}
    for r in records.values():
        findings += [
            Finding(where=f"artifact {i.name} ({i.sha256})", what=f"made by {maker[i.name]} and by {r.task}")
            for i in r.outputs
            if maker.setdefault(i.name, r.task) != r.task
        ]
    for sha, r in records.items():
        for i in r.inputs:
            if i.name not in maker and source.setdefault(i.name, i) != i:
                where = f"record {r.task}/{r.attempt} ({sha})"
                findings.append(Finding(where=where, what=f"it read {i.name} as {i.sha256}, another step as {source[i.name].sha256}"))
    return findings


def _reuse(records: Mapping[str, Record], reader: Reader, keys: Keyring) -> list[Finding]:
    findings: list[Finding] = []
    for sha, r in records.items():
        where = f"record {r.task}/{r.attempt} ({sha})"
        if (r.outcome is Outcome.REUSED) != (r.reused is not None):
            findings.append(Finding(where=where, what="it says it is reused and names no earlier record, or the other way round"))
        if r.reused is None:
            continue
        read = _read_one(f"record {r.reused.task} ({r.reused.sha256}), which {where} reuses", r.reused.sha256, reader, keys)
        if isinstance(read, Finding):
            findings.append(read)
            continue
        old = read[0]
        if r.reused.task != r.task or _computation(old) != _computation(r) or old.outcome is not Outcome.DONE:
            findings.append(Finding(where=where, what=f"it reuses {r.reused.sha256}, which is not the same step on the same inputs"))
        elif datetime.fromisoformat(old.finished) > datetime.fromisoformat(r.started) + CLOCK_SKEW:
            findings.append(Finding(where=where, what=f"it reuses {r.reused.sha256}, which was finished later"))
    return findings


def _computation(r: Record) -> tuple[object, ...]:
    """What must be equal for one record to stand for another: all that goes in, all that came out, what was said of it.

    Not the image: a laptop, which has none, and a cluster reuse each other's results, and each record says where it was made.
    """
    upstream = sorted(link.task for link in r.upstream)
    return (r.name, r.cache_key, r.code.step, r.lock, r.params, r.secrets, r.inputs, r.outputs, r.verdicts, upstream)


def _clocks(seal: Seal, records: Mapping[str, Record]) -> list[Finding]:
    findings: list[Finding] = []
    times = {sha: (datetime.fromisoformat(r.started), datetime.fromisoformat(r.finished)) for sha, r in records.items()}
    sealed = datetime.fromisoformat(seal.sealed)
    for sha, r in records.items():
        where = f"record {r.task}/{r.attempt} ({sha})"
        started, finished = times[sha]
        early = [link.task for link in r.upstream if link.sha256 in times and started + CLOCK_SKEW < times[link.sha256][1]]
        findings += [Finding(where=where, what=f"it started at {r.started}, before {t} was finished") for t in early]
        if finished < started:
            findings.append(Finding(where=where, what=f"it finished at {r.finished}, before it started at {r.started}"))
        if sealed + CLOCK_SKEW < finished:
            findings.append(Finding(where=where, what=f"it finished at {r.finished}, after the run was sealed at {seal.sealed}"))
    return findings


def _gates(_seal: Seal, records: Mapping[str, Record]) -> list[Finding]:
    findings: list[Finding] = []
    for sha, r in records.items():
        what = _wrong_with_outcome(r)
        if what:
            findings.append(Finding(where=f"record {r.task}/{r.attempt} ({sha})", what=what))
    return findings


def _wrong_with_outcome(r: Record) -> str:
    if (r.outcome is Outcome.FAILED) != (r.failure is not None) or (r.outcome is Outcome.FAILED) != (not r.outputs):
        return f"it says {r.outcome}, which its failure and artifacts do not bear out"
    if r.verdicts is None:
        return "it says refused, but no gate was judged" if r.outcome is Outcome.REFUSED else ""
    try:
        refused = [v["gate"] for v in r.verdicts if says(v) == "no"]
    except BadVerdict as error:
        return f"its gates: {error}"
    if bool(refused) != (r.outcome is Outcome.REFUSED):
        return f"it says {r.outcome}, but its gates say {'no: ' + ', '.join(map(repr, refused)) if refused else 'yes'}"
    report = hashlib.sha256(canonical.encode({"gates": r.verdicts})).hexdigest()
    return "" if any(i.sha256 == report for i in r.outputs) else "what it says of its gates is not what it reported"


def _contents(seal: Seal, records: Mapping[str, Record], reader: Reader) -> tuple[int, int, list[Finding]]:
    named = [i for r in records.values() for i in (*r.inputs, *r.outputs)]
    named += [r.code.snapshot for r in records.values() if r.code.snapshot]
    checked, elsewhere = 0, 0
    findings: list[Finding] = []
    items = list(dict.fromkeys((*named, *seal.outputs)))
    for item, got in zip(items, in_parallel(reader.content, items), strict=True):
        where = f"artifact {item.name} ({item.sha256})"
        if got is None:
            elsewhere += 1
            if reader.holds_content:
                findings.append(Finding(where=where, what="missing from the store, or cannot be read"))
        elif got != item.digests:
            findings.append(Finding(where=where, what=f"changed: its bytes have sha256 {got.sha256}, {got.size} bytes"))
        else:
            checked += 1
    return checked, elsewhere, findings
