"""Digests: what they are computed over, in one place.

A file has one identity, its sha256. DVC addresses content by md5, so both are computed in one pass. Everything that is
not a file is hashed as a tagged, length-delimited pre-image, so that no two different things share one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

T = TypeVar("T")
R = TypeVar("R")
CHUNK = 1024 * 1024
SMALL = 2 * CHUNK  # below this, starting a thread costs more than it saves


@dataclass(frozen=True, kw_only=True, slots=True)
class Digests:
    """The identity of a file: `sha256` for proof, `md5` for DVC's address, `size` in bytes."""

    sha256: str
    md5: str
    size: int


def of_bytes(data: bytes) -> Digests:
    """Digests of a byte string."""
    return Digests(sha256=hashlib.sha256(data).hexdigest(), md5=hashlib.md5(data, usedforsecurity=False).hexdigest(), size=len(data))


def of_stream(stream: BinaryIO, sink: BinaryIO | None = None) -> Digests:
    """Digests of what is left of `stream`, read once with bounded memory, copied to `sink` on the way where there is one.

    The two hash functions run side by side: hashlib releases the interpreter's lock.
    """
    sha, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    first = min(_size(stream) + 1, SMALL)
    chunk = stream.read(first)
    if len(chunk) < first:
        if sink:
            sink.write(chunk)
        return of_bytes(chunk)
    buffers = (bytearray(CHUNK), bytearray(CHUNK))
    with ThreadPoolExecutor(1) as pool:
        view, turn = memoryview(chunk), 0
        while view:
            size += len(view)
            other = pool.submit(md5.update, view)
            sha.update(view)
            if sink:
                sink.write(view)
            filled = stream.readinto(buffers[turn])  # type: ignore[attr-defined]  # every binary file has it
            other.result()
            view, turn = memoryview(buffers[turn])[:filled], 1 - turn
    return Digests(sha256=sha.hexdigest(), md5=md5.hexdigest(), size=size)


def _size(stream: BinaryIO) -> int:
    """What the file is likely to hold: reading small files into a large buffer costs more than hashing them."""
    try:
        return os.fstat(stream.fileno()).st_size
    except OSError:  # no file of the system's
        return SMALL


def in_parallel(look: Callable[[T], R], things: Sequence[T]) -> list[R]:
    """What `look` says of each thing, in their order; on all cores where it reads and hashes, as both leave the interpreter's lock."""
    found: dict[int, R] = {}
    queue = iter(enumerate(things))

    def work() -> None:
        for i, thing in queue:
            found[i] = look(thing)

    cores = min(len(os.sched_getaffinity(0)), len(things))
    with ThreadPoolExecutor(max(cores, 1)) as pool:
        for worker in [pool.submit(work) for _ in range(cores)]:
            worker.result()
    return [found[i] for i in range(len(things))]


def tagged(tag: str, *parts: bytes | str) -> str:
    """sha256 over `countersign:v1:TAG` and each part, every one preceded by its length in 8 bytes, big endian."""
    sha = hashlib.sha256()
    for part in (f"countersign:v1:{tag}", *parts):
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "big"))
        sha.update(data)
    return sha.hexdigest()


def of_tree(files: Iterable[tuple[str, str]]) -> str:
    """Digest of named files, `(path, sha256)` in any order: names are bound to content, order is not."""
    listed = sorted(files)
    if len({path for path, _ in listed}) != len(listed):
        raise ValueError("a path is listed twice")
    return tagged("tree", *(part for pair in listed for part in pair))
