"""The bootstrap of a step's image, run as Argo runs it, against a real S3 server in another process."""

from __future__ import annotations

import hashlib
import io
import os
import runpy
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).parents[2]
BOOTSTRAP = ROOT / "infra/images/with_code.py"
DECLARE = "workflows/declare.py"
DRIVER = "workflows/run/driver.py"
PRINTS = """import sys, boto3
print(__name__, sys.argv[1:], sys.path[0], sys.modules["__main__"].__spec__.name)
sys.exit(int(sys.argv[1]))
"""
OWN = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "workflows").rglob("*.py"))]
SOURCE = {"workflows/__init__.py": "", DECLARE: "", "workflows/run/__init__.py": "", DRIVER: PRINTS}


@dataclass(frozen=True, kw_only=True)
class Said:
    code: int
    out: str
    err: str
    message: str
    """What Kubernetes would show as the container's termination message."""


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A working directory, and the environment that a pod would have."""

    here: Path
    env: dict[str, str]
    bucket: str

    def run(self, *words: str, **env: str | None) -> Said:
        message = self.here.parent / "termination-log"
        message.touch()
        asked = self.env | {"COUNTERSIGN_MESSAGE": str(message)} | env
        done = subprocess.run(
            [sys.executable, str(BOOTSTRAP), *(words or ("python", "-m", "workflows.run.driver", "0"))],
            cwd=self.here,
            env={k: v for k, v in asked.items() if v is not None},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return Said(code=done.returncode, out=done.stdout, err=done.stderr, message=message.read_text())

    def refused(self, code: int, *words: str, **env: str | None) -> str:
        """The same in this process, for what is refused before anything is fetched; the message."""
        bootstrap = runpy.run_path(str(BOOTSTRAP))
        environment = {k: v for k, v in (self.env | env).items() if v is not None}
        with pytest.raises(bootstrap["Refused"]) as refused:
            bootstrap["asked"](list(words)) if words else bootstrap["bring"](environment, self.here)
        assert refused.value.code == code
        return str(refused.value)

    def store(self, data: bytes, *, prefix: str = "some/prefix/", called: bytes | None = None) -> str:
        """Put code where the store has it; the reference to it. `called` is what it claims to be."""
        named = data if called is None else called
        md5 = hashlib.md5(named, usedforsecurity=False).hexdigest()
        self.client().put_object(Bucket=self.bucket, Key=f"{prefix}files/md5/{md5[:2]}/{md5[2:]}", Body=data)
        return reference(named)

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.env["AWS_ENDPOINT_URL_S3"],
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",  # noqa: S106 - moto takes any
        )


def reference(data: bytes) -> str:
    return f"{hashlib.sha256(data).hexdigest()}:{hashlib.md5(data, usedforsecurity=False).hexdigest()}:{len(data)}"


def tar_of(files: dict[str, str], *extra: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        for info in extra:
            tar.addfile(info)
    return out.getvalue()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def pod(server: str, tmp_path: Path) -> Pod:
    here = tmp_path / "work"
    here.mkdir()
    bucket = f"b-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "COUNTERSIGN_"))}
    env = kept | {
        "HOME": str(tmp_path),
        "COUNTERSIGN_STORE": f"s3://{bucket}/some/prefix",
        "AWS_ENDPOINT_URL_S3": server,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    pod = Pod(here=here, env=env, bucket=bucket)
    pod.client().create_bucket(Bucket=bucket)
    return pod


def refuses(said: Said, code: int, *words: str) -> None:
    """One line, the same in both places, and nothing that looks like a traceback."""
    assert said.code == code, said.err
    assert said.err == said.message
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    for word in words:
        assert word in said.err


def test_code_arrives_by_digest_and_runs_in_the_same_process(pod: Pod) -> None:
    code = pod.store(tar_of(SOURCE))
    said = pod.run("python", "-m", "workflows.run.driver", "3", "--item", "a b", COUNTERSIGN_CODE=code)
    assert said.err == ""
    assert said.out == f"__main__ ['3', '--item', 'a b'] {pod.here} workflows.run.driver\n"
    assert said.code == 3, "the module's exit code is the process's"
    assert said.message == ""
    assert (pod.here / DRIVER).read_text() == PRINTS


def test_a_store_may_be_a_whole_bucket(pod: Pod) -> None:
    code = pod.store(tar_of(SOURCE), prefix="")
    assert pod.run(COUNTERSIGN_CODE=code, COUNTERSIGN_STORE=f"s3://{pod.bucket}").code == 0


def test_code_may_be_compressed(pod: Pod) -> None:
    import gzip

    assert pod.run(COUNTERSIGN_CODE=pod.store(gzip.compress(tar_of(SOURCE), mtime=0))).code == 0


def test_the_store_that_runs_next_need_not_read_again_what_s3_is(pod: Pod) -> None:
    asks = "import sys; from workflows.run.store.bucket import _session; print(_session() is sys.modules['with_code'].SESSION)"
    own = {name: (ROOT / name).read_text() for name in OWN}
    said = pod.run(COUNTERSIGN_CODE=pod.store(tar_of({**own, **SOURCE, DRIVER: asks})))
    assert (said.code, said.out) == (0, "True\n"), said.err


@pytest.mark.parametrize("value", ["", None])
def test_code_that_is_there_already_just_runs(pod: Pod, value: str | None) -> None:
    for name, text in SOURCE.items():
        (pod.here / name).parent.mkdir(parents=True, exist_ok=True)
        (pod.here / name).write_text(text)
    assert pod.run(COUNTERSIGN_CODE=value, COUNTERSIGN_STORE=None).code == 0


def test_no_code_at_all_says_what_to_set(pod: Pod) -> None:
    refuses(pod.run(), 2, "COUNTERSIGN_CODE is empty", str(pod.here), "<sha256>:<md5>:<size>")


COMMIT = "1f0d2c3b4a59" + "0" * 28


def publish(pod: Pod, line: str, commit: str = COMMIT) -> None:
    pod.client().put_object(Bucket=pod.bucket, Key=f"some/prefix/revisions/{commit}", Body=line.encode())


def test_a_commit_is_enough_where_it_was_published(pod: Pod) -> None:
    """A push says no more. The module is told which code it is, as if it had been given."""
    code = pod.store(tar_of({**SOURCE, DRIVER: "import os\nprint(os.environ['COUNTERSIGN_CODE'])\n"}))
    publish(pod, f"{code}\n")
    said = pod.run(COUNTERSIGN_CODE="", COUNTERSIGN_REVISION=COMMIT)
    assert (said.code, said.out, said.err) == (0, f"{code}\n", "")


def test_a_commit_that_is_not_published_yet_is_waited_for(pod: Pod) -> None:
    refuses(pod.run(COUNTERSIGN_REVISION=COMMIT), 75, f"/some/prefix/revisions/{COMMIT}", "not published yet", "countersign publish")


def test_a_commit_never_stands_above_a_digest(pod: Pod) -> None:
    code = pod.store(tar_of(SOURCE))
    publish(pod, reference(b"something else"))
    assert pod.run(COUNTERSIGN_CODE=code, COUNTERSIGN_REVISION=COMMIT).code == 0


@pytest.mark.parametrize("line", ["", "x" * 500, "sha256:md5:1"])
def test_a_commit_that_names_no_code_is_refused(pod: Pod, line: str) -> None:
    publish(pod, line)
    refuses(pod.run(COUNTERSIGN_REVISION=COMMIT), 4, "expected <sha256>:<md5>:<size>")


@pytest.mark.parametrize("commit", ["main", COMMIT[:12], f"{COMMIT}-dirty", f"../{COMMIT}"])
def test_what_is_no_commit_is_not_looked_for(pod: Pod, commit: str) -> None:
    assert "COUNTERSIGN_CODE is empty" in pod.refused(2, COUNTERSIGN_REVISION=commit)


def test_code_is_not_mixed_with_other_code(pod: Pod) -> None:
    (pod.here / "workflows").mkdir()
    (pod.here / DECLARE).write_text("old")
    refuses(pod.run(COUNTERSIGN_CODE=pod.store(tar_of(SOURCE))), 2, "holds code already")
    assert (pod.here / DECLARE).read_text() == "old"


def test_a_container_that_is_started_again_brings_the_code_anew(pod: Pod) -> None:
    """Its folder is as it was left, by whatever ended it."""
    code = pod.store(tar_of(SOURCE))
    assert pod.run(COUNTERSIGN_CODE=code).code == 0
    (pod.here / DRIVER).write_text("raise SystemExit(9)")
    (pod.here / "workflows/left.py").write_text("")
    (pod.here / "own").write_text("what a step wrote")
    assert pod.run(COUNTERSIGN_CODE=code).code == 0
    assert not (pod.here / "workflows/left.py").exists()
    assert (pod.here / "own").exists()
    other = pod.store(tar_of({**SOURCE, "more.py": ""}))
    refuses(pod.run(COUNTERSIGN_CODE=other), 2, "holds code already")


@pytest.mark.parametrize("words", [("workflows.run.driver",), ("python", "workflows/run/driver.py"), ("python", "-m"), ("sh", "-m", "x")])
def test_other_words_are_refused(pod: Pod, words: tuple[str, ...]) -> None:
    assert "python -m MODULE" in pod.refused(2, *words)


def test_a_module_that_the_code_lacks_is_named(pod: Pod) -> None:
    code = pod.store(tar_of(SOURCE))
    refuses(pod.run("python", "-m", "workflows.run.walker", COUNTERSIGN_CODE=code), 2, "no module workflows.run.walker")
    assert (pod.here / DRIVER).exists()


@pytest.mark.parametrize("code", ["latest", f"{'a' * 64}:{'b' * 32}", f"{'A' * 64}:{'b' * 32}:1", f"{'a' * 64}:{'b' * 32}:-1"])
def test_a_reference_that_is_none_is_refused(pod: Pod, code: str) -> None:
    assert pod.refused(2, COUNTERSIGN_CODE=code) == f"COUNTERSIGN_CODE: expected <sha256>:<md5>:<size>, got {code!r}"


def test_data_is_not_taken_for_code(pod: Pod) -> None:
    assert "expected at most 268435456 bytes, got 268435457" in pod.refused(2, COUNTERSIGN_CODE=f"{'a' * 64}:{'b' * 32}:{2**28 + 1}")


@pytest.mark.parametrize("store", [None, "", "/srv/store", "s3://", "s3://UPPER/x", "s3://bucket/x?y=1"])
def test_a_store_that_is_none_is_refused(pod: Pod, store: str | None) -> None:
    assert "COUNTERSIGN_STORE: expected s3://BUCKET/PREFIX, got" in pod.refused(2, COUNTERSIGN_CODE=reference(b""), COUNTERSIGN_STORE=store)


def test_missing_code_is_named_by_digest(pod: Pod) -> None:
    refuses(pod.run(COUNTERSIGN_CODE=reference(b"never stored")), 4, "is missing", hashlib.sha256(b"never stored").hexdigest())


def test_replaced_code_is_refused_before_anything_is_unpacked(pod: Pod) -> None:
    wanted = tar_of(SOURCE)
    evil = wanted.replace(b"sys.exit", b"sys.evil")
    refuses(pod.run(COUNTERSIGN_CODE=pod.store(evil, called=wanted)), 4, "not what its digest says", hashlib.sha256(evil).hexdigest())
    assert not any(pod.here.iterdir())


def test_truncated_code_is_refused(pod: Pod) -> None:
    wanted = tar_of(SOURCE)
    refuses(pod.run(COUNTERSIGN_CODE=pod.store(wanted[:-1], called=wanted)), 4, f"expected {len(wanted)} bytes", f"got {len(wanted) - 1}")


@pytest.mark.parametrize(("data", "says"), [(b"no tar at all" * 99, "is no tar"), (b"", "is no tar")])
def test_code_that_is_no_tar_is_refused(pod: Pod, data: bytes, says: str) -> None:
    refuses(pod.run(COUNTERSIGN_CODE=pod.store(data)), 4, says)


def link(name: str, to: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../outside.py"),
        tarfile.TarInfo("/outside.py"),
        tarfile.TarInfo("steps/../../outside.py"),
        link("steps", "/etc", tarfile.SYMTYPE),
        link("shadow", "/etc/shadow", tarfile.LNKTYPE),
        link("pipe", "", tarfile.FIFOTYPE),
        link("null", "", tarfile.CHRTYPE),
    ],
    ids=lambda m: m.name,
)
def test_code_stays_in_its_folder(pod: Pod, member: tarfile.TarInfo) -> None:
    data = tar_of(SOURCE, member)
    bootstrap = runpy.run_path(str(BOOTSTRAP))
    wanted = bootstrap["Wanted"](bucket="b", key="k", sha256="s", size=len(data))
    with pytest.raises(bootstrap["Refused"], match="is no plain file below") as refused:
        bootstrap["unpack"](data, wanted, pod.here)
    assert refused.value.code == 4
    assert not any(pod.here.iterdir())
    assert not (pod.here.parent / "outside.py").exists()


def test_a_store_that_is_away_is_temporary(pod: Pod) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = pod.run(COUNTERSIGN_CODE=reference(b"x"), AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{port}")
    refuses(said, 75, "the store is away")


def test_a_store_in_trouble_is_temporary(pod: Pod) -> None:
    with answering(503, "SlowDown") as url:
        refuses(pod.run(COUNTERSIGN_CODE=reference(b"x"), AWS_ENDPOINT_URL_S3=url), 75, "the store is away", "SlowDown")


def test_a_clock_that_is_off_is_temporary_and_named(pod: Pod) -> None:
    with answering(403, "RequestTimeTooSkewed") as url:
        refuses(pod.run(COUNTERSIGN_CODE=reference(b"x"), AWS_ENDPOINT_URL_S3=url), 75, "clock", "set it right")


def test_a_body_that_breaks_off_is_asked_for_again(pod: Pod) -> None:
    data = tar_of(SOURCE)
    with breaking_off(data, times=1) as url:
        assert pod.run(COUNTERSIGN_CODE=reference(data), AWS_ENDPOINT_URL_S3=url).code == 0


def test_a_body_that_breaks_off_every_time_is_temporary(pod: Pod) -> None:
    data = tar_of(SOURCE)
    with breaking_off(data, times=99) as url:
        refuses(pod.run(COUNTERSIGN_CODE=reference(data), AWS_ENDPOINT_URL_S3=url), 75, "the store is away")
    assert not any(pod.here.iterdir())


def test_wrong_credentials_are_not_tried_again(pod: Pod) -> None:
    with answering(403, "InvalidAccessKeyId") as url:
        refuses(pod.run(COUNTERSIGN_CODE=reference(b"x"), AWS_ENDPOINT_URL_S3=url), 2, "InvalidAccessKeyId", "Secret")


def test_missing_credentials_are_named(pod: Pod) -> None:
    said = pod.run(COUNTERSIGN_CODE=reference(b"x"), AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    refuses(said, 2, "credentials", "AWS_ACCESS_KEY_ID")


def test_a_bucket_that_does_not_exist_is_bad_input(pod: Pod) -> None:
    refuses(pod.run(COUNTERSIGN_CODE=reference(b"x"), COUNTERSIGN_STORE="s3://no-such-bucket/p"), 2, "NoSuchBucket", "COUNTERSIGN_STORE")


def test_an_endpoint_that_is_no_address_is_bad_input(pod: Pod) -> None:
    refuses(pod.run(COUNTERSIGN_CODE=reference(b"x"), AWS_ENDPOINT_URL_S3="nowhere"), 2, "nowhere")


def test_a_folder_that_cannot_be_written_is_named(pod: Pod) -> None:
    (pod.here / "workflows").write_text("a file where a folder should be")
    refuses(pod.run(COUNTERSIGN_CODE=pod.store(tar_of(SOURCE))), 2, "cannot write the code", "mount a writable folder")


def test_a_message_file_that_cannot_be_written_hides_nothing(pod: Pod) -> None:
    said = pod.run(COUNTERSIGN_MESSAGE="/nowhere/at/all")
    assert said.code == 2
    assert said.err.startswith("error: ")


class Answering:
    """An S3 server that has one answer."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def answering(status: int, code: str) -> Answering:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Answering(Handler)


def breaking_off(data: bytes, times: int) -> Answering:
    left = [times]

    class Handler(Quiet):
        def do_GET(self) -> None:
            left[0] -= 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if left[0] >= 0 else data)
            self.close_connection = True

    return Answering(Handler)
