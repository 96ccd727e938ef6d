"""From a declared step to the function that does it, checked: names and types of what goes in and what comes out."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from workflows.declare import Pipeline, Source, Step
from workflows.errors import BadInput, Problem
from workflows.run.codec import READS, WRITES


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """A step's function, its parameter class (None where it takes none), and the names of its arguments."""

    function: Callable[..., Any]
    params: type[BaseModel] | None
    arguments: frozenset[str]


def bind(pipeline: Pipeline, step: Step) -> Bound:
    """The function of a step; `BadInput` with everything about it that does not fit the declaration."""
    bound, problems = look(pipeline, step)
    if bound is None or problems:
        raise BadInput(*problems)
    return bound


def look(pipeline: Pipeline, step: Step) -> tuple[Bound | None, list[Problem]]:
    """The function of a step, if it can be had, and what is wrong with it."""
    where = f"{pipeline.name}.{step.name}"
    module_name, _, function_name = step.run.partition(":")
    try:
        module = importlib.import_module(module_name)
        function = getattr(module, function_name)
    except Exception as error:  # noqa: BLE001  # whatever a module does when it is imported is its author's to mend
        return None, [Problem(what=f"no function {step.run}", where=where, got=f"{type(error).__name__}: {error}")]
    signature = inspect.signature(function)
    given = {n: str(p.annotation) for n, p in signature.parameters.items()}
    expected = _expected(pipeline, step)
    params = vars(module).get(given["params"]) if "params" in given else None
    problems = [
        Problem(what=f"{step.run} takes {n}, which the step does not give it", where=where) for n in given if n not in {*expected, "params"}
    ]
    problems += [
        Problem(what=f"{step.run} does not take {n}", where=where) for n in expected if n not in given and n not in _optional(step)
    ]
    problems += [
        Problem(what=f"type mismatch on argument {n} of {step.run}", where=where, expected=expected[n], got=t)
        for n, t in given.items()
        if n in expected and t != expected[n]
    ]
    if "params" in given and not (isinstance(params, type) and issubclass(params, BaseModel)):
        problems.append(Problem(what=f"params of {step.run} is no parameter class", where=where, got=given["params"]))
        params = None
    problems += _returns(step, where, signature.return_annotation, vars(module))
    return Bound(function=function, params=params, arguments=frozenset(given)), problems


def _optional(step: Step) -> set[str]:
    return {step.verdicts.name} if step.verdicts else set()


def _expected(pipeline: Pipeline, step: Step) -> dict[str, str]:
    makers = pipeline.makers()
    expected = {}
    for i in step.inputs:
        joined = not isinstance(i, Source) and i.name in makers and makers[i.name].fan_out
        expected[i.name] = f"tuple[{READS[i.kind]}, ...]" if joined else READS[i.kind]
    expected |= dict.fromkeys(step.secrets, "bytes")
    if step.fan_out:
        expected[step.fan_out.name] = "str"
    if step.lineage:
        expected["lineage"] = "Report"
    if step.verdicts:
        expected[step.verdicts.name] = "Report"
    return expected


def _returns(step: Step, where: str, annotation: object, names: dict[str, Any]) -> list[Problem]:
    made = names.get(str(annotation))
    fields = getattr(made, "__annotations__", None)
    if fields is None or not hasattr(made, "_fields"):
        return [
            Problem(what=f"{step.run} does not say what it makes", where=where, expected="a NamedTuple of its module", got=str(annotation))
        ]
    fields = {n: getattr(t, "__forward_arg__", t) for n, t in fields.items()}
    expected = {a.name: WRITES[a.kind] for a in step.outputs}
    if set(fields) != set(expected):
        return [
            Problem(what=f"{step.run} makes other things than the step", where=where, expected=", ".join(expected), got=", ".join(fields))
        ]
    return [
        Problem(what=f"type mismatch on output {n} of {step.run}", where=where, expected=expected[n], got=str(t))
        for n, t in fields.items()
        if t != expected[n]
    ]
