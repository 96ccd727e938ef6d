from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.cluster.fake_api import FakeApi, serving
from tests.cluster.real import Space, Toy, kubectl, new_space, toy_in
from tests.conftest import Home, lacking


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """A stand-in for a cluster's API, empty."""
    with serving() as found:
        yield found


@pytest.fixture(scope="session")
def cluster() -> None:
    """A cluster with the project installed, named by KUBECONFIG; `make test-cluster` brings one up and sets it."""
    if not os.environ.get("KUBECONFIG") or not shutil.which("kubectl"):
        lacking("a cluster: make test-cluster")
    done = subprocess.run(["kubectl", "get", "workflowtemplates", "-n", "countersign"], capture_output=True, text=True, check=False)
    if done.returncode:
        lacking(f"a cluster with the project installed: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def space(cluster: None, request: pytest.FixtureRequest) -> Iterator[Space]:
    """A namespace of a module's own."""
    del cluster
    module = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    name = f"{module}-{os.environ.get('PYTEST_XDIST_WORKER', 'one')}"
    yield new_space(name)
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def toy(space: Space, home: Home) -> Iterator[Toy]:
    """The toy pipeline there, with results of its own: nothing that an earlier test or session computed is there to reuse."""
    found = toy_in(space, home)
    home.write("steps/toy.py", home.read("steps/toy.py") + f"\n# {time.time_ns()}\n".encode())
    yield found
    for name in found.submitted:
        space.kubectl("delete", "workflow", name, "--wait=false", check=False)
