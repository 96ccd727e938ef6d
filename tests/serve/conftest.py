"""One sealed run for all of these tests; nobody writes into it, but each may have a copy."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.serve import world
from tests.serve.logs import KEYS
from workflows.run.store.local import LocalStore
from workflows.serve.loading import Served, load
from workflows.serve.release import read


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> world.Made:
    return world.make(tmp_path_factory.mktemp("served") / "store")


@pytest.fixture(scope="session")
def served(made: world.Made) -> Served:
    return load(read(world.release(made.variant()), "release"), made.store, KEYS)[0]


@pytest.fixture
def own(made: world.Made, tmp_path: Path) -> world.Made:
    """A store of the test's own, as a server writes its log there."""
    shutil.copytree(made.store.documents, tmp_path / "store")
    return replace(made, store=LocalStore(content=tmp_path / "store", documents=tmp_path / "store"))
