"""Pushes as GitHub and GitLab tell of them: the fields that their documentation shows, with made-up content."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any

ZERO = "0" * 40
BEFORE = "6113728f27ae82c7b1a177c8d03f9e96e0adf246"


def commit_id(seed: object) -> str:
    return hashlib.sha1(str(seed).encode(), usedforsecurity=False).hexdigest()


def commit(number: object = 1, *, added: Sequence[str] = (), modified: Sequence[str] = (), removed: Sequence[str] = ()) -> dict[str, Any]:
    who = {"name": "Ada Lovelace", "email": "ada@example.org", "username": "ada"}
    return {
        "id": commit_id(number),
        "tree_id": commit_id(f"tree {number}"),
        "distinct": True,
        "message": 'Say "why"; {{workflow.name}} \u2028 and more\n',
        "timestamp": "2026-03-02T10:11:12+01:00",
        "url": "https://github.example.org/example-bank/models/commit/1",
        "author": who,
        "committer": who,
        "added": list(added),
        "modified": list(modified),
        "removed": list(removed),
    }


def github(
    *commits: dict[str, Any],
    branch: str = "main",
    repository: str = "example-bank/models",
    after: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """The body of GitHub's `push`."""
    last = commits[-1] if commits else None
    owner, _, name = repository.rpartition("/")
    body = {
        "ref": f"refs/heads/{branch}",
        "before": BEFORE,
        "after": after or (last["id"] if last else commit_id("nothing")),
        "repository": {"id": 1, "name": name, "full_name": repository, "private": True, "owner": {"name": owner, "login": owner}},
        "pusher": {"name": "ada", "email": "ada@example.org"},
        "sender": {"login": "ada", "id": 2, "type": "User"},
        "created": False,
        "deleted": False,
        "forced": False,
        "base_ref": None,
        "compare": "https://github.example.org/example-bank/models/compare/1...2",
        "commits": list(commits),
        "head_commit": last,
    }
    return body | changes


def deleted(branch: str = "main") -> dict[str, Any]:
    return github(branch=branch, after=ZERO, deleted=True)


def gitlab(
    *commits: dict[str, Any], branch: str = "main", repository: str = "risk/models", after: str | None = None, **changes: Any
) -> dict[str, Any]:
    """The body of GitLab's `Push Hook`."""
    kept = ("id", "message", "timestamp", "url", "author", "added", "modified", "removed")
    sha = after or (commits[-1]["id"] if commits else commit_id("nothing"))
    body = {
        "object_kind": "push",
        "event_name": "push",
        "before": BEFORE,
        "after": sha,
        "ref": f"refs/heads/{branch}",
        "ref_protected": True,
        "checkout_sha": None if sha == ZERO else sha,
        "user_id": 4,
        "user_name": "Ada Lovelace",
        "user_username": "ada",
        "user_email": "ada@example.org",
        "project_id": 15,
        "project": {"id": 15, "name": "models", "namespace": "risk", "path_with_namespace": repository, "default_branch": "main"},
        "commits": [{k: c[k] for k in kept} for c in commits],
        "total_commits_count": len(commits),
    }
    return body | changes


def github_headers(
    body: bytes, secret: str, *, event: str = "push", delivery: str = "72d3162e-cc78-11e3-81ab-4c9367dc0958"
) -> dict[str, str]:
    """What GitHub sends with a body."""
    return {
        "Content-Type": "application/json",
        "User-Agent": "GitHub-Hookshot/044aadd",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": f"sha256={hmac.new(secret.encode(), body, 'sha256').hexdigest()}",
    }


def gitlab_headers(token: str, *, event: str = "Push Hook") -> dict[str, str]:
    """What GitLab sends, with the header that a web hook of ours is given."""
    return {
        "Content-Type": "application/json",
        "User-Agent": "GitLab/17.9.1",
        "X-Gitlab-Event": event,
        "X-Gitlab-Event-UUID": "13792a34-cac6-4fda-95a8-c58e00a3954e",
        "Authorization": f"Bearer {token}",
    }


def as_event(host: str, body: dict[str, Any]) -> dict[str, Any]:
    """What a sensor's filters see of it."""
    if host == "github":
        return {"headers": {}, "body": body | {"X-GitHub-Event": "push", "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}}
    return {"header": {"X-Gitlab-Event": ["Push Hook"], "X-Gitlab-Event-Uuid": ["13792a34-cac6-4fda-95a8-c58e00a3954e"]}, "body": body}


def as_bytes(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()
