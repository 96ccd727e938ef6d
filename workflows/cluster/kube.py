"""The port on the Kubernetes API: KUBECONFIG's current context, or the account of the pod that this runs in."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import urllib3
from kubernetes.client import ApiClient, ApiException, AuthenticationV1Api, Configuration, CoreV1Api, CustomObjectsApi, V1SelfSubjectReview
from kubernetes.config import ConfigException, kube_config, load_incluster_config
from kubernetes.watch import Watch

from workflows.cluster import reading
from workflows.cluster.interface import API_VERSION, CONFIG, Listed, Progress, Submission, Template
from workflows.errors import BadInput, CountersignError, Problem, Temporary

GROUP, VERSION = API_VERSION.split("/")
WORKFLOWS = "workflows"
TEMPLATES = "workflowtemplates"
PLURALS = {"WorkflowTemplate": TEMPLATES, "CronWorkflow": "cronworkflows"}
MANAGER = "countersign"  # Kubernetes notes who set which field
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT = (10.0, 30.0)  # seconds to connect, to answer
WATCHED = 50  # seconds that one watch lasts; the caller starts the next
PAGE = 500
ONLY_METADATA = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"}
ALREADY = 409
FORBIDDEN = 403
NOT_FOUND = 404
GONE = 410


class Kube:
    """The port `Cluster` on the Kubernetes API."""

    def __init__(self, api: ApiClient, namespace: str) -> None:
        self._objects, self._core, self._authentication = CustomObjectsApi(api), CoreV1Api(api), AuthenticationV1Api(api)
        self._host, self._namespace = api.configuration.host, namespace

    @property
    def namespace(self) -> str:
        return self._namespace

    @property
    def place(self) -> str:
        return f"namespace {self._namespace} of {self._host}"

    def submit(self, submission: Submission) -> bool:
        with self._asking(submission.name):
            manifest = submission.manifest(self._namespace, self._account())
            try:
                self._objects.create_namespaced_custom_object(
                    *self._all(WORKFLOWS), manifest, field_manager=MANAGER, _request_timeout=TIMEOUT
                )
            except ApiException as error:
                if error.status != ALREADY or _status(error).get("reason") != "AlreadyExists":
                    raise
                return False
        return True

    def get(self, name: str) -> Progress | None:
        raw = self._get(WORKFLOWS, name)
        return None if raw is None else reading.progress(raw)

    def watch(self, progress: Progress) -> Iterator[Progress | None]:
        with self._asking(progress.name):
            try:
                for event in Watch().stream(
                    self._objects.list_namespaced_custom_object,
                    *self._all(WORKFLOWS),
                    field_selector=f"metadata.name={progress.name}",
                    resource_version=progress.version,
                    timeout_seconds=WATCHED,
                    _request_timeout=(TIMEOUT[0], WATCHED + TIMEOUT[1]),
                ):
                    gone = event["type"] == "DELETED"
                    yield None if gone else reading.progress(event["raw_object"])
                    if gone:
                        return
            except ApiException as error:
                if error.status != GONE:  # the caller looks anew, and goes on from there
                    raise

    def list(self, labels: Mapping[str, str]) -> Sequence[Listed]:
        found: list[Listed] = []
        page = ""
        with self._asking(WORKFLOWS):
            while True:
                answer: Any = self._objects.list_namespaced_custom_object(
                    *self._all(WORKFLOWS),
                    label_selector=",".join(f"{k}={v}" for k, v in labels.items()),
                    limit=PAGE,
                    _continue=page,
                    _headers=ONLY_METADATA,
                    _request_timeout=TIMEOUT,
                )
                found += map(reading.listed, answer.get("items") or ())  # Kubernetes says null for none
                page = answer["metadata"].get("continue") or ""
                if not page:
                    return found

    def template(self, name: str) -> Template | None:
        raw = self._get(TEMPLATES, name)
        return None if raw is None else reading.template(raw)

    def configuration(self) -> Mapping[str, str] | None:
        with self._asking(f"configmap {CONFIG}"):
            try:
                found = self._core.read_namespaced_config_map(CONFIG, self._namespace, _request_timeout=TIMEOUT)
            except ApiException as error:
                if _is_missing(error, CONFIG):
                    raise not_installed(self.place) from error
                if error.status != FORBIDDEN:
                    raise
                return None  # whoever may submit need not be allowed to read it
        return found.data or {}

    def annotate(self, name: str, annotations: Mapping[str, str]) -> None:
        with self._asking(name):
            self._objects.patch_namespaced_custom_object(
                *self._all(WORKFLOWS),
                name,
                {"metadata": {"annotations": dict(annotations)}},
                field_manager=MANAGER,
                _content_type="application/merge-patch+json",
                _request_timeout=TIMEOUT,
            )

    def configure(self, values: Mapping[str, str]) -> None:
        with self._asking(f"configmap {CONFIG}"):
            try:
                self._core.patch_namespaced_config_map(
                    CONFIG,
                    self._namespace,
                    {"data": dict(values)},
                    field_manager=MANAGER,
                    _content_type="application/merge-patch+json",
                    _request_timeout=TIMEOUT,
                )
            except ApiException as error:
                if not _is_missing(error, CONFIG):
                    raise
                raise not_installed(self.place) from error

    def apply(self, manifest: Mapping[str, Any]) -> str:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if kind not in PLURALS:
            raise BadInput(Problem(what=f"cannot apply a {kind}", where=name, expected=" or ".join(PLURALS)))
        with self._asking(f"{kind} {name}"):
            self._objects.patch_namespaced_custom_object(
                *self._all(PLURALS[kind]),
                name,
                dict(manifest),
                field_manager=MANAGER,
                force=True,  # whoever applied it before by other means: the declaration is what counts
                _content_type="application/apply-patch+yaml",
                _request_timeout=TIMEOUT,
            )
        return f"{kind}/{name}"

    def _account(self) -> str | None:
        """Who the API server says this is; None where it does not say (before Kubernetes 1.28)."""
        try:
            review: Any = self._authentication.create_self_subject_review(V1SelfSubjectReview(), _request_timeout=TIMEOUT)
        except ApiException as error:
            if error.status not in {FORBIDDEN, NOT_FOUND}:
                raise
            return None
        return str(review.status.user_info.username)

    def _all(self, plural: str) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self._namespace, plural

    def _get(self, plural: str, name: str) -> dict[str, Any] | None:
        with self._asking(name):
            try:
                raw: Any = self._objects.get_namespaced_custom_object(*self._all(plural), name, _request_timeout=TIMEOUT)
            except ApiException as error:
                if not _is_missing(error, name):
                    raise
                return None
            return dict(raw)

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise _explained(error, what, self.place) from error
        except urllib3.exceptions.HTTPError as error:
            raise unreachable(error, self._host) from error


def connect(context: str | None, namespace: str | None) -> Kube:
    """The cluster of a context of KUBECONFIG (its current one by default), or the one that this pod runs in."""
    config = Configuration()
    config.retries = False  # a refused connection is told at once
    if context is None and _in_pod():
        load_incluster_config(client_configuration=config)
        return Kube(ApiClient(config), namespace or (ACCOUNT / "namespace").read_text().strip())
    try:
        contexts, current = kube_config.list_kube_config_contexts()
        known = {c["name"]: c["context"] for c in contexts}
        name = context or current["name"]
        if name not in known:
            raise BadInput(
                Problem(what=f"no context {name}", where=_files(), expected=f"one of: {', '.join(sorted(known))}"),
                hint="kubectl config get-contexts lists them",
            )
        kube_config.load_kube_config(context=name, client_configuration=config)
    except (ConfigException, OSError) as error:
        raise BadInput(
            Problem(what=f"no cluster to talk to: {_first_line(error)}", where=_files()),
            hint="name a cluster's file in KUBECONFIG, or an Argo Server in ARGO_SERVER; make cluster-up starts a cluster here",
        ) from error
    return Kube(ApiClient(config), namespace or known[name].get("namespace") or "default")


def not_installed(place: str) -> BadInput:
    """What to tell a person whose namespace lacks the project's own configuration."""
    return BadInput(
        Problem(what=f"the ConfigMap {CONFIG} is missing", where=place),
        hint="right namespace? --namespace names another; kubectl apply -k infra/argo/overlays/ENVIRONMENT installs what is missing",
    )


def unreachable(error: Exception, host: str) -> CountersignError:
    """What to tell a person when nobody answered, or not in the way that was agreed."""
    text = str(error)
    if isinstance(error, urllib3.exceptions.SSLError) or "CERTIFICATE_VERIFY_FAILED" in text:
        return BadInput(
            Problem(what=f"the cluster's certificate was not accepted: {_first_line(error)}", where=host),
            hint="is this the cluster that was meant? Its file may be from before it was set up anew",
        )
    why = next((w for w in ("refused", "timed out", "Name or service not known", "reset by peer", "unreachable") if w in text), "")
    return Temporary(
        Problem(what=f"the cluster cannot be reached: {why or _first_line(error)}", where=host),
        hint="is it up, and is KUBECONFIG the right one? make cluster-status says how the local one is",
    )


def _explained(error: ApiException, what: str, place: str) -> CountersignError:
    status = error.status or 0
    said = _status(error).get("message") or str(error.reason or "").strip() or f"HTTP {status}"
    problem = Problem(what=said, where=f"{what}, {place}")
    if status == 0:
        return unreachable(urllib3.exceptions.SSLError(said), place)
    if status == NOT_FOUND and not _status(error):
        return BadInput(
            Problem(what="Argo Workflows is not installed on this cluster", where=place),
            hint="install it (docs/install.md), or choose another cluster with --context",
        )
    hints = {
        401: "the cluster does not know you: log in anew, or renew the file that KUBECONFIG names",
        403: "your account may not do this: ask for the role countersign-submitter in this namespace (infra/argo)",
        404: "right namespace and context? --namespace and --context name others",
    }
    if status in {408, ALREADY, 429} or status >= 500:  # noqa: PLR2004  # the server's own troubles
        return Temporary(problem, hint="the cluster answered, but could not do it now: try again")
    return BadInput(problem, hint=hints.get(status, ""))


def _is_missing(error: ApiException, name: str) -> bool:
    """Whether it is the object itself that is not there, rather than its kind or its namespace."""
    return error.status == NOT_FOUND and (_status(error).get("details") or {}).get("name") == name


def _status(error: ApiException) -> dict[str, Any]:
    """Kubernetes' own account of a failure; empty where something else answered."""
    try:
        found = json.loads(error.body or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}


def _in_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ and (ACCOUNT / "token").is_file()


def _files() -> str:
    return str(kube_config.KUBE_CONFIG_DEFAULT_LOCATION)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
