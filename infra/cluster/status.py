"""What is up and what is down, for a person and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from infra.cluster import network, node, services
from infra.cluster.choose import Kind, kind_exists
from infra.cluster.kube import Kube, connect, from_environment
from infra.cluster.process import attempt
from infra.cluster.settings import NODE_ADDRESS, STORE_NAMESPACE, Places


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One thing that is up or down."""

    part: str
    up: bool
    detail: str


def status(places: Places, kind: Kind) -> list[Part]:
    """Never empty, and never all up without a cluster."""
    kube = kube_of(places, kind)
    return [*parts_below(places, kind), *parts_of_cluster(kube, kind)]


def kube_of(places: Places, kind: Kind) -> Kube:
    return connect(places, from_environment() if kind is Kind.EXISTING else str(places.kubeconfig))


def parts_below(places: Places, kind: Kind) -> Iterator[Part]:
    if kind is Kind.KIND:
        yield Part(part="kind", up=kind_exists(), detail="cluster of kind")
    if kind is not Kind.LOCAL:
        return
    yield Part(part="network", up=attempt("iptables", "--version").returncode == 0 and network.holds(places), detail=NODE_ADDRESS)
    for name, daemon in node.daemons(places).items():
        pid = daemon.pid()
        yield Part(part=name, up=pid is not None, detail=f"pid {pid}" if pid else f"not running; log {daemon.log}")


def parts_of_cluster(kube: Kube, kind: Kind) -> Iterator[Part]:
    answers = bool(kube.kubeconfig) and kube.answers()
    yield Part(part="API server", up=answers, detail=kube.kubeconfig)
    if not answers:
        return
    for name, ready in sorted(kube.nodes().items()):
        yield Part(part=f"node {name}", up=ready, detail="ready" if ready else "not ready")
    deployments = kube.deployments()
    for name, (available, wanted) in sorted(deployments.items()):
        yield Part(part=name, up=available >= wanted, detail=f"{available} of {wanted}")
    if kind is Kind.LOCAL:
        url = services.store_url(kube)
        yield Part(part="S3", up=services.answers(url), detail=url or f"no service in namespace {STORE_NAMESPACE}")


def table(parts: list[Part]) -> str:
    width = max(len(p.part) for p in parts)
    return "\n".join(f"  {p.part:<{width}}  {'up' if p.up else 'DOWN':<5} {p.detail}" for p in parts)


def as_json(parts: list[Part], kind: Kind) -> dict[str, object]:
    return {"cluster": kind.value, "up": all(p.up for p in parts), "parts": [asdict(p) for p in parts]}
