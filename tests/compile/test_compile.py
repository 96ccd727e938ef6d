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
from workflows.declare import Artifact, FanOut, Gate, Kind, Pipeline, Plot, Resources, Source, Step, problems_of
from workflows.run.parameters import OVERRIDE, overrides_of, parse_value

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
    assert yaml11.load(text, Loader=yaml11.CSafeLoader) == value
    return value


def in_dvc(read: Any, declared: Declared) -> dict[str, Any]:
    """Task -> command, parents, parameters, rules, artifacts; `foreach` and the keys of parameter files filled in as DVC does."""
    pipeline = declared.pipeline
    files = {pipeline.params_path: {n: f.section for n, f in declared.steps.items()}, pipeline.policy_path: declared.policies}
    stages: dict[str, Any] = {}
    for name, body in read["stages"].items():
        items = body.get("foreach")
        for item in items or [None]:
            filled = fill(body["do"] if items else body, item)
            stages[f"{name}@{item}" if items else name] = filled
    maker = {path: name for name, s in stages.items() for path in outs(s)}
    return {
        name.partition("-")[2]: {
            "command": s["cmd"],
            "parents": {maker[d].partition("-")[2].partition("@")[0] for d in s["deps"] if d in maker},
            "parameters": keyed(s, pipeline.params_path, files),
            "rules": keyed(s, pipeline.policy_path, files),
            "artifacts": {re.sub(r"@.*|\..*", "", Path(o).name) if "@" in o else artifact_of(o) for o in outs(s)},
        }
        for name, s in stages.items()
    }


def keyed(stage: dict[str, Any], path: str, files: dict[str, Any]) -> dict[str, str]:
    """What this file has under the keys that the stage depends on."""
    return {k: exact(files[path][k]) for p in stage.get("params", []) for k in p.get(path, [])}


def exact(value: Any) -> str:
    """A value as text, for in Python 1 equals 1.0 and true."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


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


def in_argo(read: Any) -> dict[str, Any]:
    """The same of a WorkflowTemplate; `withItems` filled in as Argo does."""
    spec = read["spec"]
    given = {p["name"]: p.get("value") for p in spec["arguments"]["parameters"]}
    templates = {t["name"]: t for t in spec["templates"]}
    planned = {
        e["name"]: given[e["value"][len("{{workflow.parameters.") : -2]]
        for e in templates["plan"]["container"]["env"]
        if OVERRIDE in e["name"]
    }
    sections: dict[str, dict[str, Any]] = {}
    for name, value in overrides_of([], planned).items():  # as the pod that plans the run reads its environment
        step, _, key = name.partition(".")
        sections.setdefault(step, {})[key] = value
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
                "parameters": {name: exact(sections[name])} if name in sections else {},
                "artifacts": {o.replace("-", "_") for o in own},
            }
    return found


def same(declared: Declared) -> tuple[Any, Any]:
    """What the two texts say, read, after they were found to agree."""
    read = both_readers(dvc.dvc_yaml([declared])), both_readers(argo.workflow_template(declared))
    mine, theirs = in_dvc(read[0], declared), in_argo(read[1])
    for task, found in mine.items():
        step = declared.pipeline.step(task.partition("@")[0])
        # The report states the lineage of all, so for DVC it depends on what decides any of them.
        if step.lineage:
            found["parameters"] = {k: v for k, v in found["parameters"].items() if k == step.name}
        # In a cluster the rules come with the code. DVC must know which they are, to see that they changed.
        rules = found.pop("rules")
        own = {g.name: exact(declared.policies[g.name]) for g in step.gates}
        assert own.items() <= rules.items() if step.lineage else own == rules
    assert mine == theirs
    return read


def test_both_back_ends_say_the_same_of_the_example() -> None:
    same(DECLARED)
    found = in_argo(both_readers(argo.workflow_template(DECLARED)))
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
    assert templates["ingest"]["retryStrategy"]["expression"] == argo.RETRY
    # One that counts from the first attempt's start would leave a long step without a second.
    assert not [n for n, t in templates.items() if "maxDuration" in t.get("retryStrategy", {}).get("backoff", {})]


# --- Random declarations

words = st.text(string.ascii_lowercase, min_size=1, max_size=6)
texts = st.one_of(
    st.sampled_from(
        [NASTY, "no", "1e3", "0x1f", "", "{{", "}}", "${", "null", "~", "- a", "a: b", " x ", "\U0001f3e6 bank", '"\U0001f3e6', "\x7f"]
    ),
    st.text(max_size=20),
)
plain = st.one_of(st.booleans(), st.integers(-5, 10**12), st.floats(allow_nan=False, allow_infinity=False), texts)
values = st.one_of(plain, st.lists(plain, max_size=2), st.dictionaries(words, plain, max_size=2))
resources = st.builds(
    Resources, cpu=st.sampled_from(["1", "500m"]), gpu=st.integers(0, 1), timeout=st.integers(1, 10**6), retries=st.integers(0, 3)
)
SOURCES = (
    Source(name="here", kind=Kind.TABLE, at="data/it/here.csv", schema="data/it/schema.yaml"),
    Source(name="there", kind=Kind.TABLE, at="s3://bank/there.parquet"),
    Source(name="asked", kind=Kind.TABLE, at="postgresql://db/bank?query=select 1 order by 1", schema="data/it/schema.yaml"),
)


@st.composite
def declarations(draw: st.DrawFn) -> Declared:
    """A sound pipeline: each step reads what some steps before it made."""
    names = draw(st.lists(words, min_size=1, max_size=4, unique=True))
    steps: list[Step] = []
    made: list[Artifact] = []
    for i, name in enumerate(names):
        reads = tuple(draw(st.lists(st.sampled_from(made), max_size=3, unique=True))) if made else ()
        kinds = draw(st.lists(st.sampled_from(Kind), min_size=1, max_size=3))
        outputs = tuple(Artifact(name=f"a{i}_{j}", kind=k, description=draw(texts), **shown(draw, k)) for j, k in enumerate(kinds))
        fan = draw(st.none() | st.lists(st.sampled_from(["0", "1", "no", "1e3", "x-y"]), min_size=1, max_size=3, unique=True))
        reports = [a for a in (*reads, *outputs) if a.kind is Kind.REPORT]
        gated = draw(st.sampled_from(reports)) if reports and not fan and draw(st.booleans()) else None
        step = Step(
            name=name,
            run=f"steps.x:{name}",
            inputs=(*draw(st.lists(st.sampled_from(SOURCES), max_size=2, unique=True)), *reads),
            outputs=outputs,
            gates=(Gate(name=f"g{i}", reads=gated),) if gated else (),
            verdicts=Artifact(name=f"v{i}", kind=Kind.REPORT) if gated else None,
            secrets=draw(st.sampled_from([(), ("masking_key",)])),
            lineage=draw(st.booleans()),
            resources=draw(resources),
            fan_out=FanOut(name="item_of", over=tuple(fan)) if fan else None,
            description=draw(texts),
        )
        steps.append(step)
        made += step.made
    pipeline = Pipeline(name="it", steps=tuple(draw(st.permutations(steps))), results=tuple(made), description=draw(texts))
    sections = {n: draw(st.dictionaries(words, values, max_size=3)) for n in names}
    # A step whose section is empty takes no parameters.
    taken = DECLARED.steps["train_it"].params
    facts = {n: StepFacts(params=taken if section else None, section=section, files=("steps/x.py",)) for n, section in sections.items()}
    return Declared(pipeline=pipeline, steps=facts, policies={g.name: draw(st.lists(values, max_size=2)) for s in steps for g in s.gates})


def shown(draw: st.DrawFn, kind: Kind) -> dict[str, Any]:
    choices: list[dict[str, Any]] = [{}, {"metric": True}, {"plot": Plot(x="x", y="y")}] if kind is Kind.REPORT else [{}]
    return draw(st.sampled_from(choices))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(declarations())
def test_both_back_ends_say_the_same_of_any_declaration(declared: Declared) -> None:
    assert problems_of(declared.pipeline) == []
    of_dvc, of_argo = same(declared)
    templates = {t["name"]: t for t in of_argo["spec"]["templates"]}
    for s in declared.pipeline.steps:
        # What is remote may change while no file does; what a lineage tells of, may too.
        decided_by = declared.pipeline.steps if s.lineage else (s,)
        stage = of_dvc["stages"][f"it-{s.name}"]
        stage = stage.get("do", stage)
        assert stage.get("always_changed", False) == any(isinstance(i, Source) and i.remote for d in decided_by for i in d.inputs)
        assert {i.at for i in s.inputs if isinstance(i, Source) and not i.remote} <= set(stage["deps"])
        template = templates[s.name]
        assert template["activeDeadlineSeconds"] == s.resources.timeout
        assert int(template["container"]["resources"]["limits"].get("nvidia.com/gpu", 0)) == s.resources.gpu
        assert ("retryStrategy" in template) == (s.resources.retries > 0)


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
