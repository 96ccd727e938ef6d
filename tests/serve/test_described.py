"""What the server says of itself in OpenAPI, held against what it does: schemathesis makes requests from the description, good and bad."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.serve import world
from tests.serve.process import Server, serving
from workflows.run.store.local import LocalStore

ALIKE = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server(made: world.Made, tmp_path_factory: pytest.TempPathFactory) -> Any:
    top = tmp_path_factory.mktemp("described")
    shutil.copytree(made.store.documents, top / "store")  # the server writes its log there
    with serving(top, replace(made, store=LocalStore(content=top / "store", documents=top / "store"))) as found:
        yield found


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_it_answers_as_it_says(server: Server, mode: GenerationMode) -> None:
    url = f"http://127.0.0.1:{server.port}"
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
            case.validate_response(case.call(base_url=url))

        holds()
    assert server.process.poll() is None
    assert server.ask("/v1/decisions", {"subject": "after", "features": world.FEATURES})[0] == 200
    assert asked.get("/v1/decisions", 0) >= 25
