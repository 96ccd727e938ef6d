"""The workflow `promote`: what a submitter may say of it, who has a token, and that nothing is pasted into a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from workflows.compile import promotion

ROOT = Path(__file__).parents[2]
SPEC: dict[str, Any] = yaml.safe_load(promotion.manifest())["spec"]
TEMPLATES = {t["name"]: t for t in SPEC["templates"]}
PARAMETERS = {p["name"]: p for p in SPEC["arguments"]["parameters"]}


def test_what_a_submitter_may_say_is_what_the_admission_policy_lets_through() -> None:
    policy = (ROOT / "infra/policies/workflows.yaml").read_text()
    asked = [n for n, p in PARAMETERS.items() if "valueFrom" not in p]
    assert asked == ["run", "challenger", "share", "reason"]
    assert f"p.name in {json.dumps(asked).replace(chr(34), chr(39))}" in policy
    # The rest is an administrator's to say.
    assert [p["valueFrom"]["configMapKeyRef"]["name"] for p in PARAMETERS.values() if "valueFrom" in p] == ["countersign-promotion"]


def test_all_that_it_is_told_comes_from_where_only_administrators_write() -> None:
    for name in ("check", "release"):
        env = TEMPLATES[name]["container"]["env"]
        assert {e["valueFrom"]["configMapKeyRef"]["name"] for e in env if "configMapKeyRef" in e.get("valueFrom", {})} == {
            promotion.SETTINGS
        }
        assert "COUNTERSIGN_CODE" not in {e["name"] for e in env}, "its code is in its image"
        assert TEMPLATES[name]["container"]["workingDir"] == promotion.CODE
        assert "{{" not in json.dumps(TEMPLATES[name]["container"]["args"] + TEMPLATES[name]["container"]["command"])


def test_only_what_deploys_has_a_token_and_one_at_a_time() -> None:
    assert SPEC["automountServiceAccountToken"] is False
    assert {n: t.get("automountServiceAccountToken") for n, t in TEMPLATES.items() if "container" in t} == {"check": False, "release": True}
    assert TEMPLATES["release"]["synchronization"]["mutexes"] == [{"name": "promote"}]
    assert "synchronization" not in TEMPLATES["check"]
    assert SPEC["executor"]["serviceAccountName"] == "countersign-step", "the account whose token the executor is given"


def test_whoever_waits_sees_the_command_to_type() -> None:
    steps = [s for group in TEMPLATES["promote"]["steps"] for s in group]
    assert [s["name"] for s in steps] == ["check", "approval", "release"]
    approval = steps[1]
    assert approval["when"] == "{{steps.check.outputs.parameters.state}} == wait"
    assert {p["name"]: p["value"] for p in approval["arguments"]["parameters"]}["type-this"] == "{{steps.check.outputs.parameters.command}}"
    assert all(p["valueFrom"]["default"] == "" for t in TEMPLATES.values() for p in t.get("outputs", {}).get("parameters", []))
