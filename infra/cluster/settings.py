"""Where things lie and which addresses the local cluster uses. No I/O beyond reading the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAMS = HERE / "programs"
SERVICES_FOLDER = HERE / "services"

NAME = "countersign"
# Ranges kept for benchmarks (RFC 2544), never routed: what is not delivered here is delivered nowhere.
POD_RANGE = "198.18.0.0/20"
POD_GATEWAY = "198.18.0.1/20"
SERVICE_RANGE = "198.19.0.0/20"
NODE_ADDRESS = "198.19.255.1"
DNS_ADDRESS = "198.19.0.10"
API_PORT = 6443
API_SERVER = f"https://{NODE_ADDRESS}:{API_PORT}"
NODE_BRIDGE = "csgn-node"
POD_BRIDGE = "csgn-pods"

STORE_NAMESPACE = "store"
STORE_SECRET = "s3-root"  # noqa: S105 (its name)
BUCKET = "countersign"
REGION = "us-east-1"
# The user that Argo's released images run as; ours are alike.
IMAGE_USER = 8737


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """The two folders outside the repository: `cache` may be shared and kept, `state` is one cluster's and goes with it."""

    cache: Path
    state: Path

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> Self:
        home = Path(env.get("HOME") or Path.home())
        cache = env.get("COUNTERSIGN_CACHE") or Path(env.get("XDG_CACHE_HOME") or home / ".cache") / "countersign"
        state = env.get("COUNTERSIGN_STATE") or Path(env.get("XDG_STATE_HOME") or home / ".local/state") / "countersign"
        return cls(cache=Path(cache).absolute() / "cluster", state=Path(state).absolute() / "cluster")

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def bin(self) -> Path:
        """Links to the programs in use, for a person's PATH."""
        return self.state / "bin"

    @property
    def archives(self) -> Path:
        return self.cache / "images"

    @property
    def node(self) -> Path:
        """What a node of its own would have as its root: kubeadm writes etc/kubernetes below it."""
        return self.state / "node"

    @property
    def kubernetes(self) -> Path:
        return self.node / "etc/kubernetes"

    @property
    def containerd(self) -> Path:
        return self.state / "containerd"

    @property
    def in_memory(self) -> Path:
        """What of containerd need not survive this machine's end; see `infra.cluster.memory`."""
        return self.containerd / "memory"

    @property
    def socket(self) -> Path:
        return self.containerd / "containerd.sock"

    @property
    def kubelet(self) -> Path:
        return self.state / "kubelet"

    @property
    def store(self) -> Path:
        """The S3 server's files; an object of a bucket lies under `data/<bucket>/<key>`."""
        return self.state / "store"

    @property
    def bus(self) -> Path:
        """What the event bus holds."""
        return self.state / "bus"

    @property
    def logs(self) -> Path:
        return self.state / "logs"
