"""What the image scripts refuse, and what the Containerfiles promise. Building them is the cluster's tests' business."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[2] / "infra/images"
CONTAINERFILES = sorted(IMAGES.glob("*.Containerfile"))


@pytest.mark.parametrize("words", [[], ["--base"], ["--image", "kernel", "out.tar"], ["one.tar", "two.tar"], ["--help"]])
def test_a_mistyped_build_says_how_to_ask(words: list[str]) -> None:
    done = subprocess.run([IMAGES / "build", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: infra/images/build ")
    assert done.stdout == ""


def test_a_base_of_nothing_says_how_to_ask() -> None:
    done = subprocess.run([IMAGES / "debian_base"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "PACKAGE..." in done.stderr


@pytest.mark.parametrize(
    ("archive", "made_of", "known", "built"), [(True, "", 0, False), (False, "", 0, True), (True, "0", 0, True), (True, "", 1, True)]
)
def test_a_step_image_is_not_built_again_of_the_same(tmp_path: Path, *, archive: bool, made_of: str, known: int, built: bool) -> None:
    """But where its archive is gone, where it was made of something else, and where the promoter's build would not find it."""
    parts = [IMAGES / "steps.Containerfile", IMAGES.parents[1] / "requirements.lock", IMAGES / "with_code.py"]
    name = hashlib.sha256(b"".join(p.read_bytes() for p in parts)).hexdigest()[:12]
    said = f'{{"image": "localhost/countersign-steps:{made_of or name}", "digest": "sha256:1"}}\n'
    (tmp_path / "steps.tar.json").write_text(said)
    if archive:
        (tmp_path / "steps.tar").write_text("")
    for program, text in (("buildah", f'[ "$1" = inspect ] && exit {known}; exit 9'), ("mmdebstrap", "exit 9")):
        (tmp_path / program).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / program).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([IMAGES / "build", tmp_path / "steps.tar"], capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stdout) == ((9, "") if built else (0, said)), done.stderr


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda p: p.name)
def test_an_image_is_for_any_base_and_never_root(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^ARG BASE\b", text, re.MULTILINE)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["8737:8737"], (
        "a number: Kubernetes cannot tell from a name that it is not root"
    )
    assert re.search(r"^ENV PATH=", text, re.MULTILINE)
    assert "ADD http" not in text


def test_requirements_are_installed_by_hash_and_without_an_address() -> None:
    text = (IMAGES / "steps.Containerfile").read_text()
    assert "--require-hashes -r /requirements.lock" in text
    assert "--only-binary :all:" in text
    assert not re.search(r"index-url|trusted-host|pypi", text)


def test_what_changes_least_comes_first() -> None:
    """So that a changed bootstrap costs seconds and a changed lock file does not cost the system's packages."""
    final = (IMAGES / "steps.Containerfile").read_text().rsplit("\nFROM ", 1)[1]
    assert re.findall(r"^COPY .*?(/opt/\S+)", final, re.MULTILINE) == ["/opt/venv", "/opt/countersign/with_code.py"]
