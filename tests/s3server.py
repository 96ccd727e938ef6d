"""A real S3 server of this machine for tests and benchmarks: versitygw on a folder, where there is none moto's."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUCKET = "bank"
SECONDS = 20.0  # that a server gets to start


def program() -> Path | None:
    """versitygw: on the path, or as the local cluster builds and keeps it."""
    if found := shutil.which("versitygw"):
        return Path(found)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "countersign"
    cache = Path(os.environ.get("COUNTERSIGN_CACHE") or home)
    built = [p for p in cache.glob("cluster/programs/versitygw-*/**/versitygw") if os.access(p, os.X_OK) and p.is_file()]
    return max(built, key=lambda p: p.stat().st_mtime, default=None)


@dataclass(kw_only=True)
class Server:
    """An S3 server, and what a client must know of it."""

    folder: Path
    port: int
    access: str = "countersign-test"
    secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    real: bool = True
    process: subprocess.Popen[bytes] | None = None
    _client: Any = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment variables of a client."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A plain client, for looking at what is there from outside."""
        import boto3

        if self._client is None:
            self._client = boto3.client(
                "s3",
                endpoint_url=self.endpoint,
                region_name="us-east-1",
                aws_access_key_id=self.access,
                aws_secret_access_key=self.secret,
            )
        return self._client

    def on_disk(self, key: str, bucket: str = BUCKET) -> Path:
        """The file that holds an object."""
        return self.folder / "data" / bucket / key

    def objects(self, bucket: str = BUCKET) -> list[str]:
        """All keys there are."""
        return [
            o["Key"] for page in self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket) for o in page.get("Contents", ())
        ]

    def uploads(self, bucket: str = BUCKET) -> list[str]:
        """Keys of uploads in parts that are not finished."""
        return [u["Key"] for u in self.client().list_multipart_uploads(Bucket=bucket).get("Uploads", ())]

    def sending(self, bucket: str = BUCKET) -> list[str]:
        """Keys of such uploads that have a part: whoever sends them has heard their ids, and can take them back."""
        s3 = self.client()
        begun = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
        return [u["Key"] for u in begun if s3.list_parts(Bucket=bucket, Key=u["Key"], UploadId=u["UploadId"]).get("Parts")]

    def start(self) -> None:
        """Start it, again if need be, with what its folder holds."""
        for name in ("data", "meta", "iam"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        words = [str(program()), "--port", f"127.0.0.1:{self.port}", "--keep-alive", "--quiet", "--iam-dir", str(self.folder / "iam")]
        env = {"PATH": os.environ["PATH"], "ROOT_ACCESS_KEY": self.access, "ROOT_SECRET_KEY": self.secret}
        with (self.folder / "server.log").open("ab") as out:
            self.process = subprocess.Popen(
                [*words, "posix", "--sidecar", str(self.folder / "meta"), str(self.folder / "data")], env=env, stdout=out, stderr=out
            )
        _wait(self.port, self.process)

    def stop(self) -> None:
        """Kill it, as a power cut would."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """Let it hang: it takes connections and says nothing."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, which: int) -> None:
        if self.process:
            self.process.send_signal(which)

    def admin(self, *words: str) -> None:
        """An order to the server as its owner."""
        asked = [str(program()), "admin", "--access", self.access, "--secret", self.secret, "--endpoint-url", self.endpoint, *words]
        subprocess.run(asked, check=True, capture_output=True)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server with an empty bucket `bank`, ended afterwards; moto's where versitygw is not at hand."""
    with _versitygw(folder) if program() else _moto(folder) as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@contextlib.contextmanager
def _versitygw(folder: Path) -> Iterator[Server]:
    server = Server(folder=folder, port=free_port())
    server.start()
    try:
        yield server
    finally:
        server.resume()
        server.stop()


@contextlib.contextmanager
def _moto(folder: Path) -> Iterator[Server]:
    """A process of its own: within one, `mock_aws` of any other test empties the server, too."""
    server = Server(folder=folder, port=free_port(), real=False)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "server.log").open("ab") as out:
        words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(server.port)]
        server.process = subprocess.Popen(words, stdout=out, stderr=out)
    try:
        _wait(server.port, server.process)
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the S3 server did not start within {SECONDS:g} s; see its server.log")
