"""Each rule of verification, shown to hold for a sound run and to fail for one that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prove.chain import OTHER, PRIVATE, REFUSAL, RUN, VERDICTS, Chain, at, build, but, ring, step
from workflows.prove import canonical, digest
from workflows.prove.record import Item, Link, Outcome, Record, Seal, SealEntry, encode_record
from workflows.prove.signature import Signer

ELSEWHERE = Item(name="toy/numbers", sha256="9" * 64, md5="9" * 32, size=7)


def said(chain: Chain, **how: Any) -> str:
    """All findings as one text; there must be some."""
    result = chain.verify(**how)
    assert not result.ok
    assert result.findings
    return "\n".join(map(str, result.findings))


def test_a_sound_run_is_verified() -> None:
    result = build().verify()
    assert result.findings == ()
    assert result.ok
    assert (len(result.records), result.checked, result.elsewhere) == (4, 6, 0)
    assert result.signers == (Signer(PRIVATE).keyid,)
    assert result.root
    assert build().verify(expected_root=result.root).ok


def test_without_content_at_hand_the_chain_is_still_verified() -> None:
    chain = build(holds_content=False)
    chain.contents.clear()
    result = chain.verify()
    assert result.ok
    assert (result.checked, result.elsewhere) == (0, 6)


# --- 1. the root and the seal


def test_a_run_without_a_root_has_no_seal() -> None:
    chain = build()
    del chain.documents[f"runs/{RUN}/root"]
    assert "has no seal" in said(chain)


@pytest.mark.parametrize("root", ["", "junk", "../../etc/passwd", "0" * 63, "A" * 64, f"{'0' * 64} ", f"{'0' * 64}\n{'1' * 64}"])
def test_a_root_is_the_digest_of_a_seal_and_nothing_more(root: str) -> None:
    chain = build()
    chain.documents[f"runs/{RUN}/root"] = root.encode()
    assert f"{RUN}/root: not the digest of a seal" in said(chain)


def test_a_root_with_junk_after_it_is_no_root() -> None:
    chain = build()
    chain.documents[f"runs/{RUN}/root"] += b"junk\n"
    assert f"{RUN}/root" in said(chain)


def test_the_seal_must_be_there() -> None:
    chain = build()
    root = chain.root(RUN)
    del chain.documents[f"records/{root}"]
    assert said(chain) == f"seal {root}, named by {RUN}/root: missing, or cannot be read"


def test_a_record_is_no_seal() -> None:
    chain = build()
    chain.documents[f"runs/{RUN}/root"] = chain.documents[f"runs/{RUN}/steps/make/1"]
    assert "not a run's seal" in said(chain)


def test_an_expected_root_catches_a_run_that_was_rewritten_as_a_whole() -> None:
    root = build().root(RUN)
    rewritten = build({"make": but(params={"rows": 11})})
    assert rewritten.verify().ok
    assert f"{RUN}/root: the root is {rewritten.root(RUN)}, expected {root}" in said(rewritten, expected_root=root)


def test_the_seal_of_another_run_is_refused() -> None:
    assert "names the seal of another run" in said(build(seal=but(run="toy-000000000000")))


# --- 2. the run's folder


def test_a_record_missing_from_the_folder_is_named() -> None:
    chain = build()
    del chain.documents[f"runs/{RUN}/steps/part@b/1"]
    assert f"{RUN}/steps/part@b/1: missing; the seal has record {chain.written['part@b'][1]}" in said(chain)


@pytest.mark.parametrize("where", ["steps/total/2", "steps/other/1", "steps/total/01", "steps/total/x", "note.txt", "steps/make/1/2"])
def test_anything_that_was_added_to_the_folder_is_named(where: str) -> None:
    chain = build()
    chain.documents[f"runs/{RUN}/{where}"] = chain.documents[f"runs/{RUN}/steps/total/1"]
    assert f"{RUN}/{where}: stands in the run's folder, but not in its seal" in said(chain)


def test_records_that_changed_places_are_named() -> None:
    chain = build()
    a, b = f"runs/{RUN}/steps/part@a/1", f"runs/{RUN}/steps/part@b/1"
    chain.documents[a], chain.documents[b] = chain.documents[b], chain.documents[a]
    text = said(chain)
    assert f"{RUN}/steps/part@a/1: it names record {chain.written['part@b'][1]}" in text
    assert f"{RUN}/steps/part@b/1: it names record {chain.written['part@a'][1]}" in text


def test_a_renamed_record_is_named_at_both_places() -> None:
    chain = build()
    chain.documents[f"runs/{RUN}/steps/whole/1"] = chain.documents.pop(f"runs/{RUN}/steps/total/1")
    text = said(chain)
    assert f"{RUN}/steps/total/1: missing" in text
    assert f"{RUN}/steps/whole/1: stands in the run's folder" in text


# --- 3. bytes and signatures


def test_a_missing_record_is_named() -> None:
    chain = build()
    sha = chain.written["part@b"][1]
    del chain.documents[f"records/{sha}"]
    assert f"record part@b/1 ({sha}): missing" in said(chain)


def test_a_changed_record_is_named() -> None:
    chain = build()
    sha = chain.written["make"][1]
    chain.documents[f"records/{sha}"] = chain.documents[f"records/{sha}"].replace(b"A", b"B", 1)
    assert f"record make/1 ({sha}): changed" in said(chain)


def test_an_unknown_key_is_named() -> None:
    assert f"signed by a key that is not at hand: '{Signer(PRIVATE).keyid}'" in said(build(), keys=ring(OTHER))


def test_a_record_signed_by_a_stranger_is_named() -> None:
    chain = build()
    record, _ = chain.written["total"]
    sha = chain.sign(encode_record(record), OTHER)
    chain.documents[f"runs/{RUN}/steps/total/1"] = f"{sha}\n".encode()
    chain.written["total"] = (record, sha)
    chain.seal()
    assert f"record total/1 ({sha}): signed by a key that is not at hand" in said(chain)
    assert chain.verify(keys=ring(PRIVATE, OTHER)).ok


def test_a_record_too_large_to_be_one_is_not_read_any_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.prove.verify.MAX_RECORD", 1000)
    assert "larger than any record" in said(build(), keys=ring(PRIVATE))  # the other verifier has a limit of its own


# --- 4, 5, 6, 8, 10: what a holder of a trusted key could sign and must not get away with

LATE = {"started": at(200), "finished": at(205)}
SIGNED: list[tuple[str, dict[str, Callable[[Record], Record]], str]] = [
    ("of another run", {"make": but(run="toy-000000000000")}, "it is the record of toy toy-000000000000 make 1 done, in the place of"),
    ("of another pipeline", {"make": lambda r: replace(r, pipeline="toys", inputs=(), outputs=())}, "it is the record of toys"),
    ("builds on a stranger", {"part@b": but(upstream=(Link(task="make", sha256="7" * 64),))}, "which the seal does not list"),
    ("builds on nothing it read from", {"part@b": but(upstream=())}, "it read toy/numbers without naming the record that made it"),
    ("read what was not made", {"part@b": but(inputs=(ELSEWHERE,))}, "it read toy/numbers as 999"),
    ("says which task it builds on, wrongly", {"part@b": lambda r: replace(r, upstream=(replace(r.upstream[0], task="total"),))},
     "it builds on total, but names the record of make"),
    ("builds on a failure", {"make": but(outcome=Outcome.FAILED, outputs=(), failure={"kind": "BadInput"})},
     "it builds on make, which failed"),
    ("made by two", {"part@b": lambda r: replace(r, outputs=(replace(r.outputs[0], name="toy/part@a"),))}, "made by part@a and by part@b"),
    ("other data under the same name", {"part@b": lambda r: replace(r, inputs=(*r.inputs, replace(ELSEWHERE, name="toy/application")))},
     "it read toy/application as 999"),

    ("before what it builds on", {"make": but(started=at(95), finished=at(99)), "part@b": but(started=at(0), finished=at(5))},
     "before make was finished"),
    ("finished before it started", {"make": but(finished=at(9))}, "it finished at"),
    ("finished after the seal", {"total": but(**LATE)}, "after the run was sealed"),
    ("done with a gate that says no", {"total": but(verdicts=REFUSAL)}, "it says done, but its gates say no: 'enough'"),
    ("done with a failure", {"make": but(failure={"kind": "BadInput"})}, "it says done, which its failure and artifacts do not bear out"),
    ("done with nothing made", {"total": but(outputs=())}, "it says done, which its failure"),
    ("refused by no gate", {"total": but(outcome=Outcome.REFUSED, verdicts=None)}, "no gate was judged"),
    ("refused by a gate that says yes", {"total": but(outcome=Outcome.REFUSED)}, "it says refused, but its gates say yes"),
    ("a yes against its numbers", {"total": but(verdicts=[{**VERDICTS[0], "rules": [{**VERDICTS[0]["rules"][0], "value": 4}]}])},
     "says yes, but 4 against 5 is no"),
    ("a gate without rules", {"total": but(verdicts=[{**VERDICTS[0], "rules": []}])}, "its rules come to no"),
    ("another verdict than was reported", {"total": but(verdicts=[{**VERDICTS[0], "gate": "other"}])}, "is not what it reported"),
    ("reused and new", {"part@b": but(outcome=Outcome.REUSED)}, "it says it is reused and names no earlier record"),
    ("new and reused", {"part@a": but(outcome=Outcome.DONE)}, "or the other way round"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), [pytest.param(c, e, id=i) for i, c, e in SIGNED if e])
def test_a_trusted_signature_does_not_make_a_wrong_record_right(changes: dict[str, Callable[[Record], Record]], expected: str) -> None:
    assert expected in said(build(changes))


def test_clocks_may_be_a_little_apart() -> None:
    assert build({"part@b": but(started=at(0), finished=at(30))}).verify().ok


SEALS: list[tuple[str, Callable[[Seal], Seal], str]] = [
    ("no tasks", but(tasks=(), records=(), outputs=(), outcome=Outcome.REUSED), "it lists no task"),
    ("a task twice", lambda s: replace(s, tasks=(*s.tasks, "total")), "or one twice"),
    ("a record twice", lambda s: replace(s, records=(*s.records, s.records[-1])), "once and in order"),
    ("records in another order", lambda s: replace(s, records=s.records[::-1]), "once and in order"),
    ("a record dropped", lambda s: replace(s, records=s.records[:-1]), "task total has no record"),
    ("a task renamed", lambda s: replace(s, tasks=(*s.tasks[:-1], "whole")), "task total is not in the declaration it lists"),
    ("an attempt that never was", lambda s: replace(s, records=(*s.records[:-1], replace(s.records[-1], attempt=10**9))),
     "once and in order"),
    ("another outcome of a record", lambda s: replace(s, records=(*s.records[:-1], replace(s.records[-1], outcome=Outcome.REUSED))),
     "in the place of toy"),
    ("a worse outcome", but(outcome=Outcome.REFUSED), "it says refused, but its records come to done"),
    ("all reused", but(outcome=Outcome.REUSED), "it says reused, but its records come to done"),
    ("other artifacts", lambda s: replace(s, outputs=s.outputs[:-1]), "its artifacts are not those of its last records"),
    ("artifacts in another order", lambda s: replace(s, outputs=s.outputs[::-1]), "its artifacts are not those"),
    ("sealed before the end", but(sealed="2026-03-01T11:00:00.000000+00:00"), "after the run was sealed"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), [pytest.param(c, e, id=i) for i, c, e in SEALS])
def test_a_trusted_signature_does_not_make_a_wrong_seal_right(change: Callable[[Seal], Seal], expected: str) -> None:
    assert expected in said(build(seal=change))


def test_a_dropped_attempt_leaves_a_gap() -> None:
    """The second attempt stands; that the first failed must not be hidden."""
    chain = build({"total": but(attempt=2)})
    assert "its records are not every attempt" in said(chain)


def test_what_stands_was_made_of_what_stands() -> None:
    """A step that was run again on its own must not stand beside results of its first output."""
    chain = build()
    record, sha = chain.written["make"]
    chain.add(replace(record, attempt=2, outputs=(chain.keep("toy/numbers", b"others"),)))
    entry = build_entry(chain, "make", 2)
    chain.seal(lambda s: replace(s, records=(replace(entry, attempt=1, sha256=sha), entry, *s.records[1:])))
    assert "it stands, but the make it builds on does not" in said(chain)


def build_entry(chain: Chain, task: str, attempt: int) -> SealEntry:
    return SealEntry(task=task, attempt=attempt, outcome=chain.written[task][0].outcome, sha256=chain.written[task][1])


def test_a_step_that_was_run_again_to_the_same_bytes_is_sound() -> None:
    chain = build()
    record, sha = chain.written["make"]
    chain.add(replace(record, attempt=2, started=at(50), finished=at(51)))
    entry = build_entry(chain, "make", 2)
    chain.seal(lambda s: replace(s, records=(replace(entry, attempt=1, sha256=sha), entry, *s.records[1:])))
    assert chain.verify().findings == ()


def test_a_refused_run_is_verified_and_says_so() -> None:
    chain = build()
    report = chain.keep("toy/verdicts", canonical.encode({"gates": REFUSAL}))
    record, _ = chain.written["total"]
    chain.add(replace(record, outcome=Outcome.REFUSED, verdicts=REFUSAL, outputs=(record.outputs[0], report)))
    chain.seal()
    result = chain.verify()
    assert result.ok
    assert result.seal
    assert result.seal.outcome is Outcome.REFUSED


def test_a_run_that_failed_early_is_verified_and_says_so() -> None:
    chain = Chain()
    chain.add(step("make", 10, outcome=Outcome.FAILED, failure={"kind": "BadInput", "problems": ["no"]}))
    chain.seal()
    result = chain.verify()
    assert result.ok
    assert result.seal
    assert result.seal.outcome is Outcome.FAILED


# --- 7. reuse

NOT_THE_SAME = [
    ("cache key", but(cache_key="8" * 64)),
    ("parameters", but(params={"rows": 11})),
    ("step", but(task="part@b")),
    ("code", lambda r: replace(r, code=replace(r.code, step="8" * 64))),
    ("requirements", but(lock="8" * 64)),
    ("secret", but(secrets={"masking_key": "8" * 32})),
    ("inputs", but(inputs=(ELSEWHERE,))),
    ("upstream tasks", but(upstream=(Link(task="other", sha256="5" * 64),))),
    ("outputs", lambda r: replace(r, outputs=(replace(r.outputs[0], sha256="8" * 64),))),
    ("verdicts", but(verdicts=VERDICTS)),
    ("outcome", but(outcome=Outcome.REFUSED, verdicts=REFUSAL)),
    ("a record that is itself reused", but(outcome=Outcome.REUSED, reused=Link(task="part@a", sha256="6" * 64))),
]


@pytest.mark.parametrize("change", [pytest.param(c, id=i) for i, c in NOT_THE_SAME])
def test_a_reused_record_must_be_of_the_same_computation(change: Callable[[Record], Record]) -> None:
    assert "which is not the same step on the same inputs" in said(build({"earlier": change}))


@pytest.mark.parametrize("image", [None, "8" * 64])
def test_a_result_of_another_image_may_be_reused(image: str | None) -> None:
    assert build({"earlier": but(image=image), "part@a": but(image="9" * 64)}).verify().ok


def test_a_reused_record_is_read_and_checked() -> None:
    chain = build()
    reused = chain.written["part@a"][0].reused
    assert reused
    kept = chain.documents.pop(f"records/{reused.sha256}")
    assert f"record part@a ({reused.sha256}), which record part@a/1" in said(chain)
    chain.documents[f"records/{reused.sha256}"] = kept[:-1] + b" "
    assert f"({reused.sha256}), which record part@a/1" in said(chain)


def test_a_reused_record_is_of_the_past() -> None:
    assert "which was finished later" in said(build({"earlier": but(finished=at(3000))}))


# --- 9. artifacts


@pytest.mark.parametrize("name", ["toy/application", "toy/numbers", "toy/part@a", "toy/verdicts"])
@pytest.mark.parametrize("damage", [lambda d: b"x" + d[1:], lambda d: d[:-1], lambda d: d + b" ", lambda _: b"", None])
def test_an_artifact_that_is_not_what_was_made_is_named(name: str, damage: Callable[[bytes], bytes] | None) -> None:
    chain = build()
    item = next(i for r, _ in chain.written.values() for i in (*r.inputs, *r.outputs) if i.name == name)
    data = chain.contents.pop(item.sha256)
    if damage:
        chain.contents[item.sha256] = damage(data)
    assert f"artifact {name} ({item.sha256}): {'changed' if damage else 'missing'}" in said(chain)


def test_a_snapshot_of_the_code_is_an_artifact_too() -> None:
    chain = Chain()
    item = chain.keep("code:snapshot", b"tar")
    chain = build({"make": lambda r: replace(r, code=replace(r.code, commit=None, dirty=True, snapshot=item))})
    assert f"artifact code:snapshot ({item.sha256}): missing" in said(chain)
    chain.keep("code:snapshot", b"tar")
    assert chain.verify().ok


def test_the_md5_that_dvc_goes_by_is_checked_too() -> None:
    chain = build({"total": lambda r: replace(r, outputs=(replace(r.outputs[0], md5="0" * 32), *r.outputs[1:]))})
    assert "artifact toy/total" in said(chain)


# --- all together


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_one_changed_byte_anywhere_is_noticed_and_named(data: st.DataObject) -> None:
    """At a random place of a random record, pointer or artifact."""
    chain = build()
    files = chain.documents | {f"artifact {k}": v for k, v in chain.contents.items()}
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 127))
    if name in chain.documents:
        chain.documents[name] = bytes(content).decode("ascii", "replace").encode("ascii", "replace")
    else:
        chain.contents[name.removeprefix("artifact ")] = bytes(content)
    found = said(chain)
    assert name.removeprefix("runs/").removeprefix("records/").removeprefix("artifact ") in found


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(st.text(max_size=5), x)
    )
)
def test_a_signed_payload_of_any_shape_is_refused_and_not_tripped_over(value: object) -> None:
    chain = build()
    root = chain.sign(canonical.encode(value))
    chain.documents[f"runs/{RUN}/root"] = f"{root}\n".encode()
    assert "not a run's seal" in said(chain)


def test_nesting_beyond_reason_is_refused_and_not_tripped_over() -> None:
    chain = build()
    root = chain.sign(b"[" * 100_000 + b"]" * 100_000)
    chain.documents[f"runs/{RUN}/root"] = f"{root}\n".encode()
    assert "not a run's seal" in said(chain)
    envelope = b"[" * 100_000 + b"]" * 100_000
    root = digest.of_bytes(envelope).sha256
    chain.documents |= {f"records/{root}": envelope, f"runs/{RUN}/root": f"{root}\n".encode()}
    assert "not a DSSE envelope" in said(chain)
