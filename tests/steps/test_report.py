"""What the evidence page says, and that it says only that."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from steps import charts
from steps.report import number, percent, plain, points, report, words
from tests.steps.page import HOSTILE, LINEAGE, NO_REASONS, inputs, page

PAGE = page()


class Outline(HTMLParser):
    """Tags and texts of a page; balance of what must be closed."""

    VOID = frozenset({"meta", "link", "br", "img", "path", "rect", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_tag_is_closed_in_order() -> None:
    assert Outline(PAGE).open == []


def test_the_same_reports_give_the_same_bytes() -> None:
    assert page() == PAGE


def test_hostile_text_stays_text() -> None:
    outline = Outline(PAGE)
    assert [t for t, _ in outline.tags].count("script") == 1
    assert not [a for _, a in outline.tags for k in a if k.startswith("on")]
    assert "img" not in [t for t, _ in outline.tags]
    assert HOSTILE in outline.text
    assert "49" not in re.findall(r"Loans (.*): evidence", outline.text)[0]


def test_nothing_is_fetched_from_anywhere() -> None:
    for tag, attrs in Outline(PAGE).tags:
        for name in ("src", "href", "action", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert "default-src 'none'" in PAGE
    assert "@import" not in PAGE
    assert "url(" not in PAGE


def test_the_decision_stands_first() -> None:
    assert "Passed: every gate said yes." in PAGE
    refused = page(refused=True)
    assert "Refused: performance said no." in refused
    assert "no value" in refused
    assert "Passed" not in refused


def test_what_mitigation_cost_is_said_and_none_is_said_too() -> None:
    assert "Mitigation: <b>reductions</b>" in PAGE
    assert "the figures are those of the plain model" in page(mitigation="none")


def test_small_groups_are_inconclusive_and_not_left_out() -> None:
    text = page(small_group=10_000)
    assert text.count("inconclusive") > 8
    assert "white" in text


def test_every_artifact_and_digest_is_there() -> None:
    for step in LINEAGE["steps"]:
        for item in (*step["inputs"], *step["outputs"]):  # type: ignore[index]
            assert item["sha256"] in PAGE
    assert PAGE.count("2 at a time") == 1


def test_drift_is_drawn_with_the_limit_that_a_gate_sets() -> None:
    assert 'aria-label="Population stability index of the features that moved most"' in PAGE
    assert "The dashed line is the gate's limit" not in PAGE
    given = inputs()
    rule = {"metric": "max_psi", "where": "drift", "at_most": 0.25, "value": 0.1, "says": "yes", "because": "so"}
    given["verdicts"]["gates"].append({"gate": "stable", "says": "yes", "rules": [rule]})
    text = report(**given).evidence
    assert "The dashed line is the gate's limit, 0.250." in text
    assert text.count('class="limit"') == PAGE.count('class="limit"') + 1


def test_features_are_named_in_words_for_who_does_not_know_the_data() -> None:
    for name in ("income", "debt", "gap", "code"):
        assert re.search(rf'<th scope="row">{name}</th><td>reason {name} ', PAGE)


def test_a_page_without_declined_applications() -> None:
    given = inputs()
    assert "No application in the hold-out was declined." in report(**{**given, "reasons": NO_REASONS}).evidence


def test_ids_are_unique_and_links_lead_somewhere() -> None:
    tags = Outline(PAGE).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "")[1:] for t, a in tags if t == "a"} <= set(ids)
    assert all(a.get("scope") in {"col", "row"} for t, a in tags if t == "th")
    assert all(a.get("aria-label") for t, a in tags if t == "svg")


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("k", "k"),
        ("out_of_fold.auc.value", "AUC (out of fold)"),
        ("out_of_fold.attributes.race.selection_rate_ratio.value", "selection rate ratio, race (out of fold)"),
        ("holdout.auc.high", "upper end of the interval of AUC (hold-out)"),
        ("performance.auc_drop", "AUC drop, performance"),
    ],
)
def test_metrics_in_words(metric: str, said: str) -> None:
    assert words(metric) == said


def test_figures_in_words() -> None:
    assert (percent(0.8774), percent(None)) == ("87.7 %", "\N{EN DASH}")
    assert (points(-0.0443), points(0.01)) == ("\N{MINUS SIGN}4.4 points", "+1.0 points")
    assert (number(1959.0), number(0.70608), number(-0.05), number(1.0)) == ("1,959", "0.706", "\N{MINUS SIGN}0.050", "1.000")
    assert plain("black+not_known") == "black, not known"


def test_bars_are_as_long_as_their_values() -> None:
    bars = str(charts.bars([charts.Bar(label="a", value=1.0, said="1"), charts.Bar(label="b", value=0.25, said="")], "x", most=1.0))
    widths = [float(w) for w in re.findall(r'<rect class="bar" [^>]*width="([0-9.]+)"', bars)]
    assert widths[1] == pytest.approx(widths[0] / 4)


def test_a_graph_puts_everything_below_what_it_builds_on() -> None:
    nodes = [
        charts.Node(name="s", note="", needs=(), source=True),
        charts.Node(name="a", note="", needs=("s",)),
        charts.Node(name="b", note="", needs=("a",)),
        charts.Node(name="c", note="", needs=("a", "b")),
    ]
    drawn = str(charts.graph(nodes, "x"))
    at = dict(zip("sabc", map(int, re.findall(r'<rect class="node[^"]*" x="\d+" y="(\d+)"', drawn)), strict=True))
    assert at["s"] < at["a"] < at["b"] < at["c"]
    assert drawn.count('class="edge"') == 4
