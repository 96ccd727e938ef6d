"""What the chart renders is what a real API server takes: every object, checked by it and not kept."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.real import kubectl
from tests.conftest import lacking
from tests.infra.test_chart import CASES, render

pytestmark = pytest.mark.cluster
SPACE = "charted"
MONITORS = "servicemonitors.monitoring.coreos.com"
NAMES = {"type": "array", "items": {"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}}
"""Of labels, as Prometheus takes them."""
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


RELABELING = of(sourceLabels=NAMES, targetLabel={"type": "string"}, action={"type": "string"})
DURATION = {"type": "string", "pattern": "^(0|[0-9]+(ms|[smhdwy]))$"}
ENDPOINT = of(port={"type": "string"}, interval=DURATION, relabelings={"type": "array", "items": RELABELING})
MONITOR = of(
    selector=of(matchLabels=LABELS),
    podTargetLabels={"type": "array", "items": {"type": "string"}},
    endpoints={"type": "array", "items": ENDPOINT},
)
"""Of the definition that the Prometheus operator brings: the fields that have to do with the chart, named and formed as there."""
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": MONITORS},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {"kind": "ServiceMonitor", "plural": "servicemonitors", "singular": "servicemonitor"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": of(spec=MONITOR)}}],
    },
}


@pytest.fixture(scope="module", autouse=True)
def space(cluster: None) -> Iterator[None]:  # noqa: ARG001
    kubectl("create", "namespace", SPACE, check=False)
    kubectl("label", "namespace", SPACE, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    yield
    kubectl("delete", "namespace", SPACE, "--wait=false")


@pytest.fixture(scope="module", autouse=True)
def operator(space: None) -> Iterator[None]:  # noqa: ARG001
    """Where the Prometheus operator has not brought its definitions, the one that the chart needs."""
    there = kubectl("get", "crd", MONITORS, "--ignore-not-found", "-o", "name")
    if not there:
        kubectl("apply", "-f", "-", given=json.dumps(DEFINITION))
        kubectl("wait", "--for=condition=Established", f"crd/{MONITORS}", "--timeout=60s")
    yield
    if not there:
        kubectl("delete", "crd", MONITORS, "--wait=false")


def objects(case: str) -> list[dict[str, Any]]:
    found = list(yaml.safe_load_all(render(CASES[case])))
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


@pytest.mark.parametrize(
    ("case", "kind", "change"),
    [
        ("deployment", "Deployment", lambda o: o["spec"]["template"]["spec"]["containers"][0].update(readyProbe={})),
        ("everything", "ServiceMonitor", lambda o: o["spec"]["endpoints"][0].update(intervall="15s")),
        ("everything", "ServiceMonitor", lambda o: o["spec"]["endpoints"][0].update(interval="soon")),
    ],
    ids=["readyProbe", "intervall", "interval"],
)
def test_it_would_see_what_is_no_field_or_no_value(
    case: str, kind: str, change: Callable[[dict[str, Any]], Any], request: pytest.FixtureRequest
) -> None:
    made = objects(case)
    for o in made:
        if o["kind"] == kind:
            change(o)
    words = ["kubectl", "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"]
    done = subprocess.run(words, input=yaml.safe_dump_all(made), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert request.node.callspec.id in done.stderr
