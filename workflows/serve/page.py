"""The OpenAPI description as a page to read: plain HTML that needs no script, no other file and no other server. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import steps

TEMPLATES = (Path(__file__).parent / "templates", Path(steps.__file__).parent / "templates")
"""The page's own, and the evidence page's, whose style it has."""
METHODS = ("get", "post")
DEEPEST = 6
"""Levels of fields that are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One line of a table of fields."""

    name: str
    kind: str
    needed: bool
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """What is sent, or answered: its fields, and examples as JSON."""

    fields: tuple[Field, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One thing that can be asked."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    parameters: tuple[Field, ...]
    asked: tuple[str, ...]
    """Commands that send the examples, for a shell in which `SERVER` is set."""
    body: Body | None
    answer: Body | None
    statuses: tuple[tuple[str, str], ...]


def render(described: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("docs.html.j2").render(info=described["info"], operations=list(operations(described)))


def operations(described: Mapping[str, Any]) -> Iterator[Operation]:
    """Every operation of the document, in its order."""
    for path, item in described["paths"].items():
        for method in (m for m in METHODS if m in item):
            said = item[method]
            body = _body(said.get("requestBody", {}), described)
            yield Operation(
                id=said["operationId"],
                method=method.upper(),
                path=path,
                summary=said["summary"],
                description=said.get("description", ""),
                parameters=tuple(_parameter(p, described) for p in said.get("parameters", ())),
                asked=tuple(_command(path, said, example) for example in (body.examples if body else ())),
                body=body,
                answer=_body(said["responses"].get("200", {}), described),
                statuses=tuple((status, r["description"]) for status, r in sorted(said["responses"].items())),
            )


def _command(path: str, said: Mapping[str, Any], example: str) -> str:
    named = path.format(**{p["name"]: p["example"] for p in said.get("parameters", ())})
    return f"curl -s \"$SERVER\"{shlex.quote(named)} -H 'content-type: application/json' -d {shlex.quote(example)}"


def _parameter(said: Mapping[str, Any], described: Mapping[str, Any]) -> Field:
    schema = _resolved(said["schema"], described)
    return Field(name=said["name"], kind=kind(schema, described), needed=said["required"], words=said.get("description", ""))


def _body(said: Mapping[str, Any], described: Mapping[str, Any]) -> Body | None:
    content = said.get("content", {}).get("application/json")
    if content is None:
        return None
    examples = tuple(json.dumps(e["value"], indent=1, ensure_ascii=False) for e in content.get("examples", {}).values())
    return Body(fields=tuple(fields(content["schema"], described)), examples=examples)


def fields(schema: Mapping[str, Any], described: Mapping[str, Any], within: str = "", depth: int = DEEPEST) -> Iterator[Field]:
    """The fields of an object, each followed by those within it; of a list, those of its items."""
    schema = _plain(schema, described)
    if schema.get("type") == "array":
        yield from fields(schema.get("items", {}), described, f"{within}[]", depth)
    for name, said in schema.get("properties", {}).items() if depth else ():
        whole = f"{within}.{name}" if within else name
        shown = _resolved(said, described)
        yield Field(name=whole, kind=kind(shown, described), needed=name in schema.get("required", ()), words=shown.get("description", ""))
        yield from fields(shown, described, whole, depth - 1)


def kind(schema: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """Type and bounds, in words."""
    schema = _resolved(schema, described)
    if "anyOf" in schema:
        return " or ".join(kind(s, described) for s in schema["anyOf"])
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if isinstance(schema.get("type"), list):
        return " or ".join(kind({**schema, "type": t}, described) for t in schema["type"])
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}), described)}{_bounds(schema, 'minItems', 'maxItems', ' items')}"
    name = {"string": "text", "integer": "whole number", "boolean": "true or false", None: "anything"}.get(
        schema.get("type"), schema.get("type")
    )
    return f"{name}{_bounds(schema, 'minimum', 'maximum')}{_bounds(schema, 'minLength', 'maxLength', ' characters')}"


def _bounds(schema: Mapping[str, Any], low: str, high: str, unit: str = "") -> str:
    least, most = (schema.get(k) for k in (low, high))
    if least is None and most is None:
        return ""
    if most is None:
        return f", at least {least:.12g}{unit}"
    return f", at most {most:.12g}{unit}" if least is None else f", {least:.12g} to {most:.12g}{unit}"


def _plain(schema: Mapping[str, Any], described: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an optional value is where it is not null."""
    schema = _resolved(schema, described)
    others = [s for s in (_resolved(s, described) for s in schema.get("anyOf", ())) if s.get("type") != "null"]
    return others[0] if others else schema


def _resolved(schema: Mapping[str, Any], described: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Mapping[str, Any] = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found
