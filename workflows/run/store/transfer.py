"""Objects on their way to and from a bucket: large ones in parts, several at once, in bounded memory, every byte checked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from workflows.errors import NotVerified, Problem, Temporary
from workflows.prove import digest
from workflows.prove.digest import Digests
from workflows.run.store import answers
from workflows.run.store.bucket import READ, Absent, Bucket, Standing
from workflows.run.store.parallel import in_order

PART = 8 * 1024 * 1024  # bytes: what is no larger goes in one piece
MEMORY = 6 * PART  # bytes of parts on their way at a time
MOST_PARTS = 10_000  # S3's limit
ASSEMBLY = 50_000_000  # bytes a second: a server that is slower at putting parts together is not waited for
RECORDED = "sha256"  # name of the metadata that says what an object is


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A file whose digests are known, and those of its parts, all from one reading."""

    path: Path
    digests: Digests
    part: int
    parts: tuple[bytes, ...]
    """sha256 of each part of `part` bytes."""


class _Parts:
    """What `digest.of_stream` copies to: keeps no byte, only the digest of each part."""

    def __init__(self, part: int) -> None:
        self.part, self.done, self._room, self._sha = part, list[bytes](), part, hashlib.sha256()

    def write(self, view: memoryview | bytes) -> int:
        rest = memoryview(view)
        while rest:
            self._sha.update(rest[: self._room])
            taken = min(len(rest), self._room)
            rest, self._room = rest[taken:], self._room - taken
            if self._room == 0:
                self.finish()
        return len(view)

    def finish(self) -> tuple[bytes, ...]:
        if self._room < self.part:
            self.done.append(self._sha.digest())
            self._room, self._sha = self.part, hashlib.sha256()
        return tuple(self.done)


def known(path: Path, source: BinaryIO) -> Known:
    """Read a file once, for its digests and those of its parts."""
    size = os.fstat(source.fileno()).st_size
    parts = _Parts(max(PART, -(-size // MOST_PARTS)))
    digests = digest.of_stream(source, parts)  # type: ignore[arg-type]  # of a file it is given only `write`
    return Known(path=path, digests=digests, part=parts.part, parts=parts.finish())


def checksum(sha256: bytes) -> str:
    """A digest as S3 writes it."""
    return base64.b64encode(sha256).decode()


def put(bucket: Bucket, key: str, data: bytes, d: Digests, *, new: bool) -> bool:
    """Upload an object in one piece. With `new` only where there is none: raises `Standing` where there is one.

    True where the server says that it has just these bytes.
    """
    sha = checksum(bytes.fromhex(d.sha256))
    words: dict[str, Any] = {"IfNoneMatch": "*"} if new else {}
    answer = bucket.ask(
        key,
        lambda s3: s3.put_object(Bucket=bucket.name, Key=key, Body=data, ChecksumSHA256=sha, Metadata={RECORDED: d.sha256}, **words),
    )
    return bool(answer.get("ChecksumSHA256") == sha)


def put_parts(bucket: Bucket, key: str, source: BinaryIO, file: Known) -> bool:
    """Upload an object in parts, each checked against what was read before. Nothing is left behind where that fails.

    True where the server says that it has just these bytes; `NotVerified` where the file has changed since it was read.
    """
    metadata = {RECORDED: file.digests.sha256}
    begun = bucket.ask(
        key, lambda s3: s3.create_multipart_upload(Bucket=bucket.name, Key=key, ChecksumAlgorithm="SHA256", Metadata=metadata)
    )
    upload = _Upload(
        bucket=bucket, words={"Bucket": bucket.name, "Key": key, "UploadId": begun["UploadId"]}, handle=source.fileno(), file=file
    )
    try:
        return upload.complete(list(in_order(upload.send, range(len(file.parts)), threads=upload.threads, stop=upload.stop)))
    except BaseException:
        # It may fail like what failed before it; the bucket's rule for parts without an object is there for that.
        with contextlib.suppress(Exception):
            bucket.client().abort_multipart_upload(**upload.words)
        raise


@dataclass(frozen=True, kw_only=True, slots=True)
class _Upload:
    """An upload in parts that is under way."""

    bucket: Bucket
    words: Mapping[str, str]
    handle: int
    file: Known
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def threads(self) -> int:
        return max(2, MEMORY // self.file.part)

    def send(self, n: int) -> dict[str, Any]:
        """Part `n`, from 0, and what S3 wants to hear of it in the end."""
        file = self.file
        data = os.pread(self.handle, min(file.part, file.digests.size - n * file.part), n * file.part)
        sha = hashlib.sha256(data).digest()
        if sha != file.parts[n]:
            raise NotVerified(
                Problem(what="changed while it was being kept", where=str(file.path), expected=file.parts[n].hex(), got=sha.hex()),
                hint="whatever writes to it must be finished before",
            )
        about = {"PartNumber": n + 1, "ChecksumSHA256": checksum(sha)}
        try:
            answer = self.bucket.ask(self.words["Key"], lambda s3: s3.upload_part(**self.words, **about, Body=data), stop=self.stop)
        except Absent:
            what = "S3 has lost an upload that was under way"
            raise Temporary(Problem(what=what, where=self.words["Key"]), hint=answers.AWAY) from None
        return {**about, "ETag": answer["ETag"]}

    def complete(self, sent: list[dict[str, Any]]) -> bool:
        """Have the parts put together; whether S3 says that it has just these bytes."""
        whole = checksum(hashlib.sha256(b"".join(self.file.parts)).digest())
        patience = READ + self.file.digests.size / ASSEMBLY
        try:
            answer = self.bucket.ask(
                self.words["Key"], lambda s3: s3.complete_multipart_upload(**self.words, MultipartUpload={"Parts": sent}), read=patience
            )
        except Absent:
            # The upload is gone: an earlier try was carried out, and its answer was lost.
            return False
        return bool(answer.get("ChecksumSHA256") == f"{whole}-{len(sent)}")


class Replaced(Exception):
    """The object is no longer the one whose first bytes were read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arriving:
    """An object on its way here: how many bytes the server says it has, and these bytes, in order, as they arrive."""

    size: int
    chunks: Iterator[bytearray]

    def sha256(self, sink: BinaryIO) -> str:
        """Its sha256, and its bytes into `sink`."""
        sha = hashlib.sha256()
        for chunk in self.chunks:
            sha.update(chunk)
            sink.write(chunk)
        return sha.hexdigest()

    def digests(self, sink: BinaryIO | None = None) -> Digests:
        """Both its digests, and its bytes into `sink` where there is one."""
        return digest.of_stream(io.BufferedReader(_Chunks(self.chunks), digest.CHUNK), sink)


class _Chunks(io.RawIOBase):
    """Chunks as a stream."""

    def __init__(self, chunks: Iterator[bytearray]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


@contextlib.contextmanager
def get(bucket: Bucket, key: str, *, empty: bool = False) -> Iterator[Arriving]:
    """An object, its first part at once and the others while those before them are used; `empty` is a guess at what it is.

    Raises `Absent`, and `Replaced` where the object becomes another one while it is being read.
    """
    total, etag, first = bucket.ask(key, lambda s3: _first(s3, bucket.name, key, empty=empty))
    stop = threading.Event()

    def one(start: int) -> bytearray:
        span = f"bytes={start}-{min(start + PART, total) - 1}"
        try:
            return bucket.ask(
                key, lambda s3: _body(s3.get_object(Bucket=bucket.name, Key=key, Range=span, IfMatch=etag)), stop=stop
            )  # fmt: skip
        except (Absent, Standing):
            raise Replaced from None

    rest = in_order(one, range(len(first), total, PART), threads=MEMORY // PART, stop=stop)
    with contextlib.closing(rest):
        yield Arriving(size=total, chunks=itertools.chain([first], rest))


def _first(s3: Any, bucket: str, key: str, *, empty: bool) -> tuple[int, str, bytearray]:
    words = {} if empty else {"Range": f"bytes=0-{PART - 1}"}
    try:
        answer = s3.get_object(Bucket=bucket, Key=key, **words)
    except Exception as error:
        if answers.code_of(error) not in {"InvalidRange", "416"}:
            raise
        answer = s3.get_object(Bucket=bucket, Key=key)
    total = int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else answer["ContentLength"]
    return total, answer["ETag"], _body(answer, at_most=PART)


def _body(answer: Mapping[str, Any], at_most: int = PART) -> bytearray:
    """The body of an answer, or its beginning."""
    data = bytearray(min(answer["ContentLength"], at_most))
    view, have = memoryview(data), 0
    with contextlib.closing(answer["Body"]) as body:
        while have < len(data):
            got = body.readinto(view[have:])
            if got == 0:
                raise ConnectionResetError("the answer ended early")
            have += got
    return data
