"""What the server says of itself in OpenAPI, held against what it does: good requests and bad ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest
from schemathesis import GenerationMode

from tests.serve import world
from tests.serve.described import answers_as_it_says
from tests.serve.process import Server, serving
from workflows.run.store.local import LocalStore


@pytest.fixture(scope="module")
def server(made: world.Made, tmp_path_factory: pytest.TempPathFactory) -> Any:
    top = tmp_path_factory.mktemp("described")
    shutil.copytree(made.store.documents, top / "store")  # the server writes its log there
    with serving(top, replace(made, store=LocalStore(content=top / "store", documents=top / "store"))) as found:
        yield found


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_it_answers_as_it_says(server: Server, mode: GenerationMode) -> None:
    asked = answers_as_it_says(f"http://127.0.0.1:{server.port}", mode)
    assert server.process.poll() is None
    assert server.ask("/v1/decisions", {"subject": "after", "features": world.FEATURES})[0] == 200
    assert asked.get("/v1/decisions", 0) >= 25
