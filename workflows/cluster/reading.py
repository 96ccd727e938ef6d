"""From what either API answers (JSON, as a dictionary) to the port's values. Pure; strict about nothing that only a view needs."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from workflows.cluster.interface import Listed, Node, Phase, Progress, Template

PHASE_LABEL = "workflows.argoproj.io/phase"


def progress(workflow: Mapping[str, Any]) -> Progress:
    """A Workflow object. One that no controller has looked at yet has no status: it is pending."""
    meta, status = workflow["metadata"], workflow.get("status") or {}
    return Progress(
        name=meta["name"],
        namespace=meta.get("namespace", ""),
        uid=meta.get("uid", ""),
        template=((workflow.get("spec") or {}).get("workflowTemplateRef") or {}).get("name") or "",
        phase=_phase(status.get("phase")),
        message=status.get("message") or "",
        started=_time(status.get("startedAt")),
        finished=_time(status.get("finishedAt")),
        labels=meta.get("labels") or {},
        annotations=meta.get("annotations") or {},
        nodes=tuple(map(_node, _nodes(status).values())),
        version=meta.get("resourceVersion", ""),
    )


def listed(workflow: Mapping[str, Any]) -> Listed:
    """A Workflow object in a list, which may hold its metadata only: Argo keeps the phase in a label, too."""
    meta = workflow["metadata"]
    labels = meta.get("labels") or {}
    phase = (workflow.get("status") or {}).get("phase") or labels.get(PHASE_LABEL)
    return Listed(name=meta["name"], phase=_phase(phase), labels=labels)


def template(raw: Mapping[str, Any]) -> Template:
    """A WorkflowTemplate object."""
    spec = raw.get("spec") or {}
    parameters = (spec.get("arguments") or {}).get("parameters") or []
    return Template(
        name=raw["metadata"]["name"],
        defaults={p["name"]: p.get("value") for p in parameters},
        templates=frozenset(t["name"] for t in spec.get("templates") or []),
    )


def _nodes(status: Mapping[str, Any]) -> dict[str, Any]:
    """Argo packs the nodes of a large workflow; of a very large one they are in a database and not here at all."""
    if packed := status.get("compressedNodes"):
        unpacked: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed)))
        return unpacked
    return status.get("nodes") or {}


def _node(raw: Mapping[str, Any]) -> Node:
    outputs = raw.get("outputs") or {}
    code = outputs.get("exitCode")
    return Node(
        id=raw["id"],
        name=raw.get("displayName") or raw.get("name") or raw["id"],
        kind=raw.get("type") or "",
        phase=_phase(raw.get("phase")),
        message=raw.get("message") or "",
        started=_time(raw.get("startedAt")),
        finished=_time(raw.get("finishedAt")),
        exit_code=int(code) if code is not None and str(code).lstrip("-").isdigit() else None,
        outputs={p["name"]: str(p.get("value") or "") for p in outputs.get("parameters") or []},
        children=tuple(raw.get("children") or ()),
    )


def _phase(word: str | None) -> Phase:
    return Phase(word) if word in set(Phase) else Phase.PENDING


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
