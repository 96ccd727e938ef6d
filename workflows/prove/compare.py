"""How equal are two artifacts, two runs? Grades from the same bytes down to what differs; values in, verdicts out.

Loading files is an adapter's work (`workflows.run.comparing`): here are only values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, zip_longest
from typing import Any

from workflows.declare import Artifact, Kind
from workflows.prove.record import Item, Record, Seal
from workflows.prove.verify import last_entries


class Grade(StrEnum):
    """How equal two artifacts are, best first. `a < b` reads: `a` is worse than `b`."""

    BYTES = "bytes"
    """The same bytes."""
    CONTENT = "content"
    """The same table, trees or report, written down differently."""
    DECISIONS = "decisions"
    """The same outcome for every row (`Artifact.decided_by`), other numbers."""
    TOLERANCE = "tolerance"
    """Numbers at most `Artifact.tolerance` apart, all else the same."""
    DIFFERS = "differs"

    def __lt__(self, other: object) -> bool:
        return _RANK[self] > _RANK[Grade(str(other))]

    def __le__(self, other: object) -> bool:
        return _RANK[self] >= _RANK[Grade(str(other))]

    def __gt__(self, other: object) -> bool:
        return _RANK[self] < _RANK[Grade(str(other))]

    def __ge__(self, other: object) -> bool:
        return _RANK[self] <= _RANK[Grade(str(other))]


_RANK = {grade: i for i, grade in enumerate(Grade)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """A table as it is compared: names and types of columns, and the rows in batches.

    Both tables of a pair are cut into batches of the same number of rows. A dictionary-encoded column is its values.
    """

    types: tuple[tuple[str, str], ...]
    batches: Callable[[], Iterator[Mapping[str, Sequence[Any]]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The verdict on one artifact. `why` says what was found where it is not the same bytes."""

    name: str
    grade: Grade
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The verdict on two runs, artifact by artifact in the order of the plan."""

    artifacts: tuple[Compared, ...]
    first: str | None
    """The first task of the plan whose artifacts differ; None where none does."""
    because: tuple[str, ...] = ()
    """What that task was given that was not the same: code, parameters, inputs, secrets, requirements."""

    @property
    def grade(self) -> Grade:
        """The worst of all artifacts'. Two runs without an artifact differ: nothing says that they agree."""
        return min((a.grade for a in self.artifacts), default=Grade.DIFFERS)


Load = Callable[[Item, Kind], Any]
"""The value of an artifact: `Columns` of a table, text of a model or page, JSON of a report."""


def compare(
    a: tuple[Seal, Mapping[str, Record], Load], b: tuple[Seal, Mapping[str, Record], Load], declared: Mapping[str, Artifact]
) -> Comparison:
    """Two verified runs, each with its records and a way to load its artifacts. `declared` is by artifact name, without item."""
    one, two = standing(*a[:2]), standing(*b[:2])
    compared: list[Compared] = []
    first: str | None = None
    for task in dict.fromkeys((*one, *two)):
        found = list(_task(one.get(task), two.get(task), a[2], b[2], declared))
        compared += found
        if first is None and any(c.grade is Grade.DIFFERS for c in found):
            first = task
    because = tuple(_reasons(one.get(first), two.get(first))) if first else ()
    return Comparison(artifacts=tuple(compared), first=first, because=because)


def standing(seal: Seal, records: Mapping[str, Record]) -> dict[str, Record]:
    """The last record of each task, in the order of the plan."""
    last = last_entries(seal)
    return {t: records[last[t].sha256] for t in seal.tasks if t in last and last[t].sha256 in records}


def _task(a: Record | None, b: Record | None, load_a: Load, load_b: Load, declared: Mapping[str, Artifact]) -> Iterator[Compared]:
    made_a = {i.name: i for i in a.outputs} if a else {}
    made_b = {i.name: i for i in b.outputs} if b else {}
    for name in dict.fromkeys((*made_a, *made_b)):
        x, y = made_a.get(name), made_b.get(name)
        if x is None or y is None:
            yield Compared(name=name, grade=Grade.DIFFERS, why=f"only the {'second' if x is None else 'first'} run has it")
        elif x.sha256 == y.sha256:
            yield Compared(name=name, grade=Grade.BYTES)
        else:
            artifact = declared.get(name.partition("/")[2].partition("@")[0])
            yield _grade(artifact, name, load_a(x, artifact.kind), load_b(y, artifact.kind)) if artifact else _unknown(name)


def _unknown(name: str) -> Compared:
    return Compared(name=name, grade=Grade.DIFFERS, why="other bytes, and no declaration at hand that says what they are")


def _reasons(a: Record | None, b: Record | None) -> Iterator[str]:
    """What two attempts at one task were given that was not the same."""
    if a is None or b is None:
        yield f"only the {'second' if a is None else 'first'} run has a record of it"
        return
    if a.code.step != b.code.step:
        yield "the step's code"
    yield from (
        f"parameter {k}: {a.params.get(k)!r}, {b.params.get(k)!r}"
        for k in sorted({*a.params, *b.params})
        if a.params.get(k) != b.params.get(k)
    )
    read_a, read_b = {i.name: i.sha256 for i in a.inputs}, {i.name: i.sha256 for i in b.inputs}
    yield from (f"input {n}" for n in dict.fromkeys((*read_a, *read_b)) if read_a.get(n) != read_b.get(n))
    yield from (f"secret {n}" for n in sorted({*a.secrets, *b.secrets}) if a.secrets.get(n) != b.secrets.get(n))
    if a.lock != b.lock:
        yield "the locked requirements"


def _grade(artifact: Artifact, name: str, a: Any, b: Any) -> Compared:
    return _GRADERS[artifact.kind](artifact, name, a, b)


# --- tables


def _table(artifact: Artifact, name: str, a: Columns, b: Columns) -> Compared:
    if a.types != b.types:
        return Compared(name=name, grade=Grade.DIFFERS, why=_types(a, b))
    decided = artifact.decided_by if artifact.decided_by and set(artifact.decided_by) <= {n for n, _ in a.types} else ()
    apart: dict[str, float] = {}
    for x, y in zip_longest(a.batches(), b.batches(), fillvalue=None):
        if x is None or y is None:
            return Compared(name=name, grade=Grade.DIFFERS, why="not the same number of rows")
        for column, _ in a.types:
            if len(x[column]) != len(y[column]):
                return Compared(name=name, grade=Grade.DIFFERS, why="not the same number of rows")
            apart[column] = max(apart.get(column, 0.0), _apart(x[column], y[column]))
    changed = {c: d for c, d in apart.items() if d}
    if not changed:
        return Compared(name=name, grade=Grade.CONTENT, why="the same rows, written differently")
    why = "; ".join(f"column {c} {_distance(d)}" for c, d in changed.items())
    if decided and not set(decided) & set(changed):
        return Compared(name=name, grade=Grade.DECISIONS, why=f"the same {decided[1]} for every {decided[0]}; {why}")
    return Compared(name=name, grade=_tolerated(artifact, max(changed.values())), why=why)


def _types(a: Columns, b: Columns) -> str:
    left, right = dict(a.types), dict(b.types)
    differ = [
        f"{n} ({left.get(n, 'missing')}, {right.get(n, 'missing')})" for n in dict.fromkeys((*left, *right)) if left.get(n) != right.get(n)
    ]
    return f"other columns: {', '.join(differ)}" if differ else "columns in another order"


def _apart(a: Sequence[Any], b: Sequence[Any]) -> float:
    """The largest distance of two numbers at one place; infinite where anything else is not the same."""
    return 0.0 if a == b else max((_distance_of(x, y) for x, y in zip(a, b, strict=True)), default=0.0)


def _distance_of(a: Any, b: Any) -> float:
    if _number(a) and _number(b):
        if a == b or (a != a and b != b):  # noqa: PLR0124  # NaN is what is not equal to itself
            return 0.0
        distance = abs(float(a) - float(b))
        return math.inf if math.isnan(distance) else distance
    return 0.0 if type(a) is type(b) and a == b else math.inf


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tolerated(artifact: Artifact, apart: float) -> Grade:
    return Grade.TOLERANCE if artifact.tolerance is not None and apart <= artifact.tolerance else Grade.DIFFERS


def _distance(d: float) -> str:
    return "differs" if math.isinf(d) else f"differs by at most {d:.3g}"


# --- reports, models, pages


def _report(artifact: Artifact, name: str, a: Any, b: Any) -> Compared:
    left, right = dict(_flat(a, ())), dict(_flat(b, ()))
    apart = {p: _distance_of(left.get(p, _ABSENT), right.get(p, _ABSENT)) for p in dict.fromkeys((*left, *right))}
    differ = {p: d for p, d in apart.items() if d}
    if not differ:
        return Compared(name=name, grade=Grade.CONTENT, why="the same JSON, written differently")
    shown = [f"{'.'.join(map(str, p))} {_distance(d)}" for p, d in list(differ.items())[:SHOWN]]
    more = f" and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
    return Compared(name=name, grade=_tolerated(artifact, max(differ.values())), why="; ".join(shown) + more)


SHOWN = 3  # as many as fit on a line
_ABSENT = object()


def _flat(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, dict) and value:
        yield from chain.from_iterable(_flat(v, (*path, k)) for k, v in value.items())
    elif isinstance(value, list) and value:
        yield from chain.from_iterable(_flat(v, (*path, i)) for i, v in enumerate(value))
    else:
        yield path, value


TREES_END = "end of trees"
LEARNED = {"leaf_value", "leaf_weight", "internal_value", "internal_weight", "split_gain"}
"""What floating point may move in a tree whose splits are the same."""
DERIVED = {"tree_sizes"}
"""Lengths of text, which change with any digit."""


def _model(artifact: Artifact, name: str, a: str, b: str) -> Compared:
    """LightGBM's text: trees come first; parameters, importances and the like after them decide nothing."""
    left, right = (_lines(text.partition(f"\n{TREES_END}")[0]) for text in (a, b))
    if left == right:
        return Compared(name=name, grade=Grade.CONTENT, why="the same trees, other parameters noted beside them")
    if len(left) != len(right):
        return Compared(name=name, grade=Grade.DIFFERS, why="not the same number of trees, or of their lines")
    apart = 0.0
    for (key, x), (other, y) in zip(left, right, strict=True):
        if key != other or (x != y and key not in LEARNED):
            return Compared(name=name, grade=Grade.DIFFERS, why=f"{key or other} differs")
        apart = max(apart, _numbers_apart(x, y))
    return Compared(name=name, grade=_tolerated(artifact, apart), why=f"the same splits, numbers in the trees {_distance(apart)}")


def _lines(text: str) -> list[tuple[str, str]]:
    pairs = ((line.partition("=")[0], line.partition("=")[2]) for line in text.splitlines())
    return [(k, v) for k, v in pairs if k not in DERIVED]


def _numbers_apart(a: str, b: str) -> float:
    if a == b:
        return 0.0
    x, y = a.split(), b.split()
    try:
        return max(_distance_of(float(p), float(q)) for p, q in zip(x, y, strict=True))
    except ValueError:
        return math.inf


def _page(_artifact: Artifact, name: str, _a: str, _b: str) -> Compared:
    return Compared(name=name, grade=Grade.DIFFERS, why="other bytes, and a page has no other measure")


_GRADERS: dict[Kind, Callable[[Artifact, str, Any, Any], Compared]] = {
    Kind.TABLE: _table,
    Kind.DATASET: _table,
    Kind.REPORT: _report,
    Kind.MODEL: _model,
    Kind.PAGE: _page,
}
