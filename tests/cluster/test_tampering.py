"""What was made, or what a step works on, is changed behind its back."""

from __future__ import annotations

import pytest

from tests.cluster.real import SLOW, Toy
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
    (failed,) = toy.attempts(name, "work(0:a)")
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
    record = toy.digest_of(name, "pick", "record")
    toy.delete_record(record)
    assert toy.ended(name).phase.bad
    for task in ("work(0:a)", "seal"):
        (failed,) = toy.attempts(name, task)
        assert failed.exit_code == 4
        assert f"({record}): record missing from the store" in failed.message
    checked = toy.verify(toy.planned_run(name))
    assert (checked["code"], checked["verified"], checked["root"]) == (4, False, None), "nothing was sealed that cannot be shown"
    again = toy.submit("--again")
    assert toy.ended(again).phase is Phase.SUCCEEDED
    run = toy.sealed(again)
    record = toy.digest_of(again, "join", "record")
    toy.delete_record(record)
    checked = toy.verify(run)
    assert (checked["code"], [p["where"] for p in checked["findings"]]) == (4, [f"record join/1 ({record})"])


def test_an_input_that_changes_while_its_step_runs(toy: Toy) -> None:
    name = toy.submit(*SLOW)
    pod = toy.begun(name, "work(0:a)")
    toy.space.kubectl("exec", pod, "-c", "main", "--", "python", "-c", "open('/work/artifacts/toy/ages.parquet','ab').write(b'x')")
    assert toy.ended(name).phase is Phase.FAILED
    (failed,) = toy.attempts(name, "work(0:a)")
    assert (failed.exit_code, "toy/ages: input changed while the step ran" in failed.message) == (4, True)
    assert toy.sealed(name, "failed")
