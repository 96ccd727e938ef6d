"""Parameters: from the params file, with overrides, to each step's checked parameter object. All problems at once."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from workflows.declare import Pipeline, Step, comparing_gates, problems_of
from workflows.errors import BadInput, Problem
from workflows.prove import canonical
from workflows.prove.gate import BadPolicy, Rule, read_rules
from workflows.run.binding import look

SURROGATES = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")
OVERRIDE = "COUNTERSIGN_SET_"
"""`COUNTERSIGN_SET_train__num_leaves=31` in the environment does what `--set train.num_leaves=31` does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a pipeline runs with: each step's section as written, and each gate's rules."""

    sections: Mapping[str, Mapping[str, Any]]
    rules: Mapping[str, tuple[Rule, ...]]
    policies: Mapping[str, Any]
    """Each gate's rules as written: DVC compares these."""

    def of(self, step: Step) -> dict[str, Any]:
        """A step's parameters in full, for its record and its cache key."""
        return dict(self.sections.get(step.name, {}))

    def rules_of(self, step: Step) -> dict[str, list[dict[str, Any]]]:
        """The rules of a step's gates as JSON: they decide what its verdicts say."""
        return {g.name: [_as_json(r) for r in self.rules[g.name]] for g in step.gates}


def read_yaml(path: Path, where: str) -> Any:
    """A YAML 1.2 file, read as DVC reads it; `BadInput` names line and column."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(Problem(what="no such file", where=where)) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise BadInput(Problem(what=f"not YAML: {' '.join(str(error).split())}", where=where)) from None


def parse_value(text: str) -> Any:
    """A value as one would write it in the params file."""
    try:
        return YAML(typ="safe", pure=True).load(StringIO(text))
    except YAMLError as error:
        raise BadInput(Problem(what=f"not a YAML value: {' '.join(str(error).split())}", where=text)) from None


def written(value: Any) -> str:
    """A parameter's value as text that reads back to the same value."""
    if isinstance(value, str) and _reads_back(value):
        return value
    # It is read as YAML, which knows no pairs of surrogates and wants DEL escaped.
    text = json.dumps(value).replace("\x7f", "\\u007f")
    return SURROGATES.sub(_as_one, text)


def _as_one(pair: re.Match[str]) -> str:
    character: str = json.loads(f'"{pair[0]}"')
    return f"\\U{ord(character):08x}"


def _reads_back(text: str) -> bool:
    try:
        return parse_value(text) == text  # type: ignore[no-any-return]  # of two texts
    except BadInput:
        return False


def overrides_of(pairs: list[str], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """`step.key` -> value, from the environment and then from `--set step.key=value`."""
    found: dict[str, Any] = {}
    for name, text in environment.items():
        if name.startswith(OVERRIDE):
            step, _, key = name.removeprefix(OVERRIDE).partition("__")
            found[f"{step}.{key}"] = parse_value(text)
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or key.count(".") < 1:
            raise BadInput(Problem(what="cannot be read as an override", where=f"--set {pair}", expected="step.parameter=value"))
        found[key] = parse_value(text)
    return found


def read(root: Path, pipeline: Pipeline, overrides: Mapping[str, Any]) -> Settings:
    """Parameters and policies of a pipeline, checked; `BadInput` lists all problems, the declaration's too."""
    raw = _apart(read_yaml(root / pipeline.params_path, pipeline.params_path) or {})
    if not isinstance(raw, dict):
        raise BadInput(*problems_of(pipeline), Problem(what="not a mapping of steps", where=pipeline.params_path))
    problems = problems_of(pipeline) + _override(raw, overrides, {s.name for s in pipeline.steps})
    known = {s.name for s in pipeline.steps}
    problems += [
        Problem(what=f"no step {n}", where=pipeline.params_path, expected=f"one of {', '.join(sorted(known))}")
        for n in raw
        if n not in known
    ]
    for s in pipeline.steps:
        problems += _wrong_with(pipeline, s, raw.get(s.name))
    rules, policies, wrong = _rules(root, pipeline)
    if problems or wrong:
        raise BadInput(*problems, *wrong)
    return Settings(sections={s.name: raw.get(s.name) or {} for s in pipeline.steps}, rules=rules, policies=policies)


def planned(root: Path, pipeline: Pipeline, sections: Mapping[str, Any]) -> Settings:
    """Parameters that were read and checked when the run was planned, with the checkout's policies. Imports no step."""
    rules, policies, wrong = _rules(root, pipeline)
    if wrong:
        raise BadInput(*wrong)
    return Settings(sections=sections, rules=rules, policies=policies)


def as_written(root: Path, pipeline: Pipeline, settings: Settings) -> Settings:
    """The same parameters in the form of the checkout's file, as DVC writes them into its lock.

    Their keys have the file's order, which a plan has sorted, and what the file repeats by `*name` is one object.
    """
    raw = read_yaml(root / pipeline.params_path, pipeline.params_path) or {}
    return replace(settings, sections={step: _formed(section, raw.get(step)) for step, section in settings.sections.items()})


def build(params: type[BaseModel], section: Mapping[str, Any]) -> BaseModel:
    """The parameter object that a step's function takes."""
    # Through JSON, where strict still takes a list for a tuple: YAML has no tuples.
    return params.model_validate_json(canonical.encode(section))


def _apart(value: Any) -> Any:
    """The same value without anything that two places share: an override of one must not change what YAML's `*name` repeats."""
    if isinstance(value, dict):
        return {k: _apart(v) for k, v in value.items()}
    return [_apart(v) for v in value] if isinstance(value, list) else value


def _formed(value: Any, like: Any) -> Any:
    """`value` in the form of `like`: that itself where they are equal, else with its keys in front and in its order."""
    if _text(value) == _text(like):
        return like
    if isinstance(value, dict) and isinstance(like, dict):
        keys = [*(k for k in like if k in value), *(k for k in value if k not in like)]
        return {k: _formed(value[k], like.get(k)) for k in keys}
    if isinstance(value, list) and isinstance(like, list):
        return [_formed(v, other) for v, other in itertools.zip_longest(value, like[: len(value)])]
    return value


def _text(value: Any) -> str:
    """Equal for equal values of the same types: 1, 1.0 and true differ."""
    return json.dumps(value, sort_keys=True, default=repr)


def _override(raw: dict[str, Any], overrides: Mapping[str, Any], steps: set[str]) -> list[Problem]:
    problems = []
    for path, value in overrides.items():
        *parents, last = path.split(".")
        if parents[0] not in steps:
            problems.append(Problem(what=f"no step {parents[0]}", where=f"--set {path}", expected=f"one of {', '.join(sorted(steps))}"))
            continue
        node: Any = raw
        for key in parents:
            node = node.setdefault(key, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            problems.append(Problem(what=f"no parameter {path}", where=f"--set {path}", expected=_listed(node)))
            continue
        node[last] = value
    return problems


def _listed(node: object) -> str:
    return f"one of {', '.join(sorted(node))}" if isinstance(node, dict) and node else "a step's parameter"


def _wrong_with(pipeline: Pipeline, step: Step, section: object) -> list[Problem]:
    where = f"{pipeline.params_path}: {step.name}"
    bound, problems = look(pipeline, step)
    if bound is None:
        return problems
    if bound.params is None:
        return [*problems, *([Problem(what="the step takes no parameters", where=where)] if section else [])]
    if not isinstance(section, dict):
        return [*problems, Problem(what="section is missing or no mapping", where=where)]
    try:
        build(bound.params, section)
    except canonical.NotCanonical as error:
        problems.append(Problem(what=f"holds a value that JSON has no form for: {error}", where=where))
    except ValidationError as error:
        problems += [
            Problem(
                what=e["msg"], where=".".join((where, *map(str, e["loc"]))), got="" if e["type"] == "missing" else repr(e["input"])[:80]
            )
            for e in error.errors()
        ]
    return problems


def _rules(root: Path, pipeline: Pipeline) -> tuple[dict[str, tuple[Rule, ...]], dict[str, Any], list[Problem]]:
    gates = [g for s in pipeline.steps for g in s.gates]
    if not gates:
        return {}, {}, []
    raw = read_yaml(root / pipeline.policy_path, pipeline.policy_path)
    written = {g.name: raw.get(g.name) if isinstance(raw, dict) else None for g in gates}
    rules: dict[str, tuple[Rule, ...]] = {}
    problems: list[Problem] = []
    for name, section in written.items():
        try:
            rules[name] = read_rules(name, section)
        except BadPolicy as error:
            problems += [Problem(what=line, where=pipeline.policy_path) for line in str(error).splitlines()]
    return rules, written, problems or _uncompared(pipeline, rules)


def _uncompared(pipeline: Pipeline, rules: Mapping[str, tuple[Rule, ...]]) -> list[Problem]:
    """The champion is compared with before anything is done with a new model: of a scheduled pipeline, a rule must ask for it."""
    if pipeline.schedule is None:
        return []
    measure, gates = pipeline.schedule.compared, comparing_gates(pipeline, pipeline.schedule.champion)
    asked = [r.metric for gate in gates for r in rules[gate]]
    if not gates or any(m == measure or m.startswith(f"{measure}.") for m in asked):
        return []
    what = "it runs by schedule, and no rule asks how the new model does against the champion"
    return [Problem(what=what, where=f"{pipeline.policy_path}: {' or '.join(gates)}", expected=f"a rule on {measure}")]


def _as_json(rule: Rule) -> dict[str, Any]:
    limit = {"at_least": rule.at_least} if rule.at_least is not None else {"at_most": rule.at_most}
    return {"metric": rule.metric, **limit, "because": rule.because, "if_missing": rule.if_missing}
