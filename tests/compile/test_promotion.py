"""The workflows `promote` and `rollback`: what a submitter may say, who has a token, and that nothing is pasted into a command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from workflows.compile import promotion

ROOT = Path(__file__).parents[2]
SPECS: dict[str, Any] = {Path(p).stem: yaml.safe_load(text)["spec"] for p, text in promotion.manifests().items()}
SPEC = SPECS["promote"]
TEMPLATES = {t["name"]: t for t in SPEC["templates"]}
CONTAINERS = [(name, t) for name, spec in SPECS.items() for t in spec["templates"] if "container" in t]


@pytest.mark.parametrize(("name", "asked"), [("promote", ["run", "challenger", "share", "reason"]), ("rollback", ["pipeline", "reason"])])
def test_what_a_submitter_may_say_is_what_the_admission_policy_lets_through(name: str, asked: list[str]) -> None:
    parameters = SPECS[name]["arguments"]["parameters"]
    assert [p["name"] for p in parameters if "valueFrom" not in p] == asked
    listed = json.dumps(asked).replace('"', "'")
    assert (
        f"variables.template != '{name}' || variables.given.all(p, p.name in {listed})"
        in (ROOT / "infra/policies/workflows.yaml").read_text()
    )
    # The rest is an administrator's to say.
    assert [p["valueFrom"]["configMapKeyRef"]["name"] for p in parameters if "valueFrom" in p] == ["countersign-promotion"]


def test_all_that_it_is_told_comes_from_where_only_administrators_write() -> None:
    assert [t["name"] for _, t in CONTAINERS] == ["check", "release", "back"]
    for name, t in CONTAINERS:
        env = t["container"]["env"]
        assert {e["valueFrom"]["configMapKeyRef"]["name"] for e in env if "configMapKeyRef" in e.get("valueFrom", {})} == {
            promotion.SETTINGS
        }
        assert "COUNTERSIGN_CODE" not in {e["name"] for e in env}, "its code is in its image"
        assert t["container"]["workingDir"] == promotion.CODE
        assert "{{" not in json.dumps(t["container"]["args"] + t["container"]["command"])
        asked = {p["name"] for p in SPECS[name]["arguments"]["parameters"]}
        used = {m for e in env for m in re.findall(r"{{workflow.parameters.(\w+)}}", e.get("value", ""))}
        assert used <= asked


def test_only_what_deploys_has_a_token_and_one_at_a_time() -> None:
    assert SPEC["automountServiceAccountToken"] is False
    assert {n: t.get("automountServiceAccountToken") for n, t in TEMPLATES.items() if "container" in t} == {"check": False, "release": True}
    assert TEMPLATES["release"]["synchronization"]["mutexes"] == [{"name": "promote"}]
    assert CONTAINERS[-1][1]["synchronization"] == TEMPLATES["release"]["synchronization"], "a rollback waits for no release half-way"
    assert "synchronization" not in TEMPLATES["check"]
    assert SPEC["executor"]["serviceAccountName"] == "countersign-step", "the account whose token the executor is given"


def test_a_rollback_that_waits_its_turn_knows_when_it_was_asked_for() -> None:
    asked_at = {name: e["value"] for name, t in CONTAINERS for e in t["container"]["env"] if e["name"] == "COUNTERSIGN_ASKED_AT"}
    assert asked_at == {"rollback": "{{workflow.creationTimestamp.RFC3339}}"}


def test_whoever_waits_sees_the_command_to_type() -> None:
    steps = [s for group in TEMPLATES["promote"]["steps"] for s in group]
    assert [s["name"] for s in steps] == ["check", "approval", "release"]
    approval = steps[1]
    assert approval["when"] == "{{steps.check.outputs.parameters.state}} == wait"
    assert {p["name"]: p["value"] for p in approval["arguments"]["parameters"]}["type-this"] == "{{steps.check.outputs.parameters.command}}"
    assert all(p["valueFrom"]["default"] == "" for t in TEMPLATES.values() for p in t.get("outputs", {}).get("parameters", []))
