"""Which store a cluster works with: the pods and whoever submits to them must mean the same one."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from urllib.parse import urlsplit

from workflows.cluster.interface import CONFIG, Workflows
from workflows.errors import BadInput, Problem
from workflows.run.store.open import STORE

ENDPOINT = "AWS_ENDPOINT_URL_S3"
FROM_CONFIG = {"endpoint": ENDPOINT, "region": "AWS_REGION"}


def store_url(workflows: Workflows, named: str | None, environment: MutableMapping[str, str] = os.environ) -> str:
    """The store's address: as named here, or as the cluster's ConfigMap says. `BadInput` where the two differ, or neither says.

    Where this machine has no endpoint and region of its own, the ConfigMap's are taken into its environment.
    """
    config = workflows.configuration() or {}
    there = config.get("store", "")
    where = f"ConfigMap {CONFIG}, {workflows.place}"
    if named and there and named.rstrip("/") != there.rstrip("/"):
        raise BadInput(
            Problem(what="the pods of this cluster work with another store", where=where, expected=there, got=named),
            hint=f"leave out --store and unset {STORE}, or name another namespace or context",
        )
    if not (named or there):
        raise BadInput(Problem(what="no store is named", where=f"--store, {STORE} or {where}", expected="s3://BUCKET/PREFIX"))
    if not any(v in environment for v in (ENDPOINT, "AWS_ENDPOINT_URL")):
        _adopt(config, environment, where)
    return named or there


def _adopt(config: Mapping[str, str], environment: MutableMapping[str, str], where: str) -> None:
    endpoint = config.get("endpoint", "")
    if endpoint and not _resolves(endpoint):
        raise BadInput(
            Problem(what="the store's endpoint is known inside the cluster only", where=where, got=endpoint),
            hint=f"set {ENDPOINT} to its address as seen from here; kubectl port-forward makes one",
        )
    for key, variable in FROM_CONFIG.items():
        if config.get(key) and variable not in environment:
            environment[variable] = config[key]


def _resolves(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname
    try:
        return bool(host and socket.getaddrinfo(host, None))
    except OSError:
        return False
