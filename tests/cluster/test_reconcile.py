"""Commits whose event was lost are found and submitted, once, as the event would have; nothing else is."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.fake_api import NAMESPACE, FakeApi
from tests.cluster.test_commands import TASKS, arguments_of, workflows_of
from tests.conftest import Home, git
from workflows.cluster import clone
from workflows.cluster.publishing import pack, pack_commit
from workflows.cluster.reconciling import asked
from workflows.errors import BadInput

TRIGGERS = f"""repositories: {{github: [bank/models]}}
environments: {{dev: {{namespace: {NAMESPACE}}}}}
branches:
  main: {{environment: dev, pipelines: {{toy: {{}}}}}}
"""


@pytest.fixture
def lab(home: Home, api: FakeApi, tmp_path: Path) -> Home:
    """A clone of a repository whose branch main runs the toy pipeline; nothing was pushed yet but the first commit."""
    store = tmp_path / "shared"
    store.mkdir()
    home.write("params/triggers.yaml", TRIGGERS)
    git(home.path, "add", "-A")
    git(home.path, "commit", "-qm", "triggers")
    git(home.path, "branch", "-M", "main")
    git(tmp_path, "clone", "-q", "--bare", str(home.path), str(tmp_path / "origin.git"))
    git(home.path, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(home.path, "fetch", "-q", "origin")
    api.template("toy", TASKS)
    api.config(store=f"file://{store}")
    return replace(home, env={**home.env, "KUBECONFIG": api.kubeconfig(tmp_path / "kubeconfig")})


def commit(lab: Home, path: str, text: str, *, push: bool = True) -> str:
    """One more commit on main, and its name."""
    lab.write(path, text)
    git(lab.path, "add", "-A")
    git(lab.path, "commit", "-qm", path)
    if push:
        git(lab.path, "push", "-q", "origin", "main")
    return clone.commit_of(lab.path, "HEAD")


def params(at_least: int) -> str:
    return f"pick:\n  at_least: {at_least}\nwork:\n  mode: fine\n  seconds: 0.0\n"


def states(lab: Home, *words: str, code: int = 0) -> list[tuple[str, str]]:
    """(Commit, state) of each that was looked at."""
    said = lab.ask("reconcile", "--json", *words)
    assert said.code == code, said.err + said.out
    return [(c["commit"], c["state"]) for c in said.json["commits"]]


def test_the_newest_commit_that_touches_the_pipeline_is_submitted_once(lab: Home, api: FakeApi) -> None:
    commit(lab, "params/toy.yaml", params(1))
    wanted = commit(lab, "params/toy.yaml", params(2))
    commit(lab, "README.md", "about something else\n")
    assert states(lab, "--dry-run") == [(wanted, "lost")]
    assert workflows_of(api) == []
    assert states(lab) == [(wanted, "submitted")]
    name = f"toy-{wanted[:12]}"
    assert workflows_of(api) == [name]
    assert arguments_of(api, name)["revision"] == wanted
    meta = api.objects["workflows", name]["metadata"]
    assert meta["labels"]["countersign/environment"] == "dev"
    assert (meta["annotations"]["countersign/branch"], meta["annotations"]["countersign/reconciled"]) == ("main", "true")
    assert states(lab) == [(wanted, "already there")]
    assert workflows_of(api) == [name]


def test_a_person_is_told(lab: Home) -> None:
    wanted = commit(lab, "params/toy.yaml", params(2))
    first = lab.ask("reconcile", "--dry-run").out
    assert f"main {wanted[:12]} toy  lost  toy-{wanted[:12]}" in first
    assert "without --dry-run" in first
    assert "submitted" in lab.ask("reconcile").out


def test_since_a_commit_all_of_them_the_oldest_first(lab: Home, api: FakeApi) -> None:
    start = clone.commit_of(lab.path, "HEAD")
    first, second = (commit(lab, "params/toy.yaml", params(n)) for n in (1, 2))
    assert states(lab, "--since", start) == [(first, "submitted"), (second, "submitted")]
    assert len(workflows_of(api)) == 2
    assert states(lab, "--since", second) == []
    assert states(lab, "--since", "HEAD~1") == [(second, "already there")]


def test_what_a_sensor_has_started_is_not_started_again(lab: Home, api: FakeApi) -> None:
    wanted = commit(lab, "params/toy.yaml", params(2))
    meta = {"name": f"toy-{wanted[:12]}"}  # without our labels, as any program could make it
    api.put("workflows", {"metadata": meta, "spec": {}, "status": {"phase": "Running"}})
    assert states(lab) == [(wanted, "already there")]


def test_a_run_from_elsewhere_counts_where_it_is_of_that_commit_with_those_parameters(lab: Home, api: FakeApi) -> None:
    wanted = commit(lab, "params/toy.yaml", params(2))
    shared = f"file://{lab.path.parent}/shared"
    lab.run("--store", shared, "--set", "pick.at_least=31")
    assert states(lab, "--dry-run") == [(wanted, "lost")]
    lab.run("--store", shared)
    assert states(lab) == [(wanted, "has a run")]
    assert workflows_of(api) == []


def test_a_run_of_changed_files_does_not_count(lab: Home) -> None:
    wanted = commit(lab, "params/toy.yaml", params(2))
    lab.write("steps/toy.py", lab.read("steps/toy.py") + b"\n# changed\n")
    lab.run("--store", f"file://{lab.path.parent}/shared")
    assert states(lab, "--dry-run") == [(wanted, "lost")]


def test_a_branchs_parameters_are_part_of_what_is_asked(lab: Home, api: FakeApi) -> None:
    text = TRIGGERS.replace("toy: {}", "toy: {pick.at_least: 35}")
    wanted = commit(lab, "params/toy.yaml", params(2))
    commit(lab, "params/triggers.yaml", text)
    lab.run("--store", f"file://{lab.path.parent}/shared")  # with the file's parameters, not the branch's
    assert states(lab) == [(wanted, "submitted")]
    (name,) = workflows_of(api)
    assert arguments_of(api, name)["overrides"] == '{"pick.at_least":35}'
    assert name != f"toy-{wanted[:12]}"


def test_what_was_not_pushed_has_no_event_to_lose(lab: Home, api: FakeApi) -> None:
    pushed = commit(lab, "params/toy.yaml", params(1))
    commit(lab, "params/toy.yaml", params(2), push=False)
    assert states(lab) == [(pushed, "submitted")]
    assert len(workflows_of(api)) == 1


def test_a_merge_is_one_push(lab: Home) -> None:
    start = clone.commit_of(lab.path, "HEAD")
    git(lab.path, "checkout", "-qb", "topic")
    commit(lab, "params/toy.yaml", params(1), push=False)
    commit(lab, "params/toy.yaml", params(2), push=False)
    git(lab.path, "checkout", "-q", "main")
    git(lab.path, "merge", "-q", "--no-ff", "-m", "topic", "topic")
    git(lab.path, "push", "-q", "origin", "main")
    merged = clone.commit_of(lab.path, "HEAD")
    assert states(lab, "--since", start) == [(merged, "submitted")]
    git(lab.path, "checkout", "-qb", "words")
    commit(lab, "README.md", "about something else\n", push=False)
    git(lab.path, "checkout", "-q", "main")
    git(lab.path, "merge", "-q", "--no-ff", "-m", "words", "words")
    git(lab.path, "push", "-q", "origin", "main")
    assert states(lab, "--since", start) == [(merged, "already there")]


def test_data_of_an_old_commit_and_one_failure_among_many(lab: Home, api: FakeApi) -> None:
    start = clone.commit_of(lab.path, "HEAD")
    gone = "outs:\n- md5: 'd41d8cd98f00b204e9800998ecf8427f'\n  size: 5\n  hash: md5\n  path: people.csv\n"
    broken = commit(lab, "data/toy/people.csv.dvc", gone)
    git(lab.path, "rm", "-q", "data/toy/people.csv.dvc")
    fine = commit(lab, "params/toy.yaml", params(2))
    assert states(lab, "--since", start, "--dry-run") == [(broken, "lost"), (fine, "lost")]
    said = lab.ask("reconcile", "--since", start)
    assert said.code == 2
    assert f"main {broken[:12]} toy  failed" in said.out
    assert f"main {fine[:12]} toy  submitted" in said.out
    assert workflows_of(api) == [f"toy-{fine[:12]}"]


def test_a_commit_before_the_pipeline(lab: Home) -> None:
    before = clone.commit_of(lab.path, "HEAD")
    git(lab.path, "mv", "workflows/toy.py", "workflows/toy_later.py")
    without = commit(lab, "README.md", "gone\n")
    git(lab.path, "mv", "workflows/toy_later.py", "workflows/toy.py")
    again = commit(lab, "README.md", "back\n")
    assert states(lab, "--since", before, "--dry-run") == [(without, "not in it yet"), (again, "lost")]


def test_code_of_a_commit_is_what_a_clean_checkout_of_it_packs(lab: Home, tmp_path: Path) -> None:
    wanted = commit(lab, "params/toy.yaml", params(2))
    clean = pack(lab.path)
    (lab.path / "untracked.txt").write_text("x")
    lab.write("params/toy.yaml", params(3))
    before = subprocess.run(["git", "status", "--porcelain"], cwd=lab.path, capture_output=True, check=True).stdout
    tree = tmp_path / "tree"
    clone.lay_out(lab.path, wanted, tree)
    assert pack_commit(tree, wanted) == clean
    assert subprocess.run(["git", "status", "--porcelain"], cwd=lab.path, capture_output=True, check=True).stdout == before
    assert not (tree / "untracked.txt").exists()


def test_what_cannot_be_looked_for_is_told(lab: Home) -> None:
    for words, told in (
        (("--branch", "release"), "branch release runs nothing; expected one of main"),
        (("--since", "nonsense"), "no such commit in this clone"),
        (("--since", "--help"), "no such commit in this clone"),
    ):
        said = lab.ask("reconcile", *words)
        assert (said.code, told in said.err) == (2, True), said.err
    lab.write("params/triggers.yaml", TRIGGERS.replace("  main:", "  trunk:"))
    said = lab.ask("reconcile")
    assert (said.code, "no branch trunk in this clone" in said.err, "git fetch" in said.err) == (2, True, True)
    (lab.path / "params/triggers.yaml").unlink()
    said = lab.ask("reconcile")
    assert (said.code, "it says which branch runs which pipeline" in said.err) == (2, True)
    shutil.rmtree(lab.path / ".git")
    with pytest.raises(BadInput, match="no branch main"):
        clone.tip(lab.path, "main")


def test_overrides_are_applied_to_copies() -> None:
    raw = {"train": {"rounds": 3, "profile": {"seed": 1}}, "empty": None}
    assert asked(raw, {"train.profile.seed": 2}) == {"train": {"rounds": 3, "profile": {"seed": 2}}}
    assert raw["train"] == {"rounds": 3, "profile": {"seed": 1}}
    assert asked(raw, {}) == {"train": {"rounds": 3, "profile": {"seed": 1}}}
