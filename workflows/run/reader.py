"""Reading a run from a store for verification: hands over bytes and vouches for nothing."""

from __future__ import annotations

from collections.abc import Mapping

from workflows.prove.digest import Digests
from workflows.prove.record import Item
from workflows.prove.verify import digest_in
from workflows.run.store.interface import Store


class StoreReader:
    """The port `workflows.prove.verify.Reader` on a store."""

    holds_content = True

    def __init__(self, store: Store) -> None:
        self.store = store

    def root(self, run: str) -> str | None:
        data = self._document(f"runs/{run}/root")
        return None if data is None else digest_in(data)

    def index(self, run: str) -> Mapping[str, str]:
        listed = self.store.list_documents(f"runs/{run}")
        return {printable(name): digest_in(data) for name, data in listed.items() if name != "root"}

    def record(self, sha256: str) -> bytes | None:
        return self._document(f"records/{sha256}")

    def content(self, item: Item) -> Digests | None:
        try:
            return self.store.check_content(item)
        except OSError:
            return None

    def _document(self, name: str) -> bytes | None:
        try:
            return self.store.get_document(name)
        except OSError:
            return None


def printable(name: str) -> str:
    """A file's name that can be shown: whatever is no plain text is escaped."""
    return name if name.isascii() and name.isprintable() else ascii(name)
