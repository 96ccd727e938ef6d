"""A bucket that misbehaves: a real S3 server is damaged on its disk, killed, paused and locked, and no wrong byte gets through."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError, SSLError

from tests import s3server
from tests.conftest import ROOT, eventually
from workflows.errors import BadInput, CountersignError, NotVerified, Temporary
from workflows.prove import digest
from workflows.prove.digest import Digests
from workflows.prove.record import Item
from workflows.run.store import answers, download, upload
from workflows.run.store.bucket import Bucket, Standing, Unsupported
from workflows.run.store.parallel import in_order
from workflows.run.store.patience import Patience, delay
from workflows.run.store.s3 import S3Store

MB = 2**20
PUT = "import sys; from pathlib import Path; from workflows.run.store.s3 import S3Store; "
MEMORY = """
import re, sys
from pathlib import Path
from workflows.prove.record import Item
from workflows.run.store.s3 import S3Store
store, made = S3Store(sys.argv[1], sys.argv[2]), Path(sys.argv[3])
d = store.put_content(made)
item = Item(name="p/a", sha256=d.sha256, md5=d.md5, size=d.size)
store.fetch_content(item, made.with_name("back"))
assert store.check_content(item) == d
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.fixture
def store(s3: s3server.Server, tmp_path: Path) -> S3Store:  # noqa: ARG001  # the server must be there
    return S3Store(s3server.BUCKET, tmp_path.name)


@pytest.fixture
def own(tmp_path: Path, real_s3: s3server.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3server.Server]:
    """A server of the test's own, which it may kill. Versitygw, by the fixture it asks for."""
    assert real_s3.real
    with s3server.serving(tmp_path / "server") as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


def written(path: Path, size: int) -> Path:
    path.write_bytes(random.Random(size).randbytes(size))  # noqa: S311  # the same every time
    return path


def keep(store: S3Store, path: Path) -> Item:
    d = store.put_content(path)
    return Item(name="p/a", sha256=d.sha256, md5=d.md5, size=d.size)


def key_of(store: S3Store, item: Item) -> str:
    return f"{store.prefix}files/md5/{item.md5[:2]}/{item.md5[2:]}"


# --- What is on the server's disk


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("size", [3000, 20 * MB])
@pytest.mark.parametrize("damage", [cut, flip])
def test_an_object_damaged_on_the_servers_disk(
    real_s3: s3server.Server, store: S3Store, tmp_path: Path, size: int, damage: Callable[[Path], None]
) -> None:
    """Its metadata still says that it is right; only its bytes do not."""
    made = written(tmp_path / "made", size)
    item = keep(store, made)
    damage(real_s3.on_disk(key_of(store, item)))
    with pytest.raises(NotVerified, match=rf"artifact p/a \({item.sha256}\): changed in the store; expected .*, got ") as raised:
        store.fetch_content(item, tmp_path / "back")
    assert key_of(store, item) in raised.value.hint
    assert not (tmp_path / "back").exists()
    checked = store.check_content(item)
    assert checked is not None
    assert checked.sha256 != item.sha256
    store.put_content(made)  # whoever saw the damage and has the right bytes mends it
    store.fetch_content(item, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == made.read_bytes()


def test_an_object_that_is_gone(s3: s3server.Server, store: S3Store, tmp_path: Path) -> None:
    item = keep(store, written(tmp_path / "made", 3000))
    s3.client().delete_object(Bucket=s3server.BUCKET, Key=key_of(store, item))
    with pytest.raises(NotVerified, match=rf"artifact p/a \({item.sha256}\): missing from the store; got nothing at s3://bank/"):
        store.fetch_content(item, tmp_path / "back")
    assert store.check_content(item) is None


def test_an_object_that_is_replaced_while_it_is_read(
    s3: s3server.Server, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = keep(store, written(tmp_path / "made", 40 * MB))
    first = download.get

    def replaced(*words: Any, **more: Any) -> Any:
        answer = first(*words, **more)
        s3.client().upload_file(str(written(tmp_path / "other", 40 * MB + 1)), s3server.BUCKET, key_of(store, item))
        return answer

    monkeypatch.setattr(download, "get", replaced)
    with pytest.raises(NotVerified, match=r"p/a .*replaced in the store while it was read"):
        store.fetch_content(item, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_what_came_in_parts_from_elsewhere_is_read_before_it_is_believed(s3: s3server.Server, store: S3Store, tmp_path: Path) -> None:
    """DVC leaves no sha256, and the tag of an object that came in parts is no md5 of it."""
    made = written(tmp_path / "made", 12 * MB)
    d = digest.of_bytes(made.read_bytes())
    item = Item(name="p/a", sha256=d.sha256, md5=d.md5, size=d.size)
    parts = TransferConfig(multipart_threshold=5 * MB, multipart_chunksize=5 * MB)
    s3.client().upload_file(str(made), s3server.BUCKET, key_of(store, item), Config=parts)
    tag = s3.client().head_object(Bucket=s3server.BUCKET, Key=key_of(store, item))["ETag"]
    assert "-" in tag
    assert store.holds(item)
    store.put_content(made)
    assert s3.client().head_object(Bucket=s3server.BUCKET, Key=key_of(store, item))["ETag"] == tag  # left as it was
    s3.client().upload_file(str(written(tmp_path / "other", 12 * MB + 1)), s3server.BUCKET, key_of(store, item), Config=parts)
    os.truncate(tmp_path / "other", 12 * MB)
    s3.client().upload_file(str(tmp_path / "other"), s3server.BUCKET, key_of(store, item), Config=parts)
    assert not store.holds(item)
    store.put_content(made)
    store.fetch_content(item, tmp_path / "back")


# --- A server that goes away


@pytest.mark.parametrize("seconds", [2.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_a_server_killed_in_the_middle_of_an_upload_and_started_again(own: s3server.Server, tmp_path: Path, seconds: float) -> None:
    store, made = S3Store(s3server.BUCKET), written(tmp_path / "made", 120 * MB)
    with killing(own, seconds, when=own.sending):
        item = keep(store, made)
    store.fetch_content(item, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == made.read_bytes()
    assert own.objects() == [key_of(store, item)]
    assert not own.uploads()


@contextlib.contextmanager
def killing(server: s3server.Server, seconds: float, when: Callable[[], object]) -> Iterator[None]:
    """Kill the server when that holds, and start it again after so many seconds; fails if it did not come to that."""
    killed = threading.Event()

    def kill() -> None:
        eventually(when)
        server.stop()
        killed.set()
        time.sleep(seconds)
        server.start()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert killed.is_set()


def test_a_server_killed_in_the_middle_of_a_download_and_started_again(own: s3server.Server, tmp_path: Path) -> None:
    store, made = S3Store(s3server.BUCKET), written(tmp_path / "made", 120 * MB)
    item = keep(store, made)
    begun = threading.Event()
    slices = download._slices

    def slowly(answer: Any) -> Any:
        begun.set()
        time.sleep(0.05)
        return slices(answer)

    with pytest.MonkeyPatch.context() as patch, killing(own, 2.0, when=begun.is_set):
        patch.setattr(download, "_slices", slowly)
        store.fetch_content(item, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == made.read_bytes()


def test_a_server_that_hangs_for_a_while(own: s3server.Server, tmp_path: Path) -> None:
    store, made = S3Store(s3server.BUCKET), written(tmp_path / "made", 60 * MB)

    def hang() -> None:
        eventually(own.sending)
        own.pause()
        time.sleep(2)
        own.resume()

    thread = threading.Thread(target=hang)
    thread.start()
    item = keep(store, made)
    thread.join()
    store.fetch_content(item, tmp_path / "back")


def test_what_is_there_and_cannot_be_read_yet_is_looked_for_again(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two who write at once a server may refuse the second before it shows what the first wrote."""
    assert store.put_if_absent("claims/a", b"1") == b"1"
    there, unread = store.get_document, iter(range(2))
    monkeypatch.setattr(store, "get_document", lambda name: None if next(unread, None) is not None else there(name))
    assert store.put_if_absent("claims/a", b"2") == b"1"
    monkeypatch.setattr(store, "get_document", lambda _: None)
    with pytest.raises(Temporary, match="is there and is not there"):
        store.put_if_absent("claims/a", b"2")


def test_a_server_that_does_not_come_back(own: s3server.Server, tmp_path: Path) -> None:
    store = S3Store(s3server.BUCKET, patience=Patience(seconds=5))
    item = keep(store, written(tmp_path / "made", 9 * MB))
    own.stop()
    asked: list[Callable[[], object]] = [
        lambda: store.get_document("records/a"),
        lambda: store.put_document("records/a", b"1"),
        lambda: store.put_content(tmp_path / "made"),
        lambda: store.fetch_content(item, tmp_path / "back"),
        lambda: store.check_content(item),
        lambda: store.list_documents("runs"),
    ]
    for n, ask in enumerate(asked):
        begun = time.monotonic()
        with pytest.raises(Temporary, match=r"s3://bank/.*: S3 does not answer") as raised:
            ask()
        assert "AWS_ENDPOINT_URL_S3" in raised.value.hint
        took = time.monotonic() - begun
        assert took >= 3 if n == 0 else took < 3  # once it was given up, nobody waits for it all over again


@pytest.mark.parametrize("variables", [{"AWS_REGION": "eu-central-1"}, {"AWS_DEFAULT_REGION": "eu-central-1"}])
def test_a_region_is_heard_in_either_variable(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Bucket("bank").client().meta.region_name == "eu-central-1"


def test_patience_is_shared_and_starts_anew() -> None:
    patience = Patience(seconds=0.2)
    left, first = patience.failed()
    assert (round(left, 2), first) == (0.2, True)
    assert patience.failed()[1] is False
    patience.answered()
    assert patience.failed()[1] is True
    time.sleep(0.25)
    assert patience.failed()[1] is True


def test_tries_become_rarer_and_never_come_all_at_once() -> None:
    assert all(0.1 <= delay(1) <= 0.2 for _ in range(50))
    assert all(2.5 <= delay(40) <= 5 for _ in range(50))
    assert len({delay(9) for _ in range(50)}) > 40


# --- A server that says no


@pytest.fixture
def item(store: S3Store, tmp_path: Path) -> Item:
    """Content that was kept while all was well."""
    return keep(store, written(tmp_path / "made", 3000))


def every_use(store: S3Store, item: Item, tmp_path: Path) -> Iterator[CountersignError]:
    """What each method raises; all must."""
    written(tmp_path / "large", 9 * MB)
    uses: list[Callable[[], object]] = [
        lambda: store.put_content(tmp_path / "made"),
        lambda: store.put_content(tmp_path / "large"),
        lambda: store.fetch_content(item, tmp_path / "back"),
        lambda: store.fetch_pointer(item.md5, item.size, tmp_path / "back"),
        lambda: store.check_content(item),
        lambda: store.put_document("records/a", b"1"),
        lambda: store.put_document("cache/a", b"1"),
        lambda: store.put_if_absent("claims/a", b"1"),
        lambda: store.get_document("records/a"),
        lambda: store.list_documents("runs"),
        lambda: store.list_folders("runs"),
    ]
    for use in uses:
        with pytest.raises(CountersignError) as raised:
            use()
        yield raised.value


@pytest.mark.parametrize(
    "wrong",
    [
        ({"AWS_ACCESS_KEY_ID": "nobody-of-that-name"}, "InvalidAccessKeyId|403"),
        ({"AWS_SECRET_ACCESS_KEY": "a-secret-that-is-wrong"}, "SignatureDoesNotMatch|403"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials for S3"),
    ],
)
def test_credentials_that_are_wrong(
    real_s3: s3server.Server, item: Item, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: tuple[dict[str, str], str]
) -> None:
    variables, code = wrong
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    for error in every_use(S3Store(s3server.BUCKET, tmp_path.name), item, tmp_path):
        assert isinstance(error, BadInput), error
        assert any(c in str(error) for c in code.split("|"))
        assert "AWS_SECRET_ACCESS_KEY" in error.hint
        for secret in (real_s3.secret, *variables.values()):
            assert not secret or secret not in f"{error} {error.hint}"


def test_a_bucket_that_is_not_there(s3: s3server.Server, item: Item, tmp_path: Path) -> None:
    assert s3
    for error in every_use(S3Store("no-such-bucket"), item, tmp_path):
        assert isinstance(error, BadInput), error
        assert "NoSuchBucket" in str(error)
        assert "COUNTERSIGN_STORE" in error.hint


def test_a_bucket_that_may_only_be_read(
    real_s3: s3server.Server, store: S3Store, item: Item, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_document("records/a", b"1")
    real_s3.admin("create-user", "--access", "s3-reader", "--secret", "reads-only", "--role", "user")
    policy = """{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "s3-reader",
        "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": ["arn:aws:s3:::bank", "arn:aws:s3:::bank/*"]}]}"""
    real_s3.client().put_bucket_policy(Bucket=s3server.BUCKET, Policy=policy)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "s3-reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "reads-only")
    reader = S3Store(s3server.BUCKET, tmp_path.name)
    reader.fetch_content(item, tmp_path / "back")
    assert reader.get_document("records/a") == b"1"
    assert reader.list_documents("records") == {"a": b"1"}
    written(tmp_path / "large", 9 * MB)
    refused: list[Callable[[], object]] = [
        lambda: reader.put_content(tmp_path / "large"),
        lambda: reader.put_document("records/b", b"1"),
        lambda: reader.put_if_absent("claims/b", b"1"),
    ]
    for write in refused:
        with pytest.raises(BadInput, match=r"s3://bank/.*: S3 says AccessDenied to ") as raised:
            write()
        assert "s3:PutObject" in raised.value.hint
    assert store.get_document("records/b") is None


def answered(code: str, status: int) -> ClientError:
    said = {"Error": {"Code": code, "Message": "the key AKIA123 is bad"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(said, "PutObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answered("SlowDown", 503), Temporary),
        (answered("InternalError", 500), Temporary),
        (answered("502", 502), Temporary),
        (answered("RequestTimeout", 400), Temporary),
        (answered("RequestTimeTooSkewed", 403), Temporary),
        (answered("BadDigest", 400), Temporary),
        (answered("NoSpaceLeftOnDevice", 507), Temporary),
        (answered("429", 429), Temporary),
        (ReadTimeoutError(endpoint_url="http://user:word@host"), Temporary),
        (ConnectTimeoutError(endpoint_url="http://user:word@host"), Temporary),
        (ConnectionResetError("gone"), Temporary),
        (SSLError(endpoint_url="https://host", error=OSError("EOF occurred in violation of protocol")), Temporary),
        (SSLError(endpoint_url="https://host", error=OSError("CERTIFICATE_VERIFY_FAILED")), BadInput),
        (answered("AccessDenied", 403), BadInput),
        (answered("ExpiredToken", 400), BadInput),
        (answered("PermanentRedirect", 301), BadInput),
        (answered("MethodNotAllowed", 405), BadInput),
    ],
)
def test_what_an_answer_means(error: Exception, kind: type[CountersignError]) -> None:
    explained = answers.explained(error, "s3://bank/a")
    assert type(explained) is kind
    assert str(explained).startswith("s3://bank/a: ")
    assert not any(secret in f"{explained} {explained.hint}" for secret in ("AKIA123", "user:word"))


def test_a_defect_of_ours_is_not_taken_for_the_stores() -> None:
    with pytest.raises(ZeroDivisionError):
        answers.explained(ZeroDivisionError(), "s3://bank/a")


# --- Servers that can do less


def test_a_server_that_ignores_conditions_keeps_documents_and_grants_no_claims(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = upload.put
    monkeypatch.setattr(upload, "put", lambda *words, new: put(*words, new=new and False))
    store.put_document("records/a", b"1")
    store.put_document("records/a", b"1")
    with pytest.raises(NotVerified, match="other bytes"):
        store.put_document("records/a", b"2")
    assert store.get_document("records/a") == b"1"
    keep(store, written(tmp_path / "made", 3000))
    with pytest.raises(BadInput, match="does not obey If-None-Match"):
        store.put_if_absent("claims/a", b"1")


def test_a_server_that_does_not_know_conditions(store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = upload.put

    def knows_none(*words: Any, new: bool) -> bool:
        if new:
            raise Unsupported
        return put(*words, new=new)

    monkeypatch.setattr(upload, "put", knows_none)
    store.put_document("records/a", b"1")
    with pytest.raises(NotVerified, match="other bytes"):
        store.put_document("records/a", b"2")
    assert store.holds(keep(store, written(tmp_path / "made", 3000)))
    with pytest.raises(BadInput, match="does not obey If-None-Match"):
        store.put_if_absent("claims/a", b"1")


def test_what_a_server_does_not_confirm_is_read_back(store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put, parts = upload.put, upload.put_parts
    monkeypatch.setattr(upload, "put", lambda *words, new: put(*words, new=new) and False)
    monkeypatch.setattr(upload, "put_parts", lambda *words: parts(*words) and False)
    for size in (3000, 9 * MB):
        store.fetch_content(keep(store, written(tmp_path / "made", size)), tmp_path / "back")

    def cuts(bucket: Bucket, key: str, data: bytes, _: Digests, *, new: bool) -> bool:
        return put(bucket, key, data[:-1], digest.of_bytes(data[:-1]), new=new) and False

    monkeypatch.setattr(upload, "put", cuts)
    with pytest.raises(Temporary, match="S3 did not keep what it was given"):
        store.put_content(written(tmp_path / "made", 4000))


# --- This side


@pytest.mark.parametrize("change", [cut, flip])
def test_a_file_that_changes_between_hashing_and_upload(
    s3: s3server.Server, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    made, known = written(tmp_path / "made", 20 * MB), upload.known

    def changed(*words: Any) -> Any:
        found = known(*words)
        change(made)
        return found

    monkeypatch.setattr(upload, "known", changed)
    with pytest.raises(NotVerified, match=r"made: changed while it was being kept; expected \w{64}, got \w{64}"):
        store.put_content(made)
    assert not [k for k in s3.objects() if k.startswith(store.prefix)]
    assert not [k for k in s3.uploads() if k.startswith(store.prefix)]


def test_ctrl_c_in_an_upload_leaves_nothing_behind(own: s3server.Server, tmp_path: Path) -> None:
    made = written(tmp_path / "made", 150 * MB)
    listening = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background is deaf
    work = PUT + listening + "S3Store(sys.argv[1]).put_content(Path(sys.argv[2]))"
    words = [sys.executable, "-c", work, s3server.BUCKET, str(made)]
    with subprocess.Popen(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True) as child:
        eventually(own.sending)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert own.objects() == []
    assert own.uploads() == []


def test_a_process_forked_from_one_that_has_connections(store: S3Store) -> None:
    store.put_document("records/a", b"parent")
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            store.put_document("records/b", b"child")
            code = 0 if store.get_document("records/a") == b"parent" else 2
        os._exit(code)
    for n in range(20):
        store.put_document(f"records/{n}", b"parent")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.get_document("records/b") == b"child"


def test_memory_does_not_grow_with_the_file(real_s3: s3server.Server, tmp_path: Path) -> None:
    assert real_s3.real
    with (tmp_path / "made").open("wb") as file:
        file.truncate(300 * MB)
        file.seek(100 * MB)
        file.write(b"not only zeros")
    words = [sys.executable, "-c", MEMORY, s3server.BUCKET, tmp_path.name, str(tmp_path / "made")]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1024 < 150


def test_in_order_drops_what_nobody_waits_for() -> None:
    stop, begun = threading.Event(), []

    def look(n: int) -> int:
        begun.append(n)
        if n == 3:
            raise KeyError(n)
        return n

    taken: list[int] = []
    with pytest.raises(KeyError):
        taken.extend(in_order(look, range(100), threads=2, stop=stop))
    assert taken == [0, 1, 2]
    assert stop.is_set()
    assert max(begun) <= 5


def test_conditions_are_obeyed_by_the_server_at_hand(store: S3Store) -> None:
    """What the other tests of claims rest on."""
    store.put_document("records/a", b"1")
    assert store._conditional is True
    with pytest.raises(Standing):
        upload.put(store.bucket, f"{store.prefix}records/a", b"2", digest.of_bytes(b"2"), new=True)
