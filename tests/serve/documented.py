"""The OpenAPI document of a server with the small model's contract, without the server."""

from __future__ import annotations

from typing import Any

from tests.steps.test_contract import PARAMS, contract
from workflows.serve import api, openapi
from workflows.serve import contract as contracts
from workflows.serve.front import DECISIONS, State

ODD = "a share of <script>alert(1)</script> & more"
"""A feature's words."""


def documented(**how: Any) -> dict[str, Any]:
    """The document; `how` changes the contract's parameters."""
    features = PARAMS["features"] | {"income": {"unit": "USD a month", "words": ODD}}
    said = contracts.read(contract(**{"features": features, "ratios": [], **how}))
    described = api.make(State()).openapi()
    described["paths"][DECISIONS] = openapi.decisions(said)
    openapi.complete(described, said, api.INFER, openapi.SERVED)
    return described
