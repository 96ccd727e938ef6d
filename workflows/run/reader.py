"""Reading a run from a store for verification: hands over bytes and vouches for nothing."""

from __future__ import annotations

from collections.abc import Mapping

from workflows.prove.digest import Digests
from workflows.prove.record import Item
from workflows.run.store.interface import Store


class StoreReader:
    """The port `workflows.prove.verify.Reader` on a store."""

    holds_content = True

    def __init__(self, store: Store) -> None:
        self.store = store

    def root(self, run: str) -> str | None:
        data = self.store.get_document(f"runs/{run}/root")
        return None if data is None else data.decode("ascii", "replace").removesuffix("\n")

    def index(self, run: str) -> Mapping[str, str]:
        listed = self.store.list_documents(f"runs/{run}/steps")
        return {name: data.decode("ascii", "replace").removesuffix("\n") for name, data in listed.items()}

    def record(self, sha256: str) -> bytes | None:
        return self.store.get_document(f"records/{sha256}")

    def content(self, item: Item) -> Digests | None:
        return self.store.check_content(item)
