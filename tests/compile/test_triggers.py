"""Which push runs what. All that is wrong with params/triggers.yaml is said at once; DVC re-runs for nothing that touches no pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT, Home
from workflows.compile import everything, touching, triggers
from workflows.errors import BadInput
from workflows.loan_approval import pipeline as loan_approval

SOUND = """
repositories: {github: [bank/models]}
environments: {dev: {namespace: countersign-dev}}
branches: {main: {environment: dev, pipelines: {toy: {pick.at_least: 20}}}}
"""


def test_the_file_of_this_repository_is_sound() -> None:
    asked = triggers.read(ROOT)
    assert asked is not None
    assert triggers.problems_with(ROOT, asked, [loan_approval]) == []
    assert {m.branch for m in triggers.mapped(asked)} == {"main", "release"}


def test_no_file_means_no_triggers(tmp_path: Path) -> None:
    assert triggers.read(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("[]", ["params/triggers.yaml: Input should be"]),
        (
            """
            repositories: {github: [models], gitlab: ['a b/c']}
            environments: {Dev: {namespace: x_y}}
            branches: {'feature/*': {environment: dev}}
            more: 1
            """,
            [
                "repositories.github.0: String should match pattern",
                "repositories.gitlab.0: String should match pattern",
                "environments.Dev.[key]: String should match pattern",
                "environments.Dev.namespace: String should match pattern",
                "branches.feature/*.[key]: String should match pattern",
                "branches.feature/*.pipelines: Field required",
                "more: Extra inputs are not permitted",
            ],
        ),
        (
            SOUND.replace("environment: dev", "environment: live"),
            ["branches.main.environment: no such environment; expected one of dev, got 'live'"],
        ),
        (SOUND.replace("[bank/models]", "[]"), ["repositories: branches are mapped but no repository may ask"]),
        (
            SOUND.replace("{namespace: countersign-dev}}", "{namespace: same}, test: {namespace: same}}"),
            ["environments: environments dev and test share a namespace"],
        ),
        (
            SOUND.replace("branches: {", "branches: {next: {environment: dev, pipelines: {toy: {}}}, "),
            ["branches.next: toy would run with other parameters than from branch main, in the same environment"],
        ),
        (SOUND.replace("20", ".nan"), ["holds a value that JSON has no form for"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, messages: list[str]) -> None:
    (tmp_path / "params").mkdir()
    (tmp_path / triggers.PATH).write_text(text)
    with pytest.raises(BadInput) as caught:
        triggers.read(tmp_path)
    said = str(caught.value)
    assert [m for m in messages if m not in said] == [], said
    assert len(caught.value.problems) == len(messages)


def test_what_does_not_fit_the_pipelines_stops_compilation(home: Home) -> None:
    wrong = SOUND.replace("{pick.at_least: 20}", "{pick.at_least: -1, pick.nothing: 1}, gone: {}")
    home.write(triggers.PATH, wrong)
    said = home.ask("compile")
    assert said.code == 2
    for text in (
        "branches.main.pipelines.toy: --set pick.nothing: no parameter",
        "pick.at_least",
        "branches.main.pipelines.gone: no such pipeline",
    ):
        assert text in said.err
    assert not (home.path / "infra/events").exists()


def test_compile_writes_checks_and_clears_away_what_triggers_come_to(home: Home) -> None:
    home.write(triggers.PATH, SOUND)
    assert home.ask("compile").code == 0
    folder = home.path / "infra/events/compiled"
    made = {p.name for p in folder.iterdir()}
    assert made == {"access-dev.yaml", "kustomization.yaml", "sensor-toy-dev.yaml", "source-github.yaml"}
    assert home.ask("compile", "--check").code == 0
    home.write(triggers.PATH, SOUND.replace("main", "trunk").replace("dev", "test"))
    said = home.ask("compile", "--check")
    assert said.code == 2
    for name in ("access-dev.yaml", "access-test.yaml", "sensor-toy-test.yaml", "kustomization.yaml"):
        assert f"error: infra/events/compiled/{name}: is not what the declarations say" in said.err
    assert home.ask("compile").code == 0
    assert {p.name for p in folder.iterdir()} == {"access-test.yaml", "kustomization.yaml", "sensor-toy-test.yaml", "source-github.yaml"}


def test_whatever_dvc_would_run_again_for_touches_the_pipeline() -> None:
    """A push of any file that some stage depends on is about the pipeline; a file of another kind is not."""
    declared = everything.declared(ROOT, loan_approval)
    paths = set(touching.paths_of(declared))
    stages = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        body = stage.get("do", stage)
        needs = {d for d in body["deps"] if not d.startswith("artifacts/")} | {p for params in body.get("params", []) for p in params}
        assert needs <= paths, name
    assert "workflows/loan_approval.py" in paths
    assert "data/loan_approval/application/application.csv.dvc" in paths
    assert touching.touches(declared, ["README.md", "steps/train.py"])
    assert not touching.touches(declared, ["README.md", "docs/tutorial.md", "tests/conftest.py", "params/triggers.yaml"])
