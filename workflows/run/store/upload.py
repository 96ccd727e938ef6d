"""Objects on their way to a bucket: large ones in parts, several at once, in bounded memory, checked by the server as they arrive."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from workflows.errors import NotVerified, Problem, Temporary
from workflows.prove import digest
from workflows.prove.digest import Digests
from workflows.run.store import answers
from workflows.run.store.bucket import READ, Absent, Bucket
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
        """Part `n`, from 0, and what S3 wants to hear of it in the end.

        It goes with the digest from the first reading, so that the server refuses it if it is not the same any more.
        """
        file, kept = self.file, checksum(self.file.parts[n])
        data = os.pread(self.handle, min(file.part, file.digests.size - n * file.part), n * file.part)
        about = {"PartNumber": n + 1, "ChecksumSHA256": kept}

        def work(s3: Any) -> Any:
            try:
                return s3.upload_part(**self.words, **about, Body=data)
            except Exception as error:
                if answers.code_of(error) in answers.DAMAGED:
                    self._same(n, data)
                raise

        try:
            answer = self.bucket.ask(self.words["Key"], work, stop=self.stop)
        except Absent:
            what = "S3 has lost an upload that was under way"
            raise Temporary(Problem(what=what, where=self.words["Key"]), hint=answers.AWAY) from None
        if answer.get("ChecksumSHA256") != kept:  # a server that does not look
            self._same(n, data)
        return {**about, "ETag": answer["ETag"]}

    def _same(self, n: int, data: bytes) -> None:
        if (sha := hashlib.sha256(data).digest()) != self.file.parts[n]:
            raise NotVerified(
                Problem(
                    what="changed while it was being kept", where=str(self.file.path), expected=self.file.parts[n].hex(), got=sha.hex()
                ),
                hint="whatever writes to it must be finished before",
            )

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
