"""What a step costs on a cluster, one after the other."""

from __future__ import annotations

import cluster_flows as flows
import cluster_steps
from harness import Contest

CHAIN = flows.Shape(name="chain", steps=20)


def contest() -> Contest:
    what = f"A chain of {CHAIN.steps} steps, each adding one to a number"
    return cluster_steps.contest(CHAIN, "A step on the cluster", what)
