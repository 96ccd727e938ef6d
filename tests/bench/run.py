"""All contests, or one, side by side on this machine; writes what was measured, met or not, into the documentation."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path

from harness import ROOT, CannotMeasure, say

CONTESTS = (
    "step_overhead",
    "hashing",
    "verify_chain",
    "memory",
    "drift",
    "startup",
    "run_pipeline",
    "transfer",
    "serving",
    "serving_memory",
)
CLUSTER = ("cluster_chain", "cluster_fan", "cluster_drain", "cluster_reproduce")
ALL = (*CONTESTS, *CLUSTER)
HEAD = """# Benchmarks

What Countersign costs, measured side by side with what one would use instead. `make bench` measures all sections in one go;
`make bench ONLY=NAME` renews one, so these may be of different days. Every section says what was measured, on what, and how to
repeat it. The figures are medians; within a section contestants take turns, so that a slow moment of the machine falls on all of them.
Seconds are this machine's; ratios are what carries over.
Benchmarks are not tests: they need several minutes, about 15 GB of disk for a moment, and once the installation of the competitors
in an environment of their own outside the repository. None of them reports usage, and none reaches the network while it is measured.
Those on a cluster need one (`make cluster-up` and the variables that it names): `make bench ONLY=cluster`.

## Goals
"""


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=(*ALL, "cluster"), action="append", help="one contest, or those on a cluster; may be repeated")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md")
    asked = parser.parse_args(words)
    sections = _read(asked.out)
    wanted = [n for name in asked.only or ALL for n in (CLUSTER if name == "cluster" else (name,))]
    lacking: dict[str, str] = {}
    for name in wanted:
        say(f"{name}")
        try:
            sections[name] = importlib.import_module(name).contest().markdown(name)
        except CannotMeasure as error:
            lacking[name] = str(error)
            if name in CONTESTS:  # figures of a cluster stay: they say where they are from, and few machines have one
                sections.pop(name, None)
            continue
        _write(asked.out, sections)
    say(f"written: {asked.out}")
    for why in dict.fromkeys(lacking.values()):
        say(f"not measured: {', '.join(n for n, w in lacking.items() if w == why)}: {why}")
    return 75 if asked.only and lacking else 0


def _read(path: Path) -> dict[str, str]:
    """The sections that an earlier run wrote, by contest."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return {m[1]: m[2].strip() for m in re.finditer(r"<!-- (\w+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL)}


def _write(path: Path, sections: dict[str, str]) -> None:
    listed = [(name, sections[name]) for name in ALL if name in sections]
    goals = [line for _, text in listed for line in text.splitlines() if re.search(r"\| (met|not met|not measured) \|$", line)]
    body = "\n\n".join(f"<!-- {name} -->\n{text}\n<!-- end -->" for name, text in listed)
    table = "\n".join(["| goal | measured | |", "|---|---|---|", *goals])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEAD}\n{table}\n\n{body}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
