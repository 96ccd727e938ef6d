"""What the next model is held against is what serves, verified."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import lightgbm as lgb
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.promote.world import NOW, SIGNERS, because, environment, members, stamp
from tests.serve import world as served
from tests.serve.logs import SIGNER
from tests.steps.example import evaluated, trained
from workflows.cli_promote import compare_champion
from workflows.errors import BadInput, NotVerified
from workflows.loan_approval import champion as declared
from workflows.loan_approval import pipeline
from workflows.promote import champion
from workflows.promote.deployer import Nothing
from workflows.promote.ledger import Ledger
from workflows.promote.policy import Policies, parse
from workflows.promote.promoting import Asked, Desk, promote
from workflows.run.sources import read as sources
from workflows.run.store.local import LocalStore


def policies() -> Policies:
    return parse(raw())


def raw() -> dict[str, Any]:
    common = {"pipelines": {"loan_approval": "model"}, "gates": because(["performance"]), "approvals": [], "runs_by": because("anyone")}
    environments = {"dev": environment(**common), "prod": environment(**common, after=because("dev"))}
    return {"roles": {"promoter": members("promoter")}, "environments": environments}


def serve(store: LocalStore, *environments: str, run: str = served.RUN) -> None:
    """Promote a run through these, one after another."""
    store.put_document(f"keys/{SIGNER.keyid}.pem", SIGNER.public_pem)
    for name in environments:
        desk = Desk(
            store=store,
            policies=policies(),
            environment=name,
            signer=SIGNERS["promoter"],
            deployer=lambda _: Nothing(),
            clock=lambda: stamp(NOW),
        )
        promote(desk, [Asked(run=run)])


def test_it_is_the_model_and_the_rule_that_serve(tmp_path: Path) -> None:
    made = served.make(tmp_path / "store")
    ledger = Ledger(made.store, policies(), "prod")
    assert json.loads(champion.report(made.store, ledger, pipeline)) == {"status": "none"}

    serve(made.store, "dev", "prod")
    said = json.loads(champion.report(made.store, ledger, pipeline))
    assert (said["status"], said["name"]) == ("appointed", "prod 1")
    assert lgb.Booster(model_str=said["model"]).num_trees() > 0

    (made.store.documents / f"runs/{made.run}/root").write_text("0" * 64 + "\n")
    with pytest.raises(NotVerified):
        champion.report(made.store, ledger, pipeline)


def test_the_next_evaluation_reads_it(tmp_path: Path) -> None:
    """As the command writes the file and a step reads it: the same model as the one that serves, so no better and no worse."""
    made = served.make(tmp_path / "store")
    serve(made.store, "dev", "prod")
    path = tmp_path / declared.at
    path.parent.mkdir(parents=True)
    path.write_bytes(champion.report(made.store, Ledger(made.store, policies(), "prod"), pipeline) + b"\n")
    report = evaluated(trained(), champion=sources.read(tmp_path, declared, path)).evaluation
    found = report["champion"]
    assert (found["status"], found["name"], found["same_decision"]) == ("compared", "prod 1", 1)
    assert found["auc_over_champion"]["value"] == 0
    assert found["holdout"] == {name: report["holdout"][name] for name in found["holdout"]}


def test_a_source_that_says_another_champion_than_the_one_that_serves_is_told(tmp_path: Path) -> None:
    made = served.make(tmp_path / "store")
    nobody = (ROOT / pipeline.schedule.champion.at).read_bytes() if pipeline.schedule else b""
    assert champion.others(made.store, policies(), pipeline, nobody) == [], "no release is there to know it by"
    serve(made.store, "dev")
    assert champion.others(made.store, policies(), pipeline, nobody) == [], "nobody is decided about by what dev serves"
    serve(made.store, "prod")
    (told,) = champion.others(made.store, policies(), pipeline, nobody)
    assert (told.environment, told.sequence, told.variants[0].run) == ("prod", 1, made.run)

    said = champion.report(made.store, Ledger(made.store, policies(), "prod"), pipeline)
    assert champion.others(made.store, policies(), pipeline, said + b"\n") == []
    for wrong in (said.replace(b"tree", b"tref", 1), said.replace(b'"prod 1"', b'"prod 2"'), b"[]", b"{", b""):
        assert champion.others(made.store, policies(), pipeline, wrong) == [told], wrong[:40]


def test_whoever_makes_a_run_is_warned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = served.make(tmp_path / "store")
    compare_champion(ROOT, made.store, pipeline)
    assert capsys.readouterr().err == "", "with the policy of the checkout, in which no release is there"
    YAML().dump(raw(), tmp_path / "environments.yaml")
    monkeypatch.setenv("COUNTERSIGN_POLICY", str(tmp_path / "environments.yaml"))
    serve(made.store, "dev", "prod")
    compare_champion(ROOT, made.store, pipeline)
    source = "data/loan_approval/champion/champion.json"
    said = f"prod 1 serves, and {source} says another champion: countersign champion loan_approval --env prod -o {source}"
    assert capsys.readouterr().err == f"warning {said}\n"

    (made.store.documents / "releases/prod/1/ended").write_bytes(b"{}")
    compare_champion(ROOT, made.store, pipeline)
    assert f"whether {source} says what serves is not known: releases/prod/1/ended" in capsys.readouterr().err


def test_a_pipeline_that_serves_nothing_has_no_champion(tmp_path: Path) -> None:
    made = served.make(tmp_path / "store")
    with pytest.raises(BadInput, match="declares nothing that is served"):
        champion.report(made.store, Ledger(made.store, policies(), "prod"), dataclasses.replace(pipeline, serves=None))
