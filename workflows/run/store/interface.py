"""The port that every store implements.

Content lies where DVC puts it (`files/md5/<2>/<30>`), so `dvc pull` reads what a step wrote. Small documents lie beside
it: `records/<sha256>`, `runs/<id>/...`, `cache/<key>`, `keys/<keyid>`. Nothing is ever overwritten with other bytes,
except `cache/`, which only saves work and is checked on every use.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from workflows.prove.digest import Digests
from workflows.prove.record import Item


class Store(Protocol):
    """A folder or a bucket."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""

    def put_content(self, path: Path) -> Digests:
        """Keep the bytes of a file, read once. Returns when they are durable."""

    def fetch_content(self, item: Item, to: Path) -> None:
        """The bytes of an artifact as the file `to`; `NotVerified` where they are missing or not what `item` says."""

    def check_content(self, item: Item) -> Digests | None:
        """The digests of the bytes that lie at the artifact's address; None where there are none."""

    def put_document(self, name: str, data: bytes) -> None:
        """Keep a small document; `NotVerified` where other bytes have this name already (but for `cache/`)."""

    def get_document(self, name: str) -> bytes | None:
        """The bytes of a small document, None where there is none."""

    def list_documents(self, folder: str) -> Mapping[str, bytes]:
        """Every document under a folder, by its name below it."""
