"""One declaration, two back ends: the same graph, commands, parameters and artifacts, whatever the texts in it."""

from __future__ import annotations

import json
import os
import re
import string
from pathlib import Path
from typing import Any

import pytest
import yaml as yaml11
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tests.compile.example import DECLARED, NASTY, SECTION
from tests.conftest import Home
from workflows.compile import argo, dvc
from workflows.compile.interface import Declared, StepFacts
from workflows.compile.text import dump
from workflows.declare import Artifact, FanOut, Kind, Pipeline, Step, problems_of
from workflows.run.parameters import OVERRIDE, parse_value

GOLDEN = Path(__file__).parents[1] / "golden"
TEXTS = {"stages.yaml": lambda: dvc.dvc_yaml([DECLARED]), "an-example.yaml": lambda: argo.workflow_template(DECLARED)}


@pytest.mark.parametrize("name", TEXTS)
def test_golden(name: str) -> None:
    """To accept a change: COUNTERSIGN_WRITE_GOLDEN=1 pytest tests/compile, and read the difference in git."""
    text = TEXTS[name]()
    if os.environ.get("COUNTERSIGN_WRITE_GOLDEN"):
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()
    assert text == TEXTS[name]()


# --- What each text says, read as its back end reads it


def both_readers(text: str) -> Any:
    """YAML 1.1 (Kubernetes, Argo) and 1.2 (DVC) must see the same thing."""
    value = YAML(typ="safe", pure=True).load(text)
    assert yaml11.safe_load(text) == value
    return value


def in_dvc(text: str) -> dict[str, Any]:
    """Task -> command, parents, parameters, artifacts; `foreach` filled in as DVC does."""
    stages: dict[str, Any] = {}
    for name, body in both_readers(text)["stages"].items():
        items = body.get("foreach")
        for item in items or [None]:
            filled = fill(body["do"] if items else body, item)
            stages[f"{name}@{item}" if items else name] = filled
    maker = {path: name for name, s in stages.items() for path in outs(s)}
    return {
        name.partition("-")[2]: {
            "command": s["cmd"],
            "parents": {maker[d].partition("-")[2].partition("@")[0] for d in s["deps"] if d in maker},
            "parameters": {k for p in s.get("params", []) for f, keys in p.items() if "policies" not in f for k in keys},
            "artifacts": {re.sub(r"@.*|\..*", "", Path(o).name) if "@" in o else artifact_of(o) for o in outs(s)},
        }
        for name, s in stages.items()
    }


def artifact_of(path: str) -> str:
    parts = Path(path).parts
    return parts[2].partition(".")[0]


def fill(value: Any, item: str | None) -> Any:
    if isinstance(value, dict):
        return {fill(k, item): fill(v, item) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(v, item) for v in value]
    if isinstance(value, str):
        return re.sub(r"(?<!\\)\$\{item\}", str(item), value).replace("\\${", "${")
    return value


def outs(stage: dict[str, Any]) -> list[str]:
    plots = [next(iter(p)) for p in stage.get("plots", [])]
    return [*stage.get("outs", []), *stage.get("metrics", []), *plots]


def in_argo(text: str) -> dict[str, Any]:
    """The same of a WorkflowTemplate; `withItems` filled in as Argo does."""
    spec = both_readers(text)["spec"]
    given = {p["name"] for p in spec["arguments"]["parameters"]}
    templates = {t["name"]: t for t in spec["templates"]}
    planned = {
        e["name"]: e["value"][len("{{workflow.parameters.") : -2] for e in templates["plan"]["container"]["env"] if OVERRIDE in e["name"]
    }
    assert set(planned.values()) <= given
    with_parameters = {name.removeprefix(OVERRIDE).partition("__")[0] for name in planned}
    found = {}
    for task in next(t["dag"]["tasks"] for t in spec["templates"] if "dag" in t):
        t = templates[task["template"]]
        if t["name"] == "plan":
            continue
        assert t["container"]["command"] == ["python", "/opt/countersign/with_code.py"]
        for item in task.get("withItems", [None]):
            words = [w.replace("{{inputs.parameters.item}}", str(item)) for w in t["container"]["args"]]
            own = {p["name"] for p in t["outputs"]["parameters"]} - {"record"}
            name = task["name"].replace("-", "_")
            found[name if item is None else f"{name}@{item}"] = {
                "command": " ".join(words),
                "parents": {d.replace("-", "_") for d in task["dependencies"]} - {"plan"},
                "parameters": {name} & with_parameters,
                "artifacts": {o.replace("-", "_") for o in own},
            }
    return found


def same(declared: Declared) -> None:
    mine, theirs = in_dvc(dvc.dvc_yaml([declared])), in_argo(argo.workflow_template(declared))
    # The report states the lineage of all, so for DVC it depends on what decides any of them.
    for step in declared.pipeline.steps:
        if step.lineage:
            mine[step.name]["parameters"] &= {step.name}
    assert mine == theirs


def test_both_back_ends_say_the_same_of_the_example() -> None:
    same(DECLARED)
    found = in_argo(argo.workflow_template(DECLARED))
    assert found["tune@no"]["command"] == "python -m workflows.run.driver an_example tune --item no"
    assert found["train_it"]["parents"] == {"ingest", "tune"}


def test_parameters_reach_argo_as_they_are() -> None:
    spec = both_readers(argo.workflow_template(DECLARED))["spec"]
    given = {p["name"]: p for p in spec["arguments"]["parameters"]}
    assert given["train-it-device"]["enum"] == ["cpu", "gpu"]
    assert given["train-it-careful"]["value"] == "true"
    assert json.loads(given["train-it-lists"]["value"]) == [1, 2]
    assert {k: parse_value(given[f"train-it-{k}"]["value"]) for k in SECTION} == SECTION
    assert given["train-it-rate"]["description"] == NASTY


def test_a_gpu_step_asks_for_one_and_only_it() -> None:
    templates = {t["name"]: t for t in both_readers(argo.workflow_template(DECLARED))["spec"]["templates"]}
    wants = {n: "nvidia.com/gpu" in str(t.get("container", {}).get("resources", {})) for n, t in templates.items()}
    assert [name for name, gpu in wants.items() if gpu] == ["train-it"]
    assert templates["train-it"]["container"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert templates["train-it"]["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert templates["train-it"]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert not [name for name, t in templates.items() if name != "train-it" and ("nodeSelector" in t or "tolerations" in t)]


def test_only_what_may_pass_by_itself_is_retried() -> None:
    templates = {t["name"]: t for t in both_readers(argo.workflow_template(DECLARED))["spec"]["templates"]}
    assert "retryStrategy" not in templates["train-it"]
    assert templates["ingest"]["retryStrategy"]["expression"] == "asInt(lastRetry.exitCode) in [75, 137] || lastRetry.status == 'Error'"


# --- Random declarations

words = st.text(string.ascii_lowercase, min_size=1, max_size=6)
texts = st.one_of(
    st.sampled_from([NASTY, "no", "1e3", "0x1f", "", "{{", "}}", "${", "null", "~", "- a", "a: b", " x "]), st.text(max_size=20)
)
values = st.one_of(
    st.booleans(), st.integers(-5, 10**12), st.floats(allow_nan=False, allow_infinity=False), texts, st.lists(texts, max_size=2)
)


@st.composite
def declarations(draw: st.DrawFn) -> Declared:
    """A sound pipeline: each step reads what some steps before it made."""
    names = draw(st.lists(words, min_size=1, max_size=6, unique=True))
    steps: list[Step] = []
    made: list[Artifact] = []
    for i, name in enumerate(names):
        reads = tuple(draw(st.lists(st.sampled_from(made), max_size=3, unique=True))) if made else ()
        kinds = draw(st.lists(st.sampled_from([Kind.TABLE, Kind.MODEL, Kind.REPORT]), min_size=1, max_size=2))
        outputs = tuple(Artifact(name=f"a{i}_{j}", kind=k, description=draw(texts)) for j, k in enumerate(kinds))
        fan = draw(st.none() | st.lists(st.sampled_from(["0", "1", "no", "1e3", "x-y"]), min_size=1, max_size=3, unique=True))
        fan_out = FanOut(name="item_of", over=tuple(fan)) if fan else None
        steps.append(Step(name=name, run=f"steps.x:{name}", inputs=reads, outputs=outputs, fan_out=fan_out, description=draw(texts)))
        made += outputs
    pipeline = Pipeline(name="it", steps=tuple(draw(st.permutations(steps))), results=tuple(made), description=draw(texts))
    facts = {n: StepFacts(params=None, section=draw(st.dictionaries(words, values, max_size=3)), files=("steps/x.py",)) for n in names}
    # A step whose section is empty takes no parameters.
    facts = {
        n: StepFacts(params=DECLARED.steps["train_it"].params if f.section else None, section=f.section, files=f.files)
        for n, f in facts.items()
    }
    return Declared(pipeline=pipeline, steps=facts, policies={})


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(declarations())
def test_both_back_ends_say_the_same_of_any_declaration(declared: Declared) -> None:
    assert problems_of(declared.pipeline) == []
    same(declared)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(texts, values, max_size=4))
def test_any_value_reads_back_under_both_readers(value: dict[str, Any]) -> None:
    assert YAML(typ="safe", pure=True).load(dump(value, "x")) == value


# --- The command


def test_check_names_what_is_stale_missing_or_orphaned(home: Home) -> None:
    assert home.ask("compile").code == 0
    assert home.ask("compile", "--check").code == 0
    manifest = home.path / "infra/argo/workflows/toy.yaml"
    kept = manifest.read_bytes()
    manifest.write_bytes(kept + b"# mine\n")
    (home.path / "dvc.yaml").unlink()
    home.write("infra/argo/workflows/gone.yaml", kept)
    said = home.ask("compile", "--check")
    assert said.code == 2
    for name in ("dvc.yaml", "infra/argo/workflows/toy.yaml", "infra/argo/workflows/gone.yaml"):
        assert f"error: {name}: is not what the declarations say" in said.err
    assert "hint: run: countersign compile" in said.err
    assert manifest.read_bytes() == kept + b"# mine\n"
    assert home.ask("compile").code == 0
    assert manifest.read_bytes() == kept
    assert not (home.path / "infra/argo/workflows/gone.yaml").exists()
    assert home.ask("compile", "--check").code == 0


def test_every_problem_of_every_pipeline_at_once(home: Home) -> None:
    home.write("workflows/second.py", home.read("workflows/toy.py").replace(b'name="toy"', b'name="other"'))
    home.write("params/toy.yaml", "pick: {at_least: -1}\nwork: {mode: fine, seconds: 0.0}\n")
    said = home.ask("compile")
    assert said.code == 2
    assert "the pipeline is not named as its file" in said.err
    assert "pick.at_least" in said.err
    assert not (home.path / "dvc.yaml").exists()
