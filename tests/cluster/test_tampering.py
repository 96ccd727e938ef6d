"""What was made, or what a step works on, is changed behind its back; or rights and keys are not what they should be."""

from __future__ import annotations

import pytest

from tests.cluster.real import SLOW, Toy, wait
from workflows.cluster.interface import Phase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.mark.parametrize("how", ["truncated", "replaced", "missing"])
def test_an_object_that_is_not_what_was_made(toy: Toy, how: str) -> None:
    name = toy.submit()
    toy.until(name, "pick", Phase.SUCCEEDED)
    key = toy.key_of(toy.digest_of(name, "pick", "ages"))
    data = toy.client.get_object(Bucket=toy.bucket, Key=key)["Body"].read()
    if how == "missing":
        toy.client.delete_object(Bucket=toy.bucket, Key=key)
    else:
        body = data[:-9] if how == "truncated" else data[:-9] + b"x" + data[-8:]
        toy.client.put_object(Bucket=toy.bucket, Key=key, Body=body)
    ended = toy.ended(name)
    assert ended.phase is Phase.FAILED
    failed = toy.node(name, "work(0:a)")
    assert failed.exit_code == 4
    assert "artifact toy/ages" in failed.message
    run = toy.run_of(name)
    assert toy.verify(run)["code"] == 4, "what was made is not there any more, and verify says so"
    # Nothing wrong was kept: with the object gone the same submission computes it anew.
    again = toy.submit("--again")
    assert toy.ended(again).phase is Phase.SUCCEEDED
    toy.sealed(again)


def test_a_deleted_record_is_missed(toy: Toy) -> None:
    name = toy.submit()
    toy.until(name, "pick", Phase.SUCCEEDED)
    toy.client.delete_object(Bucket=toy.bucket, Key=f"{toy.prefix}records/{toy.digest_of(name, 'pick', 'record')}")
    assert toy.ended(name).phase is Phase.FAILED
    failed = toy.node(name, "work(0:a)")
    assert failed.exit_code == 4
    assert "record missing from the store" in failed.message


def test_an_input_that_changes_while_its_step_runs(toy: Toy) -> None:
    name = toy.submit(*SLOW)
    pod = toy.pod_of(name, "work(0:a)")
    wait(lambda: "started" in toy.space.kubectl("logs", pod, "-c", "main", check=False), "the step has begun")
    toy.space.kubectl("exec", pod, "-c", "main", "--", "python", "-c", "open('/work/artifacts/toy/ages.parquet','ab').write(b'x')")
    assert toy.ended(name).phase is Phase.FAILED
    failed = toy.node(name, "work(0:a)")
    assert (failed.exit_code, "toy/ages: input changed while the step ran" in failed.message) == (4, True)
    assert toy.sealed(name, "failed")


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
    failed = toy.node(name, "plan")
    assert failed.exit_code == code
    assert says in failed.message


def test_wrong_credentials_are_said(toy: Toy) -> None:
    kept = toy.space.get("secret", "countersign-store")["data"]
    name = ""
    try:
        toy.space.patch("secret", "countersign-store", {"stringData": {"AWS_SECRET_ACCESS_KEY": "wrong"}})
        name = toy.submit()
        assert toy.ended(name).phase is Phase.FAILED
    finally:
        toy.space.patch("secret", "countersign-store", {"data": kept})
    failed = toy.node(name, "plan")
    assert failed.exit_code == 2
    assert "SignatureDoesNotMatch" in failed.message


def test_a_step_without_its_rights_ends_by_its_time_limit(toy: Toy) -> None:
    """Argo's executor asks for ever when it may not report; the step's own limit ends that."""
    manifest = toy.space.get("workflowtemplate", "toy")
    plan = next(t for t in manifest["spec"]["templates"] if t["name"] == "plan")
    plan["activeDeadlineSeconds"] = 60
    plan["retryStrategy"]["limit"] = "0"
    toy.space.replace(manifest)
    with toy.space.without("rolebinding", "countersign-step"):
        name = toy.submit()
        ended = toy.ended(name)
    assert ended.phase in {Phase.FAILED, Phase.ERROR}
