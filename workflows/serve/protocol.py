"""The Open Inference Protocol, version 2: tensors in, tensors out, over the same decisions. Pure.

Rows come as one tensor `features` of shape [rows, features] in the model's order, or as one tensor a feature. Subjects
come as a BYTES tensor `subject`, stated groups as one BYTES tensor an attribute, `group:race`. Data is flat and row-major, or
nested as the shape says. A missing value cannot be said in a tensor of whole numbers; in FP64, it is null, and so is a group
that is not stated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from workflows.serve.contract import BadApplication, Contract, Wrong, shown
from workflows.serve.service import Answer

MOST_ROWS = 64
KINDS = {"number": "FP64", "integer": "INT64", "category": "INT64"}
NUMBERS = {"FP64", "FP32", "INT64", "INT32", "INT16", "INT8"}
GROUP = "group:"
"""What the name of a tensor with stated groups begins with; the attribute follows."""


class Tensor(BaseModel):
    """One tensor of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    name: str = Field(
        min_length=1,
        max_length=60,
        description="subject; features, or a feature's name; group:ATTRIBUTE for stated groups, as in the model's metadata",
    )
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] = Field(description="Flat and row-major, or nested as the shape says")


class Requested(BaseModel):
    """What is asked for by name."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    parameters: dict[str, Any] | None = None


class Inference(BaseModel):
    """A request to infer."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str | None = Field(default=None, max_length=200)
    parameters: dict[str, Any] | None = None
    inputs: list[Tensor] = Field(min_length=1, max_length=200)
    outputs: list[Requested] | None = None


OUTPUTS = {"score": "FP64", "decision": "BYTES", "id": "BYTES", "reasons": "BYTES"}


def metadata(name: str, versions: Sequence[str], contract: Contract) -> dict[str, Any]:
    """What a client may send and gets. Groups may be left out, but for those that the decision rule needs."""
    inputs: list[dict[str, Any]] = [{"name": "subject", "datatype": "BYTES", "shape": [-1]}]
    inputs += [{"name": f.name, "datatype": KINDS[f.type], "shape": [-1]} for f in contract.features]
    inputs += [
        {"name": f"{GROUP}{a}", "datatype": "BYTES", "shape": [-1], "parameters": {"optional": a not in contract.needs}}
        for a in sorted(contract.groups)
    ]
    outputs = [{"name": n, "datatype": k, "shape": [-1]} for n, k in OUTPUTS.items()]
    return {"name": name, "versions": list(versions), "platform": "lightgbm", "inputs": inputs, "outputs": outputs}


def applications(asked: Inference, contract: Contract) -> list[dict[str, Any]]:
    """The applications that the tensors hold, a row each; `BadApplication` for tensors that do not fit one another."""
    tensors = {t.name: t for t in asked.inputs}
    problems = [Wrong(where="inputs", what="two tensors of one name")] if len(tensors) != len(asked.inputs) else []
    wide = "features" in tensors
    known = {"subject", "features"} if wide else {"subject", *contract.names}
    problems += [
        Wrong(where=f"inputs.{shown(n)}", what="unknown tensor", expected="see the model's metadata")
        for n in tensors
        if n not in known and not n.startswith(GROUP)
    ]
    subject = tensors.get("subject")
    rows = subject.shape[0] if subject else 0
    if not 1 <= rows <= MOST_ROWS:
        problems.append(Wrong(where="inputs.subject", what="missing, or too many rows", expected=f"1 to {MOST_ROWS} subjects"))
    flat = {n: _flat(t) for n, t in tensors.items()}
    problems += [w for n, t in tensors.items() for w in _misshapen(t, flat[n], rows, len(contract.features))]
    wanted = {o.name for o in asked.outputs or ()}
    problems += [
        Wrong(where=f"outputs.{shown(n)}", what="unknown output", expected=", ".join(OUTPUTS)) for n in sorted(wanted - set(OUTPUTS))
    ]
    if problems:
        raise BadApplication(problems)
    return list(_rows(flat, contract, rows))


def _misshapen(t: Tensor, flat: list[Any], rows: int, features: int) -> Iterator[Wrong]:
    expected = [rows, features] if t.name == "features" else [rows]
    where = f"inputs.{shown(t.name)}"
    if t.shape not in (expected, [*expected, 1]):
        yield Wrong(where=where, what="bad shape", expected=str(expected), got=str(t.shape))
    kinds = {"BYTES"} if t.name == "subject" or t.name.startswith(GROUP) else NUMBERS
    if t.datatype not in kinds:
        yield Wrong(where=where, what="bad datatype", expected=" or ".join(sorted(kinds)), got=shown(t.datatype))
    wanted = math.prod(expected)
    if any(type(x) is list for x in flat):
        nested = f", or nested as {t.shape}" if len(t.shape) > 1 else ""
        yield Wrong(where=where, what="data is not nested as its shape says", expected=f"{wanted} values in one list{nested}")
    elif len(flat) != wanted:
        yield Wrong(where=where, what="as many values as its shape says are wanted", expected=str(expected), got=str(len(flat)))


def _flat(t: Tensor) -> list[Any]:
    """A tensor's values in one list, row-major. Where they are nested otherwise than its shape says, there are lists among them."""
    if len(t.shape) > 1 and len(t.data) == t.shape[0] and all(type(row) is list and len(row) == t.shape[1] for row in t.data):
        return list(chain.from_iterable(t.data))
    return t.data


def _rows(given: Mapping[str, list[Any]], contract: Contract, rows: int) -> Iterator[dict[str, Any]]:
    """The rows of tensors that fit one another. Whether a group is one that may be stated, the contract says, as of any application."""
    wide, width = given.get("features"), len(contract.features)
    stated = {n.removeprefix(GROUP): words for n, words in given.items() if n.startswith(GROUP)}
    narrow = {n: column for n, column in given.items() if n != "subject" and not n.startswith(GROUP)}
    for i in range(rows):
        if wide:
            values = dict(zip((f.name for f in contract.features), wide[i * width : (i + 1) * width], strict=True))
        else:
            values = {n: column[i] for n, column in narrow.items()}
        groups = {a: words[i] for a, words in stated.items() if words[i] is not None}
        yield {"subject": given["subject"][i], "features": values, **({"groups": groups} if groups else {})}


def answered(asked: Inference, name: str, version: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """The tensors of the answers; reasons as the JSON of each row's list. An `id` only where the request had one."""
    columns: dict[str, list[Any]] = {
        "score": [a.decision.score for a in answers],
        "decision": [a.decision.decision for a in answers],
        "id": [a.id for a in answers],
        "reasons": [json.dumps(a.to_json()["reasons"]) for a in answers],
    }
    wanted = [o.name for o in asked.outputs] if asked.outputs else list(OUTPUTS)
    outputs = [{"name": n, "datatype": OUTPUTS[n], "shape": [len(answers)], "data": columns[n]} for n in wanted]
    named = {} if asked.id is None else {"id": asked.id}
    return {"model_name": name, "model_version": version, **named, "outputs": outputs}
