"""Exact TreeSHAP by looking up: what each feature adds to a row's log-odds, in a time that hardly grows with the trees.

A tree's contributions depend on a row only through which of its splits the row passes. The splits of one feature cut its
values into a few classes, so a tree has as many different answers as the product of its features' classes. They are
computed once, when the model is loaded (Lundberg et al. 2020, as Yang 2021, "Fast TreeSHAP", v2 does by leaf). Where a
tree would have too many, its branches get tables of their own: contributions are sums over leaves. A row then costs one
number for each table, which says where its answer stands, and the sum of those answers, added in one fixed order: the
same bits on every machine.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workflows.serve.bins import Bins, bins_of
from workflows.serve.trees import Flags, Floats, Forest, Ints, Tree

BUDGET = 192 * 1024 * 1024
"""Bytes of tables at most. A model of 80 trees of 9 leaves needs 1 MB, one of 200 trees of 31 leaves 150."""
MOST_FEATURES = 14  # on a path: a leaf's own table has 2**14 rows


class TooLarge(ValueError):
    """The model's tables would not fit the budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    """A leaf with its path: for each feature on it, the share of training rows that pass by chance, and the bins that pass."""

    value: float
    features: tuple[int, ...]
    chance: tuple[float, ...]
    passes: tuple[Flags, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """The leaves below a node, and the classes that their paths cut each feature's bins into."""

    tree: int
    node: int
    leaves: tuple[int, ...]
    classes: dict[int, Ints]
    """Feature -> class of each of its bins."""

    @property
    def cells(self) -> int:
        return math.prod(int(c.max()) + 1 for c in self.classes.values())

    @property
    def size(self) -> int:
        """Numbers in its table: for each cell one a feature."""
        return self.cells * len(self.classes)


class Explainer:
    """Contributions of single rows. Usable by one thread at a time."""

    def __init__(self, forest: Forest, budget: int = BUDGET) -> None:
        """`TooLarge` where its tables would need more than `budget` bytes."""
        self.names = forest.names
        self.expected = sum(t.expected for t in forest.trees)
        self._bins = bins_of(forest)
        self._starts = [0, *np.cumsum([b.count for b in self._bins]).tolist()]
        leaves = [_leaves(t, self._bins) for t in forest.trees]
        branches = _branches(forest, leaves, budget // 8)
        self.tables = len(branches)
        self._places = self._placed(branches)
        self._answers = np.concatenate([np.zeros(0), *(_answers(b, leaves[b.tree]).reshape(-1) for b in branches)])
        # An answer is as many numbers as its branch has features: which table each is from, which of its row, which feature's.
        widths = [len(b.classes) for b in branches]
        self._table = np.repeat(np.arange(len(branches)), widths)
        self._within = np.concatenate([np.zeros(0, np.int64), *(np.arange(w) for w in widths)])
        self._feature = np.array([f for b in branches for f in b.classes], dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes that its tables take."""
        return int(self._answers.nbytes + self._places.nbytes)

    def contributions(self, row: Sequence[float]) -> Floats:
        """Shape (features,): log-odds that each adds. With `expected` they sum to the raw score, but for rounding."""
        at = [start + bins.of(value) for start, bins, value in zip(self._starts, self._bins, row, strict=False)]
        places = np.add.reduce(self._places.take([*at, -1], axis=0), axis=0)
        answers = self._answers.take(places.take(self._table) + self._within)
        found: Floats = np.bincount(self._feature, answers, len(self.names)).astype(np.float64, copy=False)
        return found

    def _placed(self, branches: Sequence[Branch]) -> Ints:
        """For each bin of each feature and each table, what it adds to the place of the answer; last, where tables begin."""
        places = np.zeros((self._starts[-1] + 1, len(branches)), dtype=np.int64)
        begin = 0
        for column, branch in enumerate(branches):
            places[-1, column] = begin
            stride = branch.size
            begin += stride
            for f, classes in branch.classes.items():
                stride //= int(classes.max()) + 1
                places[self._starts[f] : self._starts[f + 1], column] = classes * stride
        return places


def _leaves(tree: Tree, bins: Sequence[Bins]) -> list[Leaf]:
    """The leaves of a tree in order; a tree that is one leaf explains nothing and has none."""
    found: dict[int, Leaf] = {}
    waiting: list[tuple[int, dict[int, tuple[float, Flags]]]] = [(0, {})] if len(tree.feature) else []
    while waiting:
        node, path = waiting.pop()
        if node < 0:
            chance, passes = zip(*path.values(), strict=True)
            found[~node] = Leaf(value=float(tree.leaf_value[~node]), features=tuple(path), chance=chance, passes=passes)
            continue
        f = int(tree.feature[node])
        left = bins[f].left(tree, node)
        for child, way in ((int(tree.left[node]), left), (int(tree.right[node]), ~left)):
            before, passed = path.get(f, (1.0, np.ones(bins[f].count, dtype=np.bool_)))
            waiting.append((child, path | {f: (before * tree.rows(child) / tree.rows(node), passed & way)}))
    return [found[i] for i in sorted(found)]


def _branches(forest: Forest, leaves: Sequence[list[Leaf]], most: int) -> list[Branch]:
    """Whole trees, the largest ones parted until all have at most `most` numbers together; in the order of trees and leaves."""
    heap: list[tuple[int, int, int, Branch]] = []
    parted: list[Branch] = []

    def push(tree: int, node: int) -> int:
        branch = _branch(forest.trees[tree], tree, node, leaves[tree])
        heapq.heappush(heap, (-branch.size, tree, node, branch))
        return branch.size

    size = sum(push(i, 0) for i, t in enumerate(forest.trees) if len(t.feature))
    while size > most and heap:
        before, tree, node, branch = heapq.heappop(heap)
        if node < 0:
            parted.append(branch)
        else:
            size += before + push(tree, int(forest.trees[tree].left[node])) + push(tree, int(forest.trees[tree].right[node]))
    parted += [branch for *_, branch in heap]
    if size > most or any(len(leaves[b.tree][n].features) > MOST_FEATURES for b in parted for n in b.leaves):
        raise TooLarge(f"tables of {8 * size} bytes, {8 * most} allowed; or a path of more than {MOST_FEATURES} features")
    return sorted(parted, key=lambda b: (b.tree, b.leaves))


def _branch(tree: Tree, number: int, node: int, leaves: Sequence[Leaf]) -> Branch:
    below, waiting = [], [node]
    while waiting:
        at = waiting.pop()
        if at < 0:
            below.append(~at)
        else:
            waiting += [int(tree.left[at]), int(tree.right[at])]
    passes: dict[int, list[Flags]] = {}
    for n in sorted(below):
        for f, way in zip(leaves[n].features, leaves[n].passes, strict=True):
            passes.setdefault(f, []).append(way)
    classes = {f: _classes(np.array(p)) for f, p in sorted(passes.items())}
    return Branch(tree=number, node=node, leaves=tuple(sorted(below)), classes=classes)


def _classes(passes: Flags) -> Ints:
    """For flags of shape (paths, bins): equal numbers for bins that no path tells apart."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(column.tobytes(), len(seen)) for column in np.packbits(passes, axis=0).T], dtype=np.int64)


def _answers(branch: Branch, leaves: Sequence[Leaf]) -> Floats:
    """Shape (cells, features of the branch): its contributions in each cell, the last feature's class running fastest."""
    shape = tuple(int(c.max()) + 1 for c in branch.classes.values())
    axes = {f: axis for axis, f in enumerate(branch.classes)}
    found = np.zeros((branch.cells, len(axes)))
    for leaf in (leaves[n] for n in branch.leaves):
        pattern = np.zeros(shape, dtype=np.int64)
        for bit, (f, passes) in enumerate(zip(leaf.features, leaf.passes, strict=True)):
            passed = np.zeros(shape[axes[f]], dtype=np.int64)
            passed[branch.classes[f]] = passes
            pattern += (passed << bit).reshape([-1 if n == axes[f] else 1 for n in range(len(shape))])
        found[:, [axes[f] for f in leaf.features]] += _shapley(leaf)[pattern.reshape(-1)]
    return found


def _shapley(leaf: Leaf) -> Floats:
    """Shape (2 ** features, features): contributions of a leaf, by which features of its path a row passes (feature i: bit i).

    The game pays the leaf's value times, for each feature, 1 or 0 (passed or not) where it plays, and its chance where it
    does not. Of feature i that is value * (passed - chance) * sum over k of k! (d - 1 - k)! / d! * e(k), with e(k) the sum
    over the coalitions of k others.
    """
    d = len(leaf.features)
    weights = np.array([math.factorial(k) * math.factorial(d - 1 - k) / math.factorial(d) for k in range(d)])
    found = np.empty((2**d, d))
    for i, chance in enumerate(leaf.chance):
        others = (weights[:, None] * _sums([*leaf.chance[:i], *leaf.chance[i + 1 :]])).sum(axis=0)
        for passed in (0, 1):  # bit i of the pattern, put between those below and above it
            found[:, i].reshape(-1, 2, 2**i)[:, passed] = (leaf.value * (passed - chance) * others).reshape(-1, 2**i)
    return found


def _sums(chances: Sequence[float]) -> Floats:
    """Shape (features + 1, 2 ** features): for each pattern, the sum over coalitions of k features of what the leaf pays them."""
    sums = np.ones((1, 1))
    for chance in chances:
        failed = np.vstack((sums * chance, np.zeros_like(sums[:1])))
        sums = np.hstack((failed, failed + np.vstack((np.zeros_like(sums[:1]), sums))))
    return sums
