"""Keys, kubeconfigs and static pods of the control plane, all written by kubeadm.

kubeadm writes below /etc/kubernetes. It is run with a root folder of its own, so that the machine's /etc stays as it is,
and the paths in the pods' manifests are then led to that folder.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.cluster import programs
from infra.cluster.process import run
from infra.cluster.progress import Phase
from infra.cluster.recipes import EVERY, recipe
from infra.cluster.settings import API_PORT, NAME, NODE_ADDRESS, POD_RANGE, SERVICE_RANGE, Places

CONFIG = "kubeadm.json"
# What each asks of the processor: less than kubeadm would, as pipelines share a small machine with them, and enough that
# they still get their turn when it is overloaded.
STATIC_PODS = {"etcd": "100m", "kube-apiserver": "100m", "kube-controller-manager": "50m", "kube-scheduler": "50m"}
KUBE_PROXY_USER = "system:kube-proxy"


def phase(places: Places) -> Phase:
    return Phase(name="control plane", holds=lambda: is_written(places), make=lambda: write(places), done="written")


def is_written(places: Places) -> bool:
    written = [places.kubeconfig, *(manifests(places) / f"{p}.yaml" for p in STATIC_PODS)]
    return all(p.exists() for p in written) and all(p.exists() and p.read_text(encoding="utf-8") == t for p, t in inputs(places).items())


def manifests(places: Places) -> Path:
    """Where kubelet looks for static pods: complete files only, moved there when all else is done."""
    return places.state / "static-pods"


def write(places: Places) -> None:
    """Safe to run again: a first time that was cut short starts over, later keys and kubeconfigs are kept by kubeadm."""
    if not places.kubeconfig.exists() and places.node.exists():
        shutil.rmtree(places.node)
    for path, text in inputs(places).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for part in (("certs", "all"), ("kubeconfig", "all"), ("etcd", "local"), ("control-plane", "all")):
        kubeadm(places, "init", "phase", *part)
    proxy = kubeadm(places, "kubeconfig", "user", "--client-name", KUBE_PROXY_USER)
    (places.kubernetes / "kube-proxy.conf").write_text(proxy)
    place_manifests(places)
    partial = places.kubeconfig.with_suffix(".partial")
    shutil.copyfile(places.kubernetes / "admin.conf", partial)
    partial.chmod(0o600)
    partial.replace(places.kubeconfig)


def kubeadm(places: Places, *words: str) -> str:
    return run(programs.program(places, "kubeadm"), *words, "--config", f"/{CONFIG}", "--rootfs", places.node)


def inputs(places: Places) -> Mapping[Path, str]:
    """What kubeadm is given: its configuration, and what is changed in the pods that it writes."""
    config = "\n---\n".join(json.dumps(d) for d in kubeadm_config(versions()))
    return {places.node / CONFIG: config, **{places.node / f"patches/{p}+strategic.json": patch(p, cpu) for p, cpu in STATIC_PODS.items()}}


def patch(pod: str, cpu: str) -> str:
    return json.dumps({"spec": {"containers": [{"name": pod, "resources": {"requests": {"cpu": cpu}}}]}})


def versions() -> Mapping[str, str]:
    return {n: recipe(EVERY[n]).version for n in ("kubernetes", "etcd")}


def kubeadm_config(version: Mapping[str, str]) -> list[dict[str, Any]]:
    """The node's part, and the cluster's. Listens on the node's own address, which no other machine can reach."""
    api = "kubeadm.k8s.io/v1beta4"
    node = {
        "apiVersion": api,
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": NODE_ADDRESS, "bindPort": API_PORT},
        "nodeRegistration": {"name": NAME, "taints": [], "criSocket": "unix:///run/containerd/containerd.sock"},
        "patches": {"directory": "/patches"},
    }
    cluster = {
        "apiVersion": api,
        "kind": "ClusterConfiguration",
        "clusterName": NAME,
        "kubernetesVersion": version["kubernetes"],
        "imageRepository": "localhost",
        "networking": {"podSubnet": POD_RANGE, "serviceSubnet": SERVICE_RANGE, "dnsDomain": "cluster.local"},
        # Writes are not forced to the disk one by one: a cluster that is made in a minute needs no more.
        "etcd": {"local": {"dataDir": "/var/lib/etcd", "imageTag": version["etcd"], "extraArgs": arguments({"unsafe-no-fsync": "true"})}},
        "apiServer": {"extraArgs": arguments({"bind-address": NODE_ADDRESS})},
        # The pods' network hands out addresses itself. There is nobody to lose an election to, and a busy machine loses it.
        "controllerManager": {"extraArgs": arguments({"allocate-node-cidrs": "false", "leader-elect": "false"})},
        "scheduler": {"extraArgs": arguments({"leader-elect": "false"})},
    }
    return [node, cluster]


def arguments(given: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": k, "value": v} for k, v in given.items()]


def place_manifests(places: Places) -> None:
    manifests(places).mkdir(exist_ok=True)
    for pod in STATIC_PODS:
        text = (places.kubernetes / f"manifests/{pod}.yaml").read_text(encoding="utf-8")
        partial = places.state / f"{pod}.partial"  # kubelet would take it for a pod in its own folder
        partial.write_text(led_to(places.node, text), encoding="utf-8")
        partial.replace(manifests(places) / f"{pod}.yaml")


def led_to(node: Path, text: str) -> str:
    """The manifest with kubeadm's folders below `node` instead of the machine's own."""
    return re.sub(r"(?<![\w/])/(etc/kubernetes|var/lib/etcd|usr/libexec/kubernetes)", lambda m: f"{node}{m[0]}", text)
