"""The tutorial does what it says: its files are written, its commands run, its answers compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def clone(to: Path) -> None:
    """A clone as a person has it: what is committed, and what is about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        # A run of one's own leaves `dvc.lock`, which is not committed.
        if name != "dvc.lock" and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes((ROOT / name).read_bytes())
            (to / name).chmod((ROOT / name).stat().st_mode)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "clone"]):
        subprocess.run(["git", *words], cwd=to, check=True)


def matches(expected: str, said: str) -> bool:
    """`…` stands for anything; a line that is only `…` for any number of lines."""
    pattern = re.escape(expected.rstrip("\n")).replace(re.escape("…"), ".*")
    return re.fullmatch(pattern, said.rstrip("\n"), re.DOTALL) is not None


def commands(block: str) -> list[tuple[str, str, int]]:
    """(command, expected answer, exit code) of a console block."""
    found = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, answer = part.partition("\n")
        code = re.search(r"^\[exit (\d+)\]\n", answer, re.MULTILINE)
        found.append((command, re.sub(r"^\[exit \d+\]\n", "", answer, flags=re.MULTILINE), int(code[1]) if code else 0))
    return found


@pytest.mark.slow
def test_tutorial_works_as_written(tmp_path: Path) -> None:
    home = tmp_path / "clone"
    clone(home)
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COUNTERSIGN_KEYS": str(tmp_path / "keys"),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(tmp_path / "dvc"),
        "PYTHONPATH": str(home),
        "COLUMNS": "200",
    }
    subprocess.run(["dvc", "pull", "-q", *map(str, (home / "data").rglob("*.dvc"))], cwd=home, env=env, check=True)
    blocks = BLOCK.findall((ROOT / "docs/tutorial.md").read_text())
    assert len(blocks) > 10
    for language, title, text in blocks:
        if title:
            (home / title).write_text(text)
        elif language == "console":
            for command, expected, code in commands(text):
                done = subprocess.run(command, shell=True, cwd=home, env=env, capture_output=True, text=True, check=False)  # noqa: S602
                said = done.stdout + done.stderr
                assert done.returncode == code, f"$ {command}\n{said}"
                assert matches(expected, said) or matches(expected, done.stdout), f"$ {command}\nexpected:\n{expected}\nsaid:\n{said}"
