"""A store in two folders: content in DVC's own cache, documents beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from workflows.errors import NotVerified, Problem
from workflows.prove import digest
from workflows.prove.digest import Digests
from workflows.prove.record import MAX_RECORD, Item
from workflows.run import files
from workflows.run.store.interface import REPLACEABLE


class LocalStore:
    """`content` holds `files/md5/...`; `documents` holds `records/`, `runs/`, `cache/` and `keys/`."""

    def __init__(self, *, content: Path, documents: Path) -> None:
        self.content, self.documents = content, documents

    @property
    def place(self) -> str:
        return str(self.documents)

    def put_content(self, path: Path) -> Digests:
        with files.scratch(self.content / "files" / "md5") as copy:
            with path.open("rb") as source, copy.open("wb") as sink:
                digests = digest.of_stream(source, sink)
            address = self._address(digests.md5)
            if not self._already(address, digests):
                files.settle(copy, address, mode=0o444)  # as DVC does: a cached object is not for editing
        return digests

    def fetch_content(self, item: Item, to: Path) -> None:
        where = f"artifact {item.name} ({item.sha256})"
        with self._open(item.md5, where) as source, files.whole(to, durable=False) as copy, copy.open("wb") as sink:
            got = digest.of_stream(source, sink)
            if got.sha256 != item.sha256:
                raise NotVerified(Problem(what="changed in the store", where=where, expected=item.sha256, got=got.sha256))

    def fetch_pointer(self, md5: str, size: int | None, to: Path) -> Digests:
        where = f"data {md5}"
        with self._open(md5, where) as source, files.whole(to, durable=False) as copy, copy.open("wb") as sink:
            d = digest.of_stream(source, sink)
            if d.md5 != md5 or size not in {None, d.size}:
                expected, got = f"md5 {md5}, {size} bytes", f"md5 {d.md5}, {d.size} bytes"
                raise NotVerified(Problem(what="changed in the store", where=where, expected=expected, got=got))
        return d

    def _open(self, md5: str, where: str) -> BinaryIO:
        try:
            return self._address(md5).open("rb")
        except OSError as error:
            raise NotVerified(Problem(what=f"cannot be read from the store: {error.strerror}", where=where)) from error

    def check_content(self, item: Item) -> Digests | None:
        try:
            return files.digests(self._address(item.md5))
        except FileNotFoundError:
            return None

    def holds(self, item: Item) -> bool:
        try:
            return self._address(item.md5).stat().st_size == item.size
        except OSError:
            return False

    def put_document(self, name: str, data: bytes) -> None:
        path = self.documents / name
        replaceable = name.startswith(REPLACEABLE)
        kept = self.get_document(name)
        if kept == data:
            return
        if kept is not None and not replaceable:
            raise NotVerified(Problem(what="the store already has other bytes under this name", where=str(path)))
        # What only saves work need not survive a power cut: it is checked on every use.
        files.write(path, data, durable=not replaceable)

    def put_if_absent(self, name: str, data: bytes) -> bytes:
        path = self.documents / name
        with files.scratch(path.parent) as temporary:
            temporary.write_bytes(data)
            files.settle(temporary, path, replace=False)
        return path.read_bytes()

    def get_document(self, name: str) -> bytes | None:
        try:
            return _document(self.documents / name)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def list_documents(self, folder: str) -> Mapping[str, bytes]:
        top = self.documents / folder
        found = sorted(p for p in top.rglob("*") if p.is_file() and not p.name.startswith("."))
        return {p.relative_to(top).as_posix(): _document(p) for p in found}

    def list_folders(self, folder: str) -> list[str]:
        top = self.documents / folder
        return sorted(p.name for p in top.iterdir() if p.is_dir()) if top.is_dir() else []

    def _address(self, md5: str) -> Path:
        return self.content / "files" / "md5" / md5[:2] / md5[2:]

    def _already(self, address: Path, digests: Digests) -> bool:
        # An object that is there but damaged must not stay: it would poison every later run with the same content.
        try:
            with address.open("rb") as kept:
                return os.fstat(kept.fileno()).st_size == digests.size and digest.of_stream(kept).sha256 == digests.sha256
        except FileNotFoundError:
            return False


def _document(path: Path) -> bytes:
    if (size := path.stat().st_size) > MAX_RECORD:
        raise NotVerified(Problem(what="larger than any document of a run", where=str(path), got=f"{size} bytes"))
    return path.read_bytes()
