"""Two samples of one column: do they come from the same distribution? Test statistics as scipy has them, from one sort a column."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
FEW = 10_000  # values up to which a plain sort is as fast
KEYS = 2**16 - 1
MANY = 100_000  # effective sample size from which the limit is as good as the exact distribution


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """A sample as its distinct values, ascending, and how many rows have each; rows without a value are counted apart."""

    values: Floats
    rows: Ints
    missing: int = 0

    @property
    def present(self) -> int:
        return int(self.rows.sum())

    def expanded(self) -> Floats:
        """The sample itself, sorted, without its missing values."""
        return np.repeat(self.values, self.rows)


def counted(values: Floats) -> Counted:
    """Count a column. NaN is a missing value; infinity is not allowed to be one. Minus zero is zero."""
    present = values[~np.isnan(values)]
    present += 0.0
    ordered = ascending(present)
    starts = np.flatnonzero(np.append(True, np.diff(ordered) != 0)) if len(ordered) else np.empty(0, np.int64)
    rows = np.diff(np.append(starts, len(ordered))).astype(np.int64)
    return Counted(values=ordered[starts], rows=rows, missing=len(values) - len(ordered))


def ascending(values: Floats) -> Floats:
    """The values sorted, as `np.sort` sorts them; in half the time where there are many and no few of them span most of the range.

    They are put in order roughly first, by a radix sort on 16 bits of where each lies between smallest and largest. What is
    left for the sort that follows is almost in order, which it makes use of. Where a few values lie far out, that first
    step helps little, and costs little.
    """
    if len(values) <= FEW:
        return np.sort(values)
    low, high = float(values.min()), float(values.max())
    with np.errstate(over="ignore", divide="ignore"):
        scale = float(np.float64(KEYS) / (np.float64(high) - low))
    if not 0 < scale < math.inf:  # all alike, or so far apart that the distance is no number
        return np.sort(values)
    rough: Floats = values[np.argsort(((values - low) * scale).astype(np.uint16), kind="stable")]
    rough.sort(kind="stable")
    return rough


def thinned(sample: Counted, points: int) -> Counted:
    """At most `points` distinct values, each standing for those since the one before it.

    The distribution function stays exact at the values kept, and is off by less than the largest share of rows that one
    of them stands for in between: 1 / points, where no single value is more common than that.
    """
    if len(sample.values) <= points:
        return sample
    cumulative = np.cumsum(sample.rows)
    wanted = np.arange(1, points + 1, dtype=np.float64) * cumulative[-1] / points
    kept = np.unique(np.searchsorted(cumulative, wanted - 0.5))
    return Counted(values=sample.values[kept], rows=np.diff(np.append(0, cumulative[kept])), missing=sample.missing)


def kolmogorov_smirnov(a: Counted, b: Counted) -> float:
    """The largest gap between both distribution functions, 0 to 1; as `scipy.stats.ks_2samp`.

    Between two values of `b` its function stands still and that of `a` only rises, so the largest gap is at one of them or
    just before it: one search in `a` is enough.
    """
    if len(a.values) < len(b.values):
        a, b = b, a
    ours, theirs = _cumulative(a), _cumulative(b)
    upto = np.searchsorted(a.values, b.values, side="right")
    met = a.values[np.maximum(upto - 1, 0)] == b.values
    return float(max(np.abs(ours[upto] - theirs[1:]).max(), np.abs(ours[upto - met] - theirs[:-1]).max()))


def _cumulative(sample: Counted) -> Floats:
    cumulative = np.append(0, np.cumsum(sample.rows))
    shares: Floats = cumulative / cumulative[-1]
    return shares


def kolmogorov_smirnov_p(statistic: Floats, a: Ints, b: Ints) -> Floats:
    """p-values of KS statistics from samples of sizes `a` and `b`: the asymptotic two-sided ones of `scipy.stats.ks_2samp`.

    From samples of `MANY` on, whose exact tail takes scipy a fifth of a second each, by Kolmogorov's limit with Vrbik's
    correction (2018): within 3e-7 of it.
    """
    from scipy.special import kolmogorov
    from scipy.stats import kstwo

    large, small = np.maximum(a, b).astype(float), np.minimum(a, b).astype(float)
    size = np.round(large * small / (large + small))
    root = np.sqrt(size)
    limit = kolmogorov(root * statistic + 1 / (6 * root) + (root * statistic - 1) / (4 * size))
    exact = kstwo.sf(statistic, np.where(size < MANY, size, 1.0))
    p_values: Floats = np.clip(np.where(size < MANY, exact, limit), 0.0, 1.0)
    return p_values


def categories(a: Counted, b: Counted) -> tuple[Ints, Ints]:
    """Rows of both samples in each category of either; missing is a category where any row has it."""
    either = np.union1d(a.values, b.values)
    columns = []
    for sample in (a, b):
        rows = np.zeros(len(either) + 1, dtype=np.int64)
        rows[np.searchsorted(either, sample.values)] = sample.rows
        rows[-1] = sample.missing
        columns.append(rows)
    used = (columns[0] + columns[1]) > 0
    return columns[0][used], columns[1][used]


def chi_squared(a: Ints, b: Ints) -> tuple[float, float]:
    """Statistic and p-value of the test of independence, with Yates' correction for two categories, as `chi2_contingency`.

    One category in both samples is no difference: 0 and 1.
    """
    from scipy.stats import chi2

    if len(a) == 1:
        return 0.0, 1.0
    observed = np.vstack((a, b)).astype(np.float64)
    expected = observed.sum(axis=1, keepdims=True) * observed.sum(axis=0, keepdims=True) / observed.sum()
    gap = np.abs(observed - expected)
    if len(a) == 2:  # noqa: PLR2004 - a table of two by two
        gap -= np.minimum(0.5, gap)
    statistic = float((gap**2 / expected).sum())
    return statistic, float(chi2.sf(statistic, len(a) - 1))


def population_stability(reference: Ints, current: Ints) -> float:
    """PSI: sum of (c - r) ln(c / r) over bins, with shares c and r (Siddiqi, Credit Risk Scorecards). 0 is no change.

    Half a row is added to every bin, so that an empty one counts as rare and not as impossible.
    """
    r = (reference + 0.5) / (reference + 0.5).sum()
    c = (current + 0.5) / (current + 0.5).sum()
    return float(np.sum((c - r) * np.log(c / r)))


def binned(reference: Counted, current: Counted, bins: int) -> tuple[Ints, Ints]:
    """Rows of both samples in bins of equal mass of the reference, and one for missing where any row has it."""
    cumulative = np.cumsum(reference.rows)
    wanted = np.arange(1, bins, dtype=np.float64) * cumulative[-1] / bins
    edges = np.unique(reference.values[np.searchsorted(cumulative, wanted)])
    columns = []
    for s in (reference, current):
        below = np.append(0, np.cumsum(s.rows))[np.searchsorted(s.values, edges, side="right")]
        columns.append(np.append(np.diff(below, prepend=0, append=s.present), s.missing))
    used = (columns[0] + columns[1]) > 0
    return columns[0][used], columns[1][used]


def corrected(p_values: Floats, correction: str) -> Floats:
    """p-values that can be compared with one threshold although there are many.

    `bonferroni` bounds the chance of any false alarm, `fdr` (Benjamini and Hochberg 1995) the expected share of false
    ones among the alarms.
    """
    count = len(p_values)
    if correction == "bonferroni":
        return np.minimum(p_values * count, 1.0)
    if correction != "fdr":
        raise ValueError(correction)
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * count / np.arange(1, count + 1)
    result = np.empty(count)
    result[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return result


def significant(value: float, digits: int = 6) -> float:
    """A p-value for a report: rounded to significant digits, as its size is what matters."""
    if value == 0 or not math.isfinite(value):
        return value
    return float(f"{value:.{digits - 1}e}")
