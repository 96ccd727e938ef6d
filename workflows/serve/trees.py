"""A LightGBM model's text as arrays: what is needed to follow a row through its trees, and how many rows went each way.

Only what `steps.train` makes is read: one class, no linear leaves, no averaged forest. Anything else is `UnknownModel`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
WORD = 32  # bits of a word of LightGBM's category sets


class UnknownModel(ValueError):
    """The text is not a model of the form that is known here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """One tree. Nodes and leaves are counted apart; a child below zero is leaf `~child`.

    `kind` is LightGBM's decision type: bit 0 categorical, bit 1 missing goes left, bits 2 and 3 what counts as missing
    (0 nothing, 1 zero and NaN, 2 NaN).
    """

    feature: Ints
    threshold: Floats
    kind: Ints
    left: Ints
    right: Ints
    node_rows: Floats
    """Training rows that came through each node."""
    leaf_rows: Floats
    leaf_value: Floats
    """Log-odds that each leaf adds."""
    categories: tuple[frozenset[int], ...] = ()
    """Codes that go left, for each categorical node, by the number that stands in its threshold."""

    def rows(self, child: int) -> float:
        """Training rows that came to a node or leaf."""
        return float(self.node_rows[child] if child >= 0 else self.leaf_rows[~child])

    @property
    def expected(self) -> float:
        """What the tree adds on average over its training rows."""
        if not len(self.feature):
            return float(self.leaf_value[0])
        return float((self.leaf_rows / self.node_rows[0] * self.leaf_value).sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class Forest:
    """All trees of a model, and its features in the order of a row."""

    names: tuple[str, ...]
    trees: tuple[Tree, ...]


def read(text: str) -> Forest:
    """The model that LightGBM's text describes."""
    head, *blocks = text.partition("\nend of trees")[0].split("\nTree=")
    fields = _fields(head)
    if fields.get("num_class") != "1" or "average_output" in head.splitlines():
        raise UnknownModel("several classes, or an averaged forest")
    if fields.get("num_tree_per_iteration") != "1" or not fields.get("objective", "").startswith("binary sigmoid:1"):
        raise UnknownModel(f"objective {fields.get('objective')!r}, expected binary with a sigmoid of 1")
    return Forest(names=tuple(fields["feature_names"].split(" ")), trees=tuple(_tree(_fields(b)) for b in blocks))


def _fields(block: str) -> dict[str, str]:
    return dict(_pairs(block))


def _pairs(block: str) -> Iterator[tuple[str, str]]:
    for line in block.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            yield name, value


def _tree(fields: dict[str, str]) -> Tree:
    if fields.get("is_linear", "0") != "0":
        raise UnknownModel("a tree with linear leaves")

    def floats(name: str) -> Floats:
        return np.array(fields.get(name, "").split(), dtype=np.float64)

    def ints(name: str) -> Ints:
        return np.array(fields.get(name, "").split(), dtype=np.int64)

    leaves = int(fields["num_leaves"])
    tree = Tree(
        feature=ints("split_feature"),
        threshold=floats("threshold"),
        kind=ints("decision_type"),
        left=ints("left_child"),
        right=ints("right_child"),
        node_rows=floats("internal_count"),
        leaf_rows=floats("leaf_count") if leaves > 1 else np.ones(1),
        leaf_value=floats("leaf_value"),
        categories=_categories(ints("cat_boundaries"), ints("cat_threshold")),
    )
    if len(tree.leaf_value) != leaves or len(tree.feature) != leaves - 1:
        raise UnknownModel(f"a tree of {leaves} leaves with {len(tree.leaf_value)} values and {len(tree.feature)} splits")
    return tree


def _categories(bounds: Ints, words: Ints) -> tuple[frozenset[int], ...]:
    return tuple(
        frozenset(at * WORD + bit for at, word in enumerate(words[a:b]) for bit in range(WORD) if int(word) >> bit & 1)
        for a, b in pairwise(bounds)
    )
