"""From `git push` to a run that is sealed and verifies: a real repository, a signed web hook, Argo Events, Argo, the steps themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.events_world import GITHUB, World, install, new_namespace, reached, remove
from tests.cluster.real import Toy, new_space, toy_in
from tests.conftest import ROOT, Home, git, home_from
from workflows.cluster import clone
from workflows.compile import events

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]

TRIGGERS = """repositories: {{github: [{repository}], gitlab: [risk/models]}}
environments: {{dev: {{namespace: {dev}}}, staging: {{namespace: {staging}}}}}
branches:
  main: {{environment: dev, pipelines: {{toy: {{}}}}}}
  release: {{environment: staging, pipelines: {{toy: {{}}}}}}
"""
# What GitHub's side does: it tells of a push, with the files that its commits touch, and signs what it says.
HOOK = """#!{python}
import http.client, subprocess, sys
sys.path.insert(0, {root!r})
from tests.compile import pushes

def git(*words):
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout

for line in sys.stdin:
    before, after, ref = line.split()
    commits = [
        {{**pushes.commit(sha, modified=git("show", "--format=", "--name-only", sha).split()), "id": sha}}
        for sha in git("rev-list", "--reverse", f"{{before}}..{{after}}").split()
    ]
    body = pushes.as_bytes({{**pushes.github(*commits, branch=ref.removeprefix("refs/heads/"), after=after), "before": before}})
    connection = http.client.HTTPConnection({address!r}, {port}, timeout=30)
    connection.request("POST", {path!r}, body=body, headers=pushes.github_headers(body, {secret!r}))
    print("the web hook was answered", connection.getresponse().status)
"""


@dataclass(frozen=True, kw_only=True)
class Bank:
    """A clone whose `git push` is told to a cluster, and the pipeline there."""

    world: World
    toy: Toy
    hook: Path

    def tell(self, before: str, after: str) -> str:
        """The git server delivers a push again; how that was answered."""
        line = f"{before} {after} refs/heads/main\n"
        return subprocess.run([self.hook], input=line, cwd=self.hook.parents[1], capture_output=True, text=True, check=True).stdout

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Nobody is told of pushes."""
        self.hook.chmod(0o644)
        try:
            yield
        finally:
            self.hook.chmod(0o755)

    def push(self, path: str, text: str) -> tuple[str, str]:
        """Commit one file and push it; the commit, and what git said."""
        home = self.toy.home
        home.write(path, text)
        git(home.path, "add", "-A")
        git(home.path, "commit", "-qm", path)
        said = subprocess.run(["git", "push", "origin", "main"], cwd=home.path, capture_output=True, text=True, check=True, env=home.env)
        return clone.commit_of(home.path, "HEAD"), said.stderr


@pytest.fixture(scope="module")
def bank(cluster: None, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    del cluster
    scratch = tmp_path_factory.mktemp("push")
    home = home_from(template, scratch)
    world = World(namespace=new_namespace(), secrets={}, sensors=("toy-dev", "toy-staging"))
    home.write("params/triggers.yaml", TRIGGERS.format(repository=GITHUB, dev=world.dev, staging=world.staging))
    said = home.ask("compile")
    assert said.code == 0, said.err
    compiled = {p.name: p.read_text() for p in (home.path / "infra/events/compiled").glob("*.yaml")}
    try:
        with reached(install(scratch, world, compiled)) as there:
            toy = toy_in(new_space(world.dev), home)
            hook = origin_of(home, there, scratch / "origin.git")
            yield Bank(world=there, toy=toy, hook=hook)
    finally:
        remove(world)


def origin_of(home: Home, world: World, origin: Path) -> Path:
    """Make the repository that everybody pushes to; its hook."""
    git(home.path, "add", "-A")
    git(home.path, "commit", "-qm", "triggers")
    git(home.path, "branch", "-M", "main")
    git(home.path, "clone", "-q", "--bare", str(home.path), str(origin))
    git(home.path, "remote", "add", "origin", str(origin))
    address, port = world.ports["github"]
    secret = world.secrets["github"]
    hook = origin / "hooks/post-receive"
    hook.write_text(HOOK.format(python=sys.executable, root=str(ROOT), address=address, port=port, path=events.ENDPOINT, secret=secret))
    hook.chmod(0o755)
    return hook


def test_a_push_is_followed_to_a_seal_that_verifies(bank: Bank) -> None:
    commit, said = bank.push("params/toy.yaml", "pick:\n  at_least: 35\nwork:\n  mode: fine\n  seconds: 0.0\n")
    assert "the web hook was answered 200" in said
    published = bank.toy.ask("publish", "--namespace", bank.world.dev)  # as CI does, at about the time of the event
    assert published.code == 0, published.err
    name = f"toy-{commit[:12]}"
    bank.world.wait_for(name, bank.world.dev)
    watched = bank.toy.ask("watch", name, "--namespace", bank.world.dev, "--json")
    assert watched.code == 0, watched.err
    done = bank.toy.workflow(name)
    assert done.labels["countersign/revision"] == commit
    assert done.annotations["countersign/outcome"] == "done"
    checked = bank.toy.verify(watched.json["run"])
    assert (checked["code"], checked["verified"]) == (0, True)
    assert watched.json["root"] == checked["root"] == done.annotations["countersign/root"]
    rules = next(g for g in watched.json["gates"] if g["gate"] == "enough")["rules"]
    assert rules[0]["value"] == 180, "the pushed parameters were heeded: two of three people, twice"


def test_a_push_of_something_else_is_told_too_and_runs_nothing(bank: Bank) -> None:
    before = set(bank.world.workflows(bank.world.dev))
    _, said = bank.push("README.md", "about something else\n")
    assert "the web hook was answered 200" in said
    # Events are taken in order: once a later push's workflow is there, this one was seen.
    commit, _ = bank.push("params/toy.yaml", "pick:\n  at_least: 45\nwork:\n  mode: fine\n  seconds: 0.0\n")
    bank.world.wait_for(f"toy-{commit[:12]}", bank.world.dev)
    assert set(bank.world.workflows(bank.world.dev)) - before == {f"toy-{commit[:12]}"}


def test_a_push_that_nobody_was_told_of_is_found_and_run_once(bank: Bank) -> None:
    before = clone.commit_of(bank.toy.home.path, "HEAD")
    with bank.silent():
        commit, said = bank.push("params/toy.yaml", "pick:\n  at_least: 41\nwork:\n  mode: fine\n  seconds: 0.0\n")
    assert "web hook" not in said
    name = f"toy-{commit[:12]}"
    assert name not in bank.world.workflows(bank.world.dev)
    assert found_of(bank) == [(commit, "submitted")]
    watched = bank.toy.ask("watch", name, "--namespace", bank.world.dev, "--json")
    assert watched.code == 0, watched.err
    assert bank.toy.sealed(name) == watched.json["run"]
    assert found_of(bank) == [(commit, "already there")]
    # The event comes after all. Once a later push's workflow is there, it was seen.
    there = set(bank.world.workflows(bank.world.dev))
    assert "answered 200" in bank.tell(before, commit)
    later, _ = bank.push("params/toy.yaml", "pick:\n  at_least: 42\nwork:\n  mode: fine\n  seconds: 0.0\n")
    bank.world.wait_for(f"toy-{later[:12]}", bank.world.dev)
    assert set(bank.world.workflows(bank.world.dev)) - there == {f"toy-{later[:12]}"}


def found_of(bank: Bank) -> list[tuple[str, str]]:
    """(Commit, state) of the newest commit that touches the pipeline, as reconciling leaves it."""
    said = bank.toy.ask("reconcile", "--branch", "main", "--json")
    assert said.code == 0, said.err + said.out
    return [(c["commit"], c["state"]) for c in said.json["commits"]]
