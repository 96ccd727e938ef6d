"""Has the data moved since the model was trained? The training distribution as a sketch, and later rows against it.

A sketch holds, for each feature, its distinct values and their counts. So it needs no row of the training table, and a
year of scored applications can be compared with it without touching that table again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from steps import stability
from steps.metrics import auc, figure
from steps.stability import Counted, Floats, Ints, counted, significant
from steps.types import BadData, Params, Report

FEWEST = 2  # values in a sample: of one against one, the p-value is not defined
NOT_FEATURES = ("subject", "fold", "label")
SCORES = {"declined": 0, "approved": 1}
"""Which part of the sketch holds the scores of which label."""


Known = Mapping[tuple[str, str], tuple[Counted, list[str] | None]]
"""A sketch by part and name: the sample, and the words that its values stand for."""


class SketchParams(Params):
    """How exact the sketch is."""

    points: int = Field(
        ge=100,
        le=10_000_000,
        description="Most distinct values kept of a feature; with more, the KS statistic is off by at most 1 / points",
    )


class DriftParams(Params):
    """How drift is found."""

    detector: Literal["alibi-detect", "scipy"] = Field(description="Whose tests; the statistics are the same, scipy's way is faster")
    categorical_up_to: int = Field(
        ge=0, le=1000, description="A feature with at most this many values in the reference is compared by category"
    )
    bins: int = Field(ge=2, le=100, description="Bins of equal mass for the population stability index")
    correction: Literal["bonferroni", "fdr"] = Field(description="How p-values allow for the number of features")
    threshold: float = Field(gt=0, lt=1, description="Corrected p-value below which a feature has drifted")


class Sketched(NamedTuple):
    """What `sketch` returns."""

    reference: pa.Table


class Drift(NamedTuple):
    """What `drift` returns."""

    drift: Report


class Tested(NamedTuple):
    """One feature's comparison."""

    test: str
    statistic: float
    p_value: float
    psi: float


def sketch(*, train_rows: pa.Table, oof: pa.Table, params: SketchParams) -> Sketched:
    """Columns part ("feature", or the label's name for scores), name, category, value, rows. Category and value null: missing.

    Scores are those out of fold: a model's scores on rows that it learned from would make any later ones look worse.
    """
    features = [c for c in train_rows.column_names if c not in NOT_FEATURES]
    if train_rows.num_rows == 0 or not features:
        raise BadData("nothing to sketch", where="train_rows", expected="rows and features", got=f"{train_rows.num_rows} rows")
    parts = [_sketched("feature", name, _counts(train_rows[name], f"train_rows.{name}"), params.points) for name in features]
    for part, label in SCORES.items():
        scores = oof.filter(pc.equal(oof["label"], label))["score"]
        parts.append(_sketched(part, "score", (counted(_numbers(scores, "oof.score")), None), params.points))
    return Sketched(reference=pa.concat_tables(parts).unify_dictionaries().combine_chunks())


def drift(*, reference: pa.Table, holdout_rows: pa.Table, predictions: pa.Table, params: DriftParams) -> Drift:
    """Each feature's test, p-value (corrected for their number) and PSI; the scores' PSI; the AUC then and now.

    BadData where features differ from the sketch's, a feature has no value at all, or there are no rows.
    """
    known = read_sketch(reference)
    features = [name for part, name in known if part == "feature"]
    _same_features(features, holdout_rows)
    test = _alibi if params.detector == "alibi-detect" else _scipy

    def compare(name: str) -> Tested:
        then, words = known["feature", name]
        now = _against(words, holdout_rows[name], f"holdout_rows.{name}")
        by_category = words is not None or len(then.values) <= params.categorical_up_to
        if not by_category and min(then.present, now.present) < FEWEST:
            raise BadData("too few rows have a value", where=f"holdout_rows.{name}", expected=f"at least {FEWEST}", got=str(now.present))
        bins = stability.categories(then, now) if by_category else stability.binned(then, now, params.bins)
        return Tested("chi2" if by_category else "ks", *test(then, now, by_category), stability.population_stability(*bins))

    # A sort of numpy's leaves the interpreter's lock, so columns share all cores; their order decides the report.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        tested = list(pool.map(compare, features))
    p_values = stability.corrected(np.array([t.p_value for t in tested]), params.correction)
    drifted = {name: bool(p < params.threshold) for name, p in zip(features, p_values, strict=True)}
    return Drift(
        drift={
            "rows": {"reference": _rows(known["feature", features[0]][0]), "current": holdout_rows.num_rows},
            "detector": params.detector,
            "correction": params.correction,
            "threshold": params.threshold,
            "features": {
                name: {
                    "test": t.test,
                    "statistic": figure(t.statistic),
                    "p_value": significant(float(p)),
                    "psi": figure(t.psi),
                    "drifted": drifted[name],
                }
                for name, t, p in zip(features, tested, p_values, strict=True)
            },
            "drifted": sum(drifted.values()),
            "drifted_ratio": figure(sum(drifted.values()) / len(features)),
            "max_psi": figure(max(t.psi for t in tested)),
            "score": _score_drift(known, predictions, params),
            "performance": _performance(known, predictions),
        }
    )


def _rows(sample: Counted) -> int:
    return sample.present + sample.missing


def _counts(column: pa.ChunkedArray, where: str) -> tuple[Counted, list[str] | None]:
    """A column's values; those of words are positions in the list that comes with them."""
    if not pa.types.is_dictionary(column.type) and not pa.types.is_string(column.type):
        return counted(_numbers(column, where)), None
    texts = column.cast(pa.string())
    words = sorted(w for w in texts.unique().to_pylist() if w is not None)
    return counted(_positions(texts, words)), words


def _positions(texts: pa.ChunkedArray, words: list[str]) -> Floats:
    found = pc.index_in(texts, value_set=pa.array(words, pa.string()))
    return np.asarray(found.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _numbers(column: pa.ChunkedArray, where: str) -> Floats:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise BadData("feature is neither a number nor a category", where=where, got=str(column.type))
    values = np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    if np.isinf(values).any():
        raise BadData("feature is infinite", where=where, expected="finite or missing", got=f"{int(np.isinf(values).sum())} rows")
    return values


def _sketched(part: str, name: str, counts: tuple[Counted, list[str] | None], points: int) -> pa.Table:
    sample, words = counts
    if words is None:
        sample = stability.thinned(sample, points)
    size, gap = len(sample.values), 1 if sample.missing else 0
    rows = np.append(sample.rows, [sample.missing] * gap)
    if words is None:
        numbers, texts = pa.array(np.append(sample.values, [np.nan] * gap), from_pandas=True), pa.nulls(size + gap, pa.string())
    else:
        numbers, texts = pa.nulls(size + gap, pa.float64()), pa.array([*(words[int(v)] for v in sample.values), *[None] * gap], pa.string())
    same = pa.array(np.zeros(size + gap, dtype=np.int32))
    return pa.table(
        {
            "part": pa.DictionaryArray.from_arrays(same, [part]),
            "name": pa.DictionaryArray.from_arrays(same, [name]),
            "category": texts.dictionary_encode(),
            "value": numbers,
            "rows": pa.array(rows, pa.int64()),
        }
    )


def read_sketch(reference: pa.Table) -> Known:
    """The sketch, by part and name, in its own order."""
    columns = ("part", "name", "category", "value", "rows")
    if missing := [c for c in columns if c not in reference.column_names]:
        raise BadData("not a sketch", where="reference", expected=", ".join(columns), got=f"no {', '.join(missing)}")
    reference = reference.combine_chunks()
    parts, names = (_codes(reference[c]) for c in ("part", "name"))
    changes = (np.diff(parts[0]) != 0) | (np.diff(names[0]) != 0)
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), reference.num_rows]
    pieces = pairwise(bounds) if reference.num_rows else ()
    return {(parts[1][parts[0][begin]], names[1][names[0][begin]]): _sample(reference.slice(begin, end - begin)) for begin, end in pieces}


def _codes(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """A column of few words as numbers into the list of them."""
    words = (
        column.cast(pa.string()).dictionary_encode().combine_chunks()
        if not pa.types.is_dictionary(column.type)
        else column.combine_chunks()
    )
    return np.asarray(words.indices.to_numpy(), dtype=np.int64), words.dictionary.to_pylist()


def _sample(piece: pa.Table) -> tuple[Counted, list[str] | None]:
    words = piece["category"].drop_null().cast(pa.string()).to_pylist()
    rows = np.asarray(piece["rows"].to_numpy(), dtype=np.int64)
    values = np.arange(len(words), dtype=np.float64) if words else np.asarray(piece["value"].drop_null().to_numpy(), dtype=np.float64)
    missing = int(rows[len(values) :].sum())
    return Counted(values=values, rows=rows[: len(values)], missing=missing), words or None


def _same_features(features: list[str], rows: pa.Table) -> None:
    here = [c for c in rows.column_names if c not in NOT_FEATURES]
    if not features or set(here) != set(features):
        missing, extra = sorted(set(features) - set(here)), sorted(set(here) - set(features))
        raise BadData("features differ from the sketch's", where="holdout_rows", expected=f"also {missing}", got=f"instead {extra}")
    if rows.num_rows == 0:
        raise BadData("no rows to compare", where="holdout_rows", expected="at least one row")


def _against(words: list[str] | None, column: pa.ChunkedArray, where: str) -> Counted:
    """A column of today, its words at the same positions as in the sketch, new words behind them."""
    if words is None:
        return counted(_numbers(column, where))
    texts = column.cast(pa.string())
    new = sorted({w for w in texts.unique().to_pylist() if w is not None} - set(words))
    return counted(_positions(texts, [*words, *new]))


Test = Callable[[Counted, Counted, bool], tuple[float, float]]


def _scipy(then: Counted, now: Counted, by_category: bool) -> tuple[float, float]:  # noqa: FBT001 - the shape of every test
    if by_category:
        return stability.chi_squared(*stability.categories(then, now))
    statistic = stability.kolmogorov_smirnov(then, now)
    return statistic, float(stability.kolmogorov_smirnov_p(np.array([statistic]), np.array([then.present]), np.array([now.present]))[0])


def _alibi(then: Counted, now: Counted, by_category: bool) -> tuple[float, float]:  # noqa: FBT001 - the shape of every test
    """TabularDrift on one feature: features lack values in different rows, and the correction is made over all of them by us."""
    if by_category:
        a, b = stability.categories(then, now)
        if len(a) == 1:
            return 0.0, 1.0  # its test knows no table of one category
        samples = [np.repeat(np.arange(len(rows), dtype=np.float64), rows) for rows in (a, b)]
    else:
        samples = [then.expanded(), now.expanded()]
    # It imports transformers, which tells everybody on stderr that it found no PyTorch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from alibi_detect.cd import TabularDrift

    kinds: dict[int, None] | None = {0: None} if by_category else {}
    detector = TabularDrift(samples[0][:, None], categories_per_feature=kinds)
    found = detector.predict(samples[1][:, None], drift_type="feature")["data"]
    return float(found["distance"][0]), float(found["p_val"][0])


def _score_drift(known: Known, predictions: pa.Table, params: DriftParams) -> Report:
    """PSI of the scores: what credit risk calls population stability."""
    then = counted(np.concatenate([known[part, "score"][0].expanded() for part in SCORES]))
    now = counted(_numbers(predictions["score"], "predictions.score"))
    return {"psi": figure(stability.population_stability(*stability.binned(then, now, params.bins)))}


def _performance(known: Known, predictions: pa.Table) -> Report:
    """AUC out of fold and now, where the outcome of every row is known and both outcomes occur."""
    labels = predictions["label"] if "label" in predictions.column_names else pa.chunked_array([pa.nulls(predictions.num_rows, pa.int8())])
    if labels.null_count or len(labels.unique()) < len(SCORES):
        return {"status": "no labels", "auc_reference": None, "auc_current": None, "auc_drop": None}
    then = _auc_of({label: known[part, "score"][0].expanded() for part, label in SCORES.items()})
    now = auc(np.asarray(labels.to_numpy(), dtype=np.int64), _numbers(predictions["score"], "predictions.score"))
    return {"status": "measured", "auc_reference": figure(then), "auc_current": figure(now), "auc_drop": figure(then - now)}


def _auc_of(scores: Mapping[int, Floats]) -> float:
    labels: Ints = np.concatenate([np.full(len(s), label, dtype=np.int64) for label, s in scores.items()])
    return auc(labels, np.concatenate(list(scores.values())))
