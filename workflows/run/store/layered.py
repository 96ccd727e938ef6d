"""The laptop's store over one that others share: what is near is read first, what is made is kept in both.

The far one learns of a run's end only when it holds all of it, also what was made before anybody named a far store, or
while it was away.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

from workflows.errors import BadInput, NotVerified, Problem
from workflows.prove import digest
from workflows.prove.bundle import signers_of
from workflows.prove.digest import Digests
from workflows.prove.record import Item
from workflows.run import files
from workflows.run.store.carry import carry
from workflows.run.store.interface import Store
from workflows.run.store.local import LocalStore

IN_RUN = re.compile(r"runs/(?P<run>[^/]+)/(?P<name>.+)")
CLAIMS = "claims/"
LATEST = "cache/latest"


class LayeredStore:
    """Two stores as one. A far store that is away is `Temporary`: the same command goes on when it is back."""

    def __init__(self, near: LocalStore, far: Store) -> None:
        self.near, self.far = near, far
        self._claimed: set[str] = set()

    @property
    def place(self) -> str:
        return f"{self.near.place} and {self.far.place}"

    # --- Content

    def put_content(self, path: Path) -> Digests:
        d = self.near.put_content(path)
        if (got := self.far.put_content(path)) != d:
            raise NotVerified(Problem(what="changed while it was being kept", where=str(path), expected=d.sha256, got=got.sha256))
        return d

    def fetch_content(self, item: Item, to: Path) -> None:
        try:
            self.near.fetch_content(item, to)
        except NotVerified:
            self.far.fetch_content(item, to)
            self.near.put_content(to)

    def fetch_pointer(self, md5: str, size: int | None, to: Path) -> Digests:
        try:
            return self.near.fetch_pointer(md5, size, to)
        except NotVerified:
            d = self.far.fetch_pointer(md5, size, to)
            self.near.put_content(to)
            return d

    def check_content(self, item: Item) -> Digests | None:
        here = self.near.check_content(item)
        if here and here.sha256 == item.sha256:
            return here
        try:
            with files.scratch(self.near.content / "files" / "md5") as path:
                self.far.fetch_content(item, path)
                return self.near.put_content(path)
        except NotVerified:
            return here or self.far.check_content(item)

    def holds(self, item: Item) -> bool:
        return self.near.holds(item) or self.far.holds(item)

    # --- Documents

    def put_document(self, name: str, data: bytes) -> None:
        inside = IN_RUN.fullmatch(name)
        if inside:
            self._claim(inside["run"])
        self.near.put_document(name, data)
        if inside and inside["name"] == "root":
            carry(inside["run"], self, self.far)
            return
        if name == LATEST:
            run = data.decode().strip()
            carry(run, self, self.far)
            carry(run, self.far, self.near)
        self.far.put_document(name, data)

    def put_if_absent(self, name: str, data: bytes) -> bytes:
        stands = self.far.put_if_absent(name, data)
        if stands == data:
            self.near.put_if_absent(name, data)
        return stands

    def get_document(self, name: str) -> bytes | None:
        if name.startswith(CLAIMS):
            return self.far.get_document(name)
        here = self.near.get_document(name)
        if here is not None:
            return here
        data = self.far.get_document(name)
        folder, _, sha = name.partition("/")
        if data is not None and folder == "records" and digest.of_bytes(data).sha256 == sha:
            self._keep_record(name, data)
        return data

    def _keep_record(self, name: str, data: bytes) -> None:
        """A record near, and before it the key that signed it: a checkout must be able to check what it holds."""
        with contextlib.suppress(ValueError, LookupError, TypeError):  # no record after all: whoever asked for it will say so
            for key in signers_of({name: data}):
                pem = self.get_document(f"keys/{key}.pem")
                if pem is not None:
                    self.near.put_document(f"keys/{key}.pem", pem)
            self.near.put_document(name, data)

    def list_documents(self, folder: str) -> Mapping[str, bytes]:
        found = {**self.far.list_documents(folder), **self.near.list_documents(folder)}
        return dict(sorted(found.items()))

    def list_folders(self, folder: str) -> list[str]:
        return sorted({*self.far.list_folders(folder), *self.near.list_folders(folder)})

    # --- Whose a run is

    def _claim(self, run: str) -> None:
        """Make sure, before the first document of a run, that it is this checkout's in the far store too; once for each process."""
        if run in self._claimed:
            return
        mine = self.near.get_document(f"{CLAIMS}{run}")
        if mine is None or self.far.put_if_absent(f"{CLAIMS}{run}", mine) != mine:
            raise BadInput(
                Problem(what="someone else has made this run there", where=f"{self.far.place}/runs/{run}"),
                hint="take their results into a run of your own: the same command with --again",
            )
        self._claimed.add(run)
