"""The page at /docs: all that the OpenAPI document says, for people, and nothing from anywhere else."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

from tests.serve import world
from tests.serve.documented import ODD, documented
from tests.serve.test_front import World, run
from tests.steps.test_contract import contract
from workflows.serve import contract as contracts
from workflows.serve import openapi, page

ADDRESS = re.compile(r"""(?:src|href|action|data|poster|srcset)\s*=\s*["']?([^"' >]*)|url\(([^)]*)|@import""")


def foreign(text: str) -> list[str]:
    """What a browser would fetch, or a reader be led to, that is not on this server."""
    found = [a or b for a, b in ADDRESS.findall(text)]
    return [x for x in found if not x.startswith(("#", "data:", "/")) or x.startswith("//")]


def test_nothing_on_it_comes_from_elsewhere() -> None:
    text = page.render(documented())
    assert foreign(text) == []
    assert "://" not in text
    assert "<script" not in text
    assert html.escape(ODD) in text
    for bad in ('<link href="https://x/y">', "<img src=//x/y>", "@import 'x'", "a { background: url(https://x) }", "<script src=x>"):
        assert foreign(bad)


def test_it_says_all_that_the_document_says() -> None:
    described = documented()
    shown = {(o.method, o.path): o for o in page.operations(described)}
    assert {(m.upper(), p) for p, item in described["paths"].items() for m in item} == set(shown)
    decide = shown["POST", "/v1/decisions"]
    assert decide.body
    assert decide.answer
    by = {f.name: f for f in decide.body.fields}
    assert (by["subject"].kind, by["subject"].needed) == ("text, 1 to 200 characters", True)
    assert (by["features.income"].kind, by["features.income"].words) == ("number, -10 to 10", f"{ODD} (USD a month)")
    assert (by["features.gap"].kind, by["features.gap"].needed) == ("number, -10 to 10 or null", False)
    assert by["features.code"].kind == "one of 0, 1, 2"
    assert by["groups.race"].kind == "one of black, white"
    assert "reasons[].words" in {f.name for f in decide.answer.fields}
    infer = shown["POST", "/v2/models/{name}/infer"]
    assert infer.body
    tensors = {f.name: f.kind for f in infer.body.fields}
    assert tensors["inputs"] == "list of object, 1 to 200 items"
    assert tensors["inputs[].shape"] == "list of whole number, 1 to 2 items"
    assert tensors["outputs[].name"] == "text"
    text = page.render(described)
    for o in shown.values():
        assert f'<section id="{o.id}"' in text
        assert all(json.loads(e) for e in (o.body.examples if o.body else ()))
        assert all(f'<th scope="row">{status}</th>' in text for status, _ in o.statuses)


def test_examples_are_decided_when_they_are_sent(tmp_path: Path, made: world.Made) -> None:
    """As they stand on the page; before the models are there, the page is there without them."""
    asked = re.compile(r"<code>(curl .*?)</code>", re.DOTALL)

    async def work(w: World) -> Any:
        w.state.service, service = None, w.state.service
        early = await w.ask("/docs", method="GET")
        w.state.service = service
        said = await w.ask("/docs", method="GET")
        commands = [shlex.split(html.unescape(c)) for c in asked.findall(said.body.decode())]
        sent = [(words[2].removeprefix("$SERVER"), words[-1]) for words in commands]
        return early, said, [(path, await w.ask(path, json.loads(body))) for path, body in sent]

    early, said, answers = run(tmp_path, made, work)
    assert (early.status, said.status, said.headers["content-type"]) == (200, 200, "text/html; charset=utf-8")
    assert not asked.search(early.body.decode())
    assert {path: a.status for path, a in answers} == {
        "/v1/decisions": 200,
        "/v2/models/loan_approval/infer": 200,
        "/v2/models/loan_approval/versions/7/infer": 200,
    }


def test_bounds_are_said_as_they_are() -> None:
    """All digits of an amount, and none of a float's last ones."""
    assert page.kind({"type": "number", "minimum": 0.1, "maximum": 1_234_567.0}, {}) == "number, 0.1 to 1234567"
    assert page.kind({"type": "integer", "maximum": 10_000_000}, {}) == "whole number, at most 10000000"


def test_a_command_is_one_for_a_shell_whatever_an_example_says() -> None:
    described = documented()
    examples = described["paths"]["/v1/decisions"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    examples["application"]["value"]["subject"] = "o'hara; $(rm x)"
    decide = next(o for o in page.operations(described) if o.id == "decide")
    assert json.loads(shlex.split(decide.asked[0])[-1])["subject"] == "o'hara; $(rm x)"


def test_a_rule_that_needs_a_group_has_it_in_the_example() -> None:
    needing = contracts.read(contract(rule={"kind": "per_group", "needs": ["race"]}, ratios=[]))
    assert needing.check(openapi.example(needing)).groups == {"race": "black"}
