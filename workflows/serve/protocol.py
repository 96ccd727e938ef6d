"""The Open Inference Protocol, version 2: tensors in, tensors out, over the same decisions. Pure.

Rows come as one tensor `features` of shape [rows, features] in the model's order, or as one tensor a feature. Subjects
come as a BYTES tensor `subject`. A missing value cannot be said in a tensor of whole numbers; in FP64, it is null.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from workflows.serve.contract import BadApplication, Contract, Wrong, shown
from workflows.serve.service import Answer

MOST_ROWS = 64
KINDS = {"number": "FP64", "integer": "INT64", "category": "INT64"}
NUMBERS = {"FP64", "FP32", "INT64", "INT32", "INT16", "INT8"}


class Tensor(BaseModel):
    """One tensor of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    name: str = Field(min_length=1, max_length=60)
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any]


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
    """What a client may send and gets."""
    inputs = [{"name": "subject", "datatype": "BYTES", "shape": [-1]}]
    inputs += [{"name": f.name, "datatype": KINDS[f.type], "shape": [-1]} for f in contract.features]
    outputs = [{"name": n, "datatype": k, "shape": [-1]} for n, k in OUTPUTS.items()]
    return {"name": name, "versions": list(versions), "platform": "lightgbm", "inputs": inputs, "outputs": outputs}


def applications(asked: Inference, contract: Contract) -> list[dict[str, Any]]:
    """The applications that the tensors hold, a row each; `BadApplication` for tensors that do not fit one another."""
    tensors = {t.name: t for t in asked.inputs}
    problems = [Wrong(where="inputs", what="two tensors of one name")] if len(tensors) != len(asked.inputs) else []
    wide = tensors.get("features")
    known = {"subject", "features"} if wide else {"subject", *contract.names}
    problems += [
        Wrong(where=f"inputs.{shown(n)}", what="unknown tensor", expected="see the model's metadata") for n in tensors if n not in known
    ]
    subject = tensors.get("subject")
    rows = subject.shape[0] if subject else 0
    if not 1 <= rows <= MOST_ROWS:
        problems.append(Wrong(where="inputs.subject", what="missing, or too many rows", expected=f"1 to {MOST_ROWS} subjects"))
    problems += [w for t in tensors.values() for w in _misshapen(t, rows, len(contract.features))]
    wanted = {o.name for o in asked.outputs or ()}
    problems += [
        Wrong(where=f"outputs.{shown(n)}", what="unknown output", expected=", ".join(OUTPUTS)) for n in sorted(wanted - set(OUTPUTS))
    ]
    if problems:
        raise BadApplication(problems)
    return list(_rows(tensors, contract, rows))


def _misshapen(t: Tensor, rows: int, features: int) -> Iterator[Wrong]:
    expected = [rows, features] if t.name == "features" else [rows]
    where = f"inputs.{shown(t.name)}"
    if t.shape not in (expected, [*expected, 1]):
        yield Wrong(where=where, what="bad shape", expected=str(expected), got=str(t.shape))
    kinds = {"BYTES"} if t.name == "subject" else NUMBERS
    if t.datatype not in kinds:
        yield Wrong(where=where, what="bad datatype", expected=" or ".join(sorted(kinds)), got=shown(t.datatype))
    nested = t.name == "features" and any(isinstance(row, list) for row in t.data)
    uneven = nested and not all(isinstance(row, list) and len(row) == features for row in t.data)
    if uneven or len(t.data) != (rows if nested or t.name != "features" else rows * features):
        yield Wrong(where=where, what="as many values as its shape says are wanted", expected=str(expected), got=str(len(t.data)))


def _rows(tensors: Mapping[str, Tensor], contract: Contract, rows: int) -> Iterator[dict[str, Any]]:
    wide, width = tensors.get("features"), len(contract.features)
    flat = [x for row in wide.data for x in row] if wide and wide.data and isinstance(wide.data[0], list) else wide.data if wide else []
    for i in range(rows):
        if wide:
            values = dict(zip((f.name for f in contract.features), flat[i * width : (i + 1) * width], strict=True))
        else:
            values = {n: t.data[i] for n, t in tensors.items() if n != "subject"}
        yield {"subject": tensors["subject"].data[i], "features": values}


def answered(asked: Inference, name: str, version: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """The tensors of the answers; reasons as the JSON of each row's list."""
    columns: dict[str, list[Any]] = {
        "score": [a.decision.score for a in answers],
        "decision": [a.decision.decision for a in answers],
        "id": [a.id for a in answers],
        "reasons": [json.dumps(a.to_json()["reasons"]) for a in answers],
    }
    wanted = [o.name for o in asked.outputs] if asked.outputs else list(OUTPUTS)
    outputs = [{"name": n, "datatype": OUTPUTS[n], "shape": [len(answers)], "data": columns[n]} for n in wanted]
    return {"model_name": name, "model_version": version, "id": asked.id, "outputs": outputs}
