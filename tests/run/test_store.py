"""What every store keeps to; the local one is the first that does."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from workflows.errors import NotVerified
from workflows.prove.digest import SMALL, of_bytes
from workflows.prove.record import MAX_RECORD, Item
from workflows.run import files
from workflows.run.store.local import LocalStore

BYTES = b"one\ntwo\n" * 1000


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(content=tmp_path / "content", documents=tmp_path / "documents")


@pytest.fixture
def kept(store: LocalStore, tmp_path: Path) -> Item:
    (tmp_path / "made").write_bytes(BYTES)
    d = store.put_content(tmp_path / "made")
    return Item(name="p/a", sha256=d.sha256, md5=d.md5, size=d.size)


def address(store: LocalStore, item: Item) -> Path:
    return store.content / "files/md5" / item.md5[:2] / item.md5[2:]


def test_content_lies_where_dvc_looks_for_it(store: LocalStore, kept: Item) -> None:
    assert (kept.sha256, kept.md5, kept.size) == (
        hashlib.sha256(BYTES).hexdigest(),
        hashlib.md5(BYTES, usedforsecurity=False).hexdigest(),
        len(BYTES),
    )
    assert address(store, kept).read_bytes() == BYTES
    assert address(store, kept).stat().st_mode & 0o777 == 0o444


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


def test_content_comes_back_whole(store: LocalStore, kept: Item, tmp_path: Path) -> None:
    store.fetch_content(kept, tmp_path / "back/here")
    assert (tmp_path / "back/here").read_bytes() == BYTES


def test_kept_twice_is_kept_once(store: LocalStore, kept: Item, tmp_path: Path) -> None:
    before = address(store, kept).stat().st_ino
    store.put_content(tmp_path / "made")
    assert address(store, kept).stat().st_ino == before
    assert [p for p in store.content.rglob("*") if p.is_file()] == [address(store, kept)]


@pytest.mark.parametrize("damaged", [b"", BYTES[:-1], BYTES + b"x", b"x" + BYTES[1:]])
def test_damaged_content_is_never_handed_out_and_is_healed_when_kept_again(
    store: LocalStore, kept: Item, tmp_path: Path, damaged: bytes
) -> None:
    address(store, kept).chmod(0o644)
    address(store, kept).write_bytes(damaged)
    with pytest.raises(NotVerified, match=r"p/a.*changed in the store"):
        store.fetch_content(kept, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    checked = store.check_content(kept)
    assert checked is not None
    assert checked.sha256 != kept.sha256
    store.put_content(tmp_path / "made")
    store.fetch_content(kept, tmp_path / "back")


def test_content_that_is_not_there(store: LocalStore, kept: Item, tmp_path: Path) -> None:
    other = replace(kept, md5="0" * 32)
    assert store.check_content(other) is None
    with pytest.raises(NotVerified, match="cannot be read from the store: No such file"):
        store.fetch_content(other, tmp_path / "back")


def test_documents_are_never_overwritten(store: LocalStore) -> None:
    store.put_document("records/a", b"1")
    store.put_document("records/a", b"1")
    with pytest.raises(NotVerified, match="other bytes under this name"):
        store.put_document("records/a", b"2")
    assert store.get_document("records/a") == b"1"


def test_what_only_saves_work_may_be_replaced(store: LocalStore) -> None:
    store.put_document("cache/a", b"1")
    store.put_document("cache/a", b"2")
    assert store.get_document("cache/a") == b"2"


def test_documents_are_listed_by_name(store: LocalStore) -> None:
    for name in ("runs/x/steps/b", "runs/x/steps/a", "runs/x/root", "runs/y/root"):
        store.put_document(name, name.encode())
    assert store.list_documents("runs/x") == {
        "root": b"runs/x/root",
        "steps/a": b"runs/x/steps/a",
        "steps/b": b"runs/x/steps/b",
    }
    assert store.list_documents("none") == {}
    assert store.get_document("runs/z/root") is None
    assert store.get_document("runs/x") is None


def test_a_document_too_large_is_refused_and_not_read(store: LocalStore) -> None:
    (store.documents / "records").mkdir(parents=True)
    with (store.documents / "records/a").open("wb") as file:
        file.truncate(MAX_RECORD + 1)
    with pytest.raises(NotVerified, match="larger than any document"):
        store.get_document("records/a")
