"""Approvals and releases: what is written is what is read, and nothing else is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.promote.world import KEYS, NOW, approval, stamp
from workflows.prove import canonical
from workflows.prove.approval import APPROVAL, Approval, decode_approval, encode_approval
from workflows.prove.release import RELEASE, Deployed, Kind, Release, State, Variant, decode_release, encode_release
from workflows.prove.statement import NotAStatement

CHAMPION = Variant(name="champion", run="toy-0123456789ab", root="1" * 64, model="2" * 64, share=0.75)
BEGUN = Release(
    environment="prod",
    sequence=7,
    state=State.BEGUN,
    previous="3" * 64,
    kind=Kind.PROMOTION,
    pipeline="toy",
    variants=(CHAMPION, replace(CHAMPION, name="b", share=0.25), replace(CHAMPION, name="looks-on", share=0.0, shadow=True)),
    approvals=("4" * 64, "5" * 64),
    policy="6" * 64,
    by=KEYS["promoter"],
    holder="host process 1",
    at=stamp(NOW),
)
ENDED = replace(
    BEGUN, state=State.DONE, reason="all went well", deployed=Deployed(release="toy", namespace="prod", revision=3, values="7" * 64)
)
sha = st.text("0123456789abcdef", min_size=64, max_size=64)
words = st.text(st.characters(categories=["L", "N", "P", "Zs"], include_characters=" "), max_size=20).filter(str.isprintable)


@given(st.builds(replace, st.just(BEGUN), policy=sha, reason=words, sequence=st.integers(2, 10**6)) | st.just(ENDED))
def test_a_release_comes_back_as_it_was(release: Release) -> None:
    assert decode_release(encode_release(release)) == release


@given(st.builds(lambda c, r: approval("vera", comment=c, root=r), words, sha))
def test_an_approval_comes_back_as_it_was(found: Approval) -> None:
    assert decode_approval(encode_approval(found)) == found


def test_they_are_in_toto_statements_about_the_models() -> None:
    said = json.loads(encode_release(ENDED))
    assert (said["_type"], said["predicateType"]) == ("https://in-toto.io/Statement/v1", RELEASE)
    assert [s["name"] for s in said["subject"]] == ["toy/champion", "toy/b", "toy/looks-on"]
    said = json.loads(encode_approval(approval("vera")))
    assert (said["predicateType"], said["subject"][0]["digest"]) == (APPROVAL, {"sha256": "b" * 64})


WRONG_RELEASES: list[dict[str, Any]] = [
    {"environment": "Prod"}, {"environment": "../x"}, {"sequence": 0}, {"sequence": True}, {"previous": None}, {"previous": "x"},
    {"pipeline": "to/y"}, {"variants": ()}, {"variants": (replace(CHAMPION, share=1),)}, {"variants": (CHAMPION,)},
    {"variants": (replace(CHAMPION, share=0.5), replace(CHAMPION, share=0.5))},
    {"variants": (replace(CHAMPION, share=1.0), replace(CHAMPION, name="b", share=0.5, shadow=True))},
    {"variants": (replace(CHAMPION, share=1.0, shadow=True),)}, {"variants": (replace(CHAMPION, share=1.0, name="A"),)},
    {"approvals": ("5" * 64, "4" * 64)}, {"approvals": ("4" * 64, "4" * 64)}, {"policy": ""}, {"by": "me"}, {"at": "now"},
    {"reason": "a\nb"}, {"reason": "x" * 1001}, {"holder": "\x1b[2J"}, {"state": State.BEGUN},
    {"deployed": Deployed(release="toy", namespace="prod", revision=0, values="7" * 64)},
]  # fmt: skip


@pytest.mark.parametrize("change", WRONG_RELEASES)
def test_a_release_that_says_what_it_must_not(change: dict[str, Any]) -> None:
    with pytest.raises(NotAStatement):
        decode_release(encode_release(replace(ENDED, **change)))


@pytest.mark.parametrize(
    "change",
    [
        {"environment": "Prod"}, {"run": "a/b"}, {"root": "x"}, {"model": "A" * 64}, {"verdicts": ""}, {"by": "vera"},
        {"comment": "a\nb"}, {"at": "now"}, {"expires": stamp(NOW).replace("2026", "2025")}, {"pipeline": "To"},
    ],
)  # fmt: skip
def test_an_approval_that_says_what_it_must_not(change: dict[str, Any]) -> None:
    with pytest.raises(NotAStatement):
        decode_approval(encode_approval(replace(approval("vera"), **change)))


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(p for k, v in inner for p in paths(v, (*at, k)))]


def drop(node: Any, key: Any) -> None:
    del node[key]


def add(node: Any, key: Any) -> None:
    if isinstance(node[key], dict):
        node[key]["extra"] = 1
    elif isinstance(node[key], list):
        node[key].append("extra")
    else:
        node[key] = f"{node[key]}x"


def retype(node: Any, key: Any) -> None:
    node[key] = [node[key]]


@pytest.mark.parametrize("change", [drop, add, retype])
@pytest.mark.parametrize(
    ("encode", "decode"), [(lambda: encode_release(ENDED), decode_release), (lambda: encode_approval(approval("vera")), decode_approval)]
)
def test_anything_more_less_or_else_is_refused(
    encode: Callable[[], bytes], decode: Callable[[bytes], Any], change: Callable[[Any, Any], None]
) -> None:
    """At every place of the statement: what is read is not what was written, or nothing is read."""
    sound = decode(encode())
    for *way, key in [p for p in paths(json.loads(encode())) if p]:
        said = json.loads(encode())
        node = said
        for step in way:
            node = node[step]
        change(node, key)
        try:
            assert decode(canonical.encode(said)) != sound, (way, key)
        except NotAStatement:
            continue


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"predicate":{}}', b'{"predicate":[]}'])
def test_bytes_that_are_no_statement(data: bytes) -> None:
    for decode in (decode_release, decode_approval):
        with pytest.raises(NotAStatement):
            decode(data)


def test_other_white_space_is_refused() -> None:
    with pytest.raises(NotAStatement):
        decode_release(encode_release(ENDED) + b"\n")
