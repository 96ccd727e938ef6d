"""What a pod may say to the cluster it runs in: a few words on its own workflow. The standard library is enough for that."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from workflows.errors import BadInput, Problem, Temporary
from workflows.run.pod import wanted

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAME = "COUNTERSIGN_WORKFLOW_NAME"
NAMESPACE = "COUNTERSIGN_NAMESPACE"
TIMEOUT = 20.0  # seconds
SERVER_ERROR = 500
BUSY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
UNNOTED = "the run is sealed, but its root could not be noted"
UNREAD = "the workflow could not be read"


def annotate(annotations: Mapping[str, str], labels: Mapping[str, str]) -> None:
    """Note these on the workflow that this pod belongs to, beside what is noted there. By a label it is found, too."""
    _ask("PATCH", UNNOTED, {"metadata": {"annotations": dict(annotations), "labels": dict(labels)}})


def workflow() -> dict[str, Any]:
    """The workflow that this pod belongs to, as the API server has it: no text of Argo's, which pastes parameters into it."""
    found: dict[str, Any] = json.loads(_ask("GET", UNREAD))
    return found


def _ask(method: str, failed: str, change: Mapping[str, Any] | None = None) -> bytes:
    name, namespace = wanted(NAME), wanted(NAMESPACE)
    host, port = wanted("KUBERNETES_SERVICE_HOST"), wanted("KUBERNETES_SERVICE_PORT")
    url = f"https://{f'[{host}]' if ':' in host else host}:{port}/apis/argoproj.io/v1alpha1/namespaces/{namespace}/workflows/{name}"
    where = f"workflow {namespace}/{name}"
    try:
        request = urllib.request.Request(
            url,
            method=method,
            data=None if change is None else json.dumps(change).encode(),
            headers={
                "Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}",
                "Content-Type": "application/merge-patch+json",
            },
        )
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        with urllib.request.urlopen(request, timeout=TIMEOUT, context=context) as answer:  # noqa: S310  # https to the API server only
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        kind = Temporary if error.code >= SERVER_ERROR or error.code in BUSY else BadInput
        hint = "the exit handler's account needs the right to get and patch workflows: kubectl apply -k infra/argo/overlays/ENVIRONMENT"
        raise kind(Problem(what=f"{failed}: HTTP {error.code}", where=where), hint=hint) from error
    except FileNotFoundError as error:
        raise BadInput(Problem(what=f"{failed}: this pod has no account", where=where)) from error
    except (OSError, http.client.HTTPException) as error:  # the second: an answer that breaks off
        raise Temporary(Problem(what=f"{failed}: {error}", where=where)) from error
