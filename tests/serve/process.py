"""A model server as a process of its own, and a client that keeps its connection."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.s3server import free_port
from tests.serve import world

ROOT = Path(__file__).parents[2]


class Server:
    """One process. `top` holds its keys, log and release, so another one there goes on where it left off."""

    def __init__(self, top: Path, made: world.Made, *variants: Any, **more: str) -> None:
        self.top, self.port, self.metrics_port = top, free_port(), free_port()
        (top / "release.json").write_bytes(world.release(*(variants or (made.variant(),))))
        ports = {"COUNTERSIGN_PORT": str(self.port), "COUNTERSIGN_METRICS_PORT": str(self.metrics_port)} | more
        given = world.environment(top, made, **ports)
        words = [sys.executable, "-m", "workflows.serve", "--release", str(top / "release.json")]
        self.said = (top / "said").open("w")
        env = {**os.environ, "PYTHONPATH": str(ROOT), **given}
        self.process = subprocess.Popen(words, env=env, stdout=self.said, stderr=self.said, cwd=top)

    def ready(self, within: float = 60.0) -> Server:
        """Once it takes decisions."""
        end = time.monotonic() + within
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self.ask("/v2/health/ready", None)[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready: {self.log}")

    @property
    def log(self) -> str:
        return (self.top / "said").read_text()

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(self, path: str, body: Any, over: http.client.HTTPConnection | None = None) -> tuple[int, Any]:
        if over:
            return ask(over, path, body)
        with closing(self.connection()) as own:
            return ask(own, path, body)

    def metrics(self) -> dict[str, float]:
        own = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=20)
        own.request("GET", "/metrics")
        text = own.getresponse().read().decode()
        own.close()
        return metrics_of(text)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self.said.close()
        return code


def ask(over: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, Any]:
    """The status and what was said; without a body it is asked for, with one that is posted."""
    data = None if body is None else json.dumps(body).encode()
    over.request("GET" if data is None else "POST", path, data, {"content-type": "application/json"})
    answer = over.getresponse()
    return answer.status, json.loads(answer.read())


def metrics_of(text: str) -> dict[str, float]:
    """Series -> value, as Prometheus reads them."""
    return {k: float(v) for k, _, v in (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))}


def total(measured: Mapping[str, float], series: str) -> int:
    """The sum over all series that begin so."""
    return int(sum(v for k, v in measured.items() if k.startswith(series)))


@contextmanager
def serving(top: Path, made: world.Made, *variants: Any, **more: str) -> Iterator[Server]:
    server = Server(top, made, *variants, **more)
    try:
        yield server.ready()
    finally:
        server.stop(signal.SIGKILL)
