from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.cluster.locks import locked
from tests.cluster import audited
from tests.cluster.fake_api import FakeApi, serving
from tests.cluster.real import Space, Toy, kubectl, new_space, toy_in
from tests.conftest import Home, lacking, make_home
from tests.pods import ReadOnly, read_only

SESSION = "countersign/test-session"
"""Label of what a session's workers share: the process that the session ends with."""


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


@pytest.fixture(scope="session")
def bank(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> audited.Bank:
    """One for all workers of a session: whoever comes first makes it, the others wait."""
    del cluster
    ours = tmp_path_factory.getbasetemp()
    common = ours.parent if os.environ.get("PYTEST_XDIST_WORKER") else ours
    noted = common / "audited.json"
    with locked(common / "audited.lock", whose="the audited run"):
        if not noted.exists():
            session = os.getppid() if os.environ.get("PYTEST_XDIST_WORKER") else os.getpid()
            try:
                audited.new_bank(tmp_path_factory.mktemp("bank")).note(noted)
            finally:
                kubectl("label", "namespace", audited.NAMESPACE, f"{SESSION}={session}", "--overwrite", check=False)
    return audited.Bank.noted(noted)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What workers shared goes when the last of them is done; another session's stays."""
    if not hasattr(session.config, "workerinput") and os.environ.get("KUBECONFIG") and shutil.which("kubectl"):
        kubectl("delete", "namespace", "-l", f"{SESSION}={os.getpid()}", "--wait=false", "--request-timeout=10s", check=False)


@pytest.fixture
def way(bank: audited.Bank) -> Iterator[ReadOnly]:
    """A way to the store that lets nothing be written."""
    with read_only(bank.store["AWS_ENDPOINT_URL_S3"]) as way:
        yield way
    assert way.tried == [], "a reader tried to write"


@pytest.fixture
def auditor(bank: audited.Bank, way: ReadOnly, tmp_path: Path) -> Home:
    """Someone in an empty folder, who may read the store, was given the masking key, and has no way to the cluster."""
    (tmp_path / "desk").mkdir()
    (tmp_path / "masking").write_text(audited.MASKING)
    home = make_home(tmp_path / "desk", tmp_path)
    given = {k: v for k, v in bank.store.items() if k.startswith("AWS_")} | way.env
    told = {"COUNTERSIGN_MASKING_KEY_FILE": str(tmp_path / "masking"), "PYTHONPATH": str(bank.home.path)}
    return Home(path=home.path, env={**home.env, **given, **told, "COUNTERSIGN_STORE": bank.url})


@pytest.fixture
def key(bank: audited.Bank, tmp_path: Path) -> str:
    """The public key, as the bank hands it out."""
    return bank.key(tmp_path)
