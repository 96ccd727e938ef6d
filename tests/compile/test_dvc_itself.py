"""Plain DVC after a run of ours: it finds everything as if it had run it."""

from __future__ import annotations

import json
import re
import subprocess

from tests.conftest import PARAMS, Home, git, with_lineage


def dvc(home: Home, *words: str) -> str:
    env = {**home.env, "PYTHONPATH": ""}
    done = subprocess.run(["dvc", *words], cwd=home.path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def ready(home: Home) -> None:
    """A checkout as DVC wants it, with the pipeline compiled and committed."""
    assert home.ask("compile").code == 0
    dvc(home, "init", "-q")
    git(home.path, "add", "-A")
    git(home.path, "commit", "-qm", "compiled")


def test_dvc_agrees_with_a_run_of_ours(home: Home) -> None:
    ready(home)
    home.run()
    assert "up to date" in dvc(home, "status")
    assert "up to date" in dvc(home, "repro")
    assert "toy-pick" in dvc(home, "dag")
    metrics = json.loads(dvc(home, "metrics", "show", "--json"))
    assert next(iter(metrics.values()))["data"]["artifacts/toy/total.json"]["data"]["total"] == 240
    lock = home.read("dvc.lock")

    # Run by DVC, nothing reused: the same lock to the byte, and a run that verifies.
    dvc(home, "repro", "--force", "--no-run-cache")
    assert home.read("dvc.lock") == lock
    assert home.ask("verify", "@latest").code == 0

    # A changed parameter makes what depends on it stale, and nothing else.
    git(home.path, "add", "-A")
    git(home.path, "commit", "-qm", "locked")
    home.write("params/toy.yaml", PARAMS.replace("at_least: 0", "at_least: 35"))
    stale = json.loads(dvc(home, "status", "--json"))
    assert set(stale) == {"toy-pick"}  # what follows is stale once this has other outputs
    assert json.loads(dvc(home, "params", "diff", "--json"))["params/toy.yaml"]["pick.at_least"]["new"] == 35
    dvc(home, "repro")
    assert json.loads(home.read("artifacts/toy/total.json"))["total"] == 180
    assert home.ask("run", "toy").out.startswith("Nothing to do")


def test_what_verify_says_brings_a_changed_artifact_back(home: Home) -> None:
    ready(home)
    home.run()
    path, whole = "artifacts/toy/total.json", home.read("artifacts/toy/total.json")
    home.write(path, whole.replace(b"240", b"241"))
    said = home.ask("verify", "@latest")
    assert (said.code, path in said.out + said.err) == (4, True)
    command = re.search(r"; dvc (.+) brings it back", said.out + said.err)
    assert command, said.out + said.err
    dvc(home, *command[1].split())
    assert home.read(path) == whole
    assert home.ask("verify", "@latest").code == 0


def test_dvc_writes_parameters_as_we_do(home: Home) -> None:
    """In the file's order; and what the file repeats by `*name`, a stage that has all steps' parameters repeats likewise."""
    with_lineage(home)
    ready(home)
    home.run()
    lock = home.read("dvc.lock")
    assert b"bands: &id001" in lock
    dvc(home, "repro", "--force", "--no-run-cache")
    assert home.read("dvc.lock") == lock


def test_dvc_does_not_take_what_a_gate_refused(home: Home) -> None:
    home.write("params/policies/toy.yaml", home.read("params/policies/toy.yaml").replace(b"at_least: 100", b"at_least: 1000"))
    ready(home)
    done = home.finish(home.start("-m", "dvc", "repro"))
    assert done.code != 0
    assert "refused: gate enough" in done.out + done.err
    assert home.ask("verify", "@latest").code == 0
    assert "refused" in home.ask("show", "@latest").out


def test_dvc_draws_a_plot(home: Home) -> None:
    declared = home.read("workflows/toy.py").decode()
    home.write(
        "workflows/toy.py",
        declared.replace("Kind, Pipeline, Resources", "Kind, Pipeline, Plot, Resources").replace(
            'Artifact(name="total", kind=Kind.REPORT, metric=True)', 'Artifact(name="total", kind=Kind.REPORT, plot=Plot(x="at", y="sum"))'
        ),
    )
    steps = home.read("steps/toy.py").decode()
    home.write(
        "steps/toy.py",
        steps.replace('"parts": [p["which"] for p in part]}', '"points": [{"at": i, "sum": p["sum"]} for i, p in enumerate(part)]}'),
    )
    ready(home)
    home.run()
    assert "dvc_plots/index.html" in dvc(home, "plots", "show")
    page = home.read("dvc_plots/index.html").decode()
    assert '"sum": 120' in page or '"sum":120' in page
