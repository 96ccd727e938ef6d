"""Plots as SVG: geometry here, colours in the page's style sheet, every text escaped. The same figures give the same bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 500
LINE = 28  # height of a line of a plot, with its label
LABEL = 128  # width kept for labels at the left, where they do not need more
LETTER = 7  # width of a letter, rather more than it is
VALUE = 108  # width kept for values at the right
NODE = (128, 40)  # size of a step in the graph
GAP = (22, 26)  # between columns and rows of steps
MARGIN = 72  # room at the sides for lines that swing out


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A value with its label, and the interval around it where there is one."""

    label: str
    value: float
    said: str
    low: float | None = None
    high: float | None = None
    muted: bool = False


def bars(items: Sequence[Bar], title: str, *, most: float, mark: float | None = None) -> Markup:
    """Horizontal bars from 0 to `most`, each with its interval as a whisker; `mark` draws a limit across all of them."""
    height = LINE * len(items) + 8
    label = max(LABEL, *(10 + LETTER * len(b.label) for b in items)) if items else LABEL
    span = WIDTH - label - VALUE

    def x(value: float) -> float:
        return round(label + span * min(max(value / most, 0.0), 1.0), 1)

    drawn = []
    for i, b in enumerate(items):
        y = 4 + i * LINE
        whisker = ""
        if b.low is not None and b.high is not None:
            whisker = Markup('<path class="whisker" d="M{0} {2}V{3}M{0} {4}H{1}M{1} {2}V{3}"/>').format(
                x(b.low), x(b.high), y + 9, y + 21, y + 15
            )
        drawn.append(
            Markup(
                '<text class="label" x="{}" y="{}" text-anchor="end">{}</text>'
                '<rect class="bar{}" x="{}" y="{}" width="{}" height="14" rx="2"/>{}<text class="value" x="{}" y="{}">{}</text>'
            ).format(
                label - 10, y + 20, b.label, " muted" if b.muted else "", label, y + 8, round(x(b.value) - label, 1), whisker,
                WIDTH - VALUE + 10, y + 20, b.said,
            )
        )  # fmt: skip
    limit = Markup('<path class="limit" d="M{0} 0V{1}"/>').format(x(mark), height) if mark is not None else ""
    return _svg(title, WIDTH, height, Markup("").join([*drawn, limit]))


def calibration(points: Sequence[Mapping[str, float]], title: str) -> Markup:
    """Predicted against observed shares with intervals; on the diagonal, a score means what it says."""
    size, edge, margin = 380, 44, 24
    start = min(0.9, *(float(p[k]) for p in points for k in ("predicted", "low"))) if points else 0.0
    start = max(0.0, int(start * 10) / 10)

    def at(value: float) -> float:
        return round((value - start) / (1 - start) * (size - edge - margin), 1)

    def x(value: float) -> float:
        return edge + at(value)

    def y(value: float) -> float:
        return size - edge - at(value)

    ticks = [round(start + (1 - start) * i / 4, 3) for i in range(5)]
    grid = [
        Markup(
            '<path class="grid" d="M{x0} {y}H{x1}M{x} {y0}V{y1}"/><text class="tick" x="{tx}" y="{ty}" text-anchor="end">{t}</text>'
            '<text class="tick" x="{x}" y="{bottom}" text-anchor="middle">{t}</text>'
        ).format(
            x0=x(start), x1=x(1), y0=y(start), y1=y(1), x=x(t), y=y(t), tx=edge - 6, ty=y(t) + 4, bottom=size - edge + 16, t=f"{t * 100:g}%"
        )
        for t in ticks
    ]
    drawn = [
        Markup('<path class="whisker" d="M{0} {1}V{2}"/><circle class="dot" cx="{0}" cy="{3}" r="4"/>').format(
            x(p["predicted"]), y(max(p["low"], start)), y(p["high"]), y(max(p["observed"], start))
        )
        for p in points
    ]
    axes = Markup(
        '<path class="diagonal" d="M{} {}L{} {}"/><text class="tick" x="{}" y="{}" text-anchor="middle">predicted</text>'
        '<text class="tick" transform="translate(11 {}) rotate(-90)" text-anchor="middle">observed</text>'
    ).format(x(start), y(start), x(1), y(1), (size + edge) // 2, size - 8, (size - edge) // 2)
    return _svg(title, size, size, Markup("").join([*grid, axes, *drawn]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A step or a source in the graph, and the names of those it builds on."""

    name: str
    note: str
    needs: tuple[str, ...]
    source: bool = False


def graph(nodes: Sequence[Node], title: str) -> Markup:
    """Steps in rows, each below all it builds on. `nodes` stand after those they need."""
    row: dict[str, int] = {}
    for n in nodes:
        row[n.name] = 1 + max((row[u] for u in n.needs), default=-1)
    # A source stands just above its first reader, so that its line is short.
    for n in nodes:
        if n.source:
            row[n.name] = min(row[m.name] for m in nodes if n.name in m.needs) - 1
    widest = max(Counter(row.values()).values())
    place: dict[str, tuple[int, int]] = {}
    for r in sorted(set(row.values())):
        here = [n for n in nodes if row[n.name] == r]
        left = (widest - len(here)) * (NODE[0] + GAP[0]) // 2  # rows are centred
        for i, n in enumerate(here):
            place[n.name] = (MARGIN + left + i * (NODE[0] + GAP[0]), MARGIN + r * (NODE[1] + GAP[1]))
    edges = [_edge(place[u], place[n.name], row[n.name] - row[u]) for n in nodes for u in n.needs]
    boxes = [
        Markup(
            '<g><rect class="node{}" x="{}" y="{}" width="{}" height="{}" rx="6"/><text class="name" x="{}" y="{}">{}</text>'
            '<text class="tick" x="{}" y="{}">{}</text></g>'
        ).format(" source" if n.source else "", x, y, *NODE, x + 10, y + 17, n.name, x + 10, y + 32, n.note)
        for n in nodes
        for x, y in [place[n.name]]
    ]
    width = 2 * MARGIN + widest * (NODE[0] + GAP[0]) - GAP[0]
    height = 2 * MARGIN + (max(row.values()) + 1) * (NODE[1] + GAP[1]) - GAP[1]
    return _svg(title, width, height, Markup("").join([*edges, *boxes]))


def _edge(a: tuple[int, int], b: tuple[int, int], rows: int) -> Markup:
    """A line from one step down to another; one that passes other rows swings out, so as not to run behind their steps."""
    x1, y1, x2, y2 = a[0] + NODE[0] // 2, a[1] + NODE[1], b[0] + NODE[0] // 2, b[1]
    swing = 0 if rows == 1 else (1 if x2 >= x1 else -1) * min(40 + 30 * rows, MARGIN + NODE[0])
    bend = max(GAP[1] // 2, (y2 - y1) // 4)
    return Markup('<path class="edge" d="M{} {}C{} {} {} {} {} {}"/>').format(x1, y1, x1 + swing, y1 + bend, x2 + swing, y2 - bend, x2, y2)


def _svg(title: str, width: int, height: int, inside: Markup) -> Markup:
    return Markup('<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">{3}</svg>').format(
        width, height, title, inside
    )
