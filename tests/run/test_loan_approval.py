"""The loan-approval pipeline on its real data, as `make run` runs it, and everything that is done with a run afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from tests.conftest import Home, make_home, other_locale
from tests.docs.test_tutorial import clone
from tests.promote.world import because, environment
from workflows.loan_approval import pipeline
from workflows.plan import tasks

DIRECT = ("full_name", "national_id", "street_address", "phone", "account_number", "application_id")
pytestmark = pytest.mark.timeout(1800)
CHAMPION = "data/loan_approval/champion/champion.json"
LONG = 900.0  # seconds; a run takes under three minutes where nothing else is at work
HERE = {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
ELSEWHERE = {"TZ": "America/St_Johns", "PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "2"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Any, str]:
    """A clone in which the pipeline has run once with a masking key of these tests; its answer; what was said meanwhile."""
    scratch = tmp_path_factory.mktemp("loan")
    clone(scratch / "repo")
    (scratch / "masking").write_text(bytes(range(32)).hex())
    base = make_home(scratch / "repo", scratch)
    home = Home(path=base.path, env={**base.env, "COUNTERSIGN_MASKING_KEY_FILE": str(scratch / "masking")})
    pulled = home.finish(home.start("-m", "dvc", "pull", *map(str, (home.path / "data").rglob("*.dvc"))))
    assert pulled.code == 0, pulled.err
    said = home.ask("run", "loan_approval", "--json", within=LONG, env=HERE)
    assert said.code == 0, said.err + said.out
    return home, said.json, said.out + said.err


def test_it_prints_decision_gates_report_and_run(ran: tuple[Home, Any, str]) -> None:
    home, answer, _ = ran
    said = home.ask("run", "loan_approval")
    assert said.out.startswith("Nothing to do")
    assert "Passed: every gate said yes." in said.out
    for gate in ("privacy", "data_quality", "performance", "fair", "stable"):
        assert f"gate {gate}" in said.out
    assert "artifacts/loan_approval/evidence.html" in said.out
    assert answer["run"] in said.out
    assert {g["says"] for g in answer["gates"]} == {"yes"}


def test_it_verifies_and_dvc_agrees(ran: tuple[Home, Any, str]) -> None:
    home, answer, _ = ran
    assert home.ask("verify", answer["run"]).code == 0
    done = home.finish(home.start("-m", "dvc", "status"))
    assert "up to date" in done.out
    # Pushed artifacts hold rows about people: they must not slip into the next commit.
    assert "pushed" in home.finish(home.start("-m", "dvc", "push")).out
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=home.path, capture_output=True, text=True, check=True).stdout
    assert changed.splitlines() == ["?? dvc.lock"]


def test_it_is_reproduced_to_the_byte_elsewhere(ran: tuple[Home, Any, str], tmp_path: Path) -> None:
    home, answer, _ = ran
    said = home.ask("reproduce", answer["run"], "--json", within=LONG, env={**ELSEWHERE, **other_locale(tmp_path)})
    assert said.code == 0, said.err
    assert "warning threads.OMP_NUM_THREADS: recorded 1, here 2" in said.err.splitlines()
    assert {a["verdict"] for a in said.json["artifacts"]} == {"bytes"}
    assert len(said.json["artifacts"]) > 30


def test_dvc_shows_metrics_parameters_graph_and_plots(ran: tuple[Home, Any, str], tmp_path: Path) -> None:
    home, _, _ = ran

    def dvc(*words: str) -> str:
        done = home.finish(home.start("-m", "dvc", *words))
        assert done.code == 0, done.err
        return done.out

    auc = json.loads(home.read("artifacts/loan_approval/evaluation.json"))["holdout"]["auc"]["value"]
    header, row = dvc("metrics", "show").splitlines()[:2]
    assert row.split()[0] == "artifacts/loan_approval/evaluation.json"
    assert row[header.index(" holdout.auc.value") :].split()[0] == f"{auc:.5g}"

    params = home.path / "params/loan_approval.yaml"
    kept = params.read_bytes()
    try:
        params.write_bytes(kept.replace(b"wanted_ratio: 0.82", b"wanted_ratio: 0.83"))
        assert [line.split()[-3:] for line in dvc("params", "diff").splitlines()[1:]] == [["train.wanted_ratio", "0.82", "0.83"]]
    finally:
        params.write_bytes(kept)

    graph = dvc("dag")
    boxes = {w for w in graph.split() if w.startswith("loan_approval-")}
    assert boxes == {f"loan_approval-{t.id}" for t in tasks(pipeline)}

    assert dvc("plots", "show", "-o", str(tmp_path / "plots")).strip() == f"file://{tmp_path}/plots/index.html"
    page = (tmp_path / "plots/index.html").read_text()
    first = json.loads(home.read("artifacts/loan_approval/importance.json"))["points"][0]
    assert f'"feature": "{first["feature"]}"' in page
    assert 'id = "artifacts_loan_approval_calibration_json"' in page


def found(identities: set[str], text: str) -> set[str]:
    """Those that the text holds anywhere, found in one pass over it."""
    shortest = min(map(len, identities))
    starting: dict[str, list[str]] = {}
    for i in identities:
        starting.setdefault(i[:shortest], []).append(i)
    at_each = ((at, starting.get(text[at : at + shortest], ())) for at in range(len(text)))
    return {i for at, candidates in at_each for i in candidates if text.startswith(i, at)}


def test_no_identity_is_in_anything_made_after_masking(ran: tuple[Home, Any, str]) -> None:
    """Every direct identifier and every birth date: not in tables, records, logs, model, reports, page or messages."""
    home, _, said = ran
    source = pa.csv.read_csv(home.path / "data/loan_approval/application/application.csv")
    identities = {str(v) for c in (*DIRECT, "birth_date") for v in source[c].to_pylist() if v is not None}
    assert len(identities) > 10_000
    made = home.path / "artifacts/loan_approval"
    tables = [p for p in made.rglob("*.parquet") if p.name != "applications.parquet"]
    assert len(tables) > 8
    for path in tables:
        values = {str(v) for column in pq.read_table(path).columns for v in column.unique().to_pylist()}
        assert not values & identities, path
        words = "\0".join(v for v in values if not v.replace(".", "").isdigit())
        assert not found(identities, words), path  # nor as a part of something else
        assert not found(identities, path.read_bytes().decode(errors="replace")), path  # nor in what Parquet notes beside the rows
    texts = [p for p in (*made.rglob("*"), *(home.path / ".countersign").rglob("*")) if p.is_file() and p.suffix != ".parquet"]
    assert len(texts) > 40
    everything = "\0".join([said, *(p.read_text(errors="replace") for p in texts)])
    assert not found(identities, everything)
    assert "log.jsonl" in {p.name for p in texts}
    # The search would find them: they are in what was made before masking, whole and as a part of something else.
    before = {str(v) for column in pq.read_table(made / "applications.parquet").columns for v in column.unique().to_pylist()}
    assert identities <= before
    assert found(identities, "x".join(before)) == identities


def test_log_lines_carry_run_step_and_trace(ran: tuple[Home, Any, str]) -> None:
    home, answer, _ = ran
    lines = [json.loads(line) for line in (home.path / ".countersign/log.jsonl").read_text().splitlines()]
    started = [line for line in lines if line["event"] == "started"]
    assert {line["run"] for line in started} == {answer["run"]}
    assert {line["step"] for line in started} >= {"ingest", "tune@3", "report"}
    assert all(re.fullmatch(r"[0-9a-f]{32}", line["trace"]) for line in started)


def test_its_bundle_passes_the_verifier_that_knows_nothing_of_the_project(ran: tuple[Home, Any, str], tmp_path: Path) -> None:
    home, answer, _ = ran
    bundle = tmp_path / "it.bundle"
    assert home.ask("bundle", "@latest", "-o", str(bundle)).code == 0
    script = home.path / "infra/verify/verify_bundle.py"
    words = [sys.executable, "-I", str(script), str(bundle), "--root", answer["root"]]
    done = subprocess.run(words, cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"verified {answer['run']}: 16 records" in done.stdout


def test_the_plain_model_is_refused_for_being_unfair(ran: tuple[Home, Any, str], tmp_path: Path) -> None:
    """The demonstration: without mitigation the gate says no, the run is sealed as refused, and that verifies too."""
    first, answer, _ = ran
    home = Home(path=tmp_path / "copy", env=first.env)  # the other tests share the first one
    shutil.copytree(first.path, home.path)
    said = home.ask("run", "loan_approval", "--set", "train.mitigation=none", within=LONG)
    assert said.code == 3, said.err
    assert "refused: gate fair: fairness: out_of_fold.attributes.race.selection_rate_ratio.value" in said.err
    assert home.ask("verify", "@latest").code == 0
    page = (home.path / "artifacts/loan_approval/evidence.html").read_text()
    assert "Refused: fair said no." in page
    compared = home.ask("compare", answer["run"], "@latest", "--json")
    assert compared.code == 4
    assert compared.json["first"] == "train"
    assert compared.json["because"] == ["parameter mitigation: 'reductions', 'none'"]


def test_what_serves_is_what_the_next_run_is_held_against(ran: tuple[Home, Any, str], tmp_path: Path) -> None:
    """From a run to production, from there to the source that the evaluation reads, and to the next run's verdict."""
    first, answer, _ = ran
    home = Home(path=tmp_path / "copy", env={**first.env, "COUNTERSIGN_POLICY": str(tmp_path / "environments.yaml")})
    shutil.copytree(first.path, home.path)
    anyone = {"runs_by": because("anyone"), "released_by": because("anyone"), "approvals": []}
    prod = environment(pipelines={"loan_approval": "model"}, gates=because(["performance", "fair"]), **anyone)
    YAML().dump({"roles": {}, "environments": {"prod": prod}}, tmp_path / "environments.yaml")
    promoted = home.ask("promote", answer["run"], "--env", "prod")
    assert promoted.code == 0, promoted.err
    told = home.ask("run", "loan_approval")
    command = f"countersign champion loan_approval --env prod -o {CHAMPION}"
    assert f"warning prod 1 serves, and {CHAMPION} says another champion: {command}" in told.err

    assert home.ask(*command.split()[1:]).code == 0
    again = home.ask("run", "loan_approval", "--json", within=LONG)
    assert again.code == 0, again.err
    assert "says another champion" not in again.err
    assert again.json["run"] != answer["run"]
    compared = json.loads(home.read("artifacts/loan_approval/evaluation.json"))["champion"]
    assert (compared["status"], compared["name"]) == ("compared", "prod 1")
    before, after = (rule_on_champion(a) for a in (answer, again.json))
    assert before["value"] is None
    assert (after["value"], after["says"]) == (0.0, "yes"), "the same model is no worse than itself"


def rule_on_champion(answer: Any) -> Any:
    (rule,) = [r for g in answer["gates"] for r in g["rules"] if r["metric"].startswith("champion.")]
    return rule
