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
    """A real cluster with Argo Workflows: the one that KUBECONFIG names."""
    what = "a Kubernetes cluster with Argo Workflows; make cluster-up starts one, KUBECONFIG names another"
    if not os.environ.get("KUBECONFIG") or shutil.which("kubectl") is None:
        lacking(what)
    words = ["kubectl", "get", "crd", "workflows.argoproj.io", "--request-timeout=20s"]
    if subprocess.run(words, capture_output=True, check=False, timeout=60).returncode:
        lacking(what)
