"""The OpenAPI description of what decides, from the contract that is served: every feature with its unit, bounds and an example."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from workflows.serve.contract import LONGEST_SUBJECT, Contract, Feature
from workflows.serve.protocol import GROUP, OUTPUTS

PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "problems": {
            "type": "array",
            "items": {"type": "object", "properties": {k: {"type": "string"} for k in ("where", "what", "expected", "got")}},
        },
    },
}
WITH_ERROR = PROBLEM | {
    "required": [*PROBLEM["required"], "error"],
    "properties": PROBLEM["properties"]
    | {"error": {"type": "string", "description": "All of it in one text, for clients of this protocol"}},
}
"""On paths of the Open Inference Protocol."""
PARAMETERS = {"name": "The pipeline", "version": "The release's number"}
REFUSALS = {
    "400": "Malformed JSON",
    "404": "No such model, or not in this version",
    "408": "The request took too long to arrive",
    "413": "Too large",
    "415": "Not JSON",
    "422": "The request cannot be decided; `problems` lists everything to mend",
    "500": "No decision: the model declines, and nothing lowered the score, so that there is no reason to give; nothing was decided. "
    "Or an internal error: the decision log may hold a decision all the same, which nobody was given",
    "503": "Overloaded, not ready, or the decision log cannot be written: nothing was decided; try again. Or not answered in time: try "
    "again; the decision log may hold a decision all the same, which nobody was given",
}


def refusals(*statuses: str, schema: dict[str, Any] = PROBLEM) -> dict[int | str, dict[str, Any]]:
    """How requests are sent away, by status."""
    return {s: {"description": REFUSALS[s], "content": {"application/problem+json": {"schema": schema}}} for s in statuses}


def decisions(contract: Contract | None) -> dict[str, Any]:
    """The path item of `POST /v1/decisions`."""
    given = application(contract) if contract else {"type": "object"}
    body = {"schema": given, "examples": {"application": {"value": example(contract)}} if contract else {}}
    return {
        "post": {
            "summary": "Decide on an application",
            "operationId": "decide",
            "description": "Score, decision and, where it is adverse or `explain` is true, its principal reasons. The decision is in "
            "the log before it is answered (strict mode); `receipt` is the digest of its line there.",
            "requestBody": {"required": True, "content": {"application/json": body}},
            "responses": {
                "200": {
                    "description": "The decision",
                    "content": {"application/json": {"schema": ANSWER, "examples": {"declined": {"value": EXAMPLE}}}},
                },
                **refusals(*(s for s in REFUSALS if s != "404")),
            },
        }
    }


def complete(described: dict[str, Any], contract: Contract | None, infer: Iterable[str], served: Mapping[str, str]) -> None:
    """Add to the framework's description what it cannot know: examples and answers of inferences, and what stands in a path.

    `served` is parameter of a path -> its value for what is served.
    """
    examples = {"rows": {"value": tensors(contract)}} if contract else {}
    answer = {"schema": INFERRED, "examples": {"declined": {"value": INFERENCE_EXAMPLE}}}
    for path in infer:
        said = described["paths"][path]["post"]
        said["requestBody"]["content"]["application/json"]["examples"] = examples
        said["responses"]["200"] = {"description": "The decisions", "content": {"application/json": answer}}
    for operation in (o for item in described["paths"].values() for o in item.values()):
        for parameter in operation.get("parameters", ()):
            parameter |= {"description": PARAMETERS[parameter["name"]], "example": served[parameter["name"]]}


def tensors(contract: Contract) -> dict[str, Any]:
    """The example as an inference of one row."""
    said = example(contract)
    values = [said["features"][f.name] for f in contract.features]
    return {
        "inputs": [
            {"name": "subject", "shape": [1], "datatype": "BYTES", "data": [said["subject"]]},
            {"name": "features", "shape": [1, len(values)], "datatype": "FP64", "data": values},
            *({"name": f"{GROUP}{a}", "shape": [1], "datatype": "BYTES", "data": [g]} for a, g in said.get("groups", {}).items()),
        ]
    }


def application(contract: Contract) -> dict[str, Any]:
    """The JSON Schema of an application."""
    names = [f.name for f in contract.features if not f.may_be_missing]
    features = {f.name: _feature(f) for f in contract.features}
    groups = {n: {"type": "string", "enum": sorted(words)} for n, words in sorted(contract.groups.items())}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["subject", "features", *(["groups"] if contract.needs else [])],
        "properties": {
            "subject": {
                "type": "string",
                "minLength": 1,
                "maxLength": LONGEST_SUBJECT,
                "description": "Who it is about, as the caller knows them. The log keeps a keyed token of it, never itself",
            },
            "features": {"type": "object", "additionalProperties": False, "required": names, "properties": features},
            "groups": {"type": "object", "additionalProperties": False, "required": list(contract.needs), "properties": groups},
            "explain": {"type": "boolean", "default": False, "description": "Reasons are wanted for an approval, too"},
        },
    }


def _feature(f: Feature) -> dict[str, Any]:
    said: dict[str, Any] = {"description": f"{f.words} ({f.unit})"}
    if f.type == "category":
        kind: dict[str, Any] = {"type": "integer", "enum": sorted(f.codes)}
    else:
        kind = {"type": f.type, "minimum": f.lowest, "maximum": f.highest}
    return said | ({"anyOf": [kind, {"type": "null"}]} if f.may_be_missing else kind)


def example(contract: Contract) -> dict[str, Any]:
    """An application that keeps to every bound, and to the ratios where they can be kept."""
    values: dict[str, float | int] = {f.name: _middle(f) for f in contract.features}
    by = {f.name: f for f in contract.features}
    for r in contract.ratios:
        values[r.of], values[r.to] = (min(by[n].highest, max(by[n].lowest, 100)) for n in (r.of, r.to))
        values[r.ratio] = values[r.of] / values[r.to]
    groups = {"groups": {n: min(contract.groups[n]) for n in contract.needs}} if contract.needs else {}
    return {"subject": "applicant-4711", "features": values, **groups}


def _middle(f: Feature) -> float | int:
    if f.type == "category":
        return min(f.codes)
    low = f.lowest + (f.highest - f.lowest) / 100
    return round(low) if f.type == "integer" else round(low, 2)


ANSWER = {
    "type": "object",
    "required": ["id", "at", "decision", "score", "reasons", "variant", "model", "release", "receipt"],
    "properties": {
        "id": {"type": "string", "description": "For countersign replay"},
        "at": {"type": "string", "format": "date-time"},
        "decision": {"type": "string", "enum": ["approved", "declined"]},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "reasons": {
            "type": "array",
            "items": {"type": "object", "properties": {k: {"type": "string"} for k in ("code", "words", "feature")}},
        },
        "variant": {"type": "string"},
        "model": {"type": "string", "description": "sha256 of the model that decided"},
        "release": {"type": "object", "properties": {"environment": {"type": "string"}, "sequence": {"type": "integer"}}},
        "receipt": {"type": ["string", "null"], "description": "Digest of the decision's line in the log; null in batched mode"},
    },
}
EXAMPLE: dict[str, Any] = {
    "id": "5f0c9a7e2b11-0199ab3c4d5-9f8e7d6c5b4a3921",
    "at": "2026-11-25T09:30:00.000000+00:00",
    "decision": "declined",
    "score": 0.4123,
    "reasons": [{"code": "H03", "words": "Total obligations too high in relation to income", "feature": "obrat"}],
    "variant": "champion",
    "model": "0" * 64,
    "release": {"environment": "prod", "sequence": 7},
    "receipt": "f" * 64,
}
INFERRED = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string", "description": "The pipeline"},
        "model_version": {"type": "string", "description": "The release's number"},
        "id": {"type": "string", "description": "As it was asked with; left out where it was asked with none"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape", "data"],
                "properties": {
                    "name": {"type": "string", "enum": list(OUTPUTS)},
                    "datatype": {"type": "string", "enum": sorted(set(OUTPUTS.values()))},
                    "shape": {"type": "array", "items": {"type": "integer"}, "description": "The number of rows"},
                    "data": {"type": "array", "items": {}, "description": "A value a row; reasons as the JSON of a row's list"},
                },
            },
        },
    },
}
READY = {
    "type": "object",
    "required": ["name", "ready"],
    "properties": {"name": {"type": "string", "description": "The pipeline"}, "ready": {"type": "boolean"}},
}
"""Of one model."""
SERVED = {"name": "loan_approval", "version": "7"}
"""Where nothing is served yet."""
INFERENCE_EXAMPLE = {
    "model_name": SERVED["name"],
    "model_version": SERVED["version"],
    "outputs": [
        {"name": "score", "datatype": "FP64", "shape": [1], "data": [EXAMPLE["score"]]},
        {"name": "decision", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE["decision"]]},
        {"name": "id", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE["id"]]},
        {"name": "reasons", "datatype": "BYTES", "shape": [1], "data": [json.dumps(EXAMPLE["reasons"])]},
    ],
}
