"""Intervals of a feature between which no tree of a model can tell values apart."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from workflows.serve.trees import Flags, Forest, Tree

CATEGORICAL, LEFT_IF_MISSING = 1, 2
NO_MISSING, ZERO_MISSING, NAN_MISSING = 0, 1, 2
NEARLY_ZERO = float(np.float32(1e-35))
"""What LightGBM takes for zero where zero means missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bins:
    """One feature's bins.

    Of a number, bin `i` holds what is at most `thresholds[i]` and above the one before; then come what is above all, NaN,
    and zero where some tree takes it for missing. Of a category, each code up to the largest is a bin, then all else.
    """

    thresholds: tuple[float, ...] = ()
    zero_apart: bool = False
    codes: int | None = None
    """Of a category: one more than the largest code that a tree knows."""

    @property
    def count(self) -> int:
        return self.codes + 1 if self.codes is not None else len(self.thresholds) + 2 + self.zero_apart

    def of(self, value: float) -> int:
        """The bin of a value."""
        if self.codes is not None:
            # LightGBM cuts off the fraction; what is between -1 and 0 becomes 0 by that.
            return int(value) if -1 < value < self.codes else self.codes
        if value != value:  # noqa: PLR0124 - NaN, without a call
            return len(self.thresholds) + 1
        if self.zero_apart and -NEARLY_ZERO <= value <= NEARLY_ZERO:
            return len(self.thresholds) + 2
        return bisect_left(self.thresholds, value)

    def left(self, tree: Tree, node: int) -> Flags:
        """Which bins a node sends left."""
        kind, threshold = int(tree.kind[node]), float(tree.threshold[node])
        if self.codes is not None:
            return np.isin(np.arange(self.count), [*tree.categories[int(threshold)]])
        missing, by_default = kind >> 2 & 3, bool(kind & LEFT_IF_MISSING)
        found = np.arange(self.count) <= bisect_left(self.thresholds, threshold)
        as_zero = by_default if missing == ZERO_MISSING else threshold >= 0.0
        found[len(self.thresholds) + 1] = by_default if missing == NAN_MISSING else as_zero
        if self.zero_apart:
            found[len(self.thresholds) + 2] = as_zero
        return found


def bins_of(forest: Forest) -> tuple[Bins, ...]:
    """The bins of each feature, in order."""
    thresholds: list[set[float]] = [set() for _ in forest.names]
    zero, codes = [False] * len(forest.names), [-1] * len(forest.names)
    for tree in forest.trees:
        for f, t, kind in zip(tree.feature.tolist(), tree.threshold.tolist(), tree.kind.tolist(), strict=True):
            if kind & CATEGORICAL:
                codes[f] = max(codes[f], *tree.categories[int(t)])
            else:
                thresholds[f].add(t)
                zero[f] |= kind >> 2 & 3 == ZERO_MISSING
    return tuple(
        Bins(codes=c + 1) if c >= 0 else Bins(thresholds=tuple(sorted(t)), zero_apart=z)
        for t, z, c in zip(thresholds, zero, codes, strict=True)
    )
