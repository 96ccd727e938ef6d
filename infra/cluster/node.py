"""The local node: containerd, kubelet and kube-proxy, started by hand, as there is no service manager to do it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.cluster import control_plane, memory, programs
from infra.cluster.network import pod_network
from infra.cluster.packages import cni_folder
from infra.cluster.process import Daemon, ProgramFailed, answers_http, attempt
from infra.cluster.progress import Phase, wait_for
from infra.cluster.settings import DNS_ADDRESS, NAME, NODE_ADDRESS, POD_RANGE, Places

# Kubelet deletes unused images and evicts pods by percentage of the disk; without a registry an image never comes back.
EVICTION = {"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"}
MAX_PODS = 250
PAUSE = "localhost/pause:3.10.1"


def daemons(places: Places) -> dict[str, Daemon]:
    """In the order in which they are started."""
    containerd = places.containerd / "config.toml"
    kubelet = places.state / "kubelet.json"
    proxy = places.state / "kube-proxy.json"
    kubelet_words = (
        str(programs.program(places, "kubelet")),
        f"--config={kubelet}",
        f"--kubeconfig={places.kubernetes / 'kubelet.conf'}",
        f"--root-dir={places.kubelet}",
        f"--cert-dir={places.kubelet / 'pki'}",
        f"--hostname-override={NAME}",
        f"--node-ip={NODE_ADDRESS}",
    )
    folder = places.logs
    return {
        "containerd": Daemon(name="containerd", words=("containerd", "--config", str(containerd)), mark=containerd, folder=folder),
        "kubelet": Daemon(name="kubelet", words=kubelet_words, mark=kubelet, folder=folder),
        "kube-proxy": Daemon(
            name="kube-proxy", words=(str(programs.program(places, "kube-proxy")), f"--config={proxy}"), mark=proxy, folder=folder
        ),
    }


def phase(places: Places, name: str) -> Phase:
    daemon = daemons(places)[name]
    answers = {"containerd": lambda: containerd_answers(places), "kubelet": kubelet_answers, "kube-proxy": proxy_answers}[name]
    return Phase(
        name=name,
        holds=lambda: daemon.runs() and is_configured(places, name) and answers(),
        make=lambda: restart(places, name, answers),
        done="started",
    )


def restart(places: Places, name: str, answers: Any) -> None:
    """Ends one that is stuck or was started with another configuration, and starts it anew."""
    daemon = daemons(places)[name]
    daemon.stop()
    write_config(places, name)
    daemon.start()
    try:
        wait_for(f"{name} answers", lambda: answers() or not daemon.runs(), seconds=60)
    except TimeoutError as e:
        raise ProgramFailed(f"{e}; the end of {daemon.log}:\n{daemon.last_words()}") from None
    if not daemon.runs():
        raise ProgramFailed(f"{name} ended as it started; the end of {daemon.log}:\n{daemon.last_words()}")


def containerd_answers(places: Places) -> bool:
    return attempt("ctr", "--address", places.socket, "--timeout", "5s", "version", seconds=10).returncode == 0


def kubelet_answers() -> bool:
    return answers_http("http://127.0.0.1:10248/healthz")


def proxy_answers() -> bool:
    return answers_http("http://127.0.0.1:10256/healthz")


def config_files(places: Places, name: str) -> Mapping[Path, str]:
    """Each file that a program reads, with what belongs in it."""
    if name == "containerd":
        return {places.containerd / "config.toml": containerd_config(places), places.state / "cni/10-pods.conflist": pod_network(places)}
    if name == "kubelet":
        return {places.state / "kubelet.json": json.dumps(kubelet_config(places), indent=1), places.state / "resolv.conf": ""}
    return {places.state / "kube-proxy.json": json.dumps(proxy_config(places), indent=1)}


def is_configured(places: Places, name: str) -> bool:
    return all(p.is_file() and p.read_text(encoding="utf-8") == text for p, text in config_files(places, name).items())


def write_config(places: Places, name: str) -> None:
    for path, text in config_files(places, name).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def containerd_config(places: Places) -> str:
    """A containerd of our own beside any other on the machine.

    The machine may lack CAP_SYS_RESOURCE, without which a negative oom_score_adj ends a container before it starts.
    """
    folder = places.containerd
    return f"""version = 2
root = "{folder / "root"}"
state = "{memory.state(places)}"
oom_score = 0

[grpc]
  address = "{places.socket}"

[ttrpc]
  address = "{places.socket}.ttrpc"

[plugins."io.containerd.internal.v1.opt"]
  path = "{folder / "opt"}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_tcp_service = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_folder()}"
    conf_dir = "{places.state / "cni"}"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{shutil.which("runc")}"
      SystemdCgroup = false
      Root = "{memory.runc(places)}"
"""


def kubelet_config(places: Places) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(places.kubernetes / "pki/ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{places.socket}",
        "staticPodPath": str(control_plane.manifests(places)),
        "fileCheckFrequency": "5s",
        "podLogsDir": str(places.logs / "pods"),
        "volumePluginDir": str(places.state / "volume-plugins"),
        "resolvConf": str(places.state / "resolv.conf"),
        "imageGCHighThresholdPercent": 100,
        "evictionHard": EVICTION,
        "maxPods": MAX_PODS,
        "oomScoreAdj": 0,
        "rotateCertificates": False,
    }


def proxy_config(places: Places) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(places.kubernetes / "kube-proxy.conf")},
        "mode": "iptables",
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": NAME,
        "bindAddress": NODE_ADDRESS,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "nodePortAddresses": [f"{NODE_ADDRESS}/32"],
        "iptables": {"localhostNodePorts": False},
        "oomScoreAdj": 0,
        # The machine's limits on connections are left alone.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
