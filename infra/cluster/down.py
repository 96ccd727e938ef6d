"""Takes a cluster of this project away and leaves nothing: processes, mounts, names of networks, rules, bridges, folders.

It ends only processes that it can tell are this cluster's: by the recorded id, by the shim's socket, which lies in the
state folder, or by the cgroup that kubelet made for pods.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from infra.cluster import network, node
from infra.cluster.choose import Kind, kind_exists
from infra.cluster.loading import ctr
from infra.cluster.locks import locked
from infra.cluster.memory import mounts_below
from infra.cluster.process import Daemon, ProgramFailed, attempt, run
from infra.cluster.progress import Phase, carry_out, line
from infra.cluster.settings import NAME, Places
from workflows.errors import BadInput, Temporary

CGROUPS = Path("/sys/fs/cgroup")
DEVICE_SOCKET = Path("/var/lib/kubelet/device-plugins/kubelet.sock")
# What kubelet and containerd make outside the folders they are given; each is left where another's things are in it.
SHARED_FOLDERS = (
    Path("/var/log/containers"),
    network.CNI_RESULTS,
    network.CNI_RESULTS.parent,
    DEVICE_SOCKET.parent,
    DEVICE_SOCKET.parent.parent,
    Path("/run/containerd/s"),
    Path("/run/containerd"),
)


def down(places: Places, kind: Kind) -> None:
    """Idempotent. A cluster that KUBECONFIG names is left alone."""
    if kind is Kind.EXISTING:
        line("cluster", "left as it is: KUBECONFIG names it, it was not made here")
        return
    if not places.state.exists() and network.owner() is None:
        line("cluster", "none is here")
        return
    if kind is Kind.LOCAL and os.geteuid() != 0:
        raise BadInput("taking the local cluster down needs root", hint="run it as root")
    lock = places.state.with_suffix(".lock")
    with locked(lock, whose="cluster"):
        carry_out(kind_phases(places) if kind is Kind.KIND else local_phases(places))
        lock.unlink(missing_ok=True)
    with suppress(OSError):
        places.state.parent.rmdir()


def kind_phases(places: Places) -> Iterator[Phase]:
    yield Phase(name="kind", holds=lambda: not kind_exists(), make=lambda: run("kind", "delete", "cluster", "--name", NAME), done="deleted")
    yield Phase(name="state folder", holds=lambda: not places.state.exists(), make=lambda: shutil.rmtree(places.state), done="removed")


def local_phases(places: Places) -> Iterator[Phase]:
    every = node.daemons(places)
    yield from (ended(every[name]) for name in ("kubelet", "kube-proxy"))
    yield Phase(name="pods", holds=lambda: not any(leftover_processes(places)), make=lambda: end_pods(places), done="ended")
    yield ended(every["containerd"])
    yield Phase(name="mounts", holds=lambda: not mounts_below(places.state), make=lambda: unmount(places), done="unmounted")
    yield Phase(name="network", holds=lambda: False, make=lambda: network.remove(places), done="removed")
    yield Phase(name="control groups", holds=lambda: not pod_cgroups(), make=remove_cgroups, done="removed")
    yield Phase(name="folders", holds=lambda: not places.state.exists(), make=lambda: remove_folders(places), done="removed")


def ended(daemon: Daemon) -> Phase:
    return Phase(name=daemon.name, holds=lambda: not daemon.runs(), make=daemon.stop, done="ended")


def end_pods(places: Places) -> None:
    """Asks containerd first, as it then cleans up after them; what is left is ended by the kernel's own lists."""
    with suppress(ProgramFailed):
        for task in ctr(places, "tasks", "ls", "-q").split():
            attempt("ctr", "--address", places.socket, "-n", "k8s.io", "tasks", "rm", "--force", task, seconds=10)
    for number in leftover_processes(places):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    until = time.monotonic() + 20
    while left := list(leftover_processes(places)):
        if time.monotonic() > until:
            raise Temporary(f"processes of pods do not end: {left}", hint="make cluster-down again")
        time.sleep(0.1)


def leftover_processes(places: Places) -> Iterator[int]:
    """Shims of our containerd, and whatever is still in the pods' control groups."""
    yield from shims(places)
    for group in pod_cgroups():
        with suppress(OSError):
            yield from (int(n) for n in (group / "cgroup.procs").read_text().split())


def shims(places: Places) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"shim" in words[0] and str(places.socket).encode() in words:
                    yield int(entry.name)


def pod_cgroups() -> list[Path]:
    """Those of pods, the deepest first; in every hierarchy of version 1, or in the one of version 2."""
    tops = [t for t in (CGROUPS / "kubepods", *CGROUPS.glob("*/kubepods")) if t.is_dir()]
    return [g for top in tops for g in [*sorted((d for d in top.rglob("*") if d.is_dir()), reverse=True), top]]


def remove_cgroups() -> None:
    for group in pod_cgroups():
        with suppress(OSError):
            group.rmdir()


def unmount(places: Places) -> None:
    for point in mounts_below(places.state):
        if attempt("umount", point).returncode:
            attempt("umount", "--lazy", point)
    if left := mounts_below(places.state):
        raise Temporary(f"still mounted: {', '.join(left)}", hint="make cluster-down again")


def remove_folders(places: Places) -> None:
    if mounts_below(places.state):
        raise Temporary("something is still mounted in the state folder", hint="make cluster-down again")
    for entry in shared_entries(places):
        entry.unlink(missing_ok=True)
    shutil.rmtree(places.state)
    for folder in SHARED_FOLDERS:
        with suppress(OSError):
            folder.rmdir()


def shared_entries(places: Places) -> Iterator[Path]:
    """Files of ours in folders that others may use as well."""
    logs = Path("/var/log/containers")
    yield from (p for p in logs.glob("*") if p.is_symlink() and p.readlink().is_relative_to(places.logs))
    yield from (p for p in network.CNI_RESULTS.glob("*") if str(places.state) in p.read_text(encoding="utf-8"))
    if DEVICE_SOCKET.exists() and not is_listened_to(DEVICE_SOCKET):
        yield DEVICE_SOCKET


def is_listened_to(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(str(path)) == 0
