"""One sealed run for all of these tests; nobody writes into it."""

from __future__ import annotations

import pytest

from tests.serve import world
from tests.serve.logs import KEYS
from workflows.serve.loading import Served, load
from workflows.serve.release import read


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> world.Made:
    return world.make(tmp_path_factory.mktemp("served") / "store")


@pytest.fixture(scope="session")
def served(made: world.Made) -> Served:
    return load(read(world.release(made.variant()), "release"), made.store, KEYS)[0]
