from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.fake_api import FakeApi, serving
from tests.conftest import lacking


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
