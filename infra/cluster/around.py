"""Brings a cluster up around a command, with this checkout's pipelines on it, and takes away what it brought."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.cluster import argo, services
from infra.cluster.choose import Kind
from infra.cluster.down import down
from infra.cluster.kube import Kube
from infra.cluster.packages import install_line, lacking_for_tests
from infra.cluster.progress import line
from infra.cluster.settings import REGION, ROOT, Places
from infra.cluster.up import Wishes, up

MAY_END = "COUNTERSIGN_TEST_CLUSTER_DOWN"
"""Tells the command that the cluster was brought up for it alone: it may take it away itself."""
ALL = "COUNTERSIGN_TEST_ALL"
"""Tells tests that everything is here: one that leaves itself out fails."""


def around(places: Places, kind: Kind, wishes: Wishes, command: Sequence[str]) -> int:
    """The command's exit code. A cluster that was there before stays, up or down: there may be something in its store."""
    stays = kind is Kind.EXISTING or places.state.exists()
    try:
        kube = up(places, kind, wishes)
        told = {**os.environ, "KUBECONFIG": kube.kubeconfig, "PATH": f"{places.bin}:{kube.kubectl.parent}:{os.environ['PATH']}"}
        if not stays:
            told[MAY_END] = "1"
        told |= whole(kind, lacking_for_tests())
        publish(kube, {**told, **store(kube)})
        return subprocess.run(command, env=told, check=False).returncode
    finally:
        if not stays:
            down(places, kind)


def whole(kind: Kind, lacking: Sequence[str]) -> dict[str, str]:
    """What to tell the command of a cluster whose parts all come from here: else tests that lack one would be left out unnoticed."""
    if kind is not Kind.LOCAL:
        return {}  # what another's cluster has is for its owner to say
    if lacking:
        line("tests", f"some will say that they were not run, for want of {', '.join(lacking)}: {install_line(lacking)}")
        return {}
    return {ALL: "1"}


def store(kube: Kube) -> dict[str, str]:
    """How this machine reaches the store of its own cluster."""
    url = services.store_url(kube)
    return {"AWS_ENDPOINT_URL_S3": url, "AWS_REGION": REGION, **(services.store_keys(kube) or {})} if url else {}


def publish(kube: Kube, env: Mapping[str, str]) -> None:
    """This checkout's code, data and templates, for what is started without naming any."""
    if not kube.get("configmap", argo.SETTINGS, "--namespace", argo.NAMESPACE):
        return
    pull = [str(Path(sys.executable).with_name("dvc")), "pull", "--quiet", *map(str, sorted(ROOT.glob("data/*/*/*.dvc")))]
    subprocess.run(pull, cwd=ROOT, env={k: v for k, v in env.items() if not k.startswith("AWS_")}, check=True)
    words = [sys.executable, "-m", "workflows.cli", "publish", "--templates", "--namespace", argo.NAMESPACE]
    subprocess.run(words, cwd=ROOT, env=dict(env), check=True, stdout=subprocess.DEVNULL)
    line("pipelines", f"published to namespace {argo.NAMESPACE}")
