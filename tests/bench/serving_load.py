"""Load for one server: so many connections, each asking again as soon as it was answered. Prints what it measured as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import uvloop


class Client(asyncio.Protocol):
    """One connection. It reads as much of an answer as it must to know where that ends."""

    def __init__(
        self, requests: list[bytes], offset: int, seconds: list[float], statuses: dict[bytes, int], done: Callable[[], None]
    ) -> None:
        self.requests, self.at, self.done = requests, offset, done
        self.seconds, self.statuses = seconds, statuses
        self.buffer, self.begun, self.closing = b"", 0.0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.begun = time.perf_counter()
        self.transport.write(self.requests[self.at % len(self.requests)])  # type: ignore[attr-defined]
        self.at += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            return
        self.seconds.append(time.perf_counter() - self.begun)
        status = head[9:12]
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.buffer = b""
        self.done()
        if not self.closing:
            self.ask()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.closing:
            self.statuses[b"lost"] = self.statuses.get(b"lost", 0) + 1


async def load(port: int, requests: list[bytes], connections: int, seconds: float, most: int | None) -> dict[str, object]:
    """For so many seconds, after a quarter of that to warm up; with `most`, until so many are answered, and no longer than that."""
    loop = asyncio.get_running_loop()
    taken: list[float] = []
    statuses: dict[bytes, int] = {}
    enough = asyncio.Event()

    def done() -> None:
        if most is not None and len(taken) >= most:
            enough.set()

    made = [
        (await loop.create_connection(lambda n=n: Client(requests, n * 37, taken, statuses, done), "127.0.0.1", port))[1]  # type: ignore[misc]
        for n in range(connections)
    ]
    if most is None:
        await asyncio.sleep(seconds / 4)  # warm
        taken.clear()
    begun = time.perf_counter()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(enough.wait(), seconds)
    lasted = time.perf_counter() - begun
    ordered = sorted(taken)
    for c in made:
        c.closing = True
        c.transport.close()
    return {
        "a_second": len(ordered) / lasted,
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[int(len(ordered) * 0.99)],
        "statuses": {k.decode(): v for k, v in statuses.items()},
    }


def main() -> None:
    port, path, folder, connections, seconds = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    most = int(sys.argv[6]) if len(sys.argv) > 6 else None
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "
    bodies = folder.read_bytes().splitlines()
    requests = [f"{head}{len(b)}\r\n\r\n".encode() + b for b in bodies]
    sys.stdout.write(json.dumps(uvloop.run(load(port, requests, connections, seconds, most))) + "\n")


if __name__ == "__main__":
    main()
