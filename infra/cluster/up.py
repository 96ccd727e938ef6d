"""What `up` does, in order, for each of the three ways. Every phase looks first, so that a second `up` goes on where one stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from infra.cluster import argo, control_plane, images, loading, memory, network, node, packages, programs, services, upstream
from infra.cluster.choose import KIND_NODE, Kind, kind_exists, require_kind
from infra.cluster.images import NODE_IMAGES, Image, service_images
from infra.cluster.kube import Kube, connect, from_environment
from infra.cluster.locks import locked
from infra.cluster.process import attempt, run
from infra.cluster.progress import Phase, carry_out, line, wait_for
from infra.cluster.settings import API_SERVER, NAME, Places
from workflows.errors import BadInput, Problem

# kubeadm names this group in its kubeconfigs, and only its full `init` gives it rights.
ADMINISTRATORS = "kubeadm:cluster-admins"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What a person may choose."""

    promotion: bool = False
    install_packages: bool = False
    overlay: str | None = None
    step_image: bool = True


def up(places: Places, kind: Kind, wishes: Wishes) -> Kube:
    """Brings the cluster up; safe to repeat, and safe to cut short."""
    if wishes.overlay and not (argo.WORKFLOWS / wishes.overlay).is_dir():
        there = sorted(p.name for p in argo.WORKFLOWS.glob("*") if p.is_dir())
        raise BadInput(Problem(what=f"no overlay {wishes.overlay}", where=str(argo.WORKFLOWS), expected=", ".join(there) or "one"))
    if kind is Kind.EXISTING:
        return on_existing(places, wishes)
    (packages.require_local if kind is Kind.LOCAL else require_kind)()
    places.state.mkdir(parents=True, exist_ok=True)
    with locked(places.state.with_suffix(".lock"), whose="cluster"):
        if kind is Kind.KIND:
            return on_kind(places, wishes)
        return on_local(places, wishes)


def on_existing(places: Places, wishes: Wishes) -> Kube:
    """Looks whether the cluster answers. Nothing is installed there unless an overlay is named."""
    kube = connect(places, from_environment())
    if not kube.answers():
        told = kube.attempt("get", "--raw=/readyz", "--request-timeout=5s").stderr.strip().splitlines()
        raise BadInput(
            Problem(what="the cluster that KUBECONFIG names does not answer", where=kube.kubeconfig, got=told[-1] if told else "nothing"),
            hint="check KUBECONFIG and its current context, or unset it to use a cluster on this machine",
        )
    line("cluster", f"answers, {len(kube.nodes())} node(s)")
    if wishes.overlay:
        carry_out([upstream.phase(), *argo.workflow_phases(kube, wishes.overlay, secrets=False)])
    return kube


def on_local(places: Places, wishes: Wishes) -> Kube:
    carry_out([packages.phase(install=wishes.install_packages, step_image=wishes.step_image and argo.STEP_IMAGE.exists())])
    carry_out(local_phases_before_kubectl(places, wishes))
    kube = connect(places, str(places.kubeconfig))
    carry_out(local_phases_after(places, kube))
    install(places, kube, Kind.LOCAL, wishes)
    return kube


def local_phases_before_kubectl(places: Places, wishes: Wishes) -> Iterator[Phase]:
    groups = programs.wanted(promotion=wishes.promotion)
    yield from programs.phases(places, groups)
    yield images.phase(places, every_image(wishes))
    yield Phase(name="links", holds=lambda: False, make=lambda: programs.link_programs(places, groups))
    yield network.phase(places)
    yield control_plane.phase(places)
    yield memory.phase(places)
    yield node.phase(places, "containerd")
    yield loading.phase(places, "node images", NODE_IMAGES)
    yield node.phase(places, "kubelet")
    yield loading.phase(places, "images", service_images(promotion=wishes.promotion))


def every_image(wishes: Wishes) -> tuple[Image, ...]:
    return (*NODE_IMAGES, *service_images(promotion=wishes.promotion))


def local_phases_after(places: Places, kube: Kube) -> Iterator[Phase]:
    yield Phase(
        name="API server", holds=kube.answers, make=lambda: wait_for(f"{API_SERVER} answers", kube.answers, seconds=180), done="answers"
    )
    yield Phase(name="administrators", holds=lambda: administers(kube), make=lambda: let_administer(places), done="bound")
    yield node.phase(places, "kube-proxy")
    yield Phase(
        name="node",
        holds=lambda: kube.nodes().get(NAME, False),
        make=lambda: wait_for("the node is ready", lambda: kube.nodes().get(NAME, False), seconds=120),
        done="ready",
    )
    yield services.names_phase(places, kube)


def administers(kube: Kube) -> bool:
    return kube.attempt("auth", "can-i", "*", "*", "--all-namespaces").returncode == 0


def let_administer(places: Places) -> None:
    super_admin = connect(places, str(places.kubernetes / "super-admin.conf"))
    made = super_admin.attempt("create", "clusterrolebinding", ADMINISTRATORS, "--clusterrole=cluster-admin", f"--group={ADMINISTRATORS}")
    admin = connect(places, str(places.kubeconfig))
    if made.returncode and "already exists" not in made.stderr:
        raise BadInput(f"{ADMINISTRATORS} could not be bound to cluster-admin: {made.stderr.strip()}")
    wait_for("the administrators' rights take effect", lambda: administers(admin), seconds=30)


def on_kind(places: Places, wishes: Wishes) -> Kube:
    groups = programs.wanted(promotion=wishes.promotion)
    chosen = service_images(promotion=wishes.promotion)
    (places.state / "kind").touch()
    carry_out([*programs.phases(places, groups), images.phase(places, chosen), kind_phase(places)])
    programs.link_programs(places, groups)
    kube = connect(places, str(places.kubeconfig))
    carry_out([loading.kind_phase(places, chosen)])
    install(places, kube, Kind.KIND, wishes)
    return kube


def kind_phase(places: Places) -> Phase:
    def make() -> None:
        if not kind_exists():
            run("kind", "create", "cluster", "--name", NAME, "--wait", "180s", "--kubeconfig", places.kubeconfig)
        run("kind", "export", "kubeconfig", "--name", NAME, "--kubeconfig", places.kubeconfig)

    def holds() -> bool:
        return kind_exists() and places.kubeconfig.exists() and attempt("docker", "inspect", KIND_NODE).returncode == 0

    return Phase(name="kind", holds=holds, make=make, done="created", takes="kind create cluster")


def install(places: Places, kube: Kube, kind: Kind, wishes: Wishes) -> None:
    """What both kinds of cluster on this machine get: the store, Argo where the checkout has it, the steps' image."""
    carry_out([services.store_phase(places, kube, local=kind is Kind.LOCAL), upstream.phase(promotion=wishes.promotion)])
    overlay = wishes.overlay or "local"
    if kind is Kind.LOCAL:
        carry_out([services.bus_volume_phase(places, kube)])
    carry_out([*argo.workflow_phases(kube, overlay, pinned=partial(loading.by_digest, places, kind)), *argo.event_phases(kube, overlay)])
    if wishes.promotion:
        carry_out([*argo.promotion_phases(kube, overlay)])
    if wishes.step_image and argo.STEP_IMAGE.exists():
        carry_out([argo.step_image_phase(places, kind, kube)])
        if wishes.promotion:
            carry_out([argo.promoter_image_phase(places, kind, kube)])
