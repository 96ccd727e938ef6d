#!/usr/bin/env python3
"""Write a chart's values.schema.json and README.md from its values.yaml, so that a value is described in one place.

    python infra/charts/generate.py [--check] infra/charts/model-server

Every key of values.yaml has a comment above it: what it is for. A comment line in brackets is for the schema:
`[enum A B]`, `[pattern REGEX]`, `[minimum N]`, `[maximum N]`, `[min-length N]`, `[items TYPE]` for a list, `[map TYPE]` for a mapping
whose keys are free. A key that stands in the file is allowed, no other one is. With --check nothing is written, and exit code 2
says that a file is stale.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):(?P<rest>.*)")
RULE = re.compile(r"\[([a-z-]+) ((?:[^\[\]]|\[[^\]]*\])+)\]")
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
SCHEMA = "http://json-schema.org/draft-07/schema#"
NUMBERS = {"minimum": "minimum", "maximum": "maximum", "min-length": "minLength"}


class Undescribed(ValueError):
    """values.yaml is not in the form that the schema is made from."""


@dataclass
class Described:
    """One key: its path, what is said of it, and its rules."""

    path: tuple[str, ...]
    text: str
    rules: dict[str, str]
    value: Any = None
    below: list[Described] = field(default_factory=list)

    @property
    def is_map(self) -> bool:
        return "map" in self.rules


def describe(text: str) -> list[Described]:
    """Every key of a values.yaml, in its order; `Undescribed` names the first that has no comment."""
    values = yaml.safe_load(text)
    top: list[Described] = []
    stack: list[tuple[int, Described]] = []
    comment: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
        elif matched := KEY.fullmatch(line):
            depth = len(matched["indent"])
            while stack and stack[-1][0] >= depth:
                stack.pop()
            if stack and stack[-1][1].is_map:
                continue
            here = _described((*(stack[-1][1].path if stack else ()), matched["key"]), comment, number)
            here.value = _at(values, here.path)
            (stack[-1][1].below if stack else top).append(here)
            stack.append((depth, here))
            comment = []
        else:
            comment = []
    return top


def _described(path: tuple[str, ...], comment: list[str], number: int) -> Described:
    rules = {name: value for line in comment if line.startswith("[") for name, value in RULE.findall(line)}
    words = " ".join(line for line in comment if not line.startswith("["))
    if not words:
        raise Undescribed(f"line {number}: {'.'.join(path)} has no comment that says what it is for")
    return Described(path=path, text=words, rules=rules)


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


def schema_of(described: list[Described], title: str) -> dict[str, Any]:
    """The JSON schema that Helm holds values against."""
    return {"$schema": SCHEMA, "title": title, **_mapping(described, top=True)}


def _mapping(described: list[Described], *, top: bool = False) -> dict[str, Any]:
    properties = {d.path[-1]: _schema(d) for d in described}
    # Helm itself adds `global` to what a chart is given.
    extra = {"global": {"type": "object", "description": "Helm's own."}} if top else {}
    return {"type": "object", "additionalProperties": False, "properties": {**properties, **extra}}


def _schema(d: Described) -> dict[str, Any]:
    said: dict[str, Any] = {"description": d.text}
    if d.is_map:
        return {**said, "type": "object", "additionalProperties": {"type": d.rules["map"]}}
    if d.below:
        return {**said, **_mapping(d.below)}
    kind = TYPES[type(d.value)]
    said["type"] = "number" if kind == "integer" and "." in "".join(d.rules.get(k, "") for k in NUMBERS) else kind
    if kind == "array":
        said["items"] = {"type": d.rules["items"]}
    for rule, name in NUMBERS.items():
        if rule in d.rules:
            said[name] = json.loads(d.rules[rule])
    if "enum" in d.rules:
        said["enum"] = d.rules["enum"].split()
    if "pattern" in d.rules:
        # The chart's own default is empty where somebody else must set the value.
        said["pattern"] = d.rules["pattern"] if d.value else f"^$|{d.rules['pattern']}"
    return said


def readme_of(described: list[Described], chart: dict[str, Any]) -> str:
    """The page that lists every value."""
    head = f"""# {chart["name"]}

{chart["description"]}. Generated from `Chart.yaml` and `values.yaml`: change those, then run
`python infra/charts/generate.py infra/charts/{chart["name"]}`.

The promoter installs it ([docs/promotion.md](../../../docs/promotion.md)); what an environment differs in stands in `environments/`.
Kubernetes {chart["kubeVersion"].removesuffix("-0")}.

| value | default | what it is for |
|---|---|---|
"""
    return head + "".join(_rows(described))


def _rows(described: list[Described]) -> list[str]:
    found = []
    for d in described:
        if d.below:
            found += [f"| **`{'.'.join(d.path)}`** | | {d.text} |\n", *_rows(d.below)]
            continue
        limits = " ".join(f"{k} {v.replace('|', chr(92) + '|')}" for k, v in d.rules.items() if k not in {"items", "map"})
        found.append(f"| `{'.'.join(d.path)}` | `{json.dumps(d.value)}` | {d.text}{f' (`{limits}`)' if limits else ''} |\n")
    return found


def texts(folder: Path) -> dict[Path, str]:
    """The generated files of a chart."""
    chart = yaml.safe_load((folder / "Chart.yaml").read_text())
    described = describe((folder / "values.yaml").read_text())
    schema = json.dumps(schema_of(described, f"Values of the chart {chart['name']}"), indent=2) + "\n"
    return {folder / "values.schema.json": schema, folder / "README.md": readme_of(described, chart)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a chart's schema and README from its values.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is stale")
    parser.add_argument("chart", type=Path)
    asked = parser.parse_args()
    try:
        made = texts(asked.chart)
    except (OSError, Undescribed, KeyError, yaml.YAMLError) as error:
        print(f"error: {asked.chart}: {error}", file=sys.stderr)
        return 2
    stale = [p for p, text in made.items() if not p.is_file() or p.read_text() != text]
    for path in stale:
        if asked.check:
            print(f"error: {path} is stale; run: python infra/charts/generate.py {asked.chart}", file=sys.stderr)
        else:
            path.write_text(made[path])
            print(f"written {path}")
    return 2 if asked.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
