"""A workflow without a cluster: its tasks as programs in folders of their own, with nothing in common but a bucket."""

from __future__ import annotations

import http.client
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import Home, Said
from tests.s3server import Server
from workflows.prove import digest
from workflows.run.session import archive, tree_files

NOBODY = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
"""Nobody answers as the cluster's API: noting the root on the workflow fails, after the seal."""


@dataclass(kw_only=True)
class Pods:
    """The published code of a checkout, and what the pods of one workflow are told."""

    home: Home
    server: Server
    url: str
    pipeline: str
    scratch: Path
    revision: str = ""
    uid: str = "uid-1"
    env: dict[str, str] = field(default_factory=dict)
    plan: str = ""
    run: str = ""
    started: int = 0

    def publish(self) -> None:
        """The code as it lies in the checkout, and the data that its pointer files name."""
        self.files = archive(self.home.path, tree_files(self.home.path))
        self.code = self._put(self.files)
        for path in sorted((self.home.path / "data").rglob(".dvc-remote/files/md5/*/*")):
            self._put(path.read_bytes())
        if not self.revision:
            self.revision = commit_of(self.home.path)

    def go(self, tasks: Sequence[tuple[str, str | None]], **sealing: str) -> Said:
        """Plan, run every task in order, seal; what the exit handler said."""
        self.planned()
        for step, item in tasks:
            words = (self.pipeline, step) if item is None else (self.pipeline, step, "--item", item)
            said = self.pod("workflows.run.driver", *words, COUNTERSIGN_PLAN=self.plan)
            assert said.code == 0, said.err
        return self.seal(**sealing)

    def planned(self) -> None:
        said = self.pod("workflows.cluster", "plan", self.pipeline, COUNTERSIGN_REVISION=self.revision)
        assert said.code == 0, said.err
        self.plan, self.run = (self._last / "out/plan").read_text(), (self._last / "out/run").read_text()

    def seal(self, **env: str) -> Said:
        names = {"COUNTERSIGN_WORKFLOW_NAME": "some-workflow", "COUNTERSIGN_NAMESPACE": "countersign"}
        return self.pod("workflows.cluster", "seal", self.pipeline, **names, **NOBODY, **env)

    def pod(self, module: str, *words: str, **env: str) -> Said:
        """Run a program where only the code is."""
        self.started += 1
        self._last = self.scratch / f"pod{self.started}"
        self._last.mkdir(parents=True)
        (self._last / "code.tar").write_bytes(self.files)
        subprocess.run(["tar", "-xf", self._last / "code.tar", "-C", self._last], check=True)
        (self._last / "code.tar").unlink()
        told = {"COUNTERSIGN_STORE": self.url, "COUNTERSIGN_WORKFLOW": self.uid, "COUNTERSIGN_CODE": self.code}
        told |= {"COUNTERSIGN_OUTPUTS": str(self._last / "out")}
        home = Home(path=self._last, env={**self.home.env, **self.server.env, **self.env})
        return home.finish(home.start("-m", module, *words, **told, **env))

    def _put(self, data: bytes) -> str:
        d = digest.of_bytes(data)
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        self.server.client().put_object(Bucket=bucket, Key=f"{prefix}/files/md5/{d.md5[:2]}/{d.md5[2:]}".lstrip("/"), Body=data)
        return f"{d.sha256}:{d.md5}:{d.size}"


def commit_of(top: Path) -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=top, check=True, capture_output=True, text=True).stdout.strip()


@dataclass(kw_only=True)
class ReadOnly:
    """A way to an S3 server that lets nothing be written, and remembers who tried."""

    port: int
    tried: list[str] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.port}"}


REFUSED = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code><Message>read only</Message></Error>'


@contextmanager
def read_only(server: Server) -> Iterator[ReadOnly]:
    """Reads go to the server as they are, signature and all; whatever else is asked is refused."""
    way = ReadOnly(port=0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            there = http.client.HTTPConnection(urlsplit(server.endpoint).netloc, timeout=60)
            there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                there.putheader(name, value)
            there.endheaders()
            answer = there.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            there.close()

        do_HEAD = do_GET  # noqa: N815  # the names of the standard library

        def do_PUT(self) -> None:
            way.tried.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(403)
            self.send_header("Content-Length", str(len(REFUSED)))
            self.end_headers()
            self.wfile.write(REFUSED)

        do_POST = do_DELETE = do_PUT  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a client that has left

    listening = Quiet(("127.0.0.1", 0), Handler)
    way.port = listening.server_address[1]
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield way
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
