"""What a server says of itself in OpenAPI, held against what it does: schemathesis makes requests from the description."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

ALIKE = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def answers_as_it_says(url: str, mode: GenerationMode) -> dict[str, int]:
    """How often each path was asked; an error where an answer is not as described."""
    asked: dict[str, int] = {}
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if not operation.body and mode is GenerationMode.NEGATIVE:
            continue  # any word is a name; that there is no such model, the other mode asks

        @settings(ALIKE, max_examples=25 if operation.body else 5)
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case: Any) -> None:
            asked[case.path] = asked.get(case.path, 0) + 1
            # That tensors fit one another and the model, a schema cannot say: what is well formed may be refused.
            unsaid = [positive_data_acceptance] if case.path.endswith("/infer") else []
            case.validate_response(case.call(base_url=url), excluded_checks=unsaid)

        holds()
    return asked
