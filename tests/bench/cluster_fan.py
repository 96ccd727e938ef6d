"""What a step costs on a cluster, many side by side."""

from __future__ import annotations

import cluster_flows as flows
import cluster_steps
from harness import Contest

FAN = flows.Shape(name="fan", wide=50)


def contest() -> Contest:
    what = f"A step, {FAN.wide} after it side by side, at most {flows.AT_ONCE} at a time, and one that joins them"
    return cluster_steps.contest(FAN, "A fan-out on the cluster", what)
