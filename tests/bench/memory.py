"""Peak memory of keeping a file far larger than memory should be, and of checking it."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from pathlib import Path

from harness import ROOT, CannotMeasure, Contest, Done, Goal, environment, scratch, short, timed

SIZE = 5 * 2**30
LIMIT = 300  # MB
BLOCK = 4 * 2**20
KEEP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from workflows.run.session import local_store
local_store(Path(sys.argv[2])).put_content(Path(sys.argv[3]))
"""
CHECK = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from workflows.prove.record import Item
from workflows.run.session import local_store
(path,) = [p for p in (Path(sys.argv[2]) / ".dvc").rglob("*") if p.is_file()]
item = Item(name="p/a", sha256="", md5=path.parent.name + path.name, size=path.stat().st_size)
assert local_store(Path(sys.argv[2])).check_content(item).size == item.size
"""


def contest() -> Contest:
    with scratch() as top:
        if shutil.disk_usage(top).free < 2.5 * SIZE:
            raise CannotMeasure(f"needs {2.5 * SIZE / 2**30:.0f} GiB of disk")
        env = environment(top)
        large = top / "large"
        block = os.urandom(BLOCK)
        with large.open("wb") as out:
            for i in range(SIZE // BLOCK):
                out.write(i.to_bytes(8, "big") + block[8:])
        run = partial(_run, top, env)
        kept = run(KEEP, str(large))
        checked = run(CHECK)
        copied = timed(["cp", str(large), str(top / "copy")], cwd=top, env=env)
    measured = {
        "keep it in the store (sha256, md5 and a copy in one pass)": kept,
        "check it, as verify does": checked,
        "for comparison: cp": copied,
    }
    gib = SIZE / 2**30
    return Contest(
        title="Memory",
        about=f"One artifact of {gib:.0f} GiB, each time in a process of its own. Peak memory includes Python and its libraries, and is an "
        "upper bound: a process begins with the peak of the one that started it, so that less than cp's is not seen.",
        header=("", "peak memory", "seconds"),
        rows=tuple((n, f"{d.peak_mb:.0f} MB", short(d.seconds)) for n, d in measured.items()),
        goals=tuple(
            Goal(what=f"{what} of {gib:.0f} GiB: under {LIMIT} MB", measured=f"{d.peak_mb:.0f} MB", met=d.peak_mb < LIMIT)
            for what, d in (("storing an artifact", kept), ("verifying an artifact", checked))
        ),
    )


def _run(top: Path, env: dict[str, str], script: str, *words: str) -> Done:
    return timed([sys.executable, "-c", script, str(ROOT), str(top / "store"), *words], cwd=top, env=env)
