"""What the chart renders is what a real API server takes: every object, checked by it and not kept."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.real import kubectl
from tests.conftest import lacking
from tests.infra.test_chart import CASES, render

pytestmark = pytest.mark.cluster
SPACE = "charted"


@pytest.fixture(scope="module", autouse=True)
def space(cluster: None) -> Iterator[None]:  # noqa: ARG001
    kubectl("create", "namespace", SPACE, check=False)
    kubectl("label", "namespace", SPACE, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    yield
    kubectl("delete", "namespace", SPACE, "--wait=false")


def objects(case: str) -> list[dict[str, Any]]:
    """All but what is for an operator that this cluster has not."""
    found = [o for o in yaml.safe_load_all(render(CASES[case])) if o["kind"] != "ServiceMonitor"]
    for o in found:
        o["metadata"]["namespace"] = SPACE
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_it(case: str) -> None:
    made = objects(case)
    if any(o["apiVersion"].startswith("argoproj.io") for o in made) and not kubectl(
        "get", "crd", "rollouts.argoproj.io", "--ignore-not-found", "-o", "name"
    ):
        lacking("Argo Rollouts: python infra/cluster up --with promotion")
    words = ["kubectl", "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"]
    done = subprocess.run(words, input=yaml.safe_dump_all(made), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(made)
    # A pod that the namespace's own rules would refuse is only warned about where its maker is checked.
    assert "would violate" not in done.stderr, done.stderr


def test_it_would_see_a_field_that_is_none() -> None:
    made = objects("deployment")
    for o in made:
        if o["kind"] == "Deployment":
            o["spec"]["template"]["spec"]["containers"][0]["readyProbe"] = {}
    words = ["kubectl", "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"]
    done = subprocess.run(words, input=yaml.safe_dump_all(made), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "readyProbe" in done.stderr
