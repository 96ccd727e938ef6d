"""Records and seals: what is written is what is read, and nothing else is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.prove.chain import TASKS, VERDICTS, at, build, but, script, step
from workflows.declare import ITEM, MAX_NAME, NAME
from workflows.prove import canonical
from workflows.prove.record import (
    PROVENANCE,
    SNAPSHOT,
    STATEMENT,
    Code,
    Item,
    Link,
    NotARecord,
    Outcome,
    Record,
    decode_record,
    decode_seal,
    encode_record,
    encode_seal,
)

sha = st.text("0123456789abcdef", min_size=64, max_size=64)
names = st.from_regex(NAME, fullmatch=True).filter(lambda n: len(n) <= MAX_NAME)
task_names = names | st.builds("{}@{}".format, names, st.from_regex(ITEM, fullmatch=True).filter(lambda n: len(n) <= MAX_NAME))
json_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | json_text
objects = st.dictionaries(json_text, st.recursive(leaf, lambda x: st.lists(x, max_size=3), max_leaves=5), max_size=3)


def items(name: st.SearchStrategy[str]) -> st.SearchStrategy[Item]:
    md5 = st.text("0123456789abcdef", min_size=32, max_size=32)
    return st.builds(Item, name=name, sha256=sha, md5=md5, size=st.integers(0, 2**60))


artifacts = items(task_names.map("toy/{}".format))
records = st.builds(
    Record,
    pipeline=st.just("toy"),
    run=st.sampled_from(["toy-0123456789ab", "toy-0123456789ab-2"]),
    task=task_names,
    attempt=st.integers(1, 10**6),
    outcome=st.sampled_from(list(Outcome)),
    started=st.integers(0, 3599).map(at),
    finished=st.integers(0, 3599).map(at),
    params=objects,
    inputs=st.lists(artifacts, max_size=3, unique_by=lambda i: i.name).map(tuple),
    outputs=st.lists(artifacts, max_size=3, unique_by=lambda i: i.name).map(tuple),
    upstream=st.lists(st.builds(Link, task=task_names, sha256=sha), max_size=3, unique_by=lambda x: x.task).map(tuple),
    code=st.builds(
        Code,
        step=sha,
        tree=sha,
        commit=st.none() | sha.map(lambda s: s[:40]),
        dirty=st.booleans(),
        snapshot=st.none() | items(st.just(SNAPSHOT)),
    ),
    lock=sha,
    environment=objects,
    cache_key=sha,
    secrets=st.dictionaries(names, sha.map(lambda s: s[:32]), max_size=2),
    image=st.none() | sha,
    reused=st.none() | st.builds(Link, task=task_names, sha256=sha),
    failure=st.none() | objects,
    verdicts=st.none() | st.lists(objects, max_size=2),
)


@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    payload = encode_record(record)
    assert decode_record(payload) == record
    assert encode_record(decode_record(payload)) == payload


def test_a_seal_comes_back_as_it_was() -> None:
    seal = build().verify().seal
    assert seal
    assert decode_seal(encode_seal(seal)) == seal


@pytest.mark.parametrize("name", ["system:serviceaccount:dev:vera", "vera@bank", "Vera of the bank", "v", "v" * 253])
def test_a_seal_may_say_who_submitted_the_run(name: str) -> None:
    chain = build(seal=but(submitter=name))
    seal = chain.verify().seal
    assert seal
    assert seal.submitter == name
    assert script.check(chain.packed())[0].submitter == name


@pytest.mark.parametrize("name", ["", " vera", "vera ", "vera\n", "vera\x1b[2K", "v\u0435ra", "\u202evera", "v" * 254, 7, ["vera"]])
def test_what_is_no_accounts_name_is_not_printed(name: Any) -> None:
    """Both verifiers refuse the seal."""
    assert "bad submitter" in str(build(seal=but(submitter=name)).verify().findings)


def test_a_seal_that_knows_no_submitter_is_written_as_before_there_was_one() -> None:
    seal = build().verify().seal
    assert seal
    statement = json.loads(encode_seal(seal))
    assert "submitter" not in statement["predicate"]
    statement["predicate"]["submitter"] = None
    with pytest.raises(NotARecord, match="a form that this format does not have"):
        decode_seal(canonical.encode(statement))


SOUND = step(
    "total", 10, inputs=(Item(name="toy/part@a", sha256="1" * 64, md5="1" * 32, size=1),), upstream=(Link(task="part@a", sha256="2" * 64),),
    outputs=(Item(name="toy/total", sha256="3" * 64, md5="3" * 32, size=1),
             Item(name="toy/verdicts", sha256="4" * 64, md5="4" * 32, size=1)),
    verdicts=VERDICTS,
)  # fmt: skip


def test_a_record_is_an_in_toto_statement_with_slsa_provenance() -> None:
    statement = json.loads(encode_record(SOUND))
    assert (statement["_type"], statement["predicateType"]) == (STATEMENT, PROVENANCE)
    assert [s["digest"] for s in statement["subject"]] == [{"sha256": "3" * 64}, {"sha256": "4" * 64}]  # md5 is for DVC, not for proof
    assert statement["predicate"]["buildDefinition"]["externalParameters"] == {"rows": 10}


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(p for k, v in inner for p in paths(v, (*at, k)))]


PATHS = paths(json.loads(encode_record(SOUND)))
FREE = {"externalParameters", "secrets", "annotations"}  # what a step or its environment may fill as it likes


@given(st.sampled_from(PATHS), st.sampled_from(["drop", "add", "double", "retype"]))
def test_a_statement_with_anything_more_less_or_else_is_refused(path: tuple[Any, ...], how: str) -> None:
    """Dropping, adding, doubling or retyping at any place gives no record, or one that says something else."""
    statement = json.loads(encode_record(SOUND))
    node = statement
    for k in path[:-1]:
        node = node[k]
    if not path:
        statement = [statement]
    elif how == "drop":
        del node[path[-1]]
    elif how == "add":
        node.update(extra=1) if isinstance(node, dict) else node.append({"name": "extra", "digest": {"sha256": "5" * 64}})
    elif how == "double" and isinstance(node, list):
        node.append(node[path[-1]])
    else:
        node[path[-1]] = [node[path[-1]]]
    payload = canonical.encode(statement)
    try:
        found = decode_record(payload)
    except NotARecord:
        return
    # The record is another one, which says so and encodes to exactly what was read.
    assert found != SOUND
    assert encode_record(found) == payload
    assert FREE & set(path) or how in {"drop", "add"}


BAD = [
    ("path as a digest", lambda r: replace(r, cache_key="../" * 20 + "pass")),
    ("path as a link", but(upstream=(Link(task="make", sha256="../../x"),))),
    ("path as md5", lambda r: replace(r, outputs=(replace(r.outputs[0], md5="../../../../etc/passwd"),))),
    ("path as a task", but(task="../../x")),
    ("path as a run", but(run="../x")),
    ("path as an artifact", lambda r: replace(r, outputs=(replace(r.outputs[0], name="toy/../x"),))),
    ("artifact of another pipeline", lambda r: replace(r, outputs=(replace(r.outputs[0], name="toys/x"),))),
    ("escape sequence in a name", but(task="x\x1b[2Jverified")),
    ("two artifacts of one name", lambda r: replace(r, outputs=(r.outputs[0], r.outputs[0]))),
    ("two artifacts of one name, other digest", lambda r: replace(r, outputs=(r.outputs[0], replace(r.outputs[0], sha256="9" * 64)))),
    ("upper-case digest", but(lock="A" * 64)),
    ("attempt zero", but(attempt=0)),
    ("attempt as a float", but(attempt=1.0)),
    ("attempt as a bool", but(attempt=True)),
    ("negative size", lambda r: replace(r, outputs=(replace(r.outputs[0], size=-1),))),
    ("size as a float", lambda r: replace(r, outputs=(replace(r.outputs[0], size=1.0),))),
    ("local time", but(started="2026-03-01T12:00:00.000000")),
    ("another time zone", but(started="2026-03-01T12:00:00.000000+01:00")),
    ("a time without microseconds", but(started="2026-03-01T12:00:00+00:00")),
    ("a date as a time", but(started="2026-03-01")),
    ("commit that is no commit", lambda r: replace(r, code=replace(r.code, commit="--output=x"))),
    ("image that is no digest", but(image="latest")),
    ("parameters as a list", but(params=[1])),
    ("failure as a text", but(failure="no")),
]  # fmt: skip


@pytest.mark.parametrize("change", [pytest.param(c, id=i) for i, c in BAD])
def test_what_must_not_stand_in_a_record_is_refused(change: Callable[[Record], Record]) -> None:
    with pytest.raises(NotARecord):
        decode_record(encode_record(change(SOUND)))


@pytest.mark.parametrize(
    "change",
    [
        but(run="../x"), but(tasks=("../x",)), but(sealed="now"), but(pipeline="Toy"), but(tasks=("",)),
        lambda s: replace(s, records=(replace(s.records[0], sha256="../x"),)),
        lambda s: replace(s, records=(replace(s.records[0], attempt=True),)),
        lambda s: replace(s, outputs=(replace(s.outputs[0], name="x"),)),
    ],
)  # fmt: skip
def test_what_must_not_stand_in_a_seal_is_refused(change: Any) -> None:
    seal = build().verify().seal
    with pytest.raises(NotARecord):
        decode_seal(encode_seal(change(seal)))


def test_names_that_a_declaration_allows_fit_into_records() -> None:
    longest = "a" * MAX_NAME
    record = step(f"{longest}@{longest}", 0, outputs=(Item(name=f"toy/{longest}@{longest}", sha256="1" * 64, md5="1" * 32, size=0),))
    assert decode_record(encode_record(record)) == record
    assert TASKS[1] == "part@a"
