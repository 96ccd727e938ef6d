"""Installs Argo and what promotion needs from the project's kustomizations, and brings the image that steps run in."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from ruamel.yaml import YAML

from infra.cluster.choose import Kind
from infra.cluster.kube import Kube
from infra.cluster.loading import by_digest, load_kind, load_local
from infra.cluster.process import ProgramFailed, run
from infra.cluster.progress import Phase, wait_for
from infra.cluster.services import READY_SECONDS
from infra.cluster.settings import ROOT, STORE_NAMESPACE, STORE_SECRET, Places
from workflows.errors import Temporary

WORKFLOWS = ROOT / "infra/argo/overlays"
EVENTS = ROOT / "infra/events/overlays"
PROMOTION = (ROOT / "infra/rollouts/overlays", ROOT / "infra/monitoring/overlays")
POLICIES = ROOT / "infra/policies"
POLICY = ROOT / "params/environments.yaml"
DEV_VALUES = ROOT / "infra/charts/model-server/environments/dev.yaml"
# Each keeps what is there, and prints no value.
WORKFLOW_SECRETS = (ROOT / "infra/argo/secrets", "--store", f"{STORE_NAMESPACE}/{STORE_SECRET}")
EVENT_SECRETS = (sys.executable, ROOT / "infra/events/make_secrets.py")
STEP_IMAGE = ROOT / "infra/images/build"
EXECUTOR = re.compile(r"localhost/argoexec:[\w.-]+")
Pinned = Callable[[str], str]
NAMESPACE = "countersign"  # of the overlay `local`
SETTINGS = "countersign"


def workflow_phases(kube: Kube, overlay: str, *, secrets: bool = True, pinned: Pinned = str) -> Iterator[Phase]:
    """Argo itself, where the overlay has it apart, so that its definitions are known; then the environment and its Secrets.

    `pinned` gives an image's name by digest: Argo's executor runs beside every step, and production admits nothing else.
    """
    yield from overlays(kube, WORKFLOWS, f"{overlay}/argo", overlay, pinned=pinned)
    if secrets and WORKFLOW_SECRETS[0].exists():
        yield secrets_phase(kube, "secrets", WORKFLOW_SECRETS)


def event_phases(kube: Kube, overlay: str) -> Iterator[Phase]:
    """Argo Events itself, then the Secrets, without which the bus would not start, then bus, sources and sensors."""
    yield from overlays(kube, EVENTS, f"{overlay}/controller")
    if EVENT_SECRETS[1].exists():
        yield secrets_phase(kube, "secrets of events", EVENT_SECRETS)
    yield from overlays(kube, EVENTS, overlay)


def promotion_phases(kube: Kube, overlay: str) -> Iterator[Phase]:
    """What canaries and autoscalers need, and what the cluster itself refuses."""
    for parent in PROMOTION:
        yield from overlays(kube, parent, overlay)
    yield from overlays(kube, POLICIES.parent, POLICIES.name)


def overlays(kube: Kube, parent: Path, *names: str, pinned: Pinned = str) -> Iterator[Phase]:
    """Those that the checkout has. Applied at every `up`, as a manifest may have changed; then their deployments are waited for."""
    for folder in (parent / n for n in names):
        if (folder / "kustomization.yaml").exists():
            name = str(folder.relative_to(ROOT / "infra")).replace("/overlays", "")
            yield Phase(name=name, holds=lambda: False, make=partial(apply, kube, folder, pinned), done="applied")


def secrets_phase(kube: Kube, name: str, words: tuple[str | Path, ...]) -> Phase:
    env = {**kube.env, "PATH": f"{kube.kubectl.parent}:{os.environ['PATH']}"}
    return Phase(name=name, holds=lambda: False, make=lambda: run(*words, env=env), done="made")


def apply(kube: Kube, folder: Path, pinned: Pinned = str) -> None:
    manifests = EXECUTOR.sub(lambda found: pinned(found[0]), kube.do("kustomize", folder))
    apply_until_known(kube, manifests)
    wait_for_all(kube, deployments_in(manifests))


def apply_until_known(kube: Kube, manifests: str) -> None:
    """Twice where need be: an object of a kind that the same text defines is only understood a moment later."""
    try:
        kube.apply(manifests)
    except ProgramFailed as e:
        if "ensure CRDs are installed first" not in str(e):
            raise
        kube.do("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        kube.apply(manifests)


def deployments_in(manifests: str) -> list[str]:
    """`namespace/name` of each. Only their own text is read as YAML: all of Argo's definitions would take a minute."""
    texts = [d for d in manifests.split("---\n") if "\nkind: Deployment\n" in f"\n{d}"]
    found = [YAML(typ="safe").load(t)["metadata"] for t in texts]
    return [f"{m.get('namespace', 'default')}/{m['name']}" for m in found]


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


def step_image_phase(places: Places, kind: Kind, kube: Kube) -> Phase:
    def make() -> None:
        name, *_ = build_step_image(places, kind)
        configure(kube, {"image": by_digest(places, kind, name)})

    return Phase(
        name="step image",
        holds=lambda: False,
        make=make,
        done="loaded",
        takes="building what has changed (minutes the first time)",
    )


def configure(kube: Kube, settings: Mapping[str, str]) -> None:
    """Set what pipelines' parameters take their defaults from, where the namespace has it."""
    if kube.get("configmap", SETTINGS, "--namespace", NAMESPACE):
        change = json.dumps({"data": dict(settings)})
        kube.do("patch", "configmap", SETTINGS, "--namespace", NAMESPACE, "--type=merge", "--patch", change)


def build_step_image(places: Places, kind: Kind) -> tuple[str, ...]:
    """Builds the image with the project's own script and loads it; its names."""
    places.archives.mkdir(parents=True, exist_ok=True)
    archive = places.archives / "steps.tar"
    run(STEP_IMAGE, archive, cwd=ROOT)
    return load(places, kind, archive)


def promoter_image_phase(places: Places, kind: Kind, kube: Kube) -> Phase:
    """The promoter's image, and the ConfigMap that says which it is, where it is, and by what it judges."""

    def make() -> None:
        archive = places.archives / "promoter.tar"
        env = {**os.environ, "PATH": f"{places.bin}:{os.environ['PATH']}"}
        run(STEP_IMAGE, "--image", "promoter", archive, cwd=ROOT, env=env)
        name, *_ = load(places, kind, archive)
        kube.apply(json.dumps(promotion_settings(kube, by_digest(places, kind, name))))

    return Phase(name="promoter image", holds=lambda: False, make=make, done="loaded", takes="a minute")


def promotion_settings(kube: Kube, image: str) -> dict[str, object]:
    """The ConfigMap of the local namespace, which counts as no environment; tests make those that they need."""
    there = kube.get("configmap", SETTINGS, "--namespace", NAMESPACE) or {}
    store = {k: v for k, v in there.get("data", {}).items() if k in {"store", "endpoint", "region"}}
    data = {**store, "image": image, "environment": "dev", "environments.yaml": POLICY.read_text(), "values.yaml": DEV_VALUES.read_text()}
    labels = {"workflows.argoproj.io/configmap-type": "Parameter", "app.kubernetes.io/part-of": "countersign"}
    metadata = {"name": "countersign-promotion", "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def load(places: Places, kind: Kind, archive: Path) -> tuple[str, ...]:
    return load_kind(archive) if kind is Kind.KIND else load_local(places, archive)
