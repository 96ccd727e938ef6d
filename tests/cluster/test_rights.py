"""Keys, credentials and rights that are missing, wrong or somebody else's."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.cluster.real import Toy, wait
from workflows.cluster.interface import Phase
from workflows.prove.anchor import State
from workflows.prove.signature import Signer, private_pem, public_pem, read_private

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
WRONG = {"AWS_SECRET_ACCESS_KEY": "wrong"}


@pytest.mark.parametrize(
    ("secret", "code", "says"),
    [
        ("countersign-store", 2, "AWS_ACCESS_KEY_ID"),
        ("countersign-signing-key", 2, "cannot read the signing key"),
    ],
)
def test_a_missing_secret_is_said_and_does_not_hang(toy: Toy, secret: str, code: int, says: str) -> None:
    with toy.space.without("secret", secret):
        name = toy.submit()
        assert toy.ended(name).phase in {Phase.FAILED, Phase.ERROR}
    (failed,) = toy.attempts(name, "plan")
    assert failed.exit_code == code
    assert says in failed.message


def test_a_signing_key_that_is_none_is_said(toy: Toy) -> None:
    before = toy.runs()
    with toy.space.told("countersign-signing-key", {"signing.pem": "no key\n"}):
        name = toy.submit()
        assert toy.ended(name).phase is Phase.FAILED
    (failed,) = toy.attempts(name, "plan")
    assert (failed.exit_code, "not a private key in PEM" in failed.message) == (2, True), failed.message
    assert toy.runs() == before, "nothing was planned"


def test_a_signing_key_of_somebody_else_is_named(toy: Toy, tmp_path: Path) -> None:
    ours = read_private(base64.b64decode(toy.space.get("secret", "countersign-signing-key")["data"]["signing.pem"]))
    (tmp_path / "ours.pem").write_bytes(public_pem(ours.public_key()))
    theirs = Ed25519PrivateKey.generate()
    name = toy.submit()
    assert toy.ended(name).phase is Phase.SUCCEEDED
    with toy.space.told("countersign-signing-key", {"signing.pem": private_pem(theirs).decode()}):
        again = toy.submit("--again")
        assert toy.ended(again).phase is Phase.SUCCEEDED
    said = toy.ask("verify", toy.run_of(again), "--key", str(tmp_path / "ours.pem"))
    assert said.code == 4
    assert f"signed by a key that is not at hand: '{Signer(theirs).keyid}'" in said.out
    assert toy.ask("verify", toy.run_of(name), "--key", str(tmp_path / "ours.pem")).code == 0, "what was signed before stays true"


def test_wrong_credentials_are_said(toy: Toy) -> None:
    with toy.space.told("countersign-store", WRONG):
        name = toy.submit()
        assert toy.ended(name).phase is Phase.FAILED
    (failed,) = toy.attempts(name, "plan")
    assert failed.exit_code == 2
    assert "SignatureDoesNotMatch" in failed.message


def test_credentials_that_become_wrong_in_a_run_lose_nothing(toy: Toy) -> None:
    name = toy.submit()
    toy.suspend_after(name, "pick")
    with toy.space.told("countersign-store", WRONG):
        toy.argo("resume", name)
        assert toy.ended(name).phase.bad
    for task in ("work(0:a)", "seal"):
        (failed,) = toy.attempts(name, task)
        assert (failed.exit_code, "SignatureDoesNotMatch" in failed.message) == (2, True), failed.message
    toy.argo("retry", name)
    assert toy.ended(name).phase is Phase.SUCCEEDED
    assert toy.sealed(name) == toy.planned_run(name)


def test_without_the_secret_of_the_logs_a_step_waits_for_it(toy: Toy) -> None:
    """Argo's executor mounts it: no pod begins, and Kubernetes says why."""
    with toy.space.without("secret", "countersign-artifacts"):
        name = toy.submit()
        wait(lambda: 'countersign-artifacts" not found' in toy.space.kubectl("get", "events"), "Kubernetes names the Secret")
        assert toy.node(name, "plan").phase is Phase.PENDING
    assert toy.ended(name).phase is Phase.SUCCEEDED
    assert len(toy.attempts(name, "plan")) == 1
    toy.sealed(name)


def test_wrong_credentials_for_the_logs_are_said_and_the_step_is_tried_again(toy: Toy) -> None:
    """Argo cannot keep the log of a step that is done, and calls that an error."""
    name = toy.submit()
    toy.suspend_after(name, "plan")
    with toy.space.told("countersign-artifacts", WRONG):
        toy.argo("resume", name)
        failed = toy.until(name, "pick", Phase.ERROR)
    assert "failed to put file: The request signature we calculated does not match" in failed.message
    assert toy.ended(name).phase is Phase.SUCCEEDED
    assert [s["outcome"] for s in toy.steps(toy.sealed(name)) if s["task"] == "pick"] == ["done", "reused"]


def test_a_step_without_its_rights_ends_by_its_time_limit(toy: Toy) -> None:
    """Or by its executor, which may not report what it did. Either way the run is sealed as failed, and with the right back goes on."""
    manifest = toy.space.get("workflowtemplate", "toy")
    plan = next(t for t in manifest["spec"]["templates"] if t["name"] == "plan")
    plan["activeDeadlineSeconds"] = 60
    plan["retryStrategy"]["limit"] = "0"
    toy.space.replace(manifest)
    with toy.space.without("rolebinding", "countersign-step"):
        name = toy.submit()
        assert toy.ended(name).phase.bad
    (failed,) = toy.attempts(name, "plan")
    assert any(m in failed.message for m in ("longer than the specified deadline", 'cannot create resource "workflowtaskresults"')), failed
    run = toy.sealed(name, "failed")
    assert toy.steps(run) == [], "no step was begun, and that is sealed"
    toy.argo("retry", name)
    assert toy.ended(name).phase is Phase.SUCCEEDED
    assert wait(lambda: (r := toy.run_of(name)) != run and r, "the second run is noted") == f"{run}-2"
    toy.sealed(name)


def test_a_root_that_may_not_be_noted_is_said_and_the_run_is_sealed(toy: Toy) -> None:
    with toy.space.without("rolebinding", "countersign-sealer"):
        name = toy.submit()
        assert toy.ended(name).phase.bad
    (failed,) = toy.attempts(name, "seal")
    assert "the run is sealed, but its root could not be noted: HTTP 403" in failed.message
    said = toy.ask("verify", toy.planned_run(name), "--namespace", toy.space.name, "--json")
    assert (said.code, said.json["verified"], said.json["outcome"]) == (0, True, "done"), said.out
    assert {a["name"]: a["state"] for a in said.json["anchors"]}["annotation"] == State.NONE
