"""A workflow without a cluster: its tasks as programs in folders of their own, with nothing in common but a bucket."""

from __future__ import annotations

import compileall
import http.client
import py_compile
import shutil
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
    """The published code of a checkout, what the pods of one workflow are told, and what they put out."""

    home: Home
    server: Server
    url: str
    pipeline: str
    scratch: Path
    uid: str = "uid-1"
    revision: str = ""
    """The commit that the code is said to be of; the checkout's own where it is empty."""
    env: dict[str, str] = field(default_factory=dict)
    """What every pod is told beside."""
    files: bytes = field(init=False, repr=False, default=b"")
    code: str = field(init=False, default="")
    outputs: dict[str, dict[str, str]] = field(init=False, default_factory=dict)
    """What each task put out, by its name: `plan`, `work@a`."""
    message: str = field(init=False, default="")
    """What the last pod left for its node."""
    started: int = field(init=False, default=0)

    @property
    def run(self) -> str:
        return self.outputs["plan"]["run"]

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
        said = self.plan()
        assert said.code == 0, said.err
        self.steps(tasks)
        return self.seal(**sealing)

    def plan(self, **env: str) -> Said:
        return self.pod("workflows.cluster", "plan", self.pipeline, COUNTERSIGN_REVISION=self.revision, **env)

    def steps(self, tasks: Sequence[tuple[str, str | None]]) -> None:
        for name, item in tasks:
            said = self.step(name, item)
            assert said.code == 0, said.err

    def step(self, name: str, item: str | None = None, **env: str) -> Said:
        words = (name,) if item is None else (name, "--item", item)
        return self.pod("workflows.run.driver", self.pipeline, *words, **{"COUNTERSIGN_PLAN": self.outputs["plan"]["plan"], **env})

    def seal(self, failures: str = "", **env: str) -> Said:
        """The exit handler. Nobody answers as the cluster's API, so noting the root on the workflow fails after the seal."""
        names = {"COUNTERSIGN_WORKFLOW_NAME": f"{self.pipeline}-1", "COUNTERSIGN_NAMESPACE": "countersign"}
        return self.pod("workflows.cluster", "seal", self.pipeline, COUNTERSIGN_FAILURES=failures, **names, **NOBODY, **env)

    def pod(self, module: str, *words: str, **env: str) -> Said:
        """Run a program where only the code is, and note what it puts out."""
        home = self._folder(env)
        said = home.python_m(module, *words)
        out, message = home.path / "out", home.path / "message"
        name = "@".join(w for w in words[1:] if w != "--item") if module.endswith("driver") else words[0]
        self.outputs[name] = {p.name: p.read_text() for p in out.glob("*")}
        self.message = message.read_text() if message.exists() else ""
        return said

    def begin(self, module: str, *words: str, **env: str) -> tuple[Home, subprocess.Popen[str]]:
        """A pod that has begun, and its folder."""
        home = self._folder(env)
        return home, home.start("-m", module, *words)

    def _folder(self, env: dict[str, str]) -> Home:
        """A folder with the code and nothing else, and what a pod there is told."""
        self.started += 1
        top = self.scratch / f"pod{self.started}"
        shutil.copytree(self._unpacked(), top)
        told = {"COUNTERSIGN_STORE": self.url, "COUNTERSIGN_WORKFLOW": self.uid, "COUNTERSIGN_CODE": self.code}
        told |= {"COUNTERSIGN_OUTPUTS": str(top / "out"), "COUNTERSIGN_MESSAGE": str(top / "message")}
        return Home(path=top, env={**self.home.env, **self.server.env, **self.env, **told, **env})

    def _unpacked(self) -> Path:
        """The code as its archive has it, compiled once for all pods."""
        top = self.scratch / f"code-{self.code[:16]}"
        if not top.exists():
            top.mkdir(parents=True)
            subprocess.run(["tar", "-x", "-C", top], input=self.files, check=True)
            compileall.compile_dir(top, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        return top

    def ask(self, *words: str) -> Said:
        """`countersign` in the checkout, on the store that the pods use."""
        return self.home.ask(*words, env={**self.server.env, "COUNTERSIGN_STORE": self.url})

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
def read_only(endpoint: str) -> Iterator[ReadOnly]:
    """Reads go to the S3 server at `endpoint` as they are, signature and all; whatever else is asked is refused."""
    way = ReadOnly(port=0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            there = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=60)
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
