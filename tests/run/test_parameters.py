"""From a declaration and its files to what a pipeline runs with: everything that is wrong is said at once, before anything runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Home
from workflows.cluster import planning
from workflows.errors import BadInput
from workflows.loan_approval import pipeline
from workflows.prove import canonical
from workflows.prove.gate import judge
from workflows.run import parameters

ROOT = Path(__file__).parents[2]


def test_an_override_of_one_step_leaves_others_that_repeat_its_values() -> None:
    """`tune` and `train` share a profile in the file, by YAML's `&` and `*`: they are told apart all the same."""
    plain = parameters.read(ROOT, pipeline, {}).sections
    assert plain["tune"]["profile"] == plain["train"]["profile"]
    set_ = parameters.read(ROOT, pipeline, {"train.profile.num_threads": 2}).sections
    assert (set_["train"]["profile"]["num_threads"], set_["tune"]["profile"]["num_threads"]) == (2, 1)


def test_what_a_plan_has_sorted_is_put_back_in_the_file_s_form() -> None:
    """Every mapping, those in lists too; what is repeated by name is one; what an override added stands behind the rest."""
    read = parameters.read(ROOT, pipeline, {})
    sections = canonical.decode(canonical.encode(read.sections))
    sorted_ = replace(read, sections=sections)
    assert json.dumps(sorted_.sections) != json.dumps(read.sections)
    back = parameters.as_written(ROOT, pipeline, sorted_).sections
    assert {s: json.dumps(v) for s, v in back.items()} == {s: json.dumps(v) for s, v in read.sections.items()}
    assert back["tune"]["profile"] is back["train"]["profile"]
    sections["mask"]["tokens"] = {"a_new": "name", "application_id": "other"}
    tokens = parameters.as_written(ROOT, pipeline, sorted_).sections["mask"]["tokens"]
    assert list(tokens.items()) == [("application_id", "other"), ("a_new", "name")]


texts = st.text(max_size=20) | st.sampled_from(["no", "1e3", "null", "- a", "a: b", "\U0001f3e6", '"\U0001f3e6', "\\ud83c\\udfe6", "\x7f"])
plain = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = plain | st.lists(plain, max_size=2) | st.dictionaries(texts, plain, max_size=2)


@settings(max_examples=300, deadline=None)
@given(values)
def test_any_value_reads_back_from_the_text_that_a_cluster_hands_on(value: Any) -> None:
    # As bytes, for in Python 1 equals 1.0 and true.
    assert canonical.encode(parameters.parse_value(parameters.written(value))) == canonical.encode(value)


def test_any_override_reaches_the_pod_that_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"train.words": '"\U0001f3e6', "train.rates": [1e-05, "1e3"]}
    monkeypatch.setenv(planning.OVERRIDES, json.dumps(asked))
    assert parameters.overrides_of(planning._overrides(), {}) == asked


def test_a_wrong_declaration_and_wrong_parameters_are_told_at_once(home: Home) -> None:
    declared = home.read("workflows/toy.py").decode()
    declared = declared.replace("inputs=(people,), outputs=(ages,)", "inputs=(people, total), outputs=(ages,)")
    declared = declared.replace("results=(total,)", "results=()").replace('run="steps.toy:join"', 'run="steps.toy:joined"')
    home.write("workflows/toy.py", declared)
    home.write("params/toy.yaml", "pick:\n  at_least: old\nwork:\n  mode: fine\n  secnds: 0.0\n")
    home.write("params/policies/toy.yaml", "enough: []\n")
    for words in (("run", "toy"), ("compile",)):
        said = home.ask(*words)
        assert said.code == 2
        for part in (
            "toy: cycle, or steps behind one; got pick, work, join",
            "toy.pick: steps.toy:pick does not take total",
            "toy.join: no function steps.toy:joined",
            "params/toy.yaml: pick.at_least",
            "params/toy.yaml: work.secnds",
            "params/policies/toy.yaml: enough: expected a list of rules",
        ):
            assert part in said.err
    assert not (home.path / "artifacts").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("workflows/toy.py", "Step(nam=", "workflows/toy.py: cannot be imported: TypeError"),
        ("workflows/toy.py", "Step(name=(", "workflows/toy.py: cannot be imported: SyntaxError"),
        ("steps/toy.py", "def work(*, ages: pa.Table", "no function steps.toy:work; got NameError"),
    ],
)
def test_code_that_cannot_be_imported_is_named_with_its_error(home: Home, name: str, text: str, message: str) -> None:
    kept = home.read(name).decode()
    wrong = {"Step(nam=": ("Step(name=", "Step(nam="), "Step(name=(": ("Step(name=", "Step(name=(")}.get(text, (text, f"pq.x\n\n\n{text}"))
    home.write(name, kept.replace(*wrong, 1))
    said = home.ask("run", "toy")
    assert said.code == 2, said.err
    assert message in said.err
    assert "Traceback" not in said.err


def test_a_scheduled_pipeline_whose_policy_never_asks_for_the_comparison_is_refused() -> None:
    """The champion is compared with before anything is done with a new model: a gate that reads the comparison and asks nothing is none."""
    assert pipeline.schedule
    careless = replace(pipeline, schedule=replace(pipeline.schedule, compared="champion.gini"))
    with pytest.raises(BadInput) as error:
        parameters.read(ROOT, careless, {})
    (problem,) = map(str, error.value.problems)
    assert problem.startswith("params/policies/loan_approval.yaml: performance: it runs by schedule, and no rule asks how the new")
    assert problem.endswith("expected a rule on champion.gini")
    assert parameters.read(ROOT, replace(careless, schedule=None), {}).rules, "nobody is asked who looks on"


@pytest.mark.parametrize(
    ("champion", "says"),
    [
        ({"auc_over_champion": {"value": None, "low": None, "high": None}}, "yes"),
        ({"auc_over_champion": {"value": -0.01, "low": -0.03, "high": 0.0}}, "yes"),
        ({"auc_over_champion": {"value": -0.02, "low": -0.03, "high": -0.001}}, "no"),
        ({"auc_over_champion": None}, "no"),
        ({}, "no"),
    ],
    ids=["nobody-in-use", "no-worse-than-chance", "worse", "not-compared", "no-champion-at-all"],
)
def test_a_model_that_is_worse_than_the_champion_or_was_not_compared_is_refused(champion: object, says: str) -> None:
    rules = [r for r in parameters.read(ROOT, pipeline, {}).rules["performance"] if r.metric.startswith("champion.")]
    assert judge("performance", "evaluation", rules, {"champion": champion}).says == says
