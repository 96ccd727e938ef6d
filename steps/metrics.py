"""Measures of scores and decisions, and intervals around them. Numpy only; every function can be checked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Measure = Callable[[Ints, Floats], float]
DIGITS = 6
Z95 = 1.959963984540054


def figure(value: float) -> float:
    """A number for a report: finite, six decimals, so that the last bits of a processor's arithmetic do not reach a digest."""
    if not math.isfinite(value):
        raise FloatingPointError(f"a measure is {value}")
    return round(float(value), DIGITS) + 0.0


def log_loss(label: Ints, score: Floats) -> float:
    """Mean negative log-likelihood; scores are clipped to [1e-15, 1 - 1e-15]. Two rows scored 0.5 give ln 2."""
    sure = np.clip(score, 1e-15, 1 - 1e-15)
    return float(-np.mean(np.where(label == 1, np.log(sure), np.log(1 - sure))))


def curve(label: Ints, score: Floats) -> tuple[Floats, Floats]:
    """True and false positives at each distinct score from the top, as shares in [0, 1], without the point (0, 0).

    Rows of equal score count together. Needs rows of both labels.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits = np.cumsum(label[order] == 1)[ends].astype(np.float64)
    misses = ends + 1 - hits
    return hits / hits[-1], misses / misses[-1]


def auc(label: Ints, score: Floats) -> float:
    """Chance that an approved row scores above a declined one, ties counting half. 0.5 says nothing, 1 is perfect."""
    hits, misses = curve(label, score)
    return float(np.sum(np.diff(np.append(0.0, misses)) * (hits + np.append(0.0, hits[:-1])) / 2))


def ks(label: Ints, score: Floats) -> float:
    """Kolmogorov-Smirnov: the largest gap between the scores' distributions of both labels, 0 to 1."""
    hits, misses = curve(label, score)
    return float(np.max(np.abs(hits - misses)))


def average_precision(label: Ints, score: Floats) -> float:
    """Mean precision over recall, without interpolation, as scikit-learn defines it. For *declines*, the rare label.

    Scores rank approval, so the ranking is turned round: precision among the lowest scores.
    """
    hits, misses = curve(1 - label, -score)
    positives, negatives = np.sum(label == 0), np.sum(label == 1)
    precision = hits * positives / (hits * positives + misses * negatives)
    return float(np.sum(np.diff(np.append(0.0, hits)) * precision))


def brier(label: Ints, score: Floats) -> float:
    """Mean squared distance of score and label; 0 is perfect."""
    return float(np.mean((score - label) ** 2))


def equal_mass_bins(score: Floats, bins: int) -> list[Ints]:
    """Row numbers in `bins` parts of equal size, lowest scores first; equal scores keep the table's order."""
    return [part.astype(np.int64) for part in np.array_split(np.argsort(score, kind="stable"), min(bins, len(score)))]


def calibration_error(label: Ints, score: Floats, bins: int) -> float:
    """Expected calibration error over bins of equal mass: mean of |mean score - share approved|, weighted by rows."""
    parts = equal_mass_bins(score, bins)
    return float(sum(len(p) * abs(score[p].mean() - label[p].mean()) for p in parts) / len(score))


def wilson(hits: int, rows: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): 8 of 10 gives 0.490 to 0.943. Stays within [0, 1] where a share is 0 or 1."""
    if rows == 0:
        return 0.0, 1.0
    share, z2 = hits / rows, Z95**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def resamples(label: Ints, *, count: int, seed: int) -> list[Ints]:
    """Row numbers of bootstrap samples, drawn within each label, so that every sample holds both."""
    rng = np.random.default_rng(seed)
    parts = [np.flatnonzero(label == value) for value in (0, 1)]
    return [np.concatenate([rng.choice(p, size=len(p)) for p in parts]).astype(np.int64) for _ in range(count)]


def interval(values: list[float]) -> tuple[float, float]:
    """The middle 95 % of bootstrap values (percentile method)."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
