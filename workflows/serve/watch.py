"""What operators see: requests, decisions, and whether today's applications still look like those that were learned from."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from steps import stability
from steps.drift import read_sketch
from steps.stability import Counted, counted

WINDOW = 10_000
"""Decisions that live data is: the last so many."""
FEWEST = 100
"""Below so many, a population stability index says nothing, and none is told."""
BINS = 10
CATEGORICAL_UP_TO = 8
LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SCORES = tuple(i / 20 for i in range(1, 21))


class Window:
    """The last rows that a variant decided on, and their stability against the rows it learned from."""

    def __init__(self, names: Sequence[str], reference: bytes) -> None:
        import pyarrow.parquet as pq

        known = read_sketch(pq.read_table(io.BytesIO(reference)))
        self._names = tuple(names)
        self._then: dict[str, Counted] = {
            n: known["feature", n][0] for n in names if ("feature", n) in known and known["feature", n][1] is None
        }
        self._rows = np.full((WINDOW, len(names)), np.nan)
        self._next = self.seen = 0

    def add(self, row: Sequence[float]) -> None:
        """One more row; the oldest goes."""
        self._rows[self._next] = row
        self._next = (self._next + 1) % WINDOW
        self.seen += 1

    def stability(self) -> Iterator[tuple[str, float]]:
        """Feature -> population stability index of the window against the reference; nothing while there are too few rows."""
        if self.seen < FEWEST:
            return
        rows = self._rows[: min(self.seen, WINDOW)]
        for i, name in enumerate(self._names):
            if name in self._then:
                then, now = self._then[name], counted(rows[:, i].copy())
                few = len(then.values) <= CATEGORICAL_UP_TO
                yield name, stability.population_stability(*(stability.categories(then, now) if few else stability.binned(then, now, BINS)))


class Metrics:
    """Everything that is measured. Label values come from the release and the contract, never from a caller."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        r = self.registry
        self.requests = Counter("countersign_requests", "Requests answered, by route and status", ["route", "status"], registry=r)
        self.seconds = Histogram(
            "countersign_request_seconds", "From the last byte of a request to its answer", ["route"], buckets=LATENCIES, registry=r
        )
        self.problems = Counter(
            "countersign_refused_applications", "Applications that could not be decided, by first problem", ["what"], registry=r
        )
        # Whoever sums over variants, as a canary's analysis does, must be able to leave out those that answer nobody.
        self.decisions = Counter(
            "countersign_decisions", "Decisions, by variant and outcome", ["variant", "shadow", "decision"], registry=r
        )
        self.scores = Histogram("countersign_score", "Scores, by variant", ["variant", "shadow"], buckets=SCORES, registry=r)
        self.disagreements = Counter(
            "countersign_shadow_disagreements", "Decisions that a shadow would have made otherwise", ["variant"], registry=r
        )
        self.groups = Counter(
            "countersign_group_decisions", "Decisions by stated group", ["variant", "shadow", "attribute", "group", "decision"], registry=r
        )
        self.in_flight = Gauge("countersign_in_flight", "Requests at work", registry=r)
        self.log_waiting = Gauge("countersign_log_waiting_records", "Decisions that are not on the disk yet", registry=r)
        self.log_unsigned = Gauge("countersign_log_unsigned_records", "Decisions on the disk that no batch covers yet", registry=r)
        self.log_unsent = Gauge("countersign_log_unsent_batches", "Signed batches that are not in the store yet", registry=r)
        self.log_sent_at = Gauge("countersign_log_sent_timestamp_seconds", "When the store last had everything that was signed", registry=r)
        self.log_failures = Gauge("countersign_log_failures", "Times that the log could not be written", registry=r)
        self.log_records = Gauge("countersign_log_records", "Length of the log's chain", ["chain"], registry=r)
        self.ready = Gauge("countersign_ready", "1 while decisions are taken", registry=r)
        self.release = Gauge(
            "countersign_release", "1 for the release that is served", ["environment", "sequence", "variant", "model"], registry=r
        )

    def watch(self, windows: Mapping[str, Window]) -> None:
        """Add live data, worked out when it is asked for."""
        self.registry.register(_Stability(windows))


class _Stability:
    def __init__(self, windows: Mapping[str, Window]) -> None:
        self._windows = windows

    def describe(self) -> Iterable[Metric]:
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        family = self._family()
        for variant, window in self._windows.items():
            for feature, value in window.stability():
                family.add_metric([variant, feature], value)
        return [family]

    def _family(self) -> GaugeMetricFamily:
        what = f"Population stability index of the last {WINDOW} decisions against the rows that the model learned from"
        return GaugeMetricFamily("countersign_psi", what, labels=["variant", "feature"])
