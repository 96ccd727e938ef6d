"""What anchors say decides: another root fails, silence proves nothing, and what was asked for must be there."""

from __future__ import annotations

import pytest

from workflows.prove.anchor import Looked, Noted, State, Unreached, findings, judge, line_of, roots_in

ROOT, OTHER = "a" * 64, "b" * 64
HERE = Noted(root=ROOT, where="commit 1")
WEAK = Noted(root=ROOT, where="s3://bank/anchors/toy", weak="it is not locked")


@pytest.mark.parametrize(
    ("looked", "root", "state", "said"),
    [
        ((HERE,), ROOT, State.SAME, "commit 1"),
        ((HERE, Noted(root=ROOT, where="commit 2")), ROOT, State.SAME, "commit 1; commit 2"),
        ((), ROOT, State.NONE, "nothing is noted there for this run"),
        ((WEAK,), ROOT, State.NONE, "s3://bank/anchors/toy: it is not locked"),
        ((WEAK, HERE), ROOT, State.SAME, "commit 1"),
        (Unreached(why="no git clone"), ROOT, State.UNREACHED, "no git clone"),
        ((HERE,), OTHER, State.OTHER, f"{ROOT} at commit 1"),
        ((WEAK,), OTHER, State.OTHER, f"{ROOT} at s3://bank/anchors/toy"),
        ((HERE, Noted(root=OTHER, where="commit 2")), ROOT, State.OTHER, f"{OTHER} at commit 2"),
        ((HERE,), None, State.OTHER, f"{ROOT} at commit 1"),
        ((), None, State.NONE, "nothing is noted there for this run"),
    ],
)
def test_what_an_anchor_says(looked: Looked, root: str | None, state: State, said: str) -> None:
    """Rules 1 to 3."""
    verdict = judge("git-note", looked, root)
    assert (verdict.state, verdict.said) == (state, said)


def test_only_another_root_is_a_finding() -> None:
    """Rules 1 and 2."""
    said = [judge("a", (HERE,), ROOT), judge("b", (), ROOT), judge("c", Unreached(why="away"), ROOT), judge("d", (WEAK,), ROOT)]
    assert findings(said, ROOT) == ()
    (found,) = findings([judge("git-note", (HERE,), OTHER)], OTHER)
    assert str(found) == f"anchor git-note: another root is noted: {ROOT} at commit 1; the store has {OTHER}"
    (found,) = findings([judge("git-note", (HERE,), None)], None)
    assert found.what.endswith("the store has no such run")


@pytest.mark.parametrize("looked", [(), (WEAK,), Unreached(why="away")])
def test_what_was_asked_for_must_be_there(looked: Looked) -> None:
    """Rule 4."""
    said = [judge("object-lock", looked, ROOT), judge("git-note", (HERE,), ROOT)]
    (found,) = findings(said, ROOT, {"object-lock", "git-note"})
    assert found.where == "anchor object-lock"
    assert found.what.startswith("it was to have the root of this run, but: ")


def test_a_line_for_each_run() -> None:
    text = line_of("toy-1", ROOT) + "\n" + line_of("toy-2", OTHER) + "a note by a person\n" + line_of("toy-1", ROOT)
    assert roots_in(text, "toy-1") == [ROOT]
    assert roots_in(text, "toy-2") == [OTHER]
    assert roots_in(text, "toy") == []


@pytest.mark.parametrize("line", ["toy-1", f"toy-1 {ROOT[:-1]}", f"toy-1 {ROOT} {ROOT}", f"toy-1 {ROOT.upper()}", "toy-1 \x1b[2J"])
def test_what_is_no_root_is_another_one(line: str) -> None:
    (root,) = roots_in(line, "toy-1")
    assert root.startswith("unreadable ")
    assert root.isprintable()
    assert judge("git-note", (Noted(root=root, where="commit 1"),), ROOT).state is State.OTHER
