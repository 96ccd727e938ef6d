"""What the local cluster needs of the machine, and how a person gets it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from infra.cluster.process import run
from infra.cluster.progress import Phase
from workflows.errors import BadInput, Problem

CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
CNI_PROGRAMS = ("bridge", "host-local", "loopback")


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """A program, and the Debian package that brings it."""

    program: str
    package: str


NEEDS = (
    Need(program="containerd", package="containerd"),
    Need(program="ctr", package="containerd"),
    Need(program="containerd-shim-runc-v2", package="containerd"),
    Need(program="runc", package="runc"),
    Need(program="iptables", package="iptables"),
    Need(program="ip", package="iproute2"),
    Need(program="conntrack", package="conntrack"),
    Need(program="umount", package="mount"),
)
# What the steps' image is built with.
STEP_IMAGE_NEEDS = (Need(program="buildah", package="buildah"), Need(program="mmdebstrap", package="mmdebstrap"))
CNI_PACKAGE = "containernetworking-plugins"
# What tests on a cluster need beside the cluster: libraries, looked for below /usr/lib. The cluster itself does without.
TEST_LIBRARIES = {"*/faketime/libfaketimeMT.so.1": "libfaketime"}
LIBRARIES = Path("/usr/lib")


def cni_folder() -> Path:
    """Where the pods' network programs lie; Debian's place where they are nowhere."""
    return next((f for f in CNI_FOLDERS if all((f / p).exists() for p in CNI_PROGRAMS)), CNI_FOLDERS[0])


def missing_packages(
    *, step_image: bool, has: Callable[[str], object] = shutil.which, cni: Callable[[], Path] = cni_folder
) -> tuple[str, ...]:
    lacking = {n.package for n in (*NEEDS, *(STEP_IMAGE_NEEDS if step_image else ())) if not has(n.program)}
    if not all((cni() / p).exists() for p in CNI_PROGRAMS):
        lacking.add(CNI_PACKAGE)
    return tuple(sorted(lacking))


def lacking_for_tests(libraries: Path = LIBRARIES) -> tuple[str, ...]:
    """Packages without which tests on a cluster leave themselves out."""
    return tuple(package for pattern, package in TEST_LIBRARIES.items() if not any(libraries.glob(pattern)))


def install_line(packages: Iterable[str]) -> str:
    return f"apt-get install --no-install-recommends {' '.join(packages)}"


def phase(*, install: bool, step_image: bool) -> Phase:
    def make() -> None:
        lacking = missing_packages(step_image=step_image)
        if not install or not shutil.which("apt-get"):
            raise BadInput(
                Problem(what="the local cluster needs programs that this machine lacks", got=f"no {', '.join(lacking)}"),
                hint=f"on Debian, as root: {install_line(lacking)}; or let this command do it: --install-packages",
            )
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-qq", env=env)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *lacking, env=env)

    return Phase(
        name="packages", holds=lambda: not missing_packages(step_image=step_image), make=make, done="installed", takes="apt-get install"
    )


def require_local() -> None:
    """Linux, root and Go. Says what is missing and what else would do."""
    other = "or set KUBECONFIG to a cluster that exists, or start Docker and install kind"
    if platform.system() != "Linux":
        raise BadInput("the local cluster needs Linux", hint=other)
    if os.geteuid() != 0:
        raise BadInput(
            "the local cluster needs root: it starts containerd and kubelet and sets up a network", hint=f"run it as root, {other}"
        )
    if not shutil.which("go"):
        raise BadInput("the local cluster is built with Go, which is not installed", hint=f"install Go 1.26 or later, {other}")
