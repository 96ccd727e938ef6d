#!/usr/bin/env python3
"""Run a module of code that arrives by digest: the one program of ours that a step's image holds.

    python /opt/countersign/with_code.py python -m workflows.run.driver loan_approval train

The image is the environment; the code is not in it. `COUNTERSIGN_CODE` names a tar in the store as
`<sha256>:<md5>:<size>`. It is fetched from `COUNTERSIGN_STORE` (`s3://bucket/prefix`), checked, unpacked into the
working directory, and the module runs in this same process, so that S3's model is read once. Where `COUNTERSIGN_CODE` is
empty, code that lies in the working directory already is run as it is; else `COUNTERSIGN_REVISION`, a commit, says which
code: the one that `countersign publish` put into the store for it. A push knows no more than that, and is heard first.

Exit codes: 2 it cannot be asked like this, 4 the code is missing or not what its digest says, 75 the store is away for
now or the commit is not published yet. The reason is one line on standard error, and in the file that
`COUNTERSIGN_MESSAGE` names, where Kubernetes looks for it. It stands alone: nothing of the project can be imported
before it has done its work.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import importlib.util
import io
import os
import re
import runpy
import shutil
import sys
import tarfile
import time
import zlib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

gc.set_threshold(50_000)  # imports make many objects and leave no garbage; looking for it takes a fifth of their time
import botocore.session  # noqa: E402  # the line above comes first
from botocore import exceptions as boto  # noqa: E402  # the line above comes first
from botocore.config import Config  # noqa: E402  # the line above comes first

CODE = re.compile(r"(?P<sha256>[0-9a-f]{64}):(?P<md5>[0-9a-f]{32}):(?P<size>[0-9]{1,10})")
COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
STORE = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[^?#]*))?")
MARK = Path("workflows/declare.py")  # where this lies, the project's code does
NOTE = Path(".countersign-code")  # its digest, where this program brought it: a container that was started again finds its folder as it was
LONGEST = 200  # bytes of the line that names a commit's code
LARGEST = 256 * 1024 * 1024  # code, not data: it is read whole
TRIES = 3  # of reading a body; a request has its own
WAIT = 0.5  # seconds before the second try
USAGE = "with_code.py python -m MODULE [ARGUMENT...]"
TEMPORARY = ("ExpiredToken", "InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown")
SERVER_ERROR = 500  # where HTTP's own begin
FULL = (errno.ENOSPC, errno.EDQUOT)
SESSION = botocore.session.get_session()
"""Left to the module that runs afterwards: it knows S3's model, which takes a sixth of a second to read."""


class Refused(Exception):
    """Why nothing was run; one line for a person, and the exit code that Argo's retries read."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The code to run, and where it lies; without a digest, the line that names a commit's code."""

    bucket: str
    key: str
    sha256: str = ""
    size: int = 0

    @property
    def place(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def main(words: list[str]) -> None:
    """Bring the code and become the module; ends the process with its exit code."""
    try:
        module, arguments = asked(words)
        bring(os.environ, Path.cwd())
        become(module, arguments)
    except Refused as refused:
        tell(str(refused))
        sys.exit(refused.code)


def asked(words: list[str]) -> tuple[str, list[str]]:
    """The module and its arguments."""
    match words:
        case [python, "-m", module, *arguments] if Path(python).name.startswith("python"):
            return module, arguments
    raise Refused(2, f"cannot run {' '.join(words) or 'nothing'}; expected: {USAGE}")


def bring(env: MutableMapping[str, str], here: Path) -> None:
    """Make the working directory hold the code, and `COUNTERSIGN_CODE` say which it is."""
    if not env.get("COUNTERSIGN_CODE"):
        if (here / MARK).is_file():
            return
        if not COMMIT.fullmatch(env.get("COUNTERSIGN_REVISION", "")):
            hint = "set it to <sha256>:<md5>:<size>, as `countersign submit` does, or COUNTERSIGN_REVISION to a commit"
            raise Refused(2, f"COUNTERSIGN_CODE is empty and there is no code in {here}; {hint}")
        env["COUNTERSIGN_CODE"] = published(env)
    wanted = read(env)
    if (here / MARK).exists() and not brought(here, wanted):
        raise Refused(2, f"COUNTERSIGN_CODE is set and {here} holds code already; start in an empty folder")
    unpack(fetch(wanted), wanted, here)


def brought(here: Path, wanted: Wanted) -> bool:
    """Whether this program put this code there before. It brings it anew all the same: nothing is believed that lay there."""
    try:
        return (here / NOTE).read_text() == wanted.sha256
    except OSError:
        return False


def published(env: Mapping[str, str]) -> str:
    """Which code a commit has, as it was published."""
    bucket, key = place(env, "revisions", env["COUNTERSIGN_REVISION"])
    wanted = Wanted(bucket=bucket, key=key)
    line = fetch(wanted).decode("ascii", "replace").strip()
    if not CODE.fullmatch(line):
        raise Refused(4, f"{wanted.place}: expected <sha256>:<md5>:<size>, got {line[:120]!r}")
    return line


def place(env: Mapping[str, str], *parts: str) -> tuple[str, str]:
    """Bucket and key of something in the store."""
    store = STORE.fullmatch(env.get("COUNTERSIGN_STORE", ""))
    if not store:
        raise Refused(2, f"COUNTERSIGN_STORE: expected s3://BUCKET/PREFIX, got {env.get('COUNTERSIGN_STORE', '')[:120]!r}")
    return store["bucket"], "/".join(p for p in ((store["prefix"] or "").strip("/"), *parts) if p)


def read(env: Mapping[str, str]) -> Wanted:
    """What the environment asks for, checked."""
    code = CODE.fullmatch(env["COUNTERSIGN_CODE"])
    if not code:
        raise Refused(2, f"COUNTERSIGN_CODE: expected <sha256>:<md5>:<size>, got {env['COUNTERSIGN_CODE'][:120]!r}")
    bucket, key = place(env, "files", "md5", code["md5"][:2], code["md5"][2:])
    if int(code["size"]) > LARGEST:
        raise Refused(2, f"COUNTERSIGN_CODE: expected at most {LARGEST} bytes, got {code['size']}; is it data?")
    return Wanted(bucket=bucket, key=key, sha256=code["sha256"], size=int(code["size"]))


def fetch(wanted: Wanted) -> bytes:
    """The bytes, checked; a body that breaks off is asked for again."""
    for attempt in range(1, TRIES + 1):
        try:
            return checked(received(wanted), wanted)
        except boto.SSLError as error:
            raise Refused(2, f"{wanted.place}: {plain(error)}; name the certificate authority with AWS_CA_BUNDLE") from None
        except (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError) as error:
            if attempt == TRIES:
                raise Refused(75, f"{wanted.place}: the store is away: {plain(error)}") from None
            time.sleep(WAIT * 2 ** (attempt - 1))
        except boto.ClientError as error:
            answered(error, wanted)
        except (boto.BotoCoreError, ValueError) as error:  # no credentials, no region, an endpoint that is no address
            raise Refused(2, f"{wanted.place}: {plain(error)}; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL_S3") from None
    raise AssertionError


def received(wanted: Wanted) -> bytes:
    config = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 4})
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    client: Any = SESSION.create_client("s3", config=config, region_name=region)
    answer = client.get_object(Bucket=wanted.bucket, Key=wanted.key)
    with contextlib.closing(answer["Body"]) as body:
        if not wanted.sha256:
            return bytes(body.read(LONGEST))
        if answer["ContentLength"] != wanted.size:
            raise Refused(4, f"{wanted.place}: expected {wanted.size} bytes of code, got {answer['ContentLength']}")
        data: bytes = body.read()
    return data


def checked(data: bytes, wanted: Wanted) -> bytes:
    got = hashlib.sha256(data).hexdigest()
    if wanted.sha256 and got != wanted.sha256:
        raise Refused(4, f"{wanted.place}: the code is not what its digest says; expected sha256 {wanted.sha256}, got {got}")
    return data


def answered(error: boto.ClientError, wanted: Wanted) -> NoReturn:
    """What the store's own no means."""
    name = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if name in {"NoSuchKey", "404", "NotFound"}:
        if not wanted.sha256:
            raise Refused(75, f"{wanted.place}: this commit is not published yet; `countersign publish` at it, as CI does") from None
        raise Refused(
            4, f"{wanted.place}: the code with sha256 {wanted.sha256} is missing; submit the pipeline again to store it"
        ) from None
    if name == "RequestTimeTooSkewed":
        said = "the clock of this node, or the store's, is off by more than 15 minutes; set it right (NTP), or cordon the node"
        raise Refused(75, f"{wanted.place}: {said}") from None
    if name in TEMPORARY or status >= SERVER_ERROR:
        raise Refused(75, f"{wanted.place}: the store is away: {plain(error)}") from None
    raise Refused(2, f"{wanted.place}: {plain(error)}; check COUNTERSIGN_STORE and the Secret with the AWS_* variables") from None


def unpack(data: bytes, wanted: Wanted, to: Path) -> None:
    """Write the tar's files below `to`: plain files and folders only, none outside of it."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as tar:
            members = tar.getmembers()
            for member in members:
                inside(member, wanted)
            if brought(to, wanted):
                for name in {PurePosixPath(m.name).parts[0] for m in members if PurePosixPath(m.name).parts}:
                    clear(to / name)
            (to / NOTE).write_text(wanted.sha256)
            # Debian 12's Python has no filters; `inside` allows less than they do.
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
            tar.extractall(to, members=members)  # noqa: S202 - `inside` has looked at every member
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise Refused(4, f"{wanted.place}: the code is no tar: {plain(error)}") from None
    except OSError as error:
        if error.errno in FULL:
            raise Refused(75, f"{to}: no room for the code: {plain(error)}") from None
        raise Refused(2, f"{to}: cannot write the code: {plain(error)}; mount a writable folder there") from None


def clear(path: Path) -> None:
    """Take away what was brought before, so that a file that is in it no more does not stay."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def inside(member: tarfile.TarInfo, wanted: Wanted) -> None:
    """Refuse links, devices and ways out: they have no business in code."""
    path = PurePosixPath(member.name)
    if not (member.isfile() or member.isdir()) or path.is_absolute() or ".." in path.parts:
        raise Refused(4, f"{wanted.place}: {member.name!r} is no plain file below the working directory")


def become(module: str, arguments: list[str]) -> None:
    """What `python -m module` does, in this process."""
    if sys.path and Path(sys.path[0] or ".").resolve() == Path(__file__).resolve().parent:
        del sys.path[0]
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        found = None
    if found is None:
        raise Refused(2, f"there is no module {module} in the code in {Path.cwd()}")
    sys.argv = [module, *arguments]
    sys.modules["with_code"] = sys.modules["__main__"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        gc.freeze()  # Python looks for garbage when it ends, too; the process takes it all along


def plain(error: Exception) -> str:
    """An error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def tell(message: str) -> None:
    line = f"error: {message}\n"
    sys.stderr.write(line)
    if named := os.environ.get("COUNTERSIGN_MESSAGE"):
        with contextlib.suppress(OSError):  # it stands on standard error as well
            Path(named).write_text(line, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
