"""What the exit handler makes of Argo's list of failed nodes, and of its workflow."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import certifi
import pytest

from tests.pods import NOBODY
from tests.toy.toy import pipeline
from workflows.cluster import incluster
from workflows.cluster.sealing import failed_nodes, submitter_in
from workflows.errors import BadInput, Temporary

RETRIED = [
    {"displayName": "work(0:a)", "message": "No more retries left"},
    {"displayName": "work(0:a)(0)", "message": "the first"},
    {"displayName": "work(0:a)(1)", "message": "the last"},
    {"displayName": "join", "message": "No more retries left"},
    {"displayName": "join(0)", "message": "OOMKilled"},
]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_last_pod_says_why_in_whatever_order_argo_lists_them(order: tuple[int, ...]) -> None:
    listed = [RETRIED[n] for n in order] + RETRIED[3:]
    for text in (json.dumps(listed), json.dumps(json.dumps(listed)), json.dumps(listed[::-1])):
        assert failed_nodes(pipeline, text) == {"work@a": "the last", "join": "OOMKilled"}


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ([{"displayName": "join", "message": "Pod was rejected"}], {"join": "Pod was rejected"}),
        ([{"displayName": "work(1:b)", "message": "No more retries left"}], {"work@b": "No more retries left"}),
        ([{"displayName": "join(0)", "message": ""}], {"join": "no message"}),
        ([{"displayName": "toy-1.onExit(0)", "message": "x"}, {"displayName": "plan(0)"}, {}], {}),
        ({"displayName": "join"}, {}),
    ],
    ids=["no-retries-declared", "no-pod-was-made", "no-words", "no-task-of-ours", "no-list"],
)
def test_what_is_said_of_a_task(listed: Any, said: dict[str, str]) -> None:
    assert failed_nodes(pipeline, json.dumps(listed)) == said


@pytest.mark.parametrize("text", ["", "{", "null"])
def test_what_cannot_be_read_says_nothing(text: str) -> None:
    assert failed_nodes(pipeline, text) == {}


@pytest.mark.parametrize(
    ("metadata", "submitter"),
    [
        ({"annotations": {"countersign/submitter": "vera@bank", "countersign/branch": "main"}}, "vera@bank"),
        ({"annotations": {"countersign/branch": "main"}}, None),
        ({}, None),
        ({"annotations": {"countersign/submitter": ""}}, None),
        ({"annotations": {"countersign/submitter": "vera\n"}}, None),
        ({"annotations": {"countersign/submitter": "vera@bank"}, "uid": "another"}, None),
    ],
    ids=["named", "not-named", "no-annotations", "empty", "no-name", "another-workflow"],
)
def test_who_submitted_a_workflow(metadata: dict[str, Any], submitter: str | None) -> None:
    assert submitter_in({"metadata": {"uid": "one", **metadata}}, "one") == submitter


def test_a_cluster_that_is_away_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sealed before: what a seal leaves out, nobody adds later. A pod that has no account can only leave it out."""
    told = {"WORKFLOW_NAME": "toy-1", "NAMESPACE": "dev"}
    for name, value in {**{f"COUNTERSIGN_{k}": v for k, v in told.items()}, **NOBODY}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(incluster, "ACCOUNT", tmp_path)
    with pytest.raises(BadInput, match="the workflow could not be read: this pod has no account"):
        incluster.workflow()
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_bytes(Path(certifi.where()).read_bytes())
    with pytest.raises(Temporary, match="the workflow could not be read"):
        incluster.workflow()
