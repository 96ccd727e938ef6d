"""Objects on their way from a bucket: large ones in pieces, several at once, in bounded memory, handed on in order as they arrive.

Whoever takes the bytes digests them, and believes no more than that.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from workflows.run.store import answers
from workflows.run.store.bucket import Absent, Bucket, Standing
from workflows.run.store.parallel import in_order

R = TypeVar("R")
PIECE = 8 * 1024 * 1024  # bytes asked for at a time when they go to a file
IN_MEMORY = PIECE // 2  # when they wait in memory to be taken
AT_ONCE, AT_ONCE_IN_MEMORY = 8, 4  # so many on their way
AT_A_TIME = 256 * 1024  # bytes read from a connection: as many stay in the processor's cache until they are written


class Replaced(Exception):
    """The object is no longer the one whose first bytes were read."""


class _NotWritten(Exception):
    """The fault of this machine's disk, not of the store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arriving:
    """An object whose first piece is here. Reading on raises `Replaced` where it has become another one since."""

    bucket: Bucket
    key: str
    size: int
    """Bytes that the server says it has."""
    etag: str
    first: bytearray

    @contextlib.contextmanager
    def stream(self) -> Iterator[io.BufferedReader | io.BytesIO]:
        """Its bytes, some pieces ahead in memory."""
        stop = threading.Event()
        starts = range(len(self.first), self.size, IN_MEMORY)
        rest = in_order(lambda start: self._ask(start, IN_MEMORY, _body, stop), starts, threads=AT_ONCE_IN_MEMORY, stop=stop)
        with contextlib.closing(rest):
            yield io.BufferedReader(_Pieces(self.first, rest))

    @contextlib.contextmanager
    def into(self, file: BinaryIO) -> Iterator[io.BufferedReader | io.BytesIO]:
        """Its bytes, read back from `file`, into which they are written in whatever order they arrive."""
        file.write(self.first)
        file.flush()
        if len(self.first) == self.size:
            yield io.BytesIO(self.first)
            return
        stop = threading.Event()

        def one(start: int) -> int:
            return self._ask(start, PIECE, lambda answer: _write(answer, file.fileno(), start), stop)

        rest = in_order(one, range(len(self.first), self.size, PIECE), threads=AT_ONCE, stop=stop)
        with contextlib.closing(rest):
            yield io.BufferedReader(_Landed(file, len(self.first), rest))

    def _ask(self, start: int, size: int, use: Callable[[Mapping[str, Any]], R], stop: threading.Event) -> R:
        span = f"bytes={start}-{min(start + size, self.size) - 1}"
        words = {"Bucket": self.bucket.name, "Key": self.key, "Range": span, "IfMatch": self.etag}
        try:
            return self.bucket.ask(self.key, lambda s3: use(s3.get_object(**words)), stop=stop)
        except (Absent, Standing):
            raise Replaced from None
        except _NotWritten as error:
            raise error.args[0] from None


def get(bucket: Bucket, key: str, *, empty: bool = False) -> Arriving:
    """An object; raises `Absent` where there is none. `empty` is a guess at what it is: no piece of nothing can be asked for."""
    return bucket.ask(key, lambda s3: _first(s3, bucket, key, empty=empty))


def _first(s3: Any, bucket: Bucket, key: str, *, empty: bool) -> Arriving:
    words = {} if empty else {"Range": f"bytes=0-{PIECE - 1}"}
    try:
        answer = s3.get_object(Bucket=bucket.name, Key=key, **words)
    except Exception as error:
        if answers.code_of(error) not in {"InvalidRange", "416"}:
            raise
        answer = s3.get_object(Bucket=bucket.name, Key=key)
    size = int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else answer["ContentLength"]
    return Arriving(bucket=bucket, key=key, size=size, etag=answer["ETag"], first=_body(answer))


def _slices(answer: Mapping[str, Any]) -> Generator[bytes]:
    """The body of an answer, no more of it than a piece; ends early only by an error that is worth another try."""
    left = min(answer["ContentLength"], PIECE)
    with contextlib.closing(answer["Body"]) as body:
        while left:
            data = body.read(min(left, AT_A_TIME))
            if not data:
                raise ConnectionResetError("the answer ended early")
            left -= len(data)
            yield data


def _body(answer: Mapping[str, Any]) -> bytearray:
    whole, at = bytearray(min(answer["ContentLength"], PIECE)), 0
    for data in _slices(answer):
        whole[at : at + len(data)] = data
        at += len(data)
    return whole


def _write(answer: Mapping[str, Any], handle: int, at: int) -> int:
    """The body of an answer into a file at its place; where it ends there."""
    for data in _slices(answer):
        try:
            rest = memoryview(data)
            while rest:
                done = os.pwrite(handle, rest, at)
                rest, at = rest[done:], at + done
        except OSError as error:
            raise _NotWritten(error) from None
    return at


class _Pieces(io.RawIOBase):
    """Pieces as a stream."""

    def __init__(self, first: bytearray, rest: Iterator[bytearray]) -> None:
        self._left, self._rest = memoryview(first), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._rest, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


class _Landed(io.RawIOBase):
    """What has been written to a file in order, as a stream that waits for the rest."""

    def __init__(self, file: BinaryIO, end: int, ends: Iterator[int]) -> None:
        self._file, self._at, self._end, self._ends = file, 0, end, ends

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._at == self._end:
            self._end = next(self._ends, self._end)
        size = os.preadv(self._file.fileno(), [memoryview(buffer)[: self._end - self._at]], self._at)
        self._at += size
        return size
