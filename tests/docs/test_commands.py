"""Every command that a page shows is one that the program takes: the command, its options, and how many words it wants."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer

from tests.conftest import ROOT
from workflows.cli import app

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
COMMAND = re.compile(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*countersign (?P<words>(?! )[^\n|&;<>]*(?:\\\n[^\n|&;<>]*)*)", re.MULTILINE)


def shown() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*[^\n]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            found += [(page.name, m["words"].replace("\\\n", " ").split("  #")[0].strip()) for m in COMMAND.finditer(block)]
    return found


def test_there_are_some() -> None:
    assert len(shown()) > 40
    assert {page for page, _ in shown()} >= {"README.md", "promotion.md", "serving.md", "auditing.md"}


@pytest.mark.parametrize(("page", "words"), shown())
def test_it_is_taken(page: str, words: str) -> None:
    command: Any = typer.main.get_command(app)
    given = [w for w in shlex.split(words) if w != "…"]
    context = command.make_context("countersign", ["--help"], resilient_parsing=True)
    while hasattr(command, "resolve_command"):
        name, command, given = command.resolve_command(context, given)
        assert command, f"{page}: no such command"
    command.make_context(name, given, parent=context)


@pytest.mark.parametrize("words", ["veryfy RUN", "verify RUN --kye bank.pem", "promote --env prod"])
def test_another_is_not(words: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|missing"):
        test_it_is_taken("", words)
