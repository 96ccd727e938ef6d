"""Each grade of equality reached, and the next better one not claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.prove.chain import PRIVATE, build, but, ring
from workflows.declare import Artifact, Kind
from workflows.prove.compare import Columns, Grade, compare
from workflows.prove.record import Item

TABLE = Artifact(name="part", kind=Kind.TABLE, decided_by=("subject", "decision"), tolerance=0.01)
TYPES = (("subject", "string"), ("score", "double"), ("decision", "string"))
ROWS: dict[str, Sequence[Any]] = {"subject": ["a", "b"], "score": [0.25, 0.75], "decision": ["declined", "approved"]}
TREES = """tree
version=v4
tree_sizes=9 9

Tree=0
split_feature=1 2
threshold=0.5 1.5
leaf_value=0.1 0.2 -0.3

end of trees

parameters:
[seed: 1]
"""


def columns(rows: Mapping[str, Sequence[Any]] = ROWS, types: tuple[tuple[str, str], ...] = TYPES) -> Columns:
    return Columns(types=types, batches=lambda: iter([rows]))


def grade(artifact: Artifact, a: object, b: object) -> tuple[Grade, str]:
    """The grade of one artifact that has other bytes in two runs, whose values are `a` and `b`."""
    one, two = build(), build({"part@b": lambda r: but(outputs=(but(sha256="9" * 64)(r.outputs[0]),))(r)})

    def side(chain: Any, value: object) -> Any:
        seal = chain.verify(chain_keys).seal
        return seal, chain.verify(chain_keys).records, lambda _item, _kind: value

    chain_keys = ring(PRIVATE)
    found = compare(side(one, a), side(two, b), {"part": artifact})
    (it,) = [c for c in found.artifacts if c.name == "toy/part@b"]
    return it.grade, it.why


def rows(**changed: Sequence[Any]) -> Columns:
    return columns({**ROWS, **changed})


@pytest.mark.parametrize(
    ("other", "expected", "why"),
    [
        (columns(), Grade.CONTENT, "written differently"),
        (rows(score=[0.2, 0.8]), Grade.DECISIONS, "the same decision for every subject"),
        (rows(decision=["approved", "approved"]), Grade.DIFFERS, "column decision differs"),
        (rows(score=[0.2, float("nan")]), Grade.DECISIONS, "column score differs"),
        (columns({k: v[:1] for k, v in ROWS.items()}), Grade.DIFFERS, "not the same number of rows"),
        (columns(types=(TYPES[1], TYPES[0], TYPES[2])), Grade.DIFFERS, "columns in another order"),
        (columns(types=(TYPES[0], ("score", "float"), TYPES[2])), Grade.DIFFERS, "other columns: score (double, float)"),
    ],
)
def test_tables_with_decisions(other: Columns, expected: Grade, why: str) -> None:
    got, said = grade(TABLE, columns(), other)
    assert got == expected
    assert why in said


@pytest.mark.parametrize(("score", "expected"), [([0.255, 0.75], Grade.TOLERANCE), ([0.27, 0.75], Grade.DIFFERS)])
def test_tables_of_numbers(score: list[float], expected: Grade) -> None:
    bare = Artifact(name="part", kind=Kind.TABLE, tolerance=0.01)
    assert grade(bare, columns(), rows(score=score))[0] == expected
    assert grade(Artifact(name="part", kind=Kind.TABLE), columns(), rows(score=score))[0] == Grade.DIFFERS


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"x": [1, {"y": 2.0}]}, {"x": [1, {"y": 2.0}]}, Grade.CONTENT),
        ({"x": [1, {"y": 2.0}]}, {"x": [1, {"y": 2.005}]}, Grade.TOLERANCE),
        ({"x": [1, {"y": 2.0}]}, {"x": [1, {"y": 2.05}]}, Grade.DIFFERS),
        ({"x": 1}, {"x": True}, Grade.DIFFERS),
        ({"x": 1}, {"z": 1}, Grade.DIFFERS),
        ({"x": []}, {"x": {}}, Grade.DIFFERS),
        ({"x": "1"}, {"x": 1}, Grade.DIFFERS),
    ],
)
def test_reports(a: object, b: object, expected: Grade) -> None:
    assert grade(Artifact(name="part", kind=Kind.REPORT, tolerance=0.01), a, b)[0] == expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (TREES.replace("[seed: 1]", "[seed: 2]"), Grade.CONTENT),
        (TREES.replace("0.2 -0.3", "0.2001 -0.3").replace("9 9", "9 10"), Grade.TOLERANCE),
        (TREES.replace("0.2 -0.3", "0.3 -0.3"), Grade.DIFFERS),
        (TREES.replace("threshold=0.5", "threshold=0.5001"), Grade.DIFFERS),
        (TREES.replace("split_feature=1 2", "split_feature=2 1"), Grade.DIFFERS),
        (TREES.replace("leaf_value=0.1 0.2 -0.3", "leaf_value=0.1 0.2"), Grade.DIFFERS),
    ],
)
def test_models(other: str, expected: Grade) -> None:
    assert grade(Artifact(name="part", kind=Kind.MODEL, tolerance=0.01), TREES, other)[0] == expected


def test_pages_have_no_other_measure() -> None:
    assert grade(Artifact(name="part", kind=Kind.PAGE), "<p>", "<p> ")[0] == Grade.DIFFERS


def test_grades_are_ordered() -> None:
    assert sorted(Grade) == [Grade.DIFFERS, Grade.TOLERANCE, Grade.DECISIONS, Grade.CONTENT, Grade.BYTES]
    assert Grade.BYTES > Grade.CONTENT >= Grade.CONTENT > Grade.DECISIONS
    assert not Grade.BYTES < Grade.DIFFERS


def test_the_first_step_that_differs_and_what_it_was_given() -> None:
    other = Item(name="toy/numbers", sha256="8" * 64, md5="8" * 32, size=7)
    one = build().verify(ring(PRIVATE))
    two = build({"make": but(params={"rows": 11}, outputs=(other,))}).verify(ring(PRIVATE))
    assert one.seal
    assert two.seal
    found = compare((one.seal, one.records, lambda *_: ""), (two.seal, two.records, lambda *_: ""), {})
    assert found.first == "make"
    assert found.because == ("parameter rows: 10, 11",)
    assert found.grade is Grade.DIFFERS
