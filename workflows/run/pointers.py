"""DVC's pointer files: which bytes a data file has at a git revision. Read without DVC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from workflows.declare import Source
from workflows.errors import BadInput, Problem
from workflows.run.parameters import read_yaml

MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """The address of a data file's bytes: what `dvc add` wrote."""

    path: str
    """The pointer file, from the repository's root."""
    md5: str
    size: int


def pointer_of(root: Path, source: Source) -> Pointer | None:
    """The pointer of a local source; None where DVC does not track it. `BadInput` where it points to no single file."""
    path = f"{source.at}.dvc"
    if source.remote or not (root / path).is_file():
        return None
    raw = read_yaml(root / path, path)
    outs = raw.get("outs") if isinstance(raw, dict) else None
    out = outs[0] if isinstance(outs, list) and len(outs) == 1 and isinstance(outs[0], dict) else {}
    md5, size = out.get("md5"), out.get("size")
    if not (isinstance(md5, str) and MD5.fullmatch(md5) and isinstance(size, int)):
        raise BadInput(
            Problem(what="does not point to one file", where=path, expected="one entry under outs, with md5 and size"),
            hint=f"make it anew with: dvc add {source.at}",
        )
    return Pointer(path=path, md5=md5, size=size)
