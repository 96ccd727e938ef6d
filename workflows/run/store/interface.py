"""The port that every store implements.

Content lies where DVC puts it (`files/md5/<2>/<30>`), so `dvc pull` reads what a step wrote. Small documents lie beside
it: `records/<sha256>`, `runs/<id>/...`, `cache/<key>`, `keys/<keyid>`. Nothing is ever overwritten with other bytes,
except `cache/`, which only saves work and is checked on every use.

Every method raises `NotVerified` for what is not what it should be, `Temporary` where the store is away or full, and
`BadInput` where it cannot be used as it is configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from workflows.prove.digest import Digests
from workflows.prove.record import Item

REPLACEABLE = "cache/"
"""Documents under this name may be overwritten."""


class Store(Protocol):
    """A folder or a bucket."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""

    def put_content(self, path: Path) -> Digests:
        """Keep the bytes of a file, read once. Returns when they are durable."""

    def fetch_content(self, item: Item, to: Path) -> None:
        """The bytes of an artifact as the file `to`; `NotVerified` where they are missing or not what `item` says."""

    def fetch_pointer(self, md5: str, size: int | None, to: Path) -> Digests:
        """The bytes that a `.dvc` file points to as the file `to`, and all their digests; `NotVerified` as above."""

    def check_content(self, item: Item) -> Digests | None:
        """The digests of the bytes that lie at the artifact's address; None where there are none."""

    def holds(self, item: Item) -> bool:
        """Whether content is there that looks like the artifact's: a quick look, where `check_content` reads every byte."""

    def put_document(self, name: str, data: bytes) -> None:
        """Keep a small document; `NotVerified` where other bytes have this name already (but for `cache/`)."""

    def put_if_absent(self, name: str, data: bytes) -> bytes:
        """Keep a small document if there is none of this name, and return the bytes that stand there now.

        Of several that try at the same time, one prevails, and all are told the same.
        """

    def get_document(self, name: str) -> bytes | None:
        """The bytes of a small document, None where there is none."""

    def list_documents(self, folder: str) -> Mapping[str, bytes]:
        """Every document under a folder, by its name below it."""

    def list_folders(self, folder: str) -> list[str]:
        """Names of the folders right under a folder that hold documents, sorted."""
