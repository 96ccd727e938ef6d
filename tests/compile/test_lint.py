"""Argo's own linters on every manifest that is compiled, and shown to find something."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, lacking


def ask(program: str, *words: str | Path) -> tuple[int, str]:
    path = shutil.which(program)
    if path is None:
        lacking(f"{program} (make cluster-up builds it and says where)")
    done = subprocess.run([path, *words], capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


def manifests(*folders: str) -> list[Path]:
    return sorted(f for d in folders for f in (ROOT / d).glob("*.yaml") if f.name != "kustomization.yaml")


def changed(files: Iterable[Path], old: str, new: str, scratch: Path) -> list[Path]:
    """Copies with one text replaced, which at least one of them holds."""
    texts = {f.name: f.read_text() for f in files}
    assert any(old in t for t in texts.values())
    for name, text in texts.items():
        (scratch / name).write_text(text.replace(old, new))
    return [scratch / name for name in texts]


def test_argo_lints_templates_and_schedules_together() -> None:
    files = manifests("infra/argo/workflows", "infra/argo/schedules", "infra/argo/promotion")
    assert len(files) >= 2
    code, said = ask("argo", "lint", "--offline", *files)
    assert code == 0, said


@pytest.mark.parametrize(("old", "new"), [('"0 5 * * 1"', '"0 5 * * 8"'), ("name: loan-approval\n", "name: gone\n")])
def test_argo_would_see_a_broken_schedule(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "schedules").mkdir()
    schedules = changed(manifests("infra/argo/schedules"), old, new, tmp_path / "schedules")
    code, said = ask("argo", "lint", "--offline", *manifests("infra/argo/workflows"), *schedules)
    assert code == 1, said


def test_argo_events_lints_sensors_and_event_sources() -> None:
    files = manifests("infra/events/compiled")
    code, said = ask("argo-events", "lint", "--strict", *files)
    assert code == 0, said
    assert said.count("is valid") == sum(f.name.startswith(("sensor-", "source-")) for f in files) >= 3


@pytest.mark.parametrize(
    ("old", "new"),
    [("endpoint: /push", 'endpoint: ""'), ("operation: create", "operation: invent"), ("eventSourceName: github", 'eventSourceName: ""')],
)
def test_argo_events_would_see_a_broken_one(tmp_path: Path, old: str, new: str) -> None:
    code, said = ask("argo-events", "lint", "--strict", *changed(manifests("infra/events/compiled"), old, new, tmp_path))
    assert code == 1, said


def test_on_the_local_cluster_every_environment_is_its_one_namespace() -> None:
    code, said = ask("kubectl", "kustomize", ROOT / "infra/events/overlays/local")
    assert code == 0, said
    found = [d for d in yaml.safe_load_all(said) if d]
    kinds = {"Role", "RoleBinding"}
    assert {d["metadata"]["namespace"] for d in found if d["kind"] in kinds} == {"countersign"}
    made = [t["template"]["k8s"]["source"]["resource"] for d in found if d["kind"] == "Sensor" for t in d["spec"]["triggers"]]
    assert {w["metadata"]["namespace"] for w in made} == {"countersign"}
    assert "environment" not in {d["metadata"]["name"] for d in found}


def test_production_has_three_servers_on_disks_for_its_bus() -> None:
    code, said = ask("kubectl", "kustomize", ROOT / "infra/events/overlays/prod")
    assert code == 0, said
    (bus,) = [d["spec"]["jetstream"] for d in yaml.safe_load_all(said) if d and d["kind"] == "EventBus"]
    assert (bus["replicas"], bus["persistence"]["accessMode"]) == (3, "ReadWriteOnce")
