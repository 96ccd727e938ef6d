"""Verification: is this run what its seal says, record by record and byte by byte? Reads through a port, decides in memory.

The rules, each held by a test:
1. the root names a seal whose bytes have that digest and whose signature fits a key at hand;
2. the run's index lists exactly the records that the seal lists, at the same places;
3. every record's bytes have the digest under which it is named, and its signature fits;
4. a record says it is of this run, this task, this attempt, with this outcome;
5. every task of the declaration has a record, and a run that says it is done has a good last record for each;
6. what a record builds on is in the same seal, and what it read from there is what was made there;
7. a reused record names an earlier record of the same task with the same cache key, parameters and outputs;
8. nothing started before what it builds on was finished (clocks may be apart by `CLOCK_SKEW`);
9. the seal's artifacts are those of the last records, and each artifact's bytes have the digest they are named by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from workflows.prove import digest
from workflows.prove.digest import Digests
from workflows.prove.record import Item, Link, NotARecord, Outcome, Record, Seal, SealEntry, decode_record, decode_seal
from workflows.prove.signature import BadSignature, Keyring

CLOCK_SKEW = timedelta(seconds=60)


class Reader(Protocol):
    """Where a run lies: a store or a bundle. Nothing it answers is trusted."""

    def root(self, run: str) -> str | None:
        """The digest of the run's seal as the run's folder has it."""

    def index(self, run: str) -> Mapping[str, str]:
        """`task/attempt` -> digest of the record, as the run's folder has it."""

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


def verify(run: str, reader: Reader, keys: Keyring, *, expected_root: str | None = None) -> Verification:
    """Everything that is wrong with a run, as far as it can be read.

    `expected_root` is the digest that was noted outside (an anchor); without one, a run rewritten as a whole by someone
    with a trusted key cannot be told from the original.
    """
    root = reader.root(run)
    if root is None:
        return Verification(
            run=run, root=None, findings=(Finding(where=run, what="the run has no seal: it was not finished, or its root is missing"),)
        )
    findings: list[Finding] = []
    if expected_root is not None and root != expected_root:
        findings.append(Finding(where=f"{run}/root", what=f"the root is {root}, expected {expected_root}"))
    opened = _open(f"seal {root}", root, reader, keys)
    if isinstance(opened, Finding):
        return Verification(run=run, root=root, findings=(*findings, opened))
    payload, signer = opened
    try:
        seal = decode_seal(payload)
    except NotARecord as error:
        return Verification(run=run, root=root, findings=(*findings, Finding(where=f"seal {root}", what=str(error))))
    records, signers, more = _read_records(seal, reader, keys)
    findings += _seal_fits(run, seal, reader.index(run)) + more
    for rule in (_links, _reuse, _clocks):
        findings += rule(seal, records, reader, keys)
    findings += _complete(seal, records)
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


def _open(where: str, sha256: str, reader: Reader, keys: Keyring) -> tuple[bytes, str] | Finding:
    data = reader.record(sha256)
    if data is None:
        return Finding(where=where, what="missing")
    got = digest.of_bytes(data).sha256
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
            findings.append(Finding(where=where, what=f"it is the record of {said}, in the place of {expected}"))
            continue
        records[entry.sha256] = record
        signers.add(signer)
    return records, signers, findings


def _seal_fits(run: str, seal: Seal, index: Mapping[str, str]) -> list[Finding]:
    if seal.run != run:
        return [Finding(where=f"{run}/root", what=f"it names the seal of another run, {seal.run}")]
    sealed = {f"{e.task}/{e.attempt}": e.sha256 for e in seal.records}
    findings = [Finding(where=f"{run}/{k}", what="a record that the seal does not list") for k in sorted(set(index) - set(sealed))]
    findings += [Finding(where=f"{run}/{k}", what="a record that the seal lists is missing") for k in sorted(set(sealed) - set(index))]
    findings += [
        Finding(where=f"{run}/{k}", what=f"it names record {index[k]}, the seal says {sealed[k]}")
        for k in sorted(set(sealed) & set(index))
        if index[k] != sealed[k]
    ]
    if len(sealed) != len(seal.records):
        findings.append(Finding(where=f"seal of {run}", what="it lists an attempt twice"))
    return findings


def last_entries(seal: Seal) -> dict[str, SealEntry]:
    """The last attempt at each task: the one that stands."""
    last: dict[str, SealEntry] = {}
    for e in seal.records:
        if e.task not in last or e.attempt > last[e.task].attempt:
            last[e.task] = e
    return last


def _complete(seal: Seal, records: Mapping[str, Record]) -> list[Finding]:
    last = last_entries(seal)
    where = f"seal of {seal.run}"
    findings = [Finding(where=where, what=f"task {t} is not in the declaration it lists") for t in last if t not in seal.tasks]
    if seal.outcome.good:
        findings += [Finding(where=where, what=f"it says {seal.outcome}, but task {t} has no record") for t in seal.tasks if t not in last]
        bad = [e for e in last.values() if not e.outcome.good]
        findings += [Finding(where=where, what=f"it says {seal.outcome}, but task {e.task} {e.outcome}") for e in bad]
    standing = tuple(i for t in seal.tasks if t in last and last[t].sha256 in records for i in records[last[t].sha256].outputs)
    if len(last) == len([e for e in last.values() if e.sha256 in records]) and standing != seal.outputs:
        findings.append(Finding(where=where, what="its artifacts are not those of its records"))
    return findings


def _links(seal: Seal, records: Mapping[str, Record], _reader: Reader, _keys: Keyring) -> list[Finding]:
    findings = []
    listed = {e.sha256 for e in seal.records}
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


def _reuse(_seal: Seal, records: Mapping[str, Record], reader: Reader, keys: Keyring) -> list[Finding]:
    findings = []
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
        same = (old.name, old.cache_key, old.params, old.outputs, old.inputs, old.outcome) == (
            r.name, r.cache_key, r.params, r.outputs, r.inputs, Outcome.DONE,
        )  # fmt: skip
        if not same:
            findings.append(Finding(where=where, what=f"it reuses {r.reused.sha256}, which is not the same step on the same inputs"))
    return findings


def _clocks(_seal: Seal, records: Mapping[str, Record], _reader: Reader, _keys: Keyring) -> list[Finding]:
    findings = []
    for sha, r in records.items():
        where = f"record {r.task}/{r.attempt} ({sha})"
        try:
            started, finished = datetime.fromisoformat(r.started), datetime.fromisoformat(r.finished)
            before = [(link, datetime.fromisoformat(records[link.sha256].finished)) for link in r.upstream if link.sha256 in records]
            early = [link.task for link, then in before if started + CLOCK_SKEW < then]
            backwards = finished < started
        except (ValueError, TypeError):
            findings.append(Finding(where=where, what="its times cannot be read"))
            continue
        findings += [Finding(where=where, what=f"it started at {r.started}, before {t} was finished") for t in early]
        if backwards:
            findings.append(Finding(where=where, what=f"it finished at {r.finished}, before it started at {r.started}"))
    return findings


def _contents(seal: Seal, records: Mapping[str, Record], reader: Reader) -> tuple[int, int, list[Finding]]:
    named = [i for r in records.values() for i in (*r.inputs, *r.outputs)]
    named += [r.code.snapshot for r in records.values() if r.code.snapshot]
    items = dict.fromkeys((*named, *seal.outputs))
    checked, elsewhere, findings = 0, 0, []
    for item in items:
        got = reader.content(item)
        if got is None:
            elsewhere += 1
            if reader.holds_content:
                findings.append(Finding(where=f"artifact {item.name} ({item.sha256})", what="missing from the store"))
        elif (got.sha256, got.md5, got.size) != (item.sha256, item.md5, item.size):
            findings.append(
                Finding(
                    where=f"artifact {item.name} ({item.sha256})", what=f"changed: its bytes have sha256 {got.sha256}, {got.size} bytes"
                )
            )
        else:
            checked += 1
    return checked, elsewhere, findings
