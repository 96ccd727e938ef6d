"""Which cluster is meant: the one that KUBECONFIG names, kind, or the local one."""

from __future__ import annotations

import enum
import os
import shutil
from collections.abc import Callable, Mapping

from infra.cluster.process import attempt
from infra.cluster.settings import NAME, Places
from workflows.errors import BadInput

DOCKER_SECONDS = 20
KIND_NODE = f"{NAME}-control-plane"
"""The container that is the node of a cluster of kind."""


class Kind(enum.Enum):
    """The three ways."""

    EXISTING = "existing"
    KIND = "kind"
    LOCAL = "local"


def choose(
    places: Places, env: Mapping[str, str] = os.environ, *, wish: str | None = None, docker: Callable[[], bool] | None = None
) -> Kind:
    """A wish decides; then KUBECONFIG, unless it names our own cluster; then what is there already; then whether Docker answers."""
    named = env.get("KUBECONFIG", "")
    if wish:
        return Kind(wish)
    if named and named != str(places.kubeconfig):
        return Kind.EXISTING
    if (places.state / "kind").exists():
        return Kind.KIND
    if places.kubeconfig.exists() or not (docker or docker_answers)():
        return Kind.LOCAL
    return Kind.KIND


def docker_answers() -> bool:
    return attempt("docker", "version", "--format", "{{.Server.Version}}", seconds=DOCKER_SECONDS).returncode == 0


def require_kind() -> None:
    if not docker_answers():
        raise BadInput("kind needs a Docker engine, and none answers", hint="start Docker, or take the local cluster: --on local")
    if not shutil.which("kind"):
        raise BadInput("a Docker engine answers, but kind is not installed", hint="install kind, or take the local cluster: --on local")
    if not shutil.which("go"):
        raise BadInput("the cluster's programs are built with Go, which is not installed", hint="install Go 1.26 or later")


def kind_exists() -> bool:
    return NAME in attempt("kind", "get", "clusters").stdout.split()
