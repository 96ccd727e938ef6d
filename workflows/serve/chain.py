"""The decision log as a chain: what a line and a signed batch are, and whether a log is whole. Pure: bytes in, findings out.

Every line names the sha256 of the line before it, so nothing can be changed, dropped, added or put elsewhere between two
lines that are known. A batch is a file of lines and a signed statement of where they begin and end; it names the batch
before it. What has to be known from elsewhere is the end: the last batch's head, which the store's note, the next batch,
Prometheus, and every caller for the own decision hold.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workflows.prove import canonical, digest
from workflows.prove.record import SHA256, STATEMENT
from workflows.prove.signature import BadSignature, Keyring

BATCH = "urn:countersign:decisions:v1"
CHAIN = re.compile(r"[0-9a-f]{12}")
MD5 = re.compile(r"[0-9a-f]{32}")
LINE = re.compile(
    rb'\{"body":(?P<body>\{.*\}),"chain":"(?P<chain>[0-9a-f]{12})",(?:"more":(?P<more>[1-9][0-9]*),)?'
    rb'"number":(?P<number>[0-9]+),"previous":"(?P<previous>[0-9a-f]{64})"\}'
)


class NotABatch(ValueError):
    """The payload is not the statement of a batch of this format."""


class Broken(ValueError):
    """Lines that do not follow from one another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Where a chain stands: how many lines it has, and the digest of the last one."""

    number: int
    sha256: str


def start(chain: str) -> Head:
    """Before the first line: the digest that it names comes from the chain's own id."""
    return Head(number=0, sha256=digest.tagged("decision-log", chain))


def line(body: bytes, chain: str, head: Head, more: int = 0) -> tuple[bytes, Head]:
    """The next line, without its line feed, and where the chain then stands. `body` is canonical JSON; so is the line.

    `more` is how many lines of the same request follow: they stand together, or none of them does.
    """
    number = head.number + 1
    rest = b'"more":%d,' % more if more else b""
    data = b'{"body":%b,"chain":"%b",%b"number":%d,"previous":"%b"}' % (body, chain.encode(), rest, number, head.sha256.encode())
    return data, Head(number=number, sha256=hashlib.sha256(data).hexdigest())


def follow(lines: Sequence[bytes], chain: str, head: Head) -> Iterator[tuple[bytes, Head]]:
    """Each line's body, and where the chain stands after it; `Broken` at the first that does not follow, or is of half a request."""
    more = 0
    for data in lines:
        found = LINE.fullmatch(data)
        number = head.number + 1
        if found is None:
            raise Broken(f"line {number} is none of this format")
        if found["chain"].decode() != chain or int(found["number"]) != number:
            raise Broken(f"line {number} of {chain} is missing: in its place is {int(found['number'])} of {found['chain'].decode()}")
        if found["previous"].decode() != head.sha256:
            raise Broken(f"line {number} does not follow line {head.number}: one of them was changed")
        before, more = more, int(found["more"] or 0)
        if before and more != before - 1:
            raise Broken(f"line {number} is not the next of the request that line {head.number} is of")
        head = Head(number=number, sha256=hashlib.sha256(data).hexdigest())
        yield found["body"], head
    if more:
        raise Broken(f"its last request is not whole: {more} lines of it are missing")


def whole(data: bytes) -> bytes:
    """The lines of requests that are whole. A crash may have left half a line after them, or some lines of a request of several."""
    end = data.rfind(b"\n") + 1
    while end:
        begin = data.rfind(b"\n", 0, end - 1) + 1
        last = LINE.fullmatch(data, begin, end - 1)
        if last is None or not last["more"]:
            break
        end = begin
    return data[:end]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What is signed of a file of lines."""

    chain: str
    environment: str
    pipeline: str
    first: int
    last: int
    previous: str
    """Digest that the first line names."""
    head: str
    """Digest of the last line."""
    before: str | None
    """sha256 of the envelope of the batch before; None in the first."""
    sha256: str
    md5: str
    size: int
    begun: int
    """Milliseconds since 1970, UTC, of the earliest decision in it."""
    ended: int
    recovered: bool
    """The process before was killed: these are its last lines, or follow them. In batched mode it may have answered more than it wrote."""
    at: str

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.first:012d}"


def encode(batch: Batch) -> bytes:
    """The statement's canonical bytes: an in-toto Statement about the file."""
    return canonical.encode(_statement(batch))


def decode(payload: bytes) -> Batch:
    """The batch that encodes to exactly these bytes; anything else is `NotABatch`."""
    try:
        batch = Batch(**canonical.read(payload)["predicate"])
        same = not (wrong := _wrong_with(batch)) and canonical.matches(_statement(batch), payload)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotABatch(f"not a batch of decisions: {type(error).__name__}: {error}") from None
    if not same:
        raise NotABatch(f"not a batch of decisions: {wrong or 'it has entries or a form that this format does not have'}")
    return batch


def _statement(batch: Batch) -> dict[str, Any]:
    subject = {"name": f"{batch.chain}/{batch.name}", "digest": {"sha256": batch.sha256}}
    return {"_type": STATEMENT, "subject": [subject], "predicateType": BATCH, "predicate": asdict(batch)}


def _wrong_with(b: Batch) -> str:
    digests = (b.previous, b.head, b.sha256, *([b.before] if b.before is not None else []))
    rules = (
        (all(isinstance(x, str) for x in (b.chain, b.environment, b.pipeline, b.md5, b.at, *digests)), "type of a name"),
        (all(type(x) is int for x in (b.first, b.last, b.size, b.begun, b.ended)) and type(b.recovered) is bool, "type of a number"),
        (isinstance(b.chain, str) and CHAIN.fullmatch(b.chain), "chain"),
        (all(isinstance(x, str) and SHA256.fullmatch(x) for x in digests), "digest"),
        (isinstance(b.md5, str) and MD5.fullmatch(b.md5), "md5"),
        (1 <= b.first <= b.last, "first or last"),
        ((b.before is None) == (b.first == 1), "batch before"),
    )
    return next((f"bad {what}" for sound, what in rules if not sound), "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A batch whose signature fits: what it says, the sha256 of its envelope, and who signed."""

    batch: Batch
    sha256: str
    keyid: str


def open_batch(envelope: bytes, keys: Keyring) -> Opened:
    """The batch in an envelope; `BadSignature` or `NotABatch`."""
    opened = keys.open(envelope)
    return Opened(batch=decode(opened.payload), sha256=hashlib.sha256(envelope).hexdigest(), keyid=opened.keyid)


def bodies(batch: Batch, data: bytes) -> list[bytes]:
    """The records in a batch's file; `Broken` unless they are exactly what its statement says."""
    if (got := hashlib.sha256(data).hexdigest()) != batch.sha256 or len(data) != batch.size:
        raise Broken(f"changed: {len(data)} bytes with sha256 {got}, signed were {batch.size} with {batch.sha256}")
    lines = data.split(b"\n")
    if lines.pop():
        raise Broken("its last line has no end")
    found = list(follow(lines, batch.chain, Head(number=batch.first - 1, sha256=batch.previous)))
    if not found or found[-1][1] != Head(number=batch.last, sha256=batch.head):
        raise Broken(f"its lines do not end where its statement says, at {batch.last}")
    return [body for body, _ in found]


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What was found in one chain."""

    chain: str
    records: int
    head: Head | None
    findings: tuple[str, ...]
    signers: tuple[str, ...]
    recovered: tuple[Batch, ...] = ()
    """Where a process that was killed was taken up: no finding, and yet in batched mode what it answered last may be missing."""


def verify_chain(
    chain: str, envelopes: Mapping[str, bytes], content: Callable[[Batch], bytes | None], keys: Keyring, noted: str | None = None
) -> Said:
    """Whether a chain is whole: each batch signed and unchanged, each where the one before it ends, none missing.

    `envelopes` is file name -> envelope, in any order; `content` the bytes of a batch's file, None where they are missing.
    `noted` is what is known of the end from elsewhere: the digest of the last batch's envelope, or of some line.
    """
    findings: list[str] = []
    opened: list[Opened] = []
    for name, envelope in sorted(envelopes.items()):
        try:
            found = open_batch(envelope, keys)
        except (BadSignature, NotABatch) as error:
            findings.append(f"{chain}/{name}: {error}")
            continue
        if (found.batch.chain, found.batch.name) != (chain, name):
            findings.append(f"{chain}/{name}: it is batch {found.batch.name} of {found.batch.chain}")
            continue
        opened.append(found)
    findings += _gaps(chain, opened)
    known = {o.sha256 for o in opened} | {o.batch.head for o in opened}
    for o in opened:
        where = f"{chain}/{o.batch.name}"
        data = content(o.batch)
        if data is None:
            findings.append(f"{where}: its records are missing")
            continue
        try:
            bodies(o.batch, data)
        except Broken as error:
            findings.append(f"{where}: {error}")
        else:
            known |= {hashlib.sha256(x).hexdigest() for x in data.split(b"\n")} if noted and noted not in known else set()
    if noted is not None and noted not in known:
        findings.append(f"{chain}: its end is missing: {noted} was noted elsewhere and is not in it")
    end = opened[-1].batch if opened else None
    return Said(
        chain=chain,
        records=sum(o.batch.last - o.batch.first + 1 for o in opened),
        head=Head(number=end.last, sha256=end.head) if end else None,
        findings=tuple(findings),
        signers=tuple(sorted({o.keyid for o in opened})),
        recovered=tuple(o.batch for o in opened if o.batch.recovered),
    )


def _gaps(chain: str, opened: Sequence[Opened]) -> Iterator[str]:
    head, before = start(chain), None
    for o in opened:
        b = o.batch
        if b.first != head.number + 1:
            yield f"{chain}: records {head.number + 1} to {b.first - 1} are missing"
        elif b.previous != head.sha256 or b.before != before:
            yield f"{chain}/{b.name}: it does not follow the batch before it"
        head, before = Head(number=b.last, sha256=b.head), o.sha256
