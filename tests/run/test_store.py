"""What every store keeps to: a folder, a bucket of a real S3 server, and the one over the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests import s3server
from tests.conftest import lacking
from workflows.errors import NotVerified
from workflows.prove.digest import SMALL, of_bytes
from workflows.prove.record import MAX_RECORD, Item
from workflows.run import files
from workflows.run.store.interface import Store
from workflows.run.store.layered import LayeredStore
from workflows.run.store.local import LocalStore
from workflows.run.store.parallel import in_order
from workflows.run.store.s3 import S3Store

BYTES = b"one\ntwo\n" * 1000


@dataclass(frozen=True, kw_only=True)
class Case:
    """A store, and how to meddle with it from outside."""

    store: Store
    read: Callable[[str], bytes | None]
    write: Callable[[str, bytes], None]
    names: Callable[[], list[str]]
    atomic: bool = True
    """Whether conditions hold even where two ask at the same moment."""


def in_folder(store: LocalStore) -> Case:
    def path(name: str) -> Path:
        return (store.content if name.startswith("files/") else store.documents) / name

    def write(name: str, data: bytes) -> None:
        path(name).parent.mkdir(parents=True, exist_ok=True)
        path(name).unlink(missing_ok=True)
        path(name).write_bytes(data)

    def names() -> list[str]:
        return sorted(p.relative_to(top).as_posix() for top in {store.content, store.documents} for p in top.rglob("*") if p.is_file())

    return Case(store=store, read=lambda name: path(name).read_bytes() if path(name).is_file() else None, write=write, names=names)


def in_bucket(store: S3Store, server: s3server.Server) -> Case:
    client = server.client()

    def read(name: str) -> bytes | None:
        there = f"{store.prefix}{name}" in server.objects()
        return client.get_object(Bucket=s3server.BUCKET, Key=f"{store.prefix}{name}")["Body"].read() if there else None

    def write(name: str, data: bytes) -> None:
        client.put_object(Bucket=s3server.BUCKET, Key=f"{store.prefix}{name}", Body=data)

    def names() -> list[str]:
        return sorted(k.removeprefix(store.prefix) for k in server.objects() if k.startswith(store.prefix))

    return Case(store=store, read=read, write=write, names=names, atomic=server.real)


def in_layers(near: Case, far: Case) -> Case:
    """Meddles with both; what is read is in both alike."""
    assert isinstance(near.store, LocalStore)

    def read(name: str) -> bytes | None:
        assert near.read(name) == far.read(name)
        return far.read(name)

    def write(name: str, data: bytes) -> None:
        near.write(name, data)
        far.write(name, data)

    return Case(store=LayeredStore(near.store, far.store), read=read, write=write, names=far.names, atomic=far.atomic)


@pytest.fixture(params=["local", "s3", "layered"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    local = in_folder(LocalStore(content=tmp_path / "content", documents=tmp_path / "documents"))
    if request.param == "local":
        return local
    bucket = in_bucket(S3Store(s3server.BUCKET, f"contract/{tmp_path.name}"), request.getfixturevalue("s3"))
    return bucket if request.param == "s3" else in_layers(local, bucket)


@pytest.fixture
def store(case: Case) -> Store:
    return case.store


@pytest.fixture
def kept(store: Store, tmp_path: Path) -> Item:
    (tmp_path / "made").write_bytes(BYTES)
    d = store.put_content(tmp_path / "made")
    return Item(name="p/a", sha256=d.sha256, md5=d.md5, size=d.size)


def address(item: Item) -> str:
    return f"files/md5/{item.md5[:2]}/{item.md5[2:]}"


def test_content_lies_where_dvc_looks_for_it(case: Case, kept: Item) -> None:
    assert (kept.sha256, kept.md5, kept.size) == (
        hashlib.sha256(BYTES).hexdigest(),
        hashlib.md5(BYTES, usedforsecurity=False).hexdigest(),
        len(BYTES),
    )
    assert case.read(address(kept)) == BYTES


def test_content_in_a_folder_is_not_for_editing(tmp_path: Path) -> None:
    store = LocalStore(content=tmp_path, documents=tmp_path)
    (tmp_path / "made").write_bytes(BYTES)
    d = store.put_content(tmp_path / "made")
    assert (tmp_path / "files/md5" / d.md5[:2] / d.md5[2:]).stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1, 3 * SMALL])
def test_a_file_has_the_digests_of_its_bytes(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    (tmp_path / "it").write_bytes(data)
    assert files.digests(tmp_path / "it") == of_bytes(data)


def test_a_file_that_says_less_than_it_holds_is_read_to_its_end() -> None:
    """Files of the kernel say that they are empty."""
    path = Path("/proc/self/cmdline")
    assert path.stat().st_size == 0
    assert files.digests(path) == of_bytes(path.read_bytes())


def test_content_comes_back_whole(store: Store, kept: Item, tmp_path: Path) -> None:
    store.fetch_content(kept, tmp_path / "back/here")
    assert (tmp_path / "back/here").read_bytes() == BYTES
    checked = store.check_content(kept)
    assert checked is not None
    assert (checked.sha256, checked.md5, checked.size) == (kept.sha256, kept.md5, kept.size)


@pytest.mark.parametrize("size", [0, 1, 8 * 2**20, 8 * 2**20 + 1, 20 * 2**20 + 3])
def test_content_of_any_size(store: Store, tmp_path: Path, size: int) -> None:
    data = (b"0123456789abcde" * (size // 15 + 1))[:size]
    (tmp_path / "made").write_bytes(data)
    d = store.put_content(tmp_path / "made")
    assert (d.sha256, d.size) == (hashlib.sha256(data).hexdigest(), size)
    item = Item(name="p/a", sha256=d.sha256, md5=d.md5, size=d.size)
    assert store.check_content(item) == d
    store.fetch_content(item, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert store.put_content(tmp_path / "made") == d


def test_kept_twice_is_kept_once(case: Case, kept: Item, tmp_path: Path) -> None:
    case.store.put_content(tmp_path / "made")
    assert case.names() == [address(kept)]


def test_a_quick_look(case: Case, kept: Item) -> None:
    assert case.store.holds(kept)
    assert not case.store.holds(replace(kept, md5="0" * 32))
    case.write(address(kept), BYTES[:-1])
    assert not case.store.holds(kept)


@pytest.mark.parametrize("damaged", [b"", BYTES[:-1], BYTES + b"x", b"x" + BYTES[1:]])
def test_damaged_content_is_never_handed_out_and_is_healed_when_kept_again(case: Case, kept: Item, tmp_path: Path, damaged: bytes) -> None:
    case.write(address(kept), damaged)
    with pytest.raises(NotVerified, match=r"p/a.*changed in the store"):
        case.store.fetch_content(kept, tmp_path / "back")
    with pytest.raises(NotVerified, match=rf"{kept.md5}.*changed in the store"):
        case.store.fetch_pointer(kept.md5, kept.size, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not list(tmp_path.glob(".writing-*"))
    checked = case.store.check_content(kept)
    assert checked is not None
    assert checked.sha256 != kept.sha256
    case.store.put_content(tmp_path / "made")
    case.store.fetch_content(kept, tmp_path / "back")
    assert case.read(address(kept)) == BYTES


def test_content_that_is_not_there(store: Store, kept: Item, tmp_path: Path) -> None:
    other = replace(kept, md5="0" * 32)
    assert store.check_content(other) is None
    with pytest.raises(NotVerified, match=r"p/a.*(cannot be read from the store: No such file|missing from the store)"):
        store.fetch_content(other, tmp_path / "back")
    with pytest.raises(NotVerified, match=r"0{32}.*(cannot be read from the store: No such file|missing from the store)"):
        store.fetch_pointer("0" * 32, None, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_pointer_of_dvc_is_enough(store: Store, kept: Item, tmp_path: Path) -> None:
    for size in (kept.size, None):
        d = store.fetch_pointer(kept.md5, size, tmp_path / "back")
        assert (d.sha256, d.md5, d.size) == (kept.sha256, kept.md5, kept.size)
        assert (tmp_path / "back").read_bytes() == BYTES
    with pytest.raises(NotVerified, match=r"expected md5 .* 7 bytes"):
        store.fetch_pointer(kept.md5, 7, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_documents_are_never_overwritten(store: Store) -> None:
    store.put_document("records/a", b"1")
    store.put_document("records/a", b"1")
    with pytest.raises(NotVerified, match="other bytes under this name"):
        store.put_document("records/a", b"2")
    assert store.get_document("records/a") == b"1"


def test_what_only_saves_work_may_be_replaced(store: Store) -> None:
    store.put_document("cache/a", b"1")
    store.put_document("cache/a", b"2")
    assert store.get_document("cache/a") == b"2"


def test_a_claim_is_granted_once(store: Store) -> None:
    assert store.put_if_absent("claims/a", b"me\n") == b"me\n"
    assert store.put_if_absent("claims/a", b"you\n") == b"me\n"
    assert store.put_if_absent("claims/a", b"me\n") == b"me\n"
    assert store.get_document("claims/a") == b"me\n"


def test_of_many_who_claim_at_once_one_prevails(case: Case) -> None:
    if not case.atomic:
        lacking("versitygw: make cluster-up builds it")
    store = case.store
    for race in range(5):
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(store.put_if_absent, f"claims/{race}", f"claimant {n}\n".encode()) for n in range(8)]
        assert {a.result() for a in asked} == {store.get_document(f"claims/{race}")}


def test_documents_are_listed_by_name(store: Store) -> None:
    for name in ("plans/x/steps/b", "plans/x/steps/a", "plans/x/other", "plans/y/other", "plans/xy/other"):
        store.put_document(name, name.encode())
    assert store.list_documents("plans/x") == {
        "other": b"plans/x/other",
        "steps/a": b"plans/x/steps/a",
        "steps/b": b"plans/x/steps/b",
    }
    assert store.list_folders("plans") == ["x", "xy", "y"]
    assert store.list_documents("none") == {}
    assert store.list_folders("none") == []
    assert store.get_document("plans/z/other") is None
    assert store.get_document("plans/x") is None


def test_more_documents_than_a_page_holds(store: Store) -> None:
    """S3 lists a thousand names at a time."""
    for _ in in_order(lambda n: store.put_document(f"plans/{n}/it", str(n).encode()), range(1010)):
        pass
    assert {name: int(data) for name, data in store.list_documents("plans").items()} == {f"{n}/it": n for n in range(1010)}
    assert store.list_folders("plans") == sorted(str(n) for n in range(1010))


def test_a_document_too_large_is_refused_and_not_read(case: Case) -> None:
    case.write("records/a", b"\0" * (MAX_RECORD + 1))
    with pytest.raises(NotVerified, match="larger than any document"):
        case.store.get_document("records/a")
    with pytest.raises(NotVerified, match="larger than any document"):
        case.store.list_documents("records")
