"""Which store is meant: the one place that chooses."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from workflows.errors import BadInput, Problem
from workflows.run.session import local_store
from workflows.run.store.interface import Store
from workflows.run.store.local import LocalStore
from workflows.run.store.patience import PATIENCE, Patience

STORE = "COUNTERSIGN_STORE"
WAIT = "COUNTERSIGN_STORE_PATIENCE"
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
EXPECTED = "s3://BUCKET, s3://BUCKET/PREFIX or file:///FOLDER"


def open_store(root: Path, url: str | None) -> Store:
    """The store at `url`, or the checkout's own without one; `BadInput` where it is no address of a store. Nothing is reached yet."""
    if not url:
        return local_store(root)
    parts = urlsplit(url)
    if parts.scheme == "s3" and BUCKET.fullmatch(parts.netloc) and not (parts.query or parts.fragment):
        from workflows.run.store.s3 import S3Store

        return S3Store(parts.netloc, parts.path, patience=Patience(seconds=_seconds()))
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        folder = Path(parts.path)
        if not folder.is_dir():
            raise BadInput(Problem(what="no such folder", where=f"--store or {STORE}", got=parts.path))
        return LocalStore(content=folder, documents=folder)
    # An address with a password in it is not repeated.
    got = {} if "@" in url else {"got": url}
    hint = "credentials and endpoint come from the AWS_ variables and files, never from the address"
    raise BadInput(Problem(what="not the address of a store", where=f"--store or {STORE}", expected=EXPECTED, **got), hint=hint)


def open_layers(root: Path, url: str | None) -> Store:
    """What a run in a checkout works with: its own store, over the one at `url` where there is one."""
    if not url:
        return local_store(root)
    from workflows.run.store.layered import LayeredStore

    return LayeredStore(local_store(root), open_store(root, url))


def _seconds() -> float:
    said = os.environ.get(WAIT, "")
    if not said:
        return PATIENCE
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]+)?", said):
        raise BadInput(Problem(what="not a number of seconds", where=WAIT, expected=f"such as {PATIENCE:g}", got=said))
    return float(said)
