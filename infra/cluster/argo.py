"""Installs Argo from the project's kustomizations, and brings the image that steps run in."""

from __future__ import annotations

import json
from pathlib import Path

from infra.cluster.choose import Kind
from infra.cluster.kube import Kube
from infra.cluster.loading import load_kind, load_local
from infra.cluster.process import ProgramFailed
from infra.cluster.progress import Phase, wait_for
from infra.cluster.services import READY_SECONDS
from infra.cluster.settings import ROOT, Places
from workflows.errors import Temporary

OVERLAYS = ROOT / "infra/argo/overlays"
STEP_IMAGE = ROOT / "infra/images/build"
MANAGED = "--field-manager=countersign"


def overlay_phase(kube: Kube, name: str) -> Phase:
    """Applied at every `up`, as it costs little and a manifest may have changed; then every deployment in it is waited for."""
    return Phase(name=f"Argo ({name})", holds=lambda: False, make=lambda: apply(kube, OVERLAYS / name), done="runs")


def apply(kube: Kube, folder: Path) -> None:
    manifests = kube.do("kustomize", folder)
    apply_until_known(kube, manifests)
    wanted = deployments_in(kube, manifests)
    wait_for_all(kube, wanted)


def apply_until_known(kube: Kube, manifests: str) -> None:
    """Twice where need be: an object of a kind that the same text defines is only understood a moment later."""
    try:
        kube.apply(manifests)
    except ProgramFailed as e:
        if "ensure CRDs are installed first" not in str(e):
            raise
        kube.do("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        kube.apply(manifests)


def deployments_in(kube: Kube, manifests: str) -> list[str]:
    listed = json.loads(
        kube.do("create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-", stdin=only_deployments(manifests))
    )
    items = listed["items"] if listed["kind"] == "List" else [listed]
    return [f"{d['metadata'].get('namespace', 'default')}/{d['metadata']['name']}" for d in items]


def only_deployments(manifests: str) -> str:
    return "\n---\n".join(d for d in manifests.split("\n---\n") if "\nkind: Deployment\n" in f"\n{d}")


def wait_for_all(kube: Kube, names: list[str]) -> None:
    def lacking() -> list[str]:
        every = kube.deployments()
        return [n for n in names if every.get(n, (0, 1))[0] < every.get(n, (0, 1))[1]]

    try:
        wait_for("every deployment is available", lambda: not lacking(), seconds=READY_SECONDS, every=1)
    except TimeoutError:
        raise Temporary(
            f"not available within {READY_SECONDS} s: {', '.join(lacking())}", hint="kubectl get pods -A; kubectl describe pod …"
        ) from None


def step_image_phase(places: Places, kind: Kind) -> Phase:
    return Phase(
        name="step image",
        holds=lambda: False,
        make=lambda: build_step_image(places, kind),
        done="loaded",
        takes="building what has changed (minutes the first time)",
    )


def build_step_image(places: Places, kind: Kind) -> tuple[str, ...]:
    """Builds the image with the project's own script and loads it; its names."""
    from infra.cluster.process import run

    places.archives.mkdir(parents=True, exist_ok=True)
    archive = places.archives / "steps.tar"
    run(STEP_IMAGE, archive, cwd=ROOT)
    return load(places, kind, archive)


def load(places: Places, kind: Kind, archive: Path) -> tuple[str, ...]:
    return load_kind(archive) if kind is Kind.KIND else load_local(places, archive)
