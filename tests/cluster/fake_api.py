"""A small stand-in for the Kubernetes API and the Argo Server, for faults that a real cluster does not have on demand.

It keeps objects, says AlreadyExists, streams watches, and fails in the ways that a test asks for.
"""

from __future__ import annotations

import itertools
import json
import queue
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAMESPACE = "lab"
OBJECTS = re.compile(rf"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/(?P<plural>\w+)(/(?P<name>[\w.-]+))?")
CONFIG = re.compile(rf"/api/v1/namespaces/{NAMESPACE}/(?P<plural>configmaps)/(?P<name>[\w.-]+)")
SERVER = re.compile(rf"/api/v1/(?P<plural>workflows|workflow-templates|workflow-events)/{NAMESPACE}(/(?P<name>[\w.-]+))?")
WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
USER_INFO = "/api/v1/userinfo"
PLURALS = {"workflow-templates": "workflowtemplates", "workflow-events": "workflows"}


class FakeApi:
    """One namespace's objects by plural and name."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.account: str | None = "me@bank"
        """Who asks, as Kubernetes says; None: as before it did."""
        self.user_info: dict[str, Any] = {}
        """Who asks, as the Argo Server says."""
        self.asked: list[tuple[str, str]] = []
        self.failing: list[tuple[int, str]] = []
        """Status and body of the next answers, whatever is asked."""
        self.always: tuple[int, str] | None = None
        self.watchers: list[queue.Queue[dict[str, Any] | None]] = []
        self.versions = itertools.count(1)
        self.lock = threading.Lock()
        self.url = ""

    def put(self, plural: str, obj: dict[str, Any]) -> None:
        """Keep an object, and tell whoever watches."""
        with self.lock:
            obj["metadata"]["resourceVersion"] = str(next(self.versions))
            new = (plural, obj["metadata"]["name"]) not in self.objects
            self.objects[plural, obj["metadata"]["name"]] = obj
            for w in self.watchers if plural == "workflows" else ():
                w.put({"type": "ADDED" if new else "MODIFIED", "object": obj})

    def change(self, name: str, status: dict[str, Any], annotations: dict[str, str] | None = None) -> None:
        """What a controller would write into a workflow."""
        obj = json.loads(json.dumps(self.objects["workflows", name]))
        obj["status"] = status
        obj["metadata"].setdefault("annotations", {}).update(annotations or {})
        self.put("workflows", obj)

    def remove(self, name: str) -> None:
        """Someone deletes a workflow."""
        obj = self.objects.pop(("workflows", name))
        for w in self.watchers:
            w.put({"type": "DELETED", "object": obj})

    def cut(self) -> None:
        """Every watch ends in the middle."""
        for w in self.watchers:
            w.put(None)

    def template(self, name: str, tasks: list[str]) -> None:
        """A WorkflowTemplate, as compilation would make it, without what runs."""
        parameters = [{"name": n} for n in ("code", "revision", "image", "parameters", "overrides")]
        templates = [{"name": t} for t in [*tasks, "plan", "seal", "pipeline"]]
        spec = {"arguments": {"parameters": parameters}, "templates": templates}
        self.put("workflowtemplates", {"kind": "WorkflowTemplate", "metadata": {"name": name}, "spec": spec})

    def config(self, **data: str) -> None:
        self.put("configmaps", {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "countersign"}, "data": data})

    def kubeconfig(self, path: Path) -> str:
        """A file for KUBECONFIG that leads here."""
        cluster = {"name": "fake", "cluster": {"server": self.url}}
        contexts = [{"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": NAMESPACE}}]
        user = {"name": "me", "user": {"token": "x"}}
        value = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [cluster],
            "contexts": contexts,
            "users": [user],
            "current-context": "fake",
        }
        path.write_text(json.dumps(value))
        return str(path)


@contextmanager
def serving() -> Iterator[FakeApi]:
    """The stand-in, on a port of its own."""
    api = FakeApi()
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        api.cut()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    api: FakeApi
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if (found := self._begin()) is None:
            return
        plural, name, query = found
        if query.get("watch") == ["true"] or "workflow-events" in self.path:
            selector = (query.get("fieldSelector") or query.get("listOptions.fieldSelector") or [""])[0]
            version = (query.get("resourceVersion") or query.get("listOptions.resourceVersion") or ["0"])[0]
            self._watch(selector.removeprefix("metadata.name="), int(version))
        elif name:
            obj = self.api.objects.get((plural, name))
            self._answer(200, obj) if obj else self._status(404, "NotFound", f'{plural} "{name}" not found', name)
        else:
            selector = (query.get("labelSelector") or query.get("listOptions.labelSelector") or [""])[0]
            wanted = dict(pair.split("=") for pair in selector.split(",") if pair)
            items = [
                o for (p, _), o in self.api.objects.items() if p == plural and wanted.items() <= o["metadata"].get("labels", {}).items()
            ]
            self._answer(200, {"kind": "List", "metadata": {}, "items": items})

    def do_POST(self) -> None:
        body = self._body()
        if (found := self._begin()) is None:
            return
        obj = body.get("workflow", body)
        name = obj["metadata"]["name"]
        if (found[0], name) in self.api.objects:
            self._status(409, "AlreadyExists", f'{found[0]} "{name}" already exists', name)
            return
        obj["metadata"]["uid"] = f"uid-of-{name}"
        self.api.put(found[0], obj)
        self._answer(201, obj)

    def do_PATCH(self) -> None:
        body = self._body()
        if (found := self._begin()) is None:
            return
        plural, name, _ = found
        obj = self.api.objects.get((plural, name))
        applying = "apply-patch" in self.headers["Content-Type"]
        if obj is None and not applying:
            self._status(404, "NotFound", f'{plural} "{name}" not found', name)
            return
        self.api.put(plural, body if applying else _merged(obj or {}, body))
        self._answer(200, self.api.objects[plural, name])

    def _begin(self) -> tuple[str, str, dict[str, list[str]]] | None:
        parts = urlsplit(self.path)
        self.api.asked.append((self.command, parts.path))
        fault = self.api.failing.pop(0) if self.api.failing else self.api.always
        if fault and fault[0] == 0:
            self.connection.close()
            self.close_connection = True
            return None
        if fault:
            self._raw(fault[0], fault[1].encode())
            return None
        if parts.path == USER_INFO:
            self._answer(200, self.api.user_info)
            return None
        if parts.path == WHO_AM_I and self.api.account:
            self._answer(201, {"kind": "SelfSubjectReview", "status": {"userInfo": {"username": self.api.account}}})
            return None
        matched = OBJECTS.fullmatch(parts.path) or CONFIG.fullmatch(parts.path) or SERVER.fullmatch(parts.path)
        if matched is None:
            self._raw(404, b"404 page not found\n")
            return None
        return PLURALS.get(matched["plural"], matched["plural"]), matched["name"] or "", parse_qs(parts.query)

    def _watch(self, name: str, version: int) -> None:
        events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        with self.api.lock:
            known = self.api.objects.get(("workflows", name))
            if known and int(known["metadata"]["resourceVersion"]) > version:
                events.put({"type": "MODIFIED", "object": known})
            self.api.watchers.append(events)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        by_server = "workflow-events" in self.path
        while (event := events.get()) is not None:
            if event["object"]["metadata"]["name"] == name:
                line = json.dumps({"result": event}) if by_server else json.dumps(event)
                data = (f"data: {line}\n\n" if by_server else f"{line}\n").encode()
                try:
                    self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                except OSError:
                    break
        self.api.watchers.remove(events)
        self.close_connection = True
        self.connection.close()

    def _body(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return value

    def _status(self, code: int, reason: str, message: str, name: str) -> None:
        details = {"name": name}
        self._answer(code, {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code, "details": details})

    def _answer(self, code: int, value: object) -> None:
        self._raw(code, json.dumps(value).encode())

    def _raw(self, code: int, data: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    found = dict(old)
    for key, value in new.items():
        found[key] = _merged(found.get(key) or {}, value) if isinstance(value, dict) else value
    return found
