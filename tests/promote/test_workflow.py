"""The two tasks of the workflow `promote`, without a cluster: what each puts out, and that it believes nobody."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.cluster.test_following import node, workflow
from tests.conftest import ROOT
from tests.promote.world import PRIVATE, SIGNERS, Office, because, failing, members, office, raw, run_in
from workflows.cluster.interface import Progress
from workflows.errors import BadInput, GateRefused, NotVerified
from workflows.promote import __main__ as program
from workflows.promote import approving, ledger
from workflows.promote.deployer import NotServed
from workflows.promote.desk import UNSET, base_values
from workflows.promote.helm import CHART
from workflows.promote.promoting import asked_of, promote
from workflows.promote.submitting import came_of
from workflows.prove.release import State
from workflows.prove.signature import private_pem

RUN = "toy-aaaaaaaaaaaa"
CODE = f"{'1' * 64}:{'2' * 32}:3"


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    """A store with one run, and the environment that the workflow's pods have."""
    found = office(tmp_path / "store", deploy=because("nothing"))
    run_in(found.store, RUN)
    (tmp_path / "signing.pem").write_bytes(private_pem(PRIVATE["promoter"]))
    # The clock here is today's, and so are the approvals.
    YAML().dump(raw(released_by=because("promoter")), tmp_path / "environments.yaml")
    (tmp_path / "values.yaml").write_text("{}\n")
    env = {
        "COUNTERSIGN_STORE": f"file://{tmp_path / 'store'}", "COUNTERSIGN_POLICY": str(tmp_path / "environments.yaml"),
        "COUNTERSIGN_VALUES": str(tmp_path / "values.yaml"), "COUNTERSIGN_ENVIRONMENT": "prod", "COUNTERSIGN_RUN": RUN,
        "COUNTERSIGN_SIGNING_KEY_FILE": str(tmp_path / "signing.pem"), "COUNTERSIGN_OUTPUTS": str(tmp_path / "out"),
        "COUNTERSIGN_REASON": "the first", "COUNTERSIGN_WORKFLOW": "uid-1",
    }  # fmt: skip
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return found


def approve(bank: Office, who: str, run: str = RUN) -> None:
    wish = approving.Wish(run=run, environment="prod")
    drafted = approving.draft(bank.store, bank.policies, wish, signer=SIGNERS[who], now=datetime.now(UTC))
    approving.sign(bank.store, SIGNERS[who], drafted)


def test_it_waits_and_goes_on_and_releases(bank: Office, tmp_path: Path) -> None:
    approve(bank, "vera")
    assert program._check().startswith(f"{RUN}: wait (0 of 1 approvals by owner")
    assert (tmp_path / "out/state").read_text() == "wait"
    assert (tmp_path / "out/command").read_text() == f"countersign approve {RUN} --env prod"
    with pytest.raises(GateRefused, match="0 of 1 approvals by owner") as caught:
        program._release()
    assert "then submit it again" in caught.value.hint
    approve(bank, "olga")
    assert program._check() == f"{RUN}: go"
    assert (tmp_path / "out/command").read_text() == ""
    assert program._release().startswith("prod 1: done, release ")
    entries = ledger.Ledger(bank.store, bank.policies, "prod").read()
    assert (tmp_path / "out/release").read_text() == entries[0].sha256
    assert (entries[0].begun.reason, entries[0].begun.holder) == ("the first", "workflow uid-1")
    assert program._release().startswith("prod 1: nothing to do")


def test_it_goes_back(bank: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="which pipeline's server"):
        program._back()
    other = "toy-bbbbbbbbbbbb"
    run_in(bank.store, other)
    for run in (RUN, other):
        monkeypatch.setenv("COUNTERSIGN_RUN", run)
        for who in ("vera", "olga"):
            approve(bank, who, run)
        program._release()
    monkeypatch.setenv("COUNTERSIGN_REASON", "declines doubled")
    monkeypatch.setenv("COUNTERSIGN_ASKED_AT", "yesterday")
    with pytest.raises(BadInput, match="not a moment"):
        program._back()
    asked_at = (datetime.now(UTC) - timedelta(seconds=2)).replace(microsecond=0)
    monkeypatch.setenv("COUNTERSIGN_ASKED_AT", asked_at.strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert program._asked_at() == asked_at, "what ended within that second ended after it was asked for, as far as anybody knows"
    assert program._back().startswith("prod 3: done")
    last = ledger.Ledger(bank.store, bank.policies, "prod").read()[-1]
    assert (last.variants[0].run, last.begun.reason) == (RUN, "declines doubled")
    assert program._back().startswith("prod 3: nothing to do"), "its pod, started again"
    monkeypatch.setenv("COUNTERSIGN_WORKFLOW", "uid-2")
    with pytest.raises(GateRefused, match="rollback 3 ended as done after this rollback was asked for"):
        program._back()


def test_what_no_approval_mends_ends_it_at_once(bank: Office) -> None:
    policy = raw(lambda r: r["roles"].update(pipeline=members("mallory")))
    YAML().dump(policy, bank.store.documents.parent / "environments.yaml")
    with pytest.raises(GateRefused, match="has not the role pipeline"):
        program._check()


def test_values_that_say_what_is_the_promoters_to_say(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("release: '{}'\nrollback: true\n")
    with pytest.raises(BadInput, match=r"release, rollback: the promoter's to say"):
        base_values(tmp_path / "values.yaml")


@pytest.mark.parametrize("environment", ["dev", "staging", "prod"])
def test_values_as_they_are_committed_name_no_image_and_no_code(environment: str) -> None:
    with pytest.raises(BadInput) as caught:
        base_values(ROOT / CHART / "environments" / f"{environment}.yaml")
    assert [p.what for p in caught.value.problems] == ["no image", "no code"]
    assert "countersign publish --json says it" in str(caught.value.problems[1])


@pytest.mark.parametrize(
    ("said", "lacking"),
    [
        ({"image": {"digest": f"sha256:{'a' * 64}"}, "code": CODE}, []),
        ({"image": {"tag": "dev"}, "code": CODE}, []),
        ({"image": {"digest": UNSET, "tag": "dev"}, "code": CODE}, ["no image"]),
        ({"image": {"repository": "x"}, "code": CODE}, ["no image"]),
        ({"code": CODE}, ["no image"]),
        ({"image": {"tag": "dev"}, "code": ""}, ["no code"]),
        ({}, ["no image", "no code"]),
    ],
)
def test_what_an_environment_must_say(tmp_path: Path, said: dict[str, Any], lacking: list[str]) -> None:
    (tmp_path / "values.yaml").write_text(json.dumps(said))
    found: list[str] = []
    try:
        assert base_values(tmp_path / "values.yaml") == said
    except BadInput as error:
        found = [p.what for p in error.problems]
    assert found == lacking


def test_a_release_that_nothing_could_start_takes_no_number(bank: Office, tmp_path: Path) -> None:
    YAML().dump(raw(released_by=because("promoter"), deploy=because("workflow")), tmp_path / "environments.yaml")
    for who in ("vera", "olga"):
        approve(bank, who)
    with pytest.raises(BadInput, match="no image"):
        program._release()
    assert ledger.Ledger(bank.store, bank.policies, "prod").read() == ()


def test_a_challenger_gets_its_share_and_must_pass_all_the_same(bank: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "toy-bbbbbbbbbbbb"
    run_in(bank.store, other)
    monkeypatch.setenv("COUNTERSIGN_CHALLENGER", other)
    monkeypatch.setenv("COUNTERSIGN_SHARE", "0.1")
    approve(bank, "vera")
    assert program._check().startswith(f"{RUN}, {other}: wait (0 of 1 approvals by owner")
    approve(bank, "olga")
    with pytest.raises(GateRefused) as caught:
        program._release()
    assert {p.where for p in caught.value.problems} == {f"{other} for prod"}
    for who in ("vera", "olga"):
        approve(bank, who, other)
    assert program._check() == f"{RUN}, {other}: go"
    program._release()
    (entry,) = ledger.Ledger(bank.store, bank.policies, "prod").read()
    assert [(v.name, v.run, v.share, v.shadow) for v in entry.variants] == [
        ("champion", RUN, 0.9, False), ("challenger", other, 0.1, False),
    ]  # fmt: skip
    assert len(entry.begun.approvals) == 4


def test_a_challenger_without_a_share_looks_on(bank: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "toy-bbbbbbbbbbbb"
    run_in(bank.store, other)
    monkeypatch.setenv("COUNTERSIGN_CHALLENGER", other)
    for who in ("vera", "olga"):
        for run in (RUN, other):
            approve(bank, who, run)
    program._release()
    (entry,) = ledger.Ledger(bank.store, bank.policies, "prod").read()
    assert [(v.run, v.share, v.shadow) for v in entry.variants] == [(RUN, 1.0, False), (other, 0.0, True)]


def test_a_share_that_is_none(bank: Office, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setenv("COUNTERSIGN_SHARE", "a tenth")
    with pytest.raises(BadInput, match="not a share"):
        program._check()


@pytest.mark.parametrize(("challenger", "share"), [(None, 0.1), ("b", 0.95), ("b", -0.1), ("b", float("nan"))])
def test_shares_that_cannot_be_meant(challenger: str | None, share: float) -> None:
    with pytest.raises(BadInput):
        asked_of("a", challenger, share)


def ended(uid: str, **outputs: str) -> Progress:
    """A workflow of the promoter that succeeded, as the cluster tells of it."""
    put_out = {"parameters": [{"name": k, "value": v} for k, v in outputs.items()]}
    return workflow(node("release", "Succeeded", outputs=put_out), phase="Succeeded", uid=uid)


def test_who_waited_is_told_of_their_own_release_and_not_of_the_newest(tmp_path: Path) -> None:
    bank = office(tmp_path, deploy=because("helm"))
    other = "toy-bbbbbbbbbbbb"
    for run in (RUN, other):
        run_in(bank.store, run)
        for who in ("vera", "olga"):
            bank.approve(who, run)
    first = promote(bank.desk(holder="workflow uid-1"), asked_of(RUN, None, 0.0)).entry
    bank.fake.fails, bank.fake.arrives = failing("p99 over 200 ms", State.ABORTED), False
    with pytest.raises(NotServed):
        promote(bank.desk(holder="workflow uid-2"), asked_of(other, None, 0.0))
    releases = bank.desk().ledger.read()
    assert [e.done for e in releases] == [True, False]
    said = came_of(ended("uid-1", release=first.sha256), releases)
    assert (said.entry.sequence, said.unchanged) == (1, False)
    # Asked for once more, it serves already: nothing was done, and what was aborted meanwhile is not what came of it.
    said = came_of(ended("uid-3", release=first.sha256), releases)
    assert (said.entry.sequence, said.unchanged) == (1, True)
    for outputs in ({"release": "0" * 64}, {"release": ""}, {}):
        with pytest.raises(NotVerified, match="not among the environment's"):
            came_of(ended("uid-1", **outputs), releases)
