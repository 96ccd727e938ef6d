"""The port on the Argo Server's API, for people who have no account on the cluster itself.

| variable | what it says, as to the `argo` command |
|---|---|
| `ARGO_SERVER` | `host:port` |
| `ARGO_TOKEN` | what goes into the Authorization header: `Bearer ...` |
| `ARGO_SECURE` | `false`: no TLS |
| `ARGO_INSECURE_SKIP_VERIFY` | `true`: take any certificate |
| `ARGO_BASE_HREF` | path that the server stands under |
| `ARGO_NAMESPACE` | the namespace, where none is named |
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import urllib3
from argo_workflows import ApiClient, ApiException, Configuration
from argo_workflows.api.info_service_api import InfoServiceApi
from argo_workflows.api.workflow_service_api import WorkflowServiceApi
from argo_workflows.api.workflow_template_service_api import WorkflowTemplateServiceApi
from argo_workflows.model.io_argoproj_workflow_v1alpha1_workflow_create_request import (
    IoArgoprojWorkflowV1alpha1WorkflowCreateRequest as CreateRequest,
)

from workflows.cluster import reading
from workflows.cluster.interface import Listed, Progress, Submission, Template
from workflows.errors import BadInput, CountersignError, Problem, Temporary

TIMEOUT = (10.0, 30.0)  # seconds to connect, to answer
WATCHED = 50  # seconds that one watch lasts; the caller starts the next
PAGE = 500
ALREADY = 409
NOT_FOUND = 404
NO_NODES = "metadata,items.metadata.name,items.metadata.labels,items.status.phase"
RAW: dict[str, Any] = {"_preload_content": False, "_request_timeout": TIMEOUT}
"""JSON as it comes: the client's own types know the server of one version only."""


class Server:
    """The port `Workflows` on the Argo Server."""

    def __init__(self, api: ApiClient, namespace: str) -> None:
        self._workflows, self._templates, self._info = WorkflowServiceApi(api), WorkflowTemplateServiceApi(api), InfoServiceApi(api)
        self._host, self._namespace = str(api.configuration.host), namespace

    @property
    def namespace(self) -> str:
        return self._namespace

    @property
    def place(self) -> str:
        return f"namespace {self._namespace} of the Argo Server at {self._host}"

    def submit(self, submission: Submission) -> bool:
        with self._asking(submission.name):
            body = CreateRequest(workflow=submission.manifest(self._namespace, self._account()), _check_type=False)
            try:
                _json(self._workflows.create_workflow(self._namespace, body, **RAW))
            except ApiException as error:
                if error.status != ALREADY:
                    raise
                return False
        return True

    def get(self, name: str) -> Progress | None:
        raw = self._get(lambda: self._workflows.get_workflow(self._namespace, name, **RAW), name)
        return None if raw is None else reading.progress(raw)

    def watch(self, progress: Progress) -> Iterator[Progress | None]:
        with self._asking(progress.name):
            answer = self._workflows.watch_workflows(
                self._namespace,
                list_options_field_selector=f"metadata.name={progress.name}",
                list_options_resource_version=progress.version,
                list_options_timeout_seconds=str(WATCHED),
                _preload_content=False,
                _request_timeout=(TIMEOUT[0], WATCHED + TIMEOUT[1]),
            )
            try:
                for event in _events(answer):
                    gone = event["type"] == "DELETED"
                    yield None if gone else reading.progress(event["object"])
                    if gone:
                        return
            finally:
                answer.close()

    def list(self, labels: Mapping[str, str]) -> Sequence[Listed]:
        found: list[Listed] = []
        page = ""
        selector = ",".join(f"{k}={v}" for k, v in labels.items())
        with self._asking("workflows"):
            while True:
                words = {"list_options_label_selector": selector, "list_options_limit": str(PAGE), "fields": NO_NODES}
                words |= {"list_options_continue": page} if page else {}
                answer = _json(self._workflows.list_workflows(self._namespace, **words, **RAW))
                found += map(reading.listed, answer.get("items") or ())
                page = (answer.get("metadata") or {}).get("continue") or ""
                if not page:
                    return found

    def template(self, name: str) -> Template | None:
        raw = self._get(lambda: self._templates.get_workflow_template(self._namespace, name, **RAW), name)
        return None if raw is None else reading.template(raw)

    def configuration(self) -> Mapping[str, str] | None:
        return None  # the Argo Server shows no ConfigMap

    def _account(self) -> str | None:
        """The account that the server asks the cluster as, by the caller's token or for who logged in; None where it does not say."""
        said = _json(self._info.get_user_info(**RAW))
        name, namespace = said.get("serviceAccountName"), said.get("serviceAccountNamespace")
        return f"system:serviceaccount:{namespace}:{name}" if name and namespace else None

    def _get(self, ask: Any, name: str) -> dict[str, Any] | None:
        with self._asking(name):
            try:
                return _json(ask())
            except ApiException as error:
                if error.status != NOT_FOUND or "not found" not in _said(error):
                    raise
                return None

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise _explained(error, what, self.place) from error
        except urllib3.exceptions.HTTPError as error:
            raise _unreachable(error, self._host) from error
        except AttributeError as error:
            # The client stumbles over a failure without a body, which is one of TLS.
            if not isinstance(error.__context__, ApiException):
                raise
            raise _explained(error.__context__, what, self.place) from error


def connect(namespace: str) -> Server:
    """The server that the environment names."""
    address, secure = os.environ["ARGO_SERVER"], os.environ.get("ARGO_SECURE") != "false"
    if "://" in address:
        raise BadInput(Problem(what="is an address with a scheme", where="ARGO_SERVER", expected="host:port", got=address))
    base = os.environ.get("ARGO_BASE_HREF", "").strip("/")
    config = Configuration(host=f"http{'s' if secure else ''}://{address}{f'/{base}' if base else ''}")
    if token := os.environ.get("ARGO_TOKEN"):
        config.api_key["BearerToken"] = token
    if os.environ.get("ARGO_INSECURE_SKIP_VERIFY") == "true":
        config.verify_ssl = False
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # it was asked for, and is said once too often
    client = ApiClient(config)
    client.rest_client.pool_manager.connection_pool_kw["retries"] = False  # a refused connection is told at once
    return Server(client, namespace)


def _json(answer: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(answer.data or b"{}")
    return value


def _events(answer: Any) -> Iterator[dict[str, Any]]:
    """What a stream of server-sent events carries: a JSON object a line, after `data: `."""
    left = b""
    for chunk in answer.stream(amt=None):
        *lines, left = (left + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))["result"]


def _explained(error: ApiException, what: str, place: str) -> CountersignError:
    status = error.status or 0
    if status == 0:
        return _unreachable(urllib3.exceptions.SSLError(str(error.reason)), place)
    problem = Problem(what=_said(error) or f"HTTP {status}", where=f"{what}, {place}")
    hints = {
        401: "set ARGO_TOKEN to 'Bearer ...' with a token of your account: argo auth token prints it",
        403: "your account may not do this: ask for the role countersign-submitter in this namespace (infra/argo)",
        404: "right namespace and server? --namespace names another, ARGO_SERVER says which server",
    }
    if status in {408, ALREADY, 429} or status >= 500:  # noqa: PLR2004  # the server's own troubles
        return Temporary(problem, hint="the server answered, but could not do it now: try again")
    return BadInput(problem, hint=hints.get(status, ""))


def _unreachable(error: Exception, host: str) -> CountersignError:
    text = " ".join(str(error).split())
    if isinstance(error, urllib3.exceptions.SSLError) or "CERTIFICATE_VERIFY_FAILED" in text:
        hint = "ARGO_SECURE=false speaks without TLS; ARGO_INSECURE_SKIP_VERIFY=true takes any certificate"
        return BadInput(Problem(what=f"no TLS connection with a certificate that is trusted: {text[:200]}", where=host), hint=hint)
    why = next((w for w in ("refused", "timed out", "Name or service not known", "reset by peer", "unreachable") if w in text), text[:200])
    return Temporary(Problem(what=f"the Argo Server cannot be reached: {why}", where=host), hint="is ARGO_SERVER right, and the server up?")


def _said(error: ApiException) -> str:
    """The server's own account of a failure."""
    try:
        return str(json.loads(error.body or b"{}").get("message", ""))
    except (ValueError, AttributeError):
        return ""
