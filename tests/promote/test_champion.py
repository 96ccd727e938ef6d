"""What the next model is held against is what serves, verified."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import lightgbm as lgb
import pytest

from tests.promote.world import NOW, SIGNERS, because, environment, members, stamp
from tests.serve import world as served
from tests.serve.logs import SIGNER
from workflows.errors import BadInput, NotVerified
from workflows.loan_approval import pipeline
from workflows.promote import champion
from workflows.promote.deployer import Nothing
from workflows.promote.ledger import Ledger
from workflows.promote.policy import Policies, parse
from workflows.promote.promoting import Asked, Desk, promote


def policies() -> Policies:
    prod = environment(pipelines={"loan_approval": "model"}, gates=because(["performance"]), approvals=[], runs_by=because("anyone"))
    return parse({"roles": {"promoter": members("promoter")}, "environments": {"prod": prod}})


def test_it_is_the_model_and_the_rule_that_serve(tmp_path: Path) -> None:
    made = served.make(tmp_path / "store")
    made.store.put_document(f"keys/{SIGNER.keyid}.pem", SIGNER.public_pem)
    ledger = Ledger(made.store, policies(), "prod")
    assert json.loads(champion.report(made.store, ledger, pipeline)) == {"status": "none"}

    desk = Desk(
        store=made.store,
        policies=policies(),
        environment="prod",
        signer=SIGNERS["promoter"],
        deployer=lambda _: Nothing(),
        clock=lambda: stamp(NOW),
    )
    promote(desk, [Asked(run=made.run)])
    said = json.loads(champion.report(made.store, ledger, pipeline))
    assert (said["status"], said["name"]) == ("appointed", "prod 1")
    assert lgb.Booster(model_str=said["model"]).num_trees() > 0

    (made.store.documents / f"runs/{made.run}/root").write_text("0" * 64 + "\n")
    with pytest.raises(NotVerified):
        champion.report(made.store, ledger, pipeline)


def test_a_pipeline_that_serves_nothing_has_no_champion(tmp_path: Path) -> None:
    made = served.make(tmp_path / "store")
    with pytest.raises(BadInput, match="declares nothing that is served"):
        champion.report(made.store, Ledger(made.store, policies(), "prod"), dataclasses.replace(pipeline, serves=None))
