"""The files under `artifacts/`, which people open: are they still what a run made, or another run?"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from pathlib import Path

from workflows.prove.digest import Digests, in_parallel
from workflows.prove.record import Item, Seal
from workflows.prove.verify import Finding
from workflows.run import files

FOLDER = "artifacts"


def changed(root: Path, seal: Seal, made: Callable[[Item], bool]) -> tuple[Finding, ...]:
    """Files in the places of a run's artifacts that nothing made: neither this run nor, as `made` says of a content, another.

    A file that is not there is no finding: `dvc checkout` brings it back from the store, which holds the evidence.
    """
    there = [(item, path) for item in seal.outputs for path in _places(root, item)]
    found = in_parallel(lambda one: files.digests(one[1]), there)
    return tuple(
        Finding(where=path.relative_to(root).as_posix(), what=_words(item, got))
        for (item, path), got in zip(there, found, strict=True)
        if got != item.digests and not made(Item.of(item.name, got))
    )


def _places(root: Path, item: Item) -> Iterator[Path]:
    # The suffix is the kind's, which a declaration says; the run's own need not be here.
    name, _, one = item.name.partition("@")
    for path in sorted(root.glob(f"{FOLDER}/{glob.escape(name)}/{glob.escape(one)}.*" if one else f"{FOLDER}/{glob.escape(name)}.*")):
        if path.is_file():
            yield path


def _words(item: Item, got: Digests) -> str:
    return f"changed: it is no longer {item.name} ({item.sha256}), its bytes have sha256 {got.sha256}; dvc checkout --force brings it back"
