"""Clients that mean no good, or are in no good place: what they send is broken, comes byte by byte, or ends in the middle."""

from __future__ import annotations

import asyncio
import http.client
import random
import socket
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

PIECES = [b"", b'"', b"{", b"}", b"[", b"1e9", b"null", b"\x00", b"\xc3", b"-", b"9" * 30, b",", b"[1]", b"\\ud800"]
HEAD = "POST /v1/decisions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"


def broken(sound: bytes, rng: random.Random) -> bytes:
    """With a few edits at random. Some are sound still."""
    data = bytearray(sound)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        data[at : at + rng.randint(0, 3)] = rng.choice([*PIECES, bytes([at % 256])])
    return bytes(data)


def pour(address: tuple[str, int], sound: bytes, refused: int, *, connections: int = 4) -> Counter[int]:
    """Send broken requests until so many were refused; how often each status was answered, 0 for a connection that was cut."""

    def one(seed: int) -> Counter[int]:
        rng, answered = random.Random(seed), Counter[int]()  # noqa: S311
        over = http.client.HTTPConnection(*address, timeout=20)
        while answered.total() - answered[200] < refused // connections:
            try:
                over.request("POST", "/v1/decisions", broken(sound, rng), {"content-type": "application/json"})
                answer = over.getresponse()
                answer.read()
                answered[answer.status] += 1
            except (OSError, http.client.HTTPException):
                answered[0] += 1
                over.close()
        over.close()
        return answered

    with ThreadPoolExecutor(connections) as pool:
        return sum(pool.map(one, range(connections)), Counter[int]())


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How it ended for such a client: the status that it was answered, 0 where the connection was cut, and after how many seconds."""

    status: int
    seconds: float


def slow(address: tuple[str, int], body: bytes, count: int, *, head_only: bool = False, pause: float = 0.5) -> list[Ended]:
    """So many at once, each sending a byte every `pause` seconds: of the body, or already of the head."""
    head = HEAD.format(len(body)).encode()
    at_once, rest = (b"", head) if head_only else (head, body)

    async def one() -> Ended:
        reader, writer = await asyncio.open_connection(*address)
        begun = time.monotonic()
        try:
            writer.write(at_once)
            answer = asyncio.create_task(reader.read(1000))
            for byte in rest:
                writer.write(bytes([byte]))
                await asyncio.wait({answer}, timeout=pause)
                if answer.done():
                    break
            said = await answer
        except ConnectionError:
            said = b""
        writer.close()
        return Ended(status=int(said[9:12] or 0), seconds=time.monotonic() - begun)

    async def all_of_them() -> list[Ended]:
        return list(await asyncio.gather(*(one() for _ in range(count))))

    return asyncio.run(all_of_them())


def hang_up(address: tuple[str, int], body: bytes, *, sent: int, rudely: bool) -> None:
    """Send so many bytes of a request, and go; rudely: as a machine that died, without a goodbye."""
    with socket.create_connection(address, timeout=10) as s:
        s.sendall((HEAD.format(len(body)).encode() + body)[:sent])
        if rudely:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
