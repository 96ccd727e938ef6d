"""The one place that chooses how to talk to a cluster: through the Argo Server where ARGO_SERVER names one, else directly."""

from __future__ import annotations

import os

from workflows.cluster.interface import Cluster, Workflows
from workflows.errors import BadInput, Problem


def workflows(context: str | None, namespace: str | None) -> Workflows:
    """For submitting and watching."""
    if not os.environ.get("ARGO_SERVER"):
        return cluster(context, namespace)
    if context:
        raise BadInput(
            Problem(what="a context of KUBECONFIG is named, and an Argo Server, too", where="--context, ARGO_SERVER", expected="one")
        )
    from workflows.cluster import server

    return server.connect(namespace or os.environ.get("ARGO_NAMESPACE") or "default")


def cluster(context: str | None, namespace: str | None) -> Cluster:
    """For what the Argo Server cannot do: the ConfigMap and the templates."""
    from workflows.cluster import kube

    return kube.connect(context, namespace or os.environ.get("ARGO_NAMESPACE"))
