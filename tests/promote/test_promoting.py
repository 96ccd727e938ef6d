"""Promotion, rollback and history over a store: what is recorded, what is refused, what a dead process left."""

from __future__ import annotations

import json
import platform
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.promote.world import KEYS, NOW, SIGNERS, Office, because, failing, office, policies, run_in, stamp
from workflows import cli_promote
from workflows.errors import BadInput, CountersignError, GateRefused, NotVerified, Temporary
from workflows.promote import ledger
from workflows.promote.deployer import NotServed
from workflows.promote.history import with_approvers
from workflows.promote.ledger import Entry, Ledger
from workflows.promote.promoting import Asked, heal, look, promote, release_file, rollback
from workflows.prove.release import Kind, Release, State, encode_release
from workflows.prove.signature import Signer

A, B, C = "toy-aaaaaaaaaaaa", "toy-bbbbbbbbbbbb", "toy-cccccccccccc"


@pytest.fixture(scope="session")
def approved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with three runs, each with two approvals for production."""
    found = office(tmp_path_factory.mktemp("approved"))
    for run in (A, B, C):
        run_in(found.store, run)
        found.approve("vera", run)
        found.approve("olga", run)
    return found.store.documents


@pytest.fixture
def bank(approved: Path, tmp_path: Path) -> Office:
    """An environment that asks for two approvals, and three runs that have them."""
    shutil.copytree(approved, tmp_path / "bank")
    return office(tmp_path / "bank")


def asked(run: str) -> list[Asked]:
    return [Asked(run=run)]


def serving(bank: Office) -> str:
    return ledger.serving(bank.desk().ledger.read())[-1].variants[0].run


def test_a_promotion_is_recorded_with_all_that_it_rests_on(bank: Office) -> None:
    done = promote(bank.desk(), asked(A), reason="first")
    begun, ended = done.entry.begun, done.entry.ended
    assert ended
    assert (begun.sequence, begun.kind, ended.state, ended.reason) == (1, Kind.PROMOTION, State.DONE, "first")
    assert len(begun.approvals) == 2
    assert begun.policy == bank.policies.digest_of("prod")
    assert json.loads(bank.fake.told[-1]["release"]) == release_file(done.entry)
    assert ended.deployed
    assert bank.desk().ledger.read() == (done.entry,)


def test_the_same_again_does_nothing(bank: Office) -> None:
    promote(bank.desk(), asked(A))
    assert promote(bank.desk(), asked(A)).unchanged
    assert len(bank.fake.told) == 1


def test_what_somebody_removed_by_hand_is_brought_back(bank: Office) -> None:
    promote(bank.desk(), asked(A))
    bank.fake.told.clear()
    assert not promote(bank.desk(), asked(A)).unchanged
    assert len(bank.desk().ledger.read()) == 2


def test_without_approvals_nothing_is_touched(tmp_path: Path) -> None:
    found = office(tmp_path)
    run_in(found.store, A)
    found.approve("vera", A)
    with pytest.raises(GateRefused) as caught:
        promote(found.desk(), asked(A))
    assert "0 of 1 approvals by owner" in str(caught.value)
    assert caught.value.hint == f"whoever may approve types: countersign approve {A} --env prod"
    assert (found.fake.told, found.desk().ledger.read()) == ([], ())
    assert look(found.desk(), A).judgement.waiting


def test_an_approval_of_another_run_lent_to_this_one(tmp_path: Path) -> None:
    found = office(tmp_path)
    root = run_in(found.store, A)
    lent = run_in(found.store, B, changes={"make": lambda r: replace(r, params={"rows": 11})})
    for who in ("vera", "olga"):
        sha = found.approve(who, B)
        found.store.put_document(f"approvals/{root}/prod/{sha}", found.store.get_document(f"approvals/{lent}/prod/{sha}") or b"")
    with pytest.raises(GateRefused):
        promote(found.desk(), asked(A))
    assert {w.why_not for w in look(found.desk(), A).judgement.weighed} == {f"it is for another run: {B}, root {lent}"}


@pytest.mark.parametrize("damage", [lambda d: d[:-9] + b"AAAA" + d[-5:], lambda _: b"{}", lambda _: b"", lambda d: d + b"\n"])
def test_an_approval_that_was_changed_counts_for_nothing(bank: Office, damage: Callable[[bytes], bytes]) -> None:
    root = look(bank.desk(), A).evidence.root
    folder = bank.store.documents / f"approvals/{root}/prod"
    victim = min(folder.iterdir())
    victim.write_bytes(damage(victim.read_bytes()))
    with pytest.raises(GateRefused, match="0 of 1 approvals"):
        promote(bank.desk(), asked(A))


def test_a_run_whose_artifact_was_changed_is_not_promoted(bank: Office) -> None:
    for path in (bank.store.content / "files/md5").rglob("*"):
        if path.is_file() and path.read_bytes() == b'{"total":20}':
            path.chmod(0o644)
            path.write_bytes(b'{"total":99}')
    with pytest.raises(NotVerified, match="changed"):
        promote(bank.desk(), asked(A))
    assert bank.fake.told == []


def test_back_and_further_back(bank: Office) -> None:
    """A rollback never goes to what another one took away."""
    for run in (A, B, C):
        promote(bank.desk(), asked(run))
    assert serving(bank) == C
    done = rollback(bank.desk(), "toy", reason="declines doubled").entry
    assert (done.begun.kind, serving(bank)) == (Kind.ROLLBACK, B)
    assert json.loads(bank.fake.told[-1]["release"])["variants"][0]["run"] == B
    rollback(bank.desk(), "toy", reason="still")
    assert serving(bank) == A
    with pytest.raises(BadInput, match="nothing to go back to"):
        rollback(bank.desk(), "toy", reason="again")
    promote(bank.desk(), asked(C))
    rollback(bank.desk(), "toy", reason="no")
    assert serving(bank) == A


def test_a_rollback_asks_for_no_new_consent_and_for_every_proof(bank: Office) -> None:
    for run in (A, B):
        promote(bank.desk(), asked(run))
    late = lambda: stamp(NOW + timedelta(days=300))  # noqa: E731
    (bank.store.documents / f"runs/{A}/root").write_text("0" * 64 + "\n")
    with pytest.raises(NotVerified):
        rollback(bank.desk(clock=late), "toy", reason="x")
    assert serving(bank) == B


@pytest.mark.parametrize("state", [State.ABORTED, State.FAILED])
def test_a_rollback_that_waited_leaves_the_good_release_where_the_bad_one_is_gone(bank: Office, state: State) -> None:
    """Somebody saw a bad canary and asked; before their turn came it was taken back, and the next to go would be the good one."""
    for run in (A, B):
        promote(bank.desk(), asked(run))
    asked_at = datetime.fromisoformat(bank.clock())
    bank.fake.fails, bank.fake.arrives = failing("p99 over 200 ms", state), False
    with pytest.raises(CountersignError):
        promote(bank.desk(), asked(C))
    bank.fake.fails, bank.fake.arrives = None, True
    why = f"promotion 3 ended as {state} after this rollback was asked for; release 2 of toy serves"
    with pytest.raises(GateRefused, match=why) as caught:
        rollback(bank.desk(), "toy", reason="a bad canary", asked_at=asked_at)
    assert caught.value.hint == "nothing was changed; if it is still wanted, type: countersign rollback --env prod --pipeline toy"
    assert (serving(bank), len(bank.desk().ledger.read())) == (B, 3)
    rollback(bank.desk(), "toy", reason="all the same", asked_at=datetime.fromisoformat(bank.clock()))
    assert serving(bank) == A


def test_a_rollback_that_waited_goes_back_from_what_came_to_serve(bank: Office) -> None:
    for run in (A, B):
        promote(bank.desk(), asked(run))
    asked_at = datetime.fromisoformat(bank.clock())
    promote(bank.desk(), asked(C))
    rollback(bank.desk(), "toy", reason="a bad canary, which nothing noticed", asked_at=asked_at)
    assert serving(bank) == B


def test_of_two_who_ask_to_go_back_from_the_same_release_one_does(bank: Office) -> None:
    for run in (A, B, C):
        promote(bank.desk(), asked(run))
    asked_at = datetime.fromisoformat(bank.clock())
    first = rollback(bank.desk(holder="workflow 1"), "toy", reason="declines doubled", asked_at=asked_at)
    again = rollback(bank.desk(holder="workflow 1"), "toy", reason="declines doubled", asked_at=asked_at)
    assert (again.entry, again.unchanged) == (first.entry, True), "the same workflow, started again"
    with pytest.raises(GateRefused, match="rollback 4 ended as done after this rollback was asked for; release 4 of toy serves"):
        rollback(bank.desk(holder="workflow 2"), "toy", reason="I saw it, too", asked_at=asked_at)
    assert serving(bank) == B


def test_a_rollback_that_is_typed_leaves_the_good_release_where_it_puts_right_a_dead_promotion(
    bank: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody saw was the dead one's canary. It is taken back first, and the next to go would be the good one."""
    for run in (A, B):
        promote(bank.desk(), asked(run))
    bank.fake.fails, bank.fake.arrives = Killed(), False  # type: ignore[assignment]
    with pytest.raises(Killed):
        promote(bank.desk(holder=f"{platform.node()} process 999999999"), asked(C))
    bank.fake.fails, bank.fake.left = failing("the canary was taken back: p99", State.ABORTED), "canary"
    monkeypatch.setattr(cli_promote, "opened", lambda _: bank.store)
    monkeypatch.setattr(cli_promote, "_policies", lambda _: bank.policies)
    monkeypatch.setattr(cli_promote, "at_desk", lambda *_: bank.desk())
    with pytest.raises(GateRefused, match="promotion 3 ended as aborted after this rollback was asked for; release 2 of toy serves"):
        cli_promote.rollback("prod")
    assert (serving(bank), len(bank.desk().ledger.read())) == (B, 3)
    bank.fake.fails, bank.fake.arrives = None, True
    cli_promote.rollback("prod")
    assert serving(bank) == A


def revoke(bank: Office, _: str) -> None:
    bank.policies = policies(
        lambda r: r.update(revoked=[{"key": KEYS["pipeline"], "because": "it leaked from a pod"}]), deploy=because("helm")
    )


def spoil_seal(bank: Office, run: str) -> None:
    (bank.store.documents / f"runs/{run}/root").write_text("0" * 64 + "\n")


def seal_anew(bank: Office, run: str) -> None:
    """The run verifies, and is another one than was released."""
    shutil.rmtree(bank.store.documents / f"runs/{run}")
    run_in(bank.store, run, changes={"make": lambda r: replace(r, params={"rows": 11})})


@pytest.mark.parametrize("spoil", [spoil_seal, seal_anew])
def test_a_rollback_passes_over_what_no_longer_verifies_and_says_so(bank: Office, spoil: Callable[[Office, str], None]) -> None:
    for run in (A, B, C):
        promote(bank.desk(), asked(run))
    spoil(bank, B)
    done = rollback(bank.desk(), "toy", reason="declines doubled").entry
    assert serving(bank) == A
    assert done.ended
    assert done.ended.reason.startswith("declines doubled; release 2 was passed over: ")
    with pytest.raises(BadInput, match="nothing to go back to"):
        rollback(bank.desk(), "toy", reason="again")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(revoke, "its signer's key is revoked: it leaked from a pod"), (seal_anew, "the run is not what it was when it was released")],
)
def test_where_nothing_that_served_is_sound_a_rollback_is_refused(bank: Office, spoil: Callable[[Office, str], None], why: str) -> None:
    for run in (A, B):
        promote(bank.desk(), asked(run))
    spoil(bank, A)
    with pytest.raises(NotVerified, match=why):
        rollback(bank.desk(), "toy", reason="x")
    assert len(bank.fake.told) == 2


def test_a_release_that_does_not_come_to_serve_is_recorded_and_changes_nothing(bank: Office) -> None:
    promote(bank.desk(), asked(A))
    for state in (State.FAILED, State.ABORTED):
        bank.fake.fails, bank.fake.arrives = failing("p99 over 200 ms", state), False
        with pytest.raises(CountersignError, match="p99") as caught:
            promote(bank.desk(), asked(B))
        assert caught.value.exit_code == 3
        last = bank.desk().ledger.read()[-1]
        assert last.ended
        assert (last.ended.state, last.ended.reason) == (state, "p99 over 200 ms")
        assert serving(bank) == A


def test_a_challenger_must_pass_as_well(bank: Office) -> None:
    run_in(bank.store, "toy-dddddddddddd")
    both = [Asked(run=A, share=0.8), Asked(run="toy-dddddddddddd", name="challenger", share=0.2)]
    with pytest.raises(GateRefused):
        promote(bank.desk(), both)
    done = promote(bank.desk(), [both[0], replace(both[1], run=B)])
    assert [(v.name, v.share) for v in done.entry.variants] == [("champion", 0.8), ("challenger", 0.2)]
    with pytest.raises(BadInput, match="shares come to"):
        promote(bank.desk(), [replace(both[0], share=0.9), replace(both[1], run=B)])


class Killed(BaseException):
    """A process that ends here."""


@pytest.mark.parametrize("arrived", [True, False])
def test_what_a_killed_process_left_is_put_right(bank: Office, *, arrived: bool) -> None:
    promote(bank.desk(), asked(A))
    bank.fake.fails, bank.fake.arrives = Killed(), arrived  # type: ignore[assignment]
    with pytest.raises(Killed):
        promote(bank.desk(holder=f"{platform.node()} process 999999999"), asked(B))
    assert bank.desk().ledger.read()[-1].ended is None
    bank.fake.fails, bank.fake.arrives, bank.fake.left = None, True, "Helm was at pending-upgrade: it went back to revision 1"
    done = promote(bank.desk(), asked(C))
    assert done.healed.startswith("release 2 was interrupted: its process died; Helm was at pending-upgrade")
    left = bank.desk().ledger.read()[1]
    assert left.ended
    assert left.ended.state is (State.DONE if arrived else State.FAILED)
    assert serving(bank) == C


@pytest.mark.parametrize("state", [State.ABORTED, State.FAILED])
def test_what_was_taken_back_without_its_promoter_is_recorded_as_with_it(bank: Office, state: State) -> None:
    first = promote(bank.desk(), asked(A)).entry.ended
    assert first
    bank.fake.fails, bank.fake.arrives = Killed(), False  # type: ignore[assignment]
    with pytest.raises(Killed):
        promote(bank.desk(holder=f"{platform.node()} process 999999999"), asked(B))
    bank.fake.fails = NotServed("the canary was taken back: p99", state=state, deployed=first.deployed)
    bank.fake.left = "canary"
    words = "its process died; the canary was taken back: p99; it does not serve"
    assert heal(bank.desk()) == f"release 2 was interrupted: {words}"
    ended = bank.desk().ledger.read()[-1].ended
    assert ended
    assert (ended.state, ended.reason, ended.deployed) == (state, words, first.deployed)


def test_what_may_be_alive_is_let_alone_until_its_time_is_over(bank: Office) -> None:
    bank.fake.fails = Killed()  # type: ignore[assignment]
    with pytest.raises(Killed):
        promote(bank.desk(holder="elsewhere process 1"), asked(A))
    bank.fake.fails = None
    with pytest.raises(Temporary, match="release 1 is on its way: elsewhere process 1 began it"):
        promote(bank.desk(), asked(B))
    late = lambda: stamp(NOW + timedelta(hours=2))  # noqa: E731
    assert "interrupted" in heal(bank.desk(clock=late))


def test_the_same_workflow_started_again_goes_on_at_once(bank: Office) -> None:
    bank.fake.fails = Killed()  # type: ignore[assignment]
    with pytest.raises(Killed):
        promote(bank.desk(holder="workflow 1"), asked(A))
    bank.fake.fails = None
    assert promote(bank.desk(holder="workflow 1"), asked(A)).unchanged, "it had arrived"


def refused_with_its_pod(bank: Office, state: State, holder: str) -> None:
    """A promotion of B that died, and what came of it says so: it was before applicants and taken back."""
    before = promote(bank.desk(), asked(A)).entry.ended
    assert before
    bank.fake.fails, bank.fake.arrives = Killed(), False  # type: ignore[assignment]
    with pytest.raises(Killed):
        promote(bank.desk(holder=holder), asked(B))
    bank.fake.fails, bank.fake.left = NotServed("p99 over 200 ms", state=state, deployed=before.deployed), "canary"


@pytest.mark.parametrize("state", [State.ABORTED, State.FAILED])
@pytest.mark.parametrize("meanwhile", [False, True])
def test_what_was_refused_is_not_brought_again_by_the_same_workflow(bank: Office, state: State, *, meanwhile: bool) -> None:
    """Its pod is started again, whatever it died of: applicants would be answered by the refused model once more."""
    refused_with_its_pod(bank, state, "workflow 1")
    if meanwhile:
        heal(bank.desk(holder="workflow 1"))
        bank.fake.fails, bank.fake.arrives = None, True
        promote(bank.desk(holder="workflow 2"), asked(C))
    told = len(bank.fake.told)
    for _ in range(2):
        with pytest.raises(GateRefused, match=f"promotion 2 of this workflow ended as {state}: its process died; p99 over 200 ms"):
            promote(bank.desk(holder="workflow 1"), asked(B))
    assert len(bank.fake.told) == told
    bank.fake.fails, bank.fake.arrives = None, True
    assert not promote(bank.desk(holder="workflow 3"), asked(B)).unchanged, "whoever submits it again gets a new try"


def test_what_was_refused_is_tried_again_where_a_person_types_it(bank: Office) -> None:
    """Processes' numbers come again, in containers at once."""
    holder = f"{platform.node()} process 999999999"
    refused_with_its_pod(bank, State.ABORTED, holder)
    heal(bank.desk(holder=holder))
    bank.fake.fails, bank.fake.arrives = None, True
    assert not promote(bank.desk(holder=holder), asked(B)).unchanged


def test_what_never_came_before_anybody_is_tried_again_by_the_same_workflow(bank: Office) -> None:
    bank.fake.fails, bank.fake.arrives = failing("helm: no such image", State.FAILED), False
    with pytest.raises(NotServed):
        promote(bank.desk(holder="workflow 1"), asked(A))
    bank.fake.fails, bank.fake.arrives = None, True
    assert promote(bank.desk(holder="workflow 1"), asked(A)).entry.sequence == 2


def test_of_two_promotions_at_once_one_prevails(bank: Office) -> None:
    gate = threading.Barrier(2)
    answers: list[str] = []

    class Slow:
        def __init__(self, desk: Any) -> None:
            self.take: Callable[[Release, Signer], Entry] = desk.ledger.take

        def __call__(self, wanted: Release, signer: Signer) -> Entry:
            gate.wait(30)
            return self.take(wanted, signer)

    def work(run: str) -> None:
        desk = bank.desk(holder=f"elsewhere process {run}")
        desk.ledger.take = Slow(desk)  # type: ignore[method-assign]
        try:
            answers.append(promote(desk, asked(run)).entry.variants[0].run)
        except Temporary as error:
            answers.append(str(error))

    threads = [threading.Thread(target=work, args=(run,)) for run in (A, B)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(bank.fake.told) == 1
    assert len(bank.desk().ledger.read()) == 1
    assert sum("somebody else changes this environment" in a for a in answers) == 1


def test_whoever_was_taken_for_dead_does_not_write_over_it(bank: Office) -> None:
    desk = bank.desk(holder="elsewhere process 1")

    def slow(_: Any) -> Any:
        heal(bank.desk(clock=lambda: stamp(NOW + timedelta(hours=2))))
        return None

    desk.deployer = lambda _: type("Slow", (), {"heal": bank.fake.heal, "installed": bank.fake.installed, "deploy": lambda _, v: slow(v)})()
    with pytest.raises(NotVerified, match="somebody else took it for dead"):
        promote(desk, asked(A))


def test_what_served_at_a_moment(bank: Office) -> None:
    for run in (A, B):
        promote(bank.desk(), asked(run))
    rollback(bank.desk(), "toy", reason="x")
    entries = bank.desk().ledger.read()

    def at(e: Entry) -> datetime:
        assert e.ended
        return datetime.fromisoformat(e.ended.at)

    def run_at(moment: datetime) -> str | None:
        return next((e.variants[0].run for e in ledger.serving_at(entries, moment)), None)

    assert run_at(at(entries[0]) - timedelta(microseconds=1)) is None
    assert [run_at(at(e)) for e in entries] == [A, B, A]
    assert run_at(at(entries[1]) - timedelta(microseconds=1)) == A
    assert run_at(at(entries[2]) + timedelta(days=900)) == A
    assert [e.sequence for e in ledger.serving_at(entries)] == [3]
    other = replace(entries[0], begun=replace(entries[0].begun, pipeline="other"))
    assert [e.begun.pipeline for e in ledger.serving_at([other, *entries[1:]])] == ["other", "toy"], "of each pipeline one"
    told = with_approvers(bank.store, entries)
    assert all({KEYS["vera"], KEYS["olga"]} == {s.approval.by for s in t.approvals} for t in told)


def test_a_canary_answered_too_while_it_was_on_its_way(bank: Office) -> None:
    """It decided about real applicants, whatever came of it."""
    promote(bank.desk(), asked(A))
    bank.fake.fails, bank.fake.arrives = failing("p99 over 200 ms", State.ABORTED), False
    with pytest.raises(CountersignError):
        promote(bank.desk(), asked(B))
    entries = bank.desk().ledger.read()
    canary = entries[1]
    assert canary.ended
    begun, ended = datetime.fromisoformat(canary.begun.at), datetime.fromisoformat(canary.ended.at)
    assert ledger.on_their_way(entries, begun - timedelta(microseconds=1)) == ()
    assert ledger.on_their_way(entries, begun) == (canary,)
    assert ledger.on_their_way(entries, ended) == ()
    assert ledger.on_their_way([entries[0], replace(canary, ended=None)], ended) == (replace(canary, ended=None),), "it is still going"


def test_an_approval_that_was_taken_away_later_is_noticed(bank: Office) -> None:
    entry = promote(bank.desk(), asked(A)).entry
    (bank.store.documents / f"approvals/{entry.variants[0].root}/prod/{entry.begun.approvals[0]}").unlink()
    with pytest.raises(NotVerified, match="missing from the store"):
        with_approvers(bank.store, [entry])


def test_one_environment_after_another(tmp_path: Path) -> None:
    found = office(tmp_path, lambda r: r["environments"]["dev"].update(deploy=because("helm")), after=because("dev"))
    run_in(found.store, A)
    found.approve("vera", A)
    found.approve("olga", A)
    with pytest.raises(GateRefused, match="it was not served in dev before"):
        promote(found.desk(), asked(A))
    promote(found.desk("dev", signer=SIGNERS["mallory"]), asked(A))
    promote(found.desk(), asked(A))


# --- The chain of releases


def unlink(store: Path, *names: str) -> None:
    for name in names:
        (store / name).unlink()


def rename(store: Path, *pairs: tuple[str, str]) -> None:
    for one, other in pairs:
        (store / other).parent.mkdir(parents=True, exist_ok=True)
        (store / one).rename(store / other)


MEDDLED: dict[str, Callable[[Path], Any]] = {
    "an end is taken away": lambda d: unlink(d, "1/ended"),
    "a beginning is taken away": lambda d: unlink(d, "1/begun"),
    "the first is taken away": lambda d: unlink(d, "1/begun", "1/ended"),
    "one in the middle is taken away": lambda d: unlink(d, "2/begun", "2/ended"),
    "one is put elsewhere": lambda d: rename(d, ("3/begun", "4/begun"), ("3/ended", "4/ended")),
    "one is doubled": lambda d: rename(d, ("2/begun", "4/begun")),
    "two change places": lambda d: rename(d, ("1/ended", "x"), ("2/ended", "1/ended"), ("x", "2/ended")),
    "a beginning stands as an end": lambda d: (d / "1/ended").write_bytes((d / "1/begun").read_bytes()),
    "bytes are changed": lambda d: (d / "1/begun").write_bytes((d / "1/begun").read_bytes().replace(b"A", b"B", 1)),
    "nonsense": lambda d: (d / "2/ended").write_bytes(b"{}"),
    "something more": lambda d: (d / "note").write_bytes(b"hello"),
}


@pytest.mark.parametrize("what", MEDDLED)
def test_a_ledger_that_was_meddled_with(bank: Office, what: str) -> None:
    for run in (A, B, C):
        promote(bank.desk(), asked(run))
    MEDDLED[what](bank.store.documents / "releases/prod")
    with pytest.raises(NotVerified):
        bank.desk().ledger.read()
    with pytest.raises(NotVerified):
        promote(bank.desk(), asked(A))


REWRITTEN: list[tuple[str, dict[str, Any], str]] = [
    ("mallory", {}, "has not the role promoter"),
    ("promoter", {"by": KEYS["mallory"]}, "and is signed by"),
    ("promoter", {"environment": "dev"}, "it is a release of dev"),
    ("promoter", {"sequence": 9}, "it says done of release 9|something else"),
    ("promoter", {"state": State.BEGUN, "deployed": None}, "it says that it began"),
    ("promoter", {"previous": "f" * 64}, "does not name the beginning"),
    ("promoter", {"approvals": ()}, "something else of the release than its beginning"),
    ("promoter", {"policy": "f" * 64}, "something else of the release than its beginning"),
    ("promoter", {"at": "2020-01-01T00:00:00.000000+00:00"}, "before it began"),
]


@pytest.mark.parametrize(("by", "change", "why"), REWRITTEN)
def test_an_end_that_somebody_signed_anew(bank: Office, by: str, change: dict[str, Any], why: str) -> None:
    entry = promote(bank.desk(), asked(A)).entry
    assert entry.ended
    bank.store.put_document(f"keys/{KEYS[by]}.pem", SIGNERS[by].public_pem)
    envelope = SIGNERS[by].sign(encode_release(replace(entry.ended, **{"by": KEYS[by], **change})))
    (bank.store.documents / "releases/prod/1/ended").write_bytes(envelope)
    with pytest.raises(NotVerified, match=why):
        Ledger(bank.store, bank.policies, "prod").read()


def test_a_revoked_promoter_releases_nothing_more(bank: Office) -> None:
    promote(bank.desk(), asked(A))
    since = (NOW + timedelta(hours=1)).isoformat()
    later = office(bank.store.documents, lambda r: r.update(revoked=[{"key": KEYS["promoter"], "because": "it leaked", "since": since}]))
    assert later.desk().ledger.read(), "what was released before stands"
    ever = office(bank.store.documents, lambda r: r.update(revoked=[{"key": KEYS["promoter"], "because": "it leaked"}]))
    with pytest.raises(NotVerified, match="revoked key: it leaked"):
        ever.desk().ledger.read()
