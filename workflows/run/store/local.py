"""A store in two folders: content in DVC's own cache, documents beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from workflows.errors import NotVerified, Problem
from workflows.prove import digest
from workflows.prove.digest import Digests
from workflows.prove.record import MAX_RECORD, Item
from workflows.run import files

REPLACEABLE = "cache/"


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
        address = self._address(item.md5)
        where = f"artifact {item.name} ({item.sha256})"
        try:
            source = address.open("rb")
        except OSError as error:
            raise NotVerified(Problem(what=f"cannot be read from the store: {error.strerror}", where=where)) from error
        with source, files.whole(to, durable=False) as copy, copy.open("wb") as sink:
            got = digest.of_stream(source, sink)
            if got.sha256 != item.sha256:
                raise NotVerified(Problem(what="changed in the store", where=where, expected=item.sha256, got=got.sha256))

    def check_content(self, item: Item) -> Digests | None:
        try:
            return files.digests(self._address(item.md5))
        except FileNotFoundError:
            return None

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

    def get_document(self, name: str) -> bytes | None:
        path = self.documents / name
        try:
            if path.stat().st_size > MAX_RECORD:
                raise NotVerified(Problem(what="larger than any document of a run", where=str(path), got=f"{path.stat().st_size} bytes"))
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def list_documents(self, folder: str) -> Mapping[str, bytes]:
        top = self.documents / folder
        found = sorted(p for p in top.rglob("*") if p.is_file() and not p.name.startswith("."))
        return {p.relative_to(top).as_posix(): p.read_bytes() for p in found}

    def _address(self, md5: str) -> Path:
        return self.content / "files" / "md5" / md5[:2] / md5[2:]

    def _already(self, address: Path, digests: Digests) -> bool:
        # An object that is there but damaged must not stay: it would poison every later run with the same content.
        try:
            with address.open("rb") as kept:
                return os.fstat(kept.fileno()).st_size == digests.size and digest.of_stream(kept).sha256 == digests.sha256
        except FileNotFoundError:
            return False
