"""Names of workflows: the same submission has the same name, another has another, and Kubernetes takes every one."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflows.declare import MAX_NAME
from workflows.declare import NAME as PIPELINE
from workflows.names import DIGITS, LONGEST, pre_image, workflow_name

DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
COMMIT = "38f6777c0ffee0000000000000000000000000ab"

pipelines = st.lists(st.sampled_from(["a", "b0", "loan", "z" * 30]), min_size=1, max_size=8).map("_".join)
pipelines = pipelines.filter(lambda n: PIPELINE.fullmatch(n) is not None and len(n) <= MAX_NAME)
commits = st.integers(0, 2**160 - 1).map("{:040x}".format)
values = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no defect
asked = st.fixed_dictionaries(
    {
        "pipeline": pipelines,
        "commit": commits,
        "overrides": st.dictionaries(st.sampled_from(["train.rounds", "split.seed"]), values, max_size=2),
        "scheduled": st.sampled_from(["", "2026-11-24T02:00:00Z"]),
        "again": st.integers(0, 3),
    }
)


@patient
@given(asked)
def test_kubernetes_takes_every_name_with_what_argo_appends(what: dict[str, Any]) -> None:
    name = workflow_name(**what)
    assert DNS.fullmatch(name)
    assert len(name) <= LONGEST
    assert len(f"{name}-4294967295") <= 63


@patient
@given(asked, asked)
def test_names_are_equal_where_submissions_are(a: dict[str, Any], b: dict[str, Any]) -> None:
    same = pre_image(**a) == pre_image(**b)
    assert (workflow_name(**a) == workflow_name(**b)) == same or a["commit"][:DIGITS] == b["commit"][:DIGITS]
    assert same == (a == b)


@patient
@given(asked, st.sampled_from(["pipeline", "commit", "overrides", "scheduled", "again"]), asked)
def test_each_part_counts(what: dict[str, Any], part: str, other: dict[str, Any]) -> None:
    changed = {**what, part: other[part]}
    assert (pre_image(**what) == pre_image(**changed)) == (what == changed)


def test_a_commit_as_it_is_can_be_read_in_the_name() -> None:
    assert workflow_name("loan_approval", commit=COMMIT) == "loan-approval-38f6777c0ffe"


def test_anything_else_is_hashed() -> None:
    plain = workflow_name("loan_approval", commit=COMMIT)
    others = {
        workflow_name("loan_approval", commit=COMMIT, overrides={"train.rounds": 5}),
        workflow_name("loan_approval", commit=COMMIT, overrides={"train.rounds": "5"}),
        workflow_name("loan_approval", commit=COMMIT, again=1),
        workflow_name("loan_approval", commit=COMMIT, scheduled="2026-11-24T02:00:00Z"),
        workflow_name("loan_approval", commit=None, code="ab" * 32),
        workflow_name("loan_approval", commit=None, code="ac" * 32),
    }
    assert len(others | {plain}) == 7


def test_a_sensor_can_put_the_name_together_from_the_commit_alone() -> None:
    before, commit, after = pre_image("loan_approval", commit=COMMIT, overrides={"train.rounds": 5}).partition(COMMIT)
    assert commit == COMMIT
    assert COMMIT not in after
    digest = hashlib.sha256(f"{before}{COMMIT}{after}".encode()).hexdigest()
    assert workflow_name("loan_approval", commit=COMMIT, overrides={"train.rounds": 5}) == f"loan-approval-{digest[:DIGITS]}"


def test_two_long_pipelines_that_begin_alike_do_not_share_a_name() -> None:
    a, b = (f"{'approval_of_very_long_loans_for_people'}_{x}" for x in ("a", "b"))
    names = {workflow_name(p, commit=COMMIT) for p in (a, b)}
    assert len(names) == 2
    assert all(len(n) <= LONGEST for n in names)


def test_a_name_needs_to_know_the_code() -> None:
    with pytest.raises(ValueError, match="commit or the digest"):
        workflow_name("loan_approval", commit=None)
