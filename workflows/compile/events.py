"""From `params/triggers.yaml` to Argo Events: an event source a host, a sensor a pipeline and environment, an account an environment.

A sensor creates a Workflow from the template of the pipeline. All that it takes from a push is its commit, which becomes the
workflow's name and an argument, and a few words for people, with every character replaced that is not plain.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml.scalarstring import LiteralScalarString

from workflows import names
from workflows.compile.interface import Declared
from workflows.compile.text import dump, kustomization
from workflows.compile.touching import paths_of
from workflows.compile.triggers import Mapped, Triggers, mapped
from workflows.names import argo_name
from workflows.prove import canonical

FOLDER = "infra/events/compiled"
COMMENT = "Generated from workflows/*.py and params/triggers.yaml. Do not edit: change those, then run: countersign compile"
NAMESPACE = "countersign-events"
BUS = "default"
ENDPOINT = "/push"
LIMIT = 1024 * 1024
"""Bytes of a push that are read at all. Whoever reaches the address can send that much before the signature is checked."""
PLACEHOLDER = "0123456789abcdef0123456789abcdef01234567"
LABELS = {"app.kubernetes.io/part-of": "countersign"}
LONGEST_LABEL = 63


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """How one kind of git server tells of a push. Paths and templates are Argo Events' own, into an event's data."""

    name: str
    port: int
    source: Mapping[str, Any]
    """The event source without its address: what kind it is, and what makes it refuse a request."""
    is_push: str
    repository: str
    refused: tuple[str, ...]
    """Flags that make a push one to refuse."""
    truncated: str
    """Lua: true where `commits` does not list all that was pushed."""
    pushed_by: str
    delivery: str


GITHUB = Host(
    name="github",
    port=12000,
    source={"github": {"webhookSecret": {"name": "countersign-github", "key": "secret"}}},
    is_push="body.X-GitHub-Event",
    repository="body.repository.full_name",
    refused=("body.deleted", "body.forced"),
    truncated="#commits >= 2048",  # GitHub lists no more
    pushed_by=".Input.body.pusher.name",
    delivery='index .Input.body "X-GitHub-Delivery"',
)
# Not Argo Events' own GitLab source: that one checks the token of a push only where it also holds a token of GitLab's API,
# and takes every request where it does not. The bearer token here is always checked, and does not travel on with the event.
GITLAB = Host(
    name="gitlab",
    port=12001,
    source={"webhook": {"authSecret": {"name": "countersign-gitlab", "key": "token"}}},
    is_push="body.object_kind",
    repository="body.project.path_with_namespace",
    refused=(),
    truncated="#commits < (tonumber(event.body.total_commits_count) or math.huge)",  # GitLab lists the newest twenty
    pushed_by=".Input.body.user_username",
    delivery='index .Input.header "X-Gitlab-Event-Uuid" 0',
)
HOSTS = (GITHUB, GITLAB)

SCRIPT = """\
-- True where the push touches the pipeline, or does not say all that it touches.
local paths = {{
{paths}
}}
local commits = event.body.commits
if type(commits) ~= "table" or #commits == 0 or {truncated} then
  return true
end
if string.find(event.body.before or "", "^0*$") then
  return true -- a new branch: there is nothing to compare it with
end
for _, commit in ipairs(commits) do
  local count = 0
  for _, kind in ipairs({{ "added", "modified", "removed" }}) do
    local files = commit[kind]
    if type(files) ~= "table" then
      return true
    end
    for _, path in ipairs(files) do
      if paths[path] then
        return true
      end
    end
    count = count + #files
  end
  if count >= 3000 then
    return true -- GitHub lists no more of one commit
  end
end
return false
"""


def manifests(triggers: Triggers, pipelines: Iterable[Declared]) -> dict[str, str]:
    """Path -> text of every manifest, with the kustomization that names them."""
    known = {d.pipeline.name: d for d in pipelines}
    wanted = mapped(triggers)
    hosts = [h for h in HOSTS if wanted and _repositories(triggers, h)]
    objects = {f"source-{h.name}.yaml": [_source(h, _repositories(triggers, h))] for h in hosts}
    for environment in dict.fromkeys(m.environment for m in wanted):
        objects[f"access-{environment}.yaml"] = _access(environment, triggers.environments[environment].namespace)
    for pipeline, environment in dict.fromkeys((m.pipeline, m.environment) for m in wanted):
        here = [m for m in wanted if (m.pipeline, m.environment) == (pipeline, environment)]
        events = [_Event(host=h, repositories=_repositories(triggers, h), mapped=m, declared=known[pipeline]) for m in here for h in hosts]
        sensor = _sensor(_short(f"{argo_name(pipeline)}-{environment}"), environment, events)
        objects[f"sensor-{sensor['metadata']['name']}.yaml"] = [sensor]
    texts = {name: "---\n".join(dump(o, COMMENT) for o in found) for name, found in objects.items()}
    return {f"{FOLDER}/{name}": text for name, text in {**texts, "kustomization.yaml": kustomization(objects, COMMENT)}.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Event:
    """A push to one branch of a repository at one host, which runs one pipeline."""

    host: Host
    repositories: Sequence[str]
    mapped: Mapped
    declared: Declared

    @property
    def name(self) -> str:
        """Unique within a sensor."""
        return _short(f"{self.host.name}-{argo_name(self.mapped.pipeline)}-{self.mapped.branch}")


def _short(name: str) -> str:
    """A name that is short and plain enough for a label, and still another one for another `name`."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower())
    if plain == name and len(plain) <= LONGEST_LABEL:
        return plain
    return f"{plain[: LONGEST_LABEL - 9].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _repositories(triggers: Triggers, host: Host) -> Sequence[str]:
    return triggers.repositories.github if host is GITHUB else triggers.repositories.gitlab


def _object(kind: str, name: str, namespace: str = NAMESPACE, *, api: str = "argoproj.io/v1alpha1", **rest: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace, "labels": LABELS}, **rest}


def _pod(account: str) -> dict[str, Any]:
    """What Pod Security `restricted` asks for, and memory for a few of the largest pushes at once."""
    return {
        "serviceAccountName": account,
        "metadata": {"labels": LABELS},
        "securityContext": {"runAsNonRoot": True, "runAsUser": 9731, "seccompProfile": {"type": "RuntimeDefault"}},
        "container": {
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
            "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
        },
    }


def _source(host: Host, repositories: Sequence[str]) -> dict[str, Any]:
    (kind, event), *_ = host.source.items()
    address = {"endpoint": ENDPOINT, "port": str(host.port), "method": "POST", "maxPayloadSize": LIMIT}
    if kind == "github":
        # It would make the web hooks of these if it had a token of GitHub's API; which of them may ask is the sensors' to see.
        owners = [r.rpartition("/") for r in repositories]
        event = {"webhook": address, "repositories": [{"owner": o, "names": [n]} for o, _, n in owners], **event}
    else:
        event = {**address, **event}
    ports = [{"name": "http", "port": host.port, "targetPort": host.port}]
    spec = {"eventBusName": BUS, "template": _pod("countersign-source"), "service": {"ports": ports}, kind: {"push": event}}
    return _object("EventSource", host.name, spec=spec)


def _access(environment: str, namespace: str) -> list[dict[str, Any]]:
    """The account of an environment's sensor: it creates workflows there, and can do nothing else and nowhere else."""
    rbac, account = "rbac.authorization.k8s.io/v1", _account(environment)
    rules = [{"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["create"]}]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account}
    subjects = [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
    return [
        _object("ServiceAccount", account, api="v1"),
        _object("Role", account, namespace, api=rbac, rules=rules),
        _object("RoleBinding", account, namespace, api=rbac, roleRef=role, subjects=subjects),
    ]


def _account(environment: str) -> str:
    return f"countersign-sensor-{environment}"


def _sensor(name: str, environment: str, events: Sequence[_Event]) -> dict[str, Any]:
    spec = {
        "eventBusName": BUS,
        "template": _pod(_account(environment)),
        "dependencies": [_dependency(e) for e in events],
        "triggers": [_trigger(e) for e in events],
    }
    return _object("Sensor", name, spec=spec)


def _dependency(event: _Event) -> dict[str, Any]:
    """Which pushes are meant. All conditions must hold; a push that lacks a field is none."""
    host = event.host
    data = [
        _is(host.is_push, "push"),
        _is(host.repository, *event.repositories),
        _is("body.ref", f"refs/heads/{event.mapped.branch}"),
        {"path": "body.after", "type": "string", "value": ["^[0-9a-f]{40}$"]},
        {"path": "body.after", "type": "string", "comparator": "!=", "value": ["^0+$"]},  # a deleted branch
        *(_is(flag, "false") for flag in host.refused),  # as a text: to Argo Events, a bool that is null is false
    ]
    script = SCRIPT.format(
        paths="\n".join(f"  [{json.dumps(p, ensure_ascii=False)}] = true," for p in paths_of(event.declared)), truncated=host.truncated
    )
    return {
        "name": event.name,
        "eventSourceName": host.name,
        "eventName": "push",
        "filters": {"data": data, "script": LiteralScalarString(script)},
    }


def _is(path: str, *texts: str) -> dict[str, Any]:
    """The field is one of these texts, whole."""
    return {"path": path, "type": "string", "value": [f"^{re.escape(t)}$" for t in texts]}


def _trigger(event: _Event) -> dict[str, Any]:
    return {
        "template": {
            "name": event.name,
            "conditions": event.name,
            "k8s": {"operation": "create", "source": {"resource": _workflow(event)}, "parameters": _parameters(event)},
        },
        # An event counts as handled only after its workflow was created, and the cluster is asked no faster than this.
        "atLeastOnce": True,
        "rateLimit": {"unit": "Second", "requestsPerUnit": 5},
        "retryStrategy": {"steps": 3, "duration": "1s", "factor": 3},
    }


def _workflow(event: _Event) -> dict[str, Any]:
    """The workflow but for what the push says."""
    m, template = event.mapped, argo_name(event.mapped.pipeline)
    arguments = {
        "code": "",  # found by the commit
        "revision": "",
        "parameters": "code",  # those of the commit, not those that the template had when it was compiled
        "overrides": canonical.encode(m.overrides).decode(),
    }
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": template,
            "namespace": m.namespace,
            "labels": {**LABELS, "countersign/pipeline": template, "countersign/environment": m.environment},
            "annotations": {
                "countersign/branch": m.branch,
                "countersign/submitter": f"system:serviceaccount:{NAMESPACE}:{_account(m.environment)}",
            },
        },
        "spec": {
            "workflowTemplateRef": {"name": template},
            "arguments": {"parameters": [{"name": k, "value": v} for k, v in arguments.items()]},
        },
    }


def _parameters(event: _Event) -> list[dict[str, Any]]:
    """What the push says, by the place in the workflow that it goes to."""
    commit = "{{ .Input.body.after }}"
    found = {
        "metadata.name": _name_template(event.mapped),
        "metadata.labels.countersign/revision": commit,
        "metadata.annotations.countersign/repository": _plain(f".Input.{event.host.repository}"),
        "metadata.annotations.countersign/pushed-by": _plain(event.host.pushed_by),
        "metadata.annotations.countersign/delivery": _plain(event.host.delivery),
        "spec.arguments.parameters.1.value": commit,
    }
    optional = {"metadata.annotations.countersign/pushed-by", "metadata.annotations.countersign/delivery"}
    return [
        {
            "src": {"dependencyName": event.name, "dataTemplate": text} | ({"value": "unknown"} if dest in optional else {}),
            "dest": dest,
        }
        for dest, text in found.items()
    ]


def _name_template(m: Mapped) -> str:
    """A Go template that makes the very name which `names.workflow_name` gives the same run."""
    named = names.workflow_name(m.pipeline, commit=PLACEHOLDER, overrides=m.overrides)
    stem, start = named[: -names.DIGITS], PLACEHOLDER[: names.DIGITS]
    if named.endswith(start):
        return f"{stem}{{{{ .Input.body.after | trunc {names.DIGITS} }}}}"
    before, after = names.pre_image(m.pipeline, commit=PLACEHOLDER, overrides=m.overrides).split(PLACEHOLDER)
    quoted = [json.dumps(t, ensure_ascii=False) for t in (before, after)]
    return f"{stem}{{{{ print {quoted[0]} .Input.body.after {quoted[1]} | sha256sum | trunc {names.DIGITS} }}}}"


def _plain(field: str) -> str:
    """A field's text with every character replaced that is not plain, cut to a label's length."""
    return f'{{{{ regexReplaceAll "[^A-Za-z0-9._@/-]" ({field} | default "unknown" | toString) "_" | trunc {LONGEST_LABEL} }}}}'
