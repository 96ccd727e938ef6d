"""Canonical JSON: one value, one byte string."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.prove import canonical
from workflows.prove.canonical import MAX_DEPTH, NotCanonical, decode, encode

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(st.none() | st.booleans() | numbers | text, lambda x: st.lists(x, max_size=4) | st.dictionaries(text, x, max_size=4))


@given(values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    again = decode(encode(value))
    assert again == value
    assert encode(again) == encode(value)


@given(st.dictionaries(text, numbers), st.randoms())
def test_order_of_keys_changes_nothing(value: dict[str, Any], random: Any) -> None:
    shuffled = list(value.items())
    random.shuffle(shuffled)
    assert encode(dict(shuffled)) == encode(value)


@given(st.dictionaries(text, values))
def test_a_form_puts_together_what_would_be_written_at_once(value: dict[str, Any]) -> None:
    form = canonical.Form({n: i for i, n in enumerate(value)})
    assert form.of([canonical.text(v) for v in value.values()]).encode() == encode(value)


@given(values, st.sampled_from([{"indent": 1}, {"ensure_ascii": True}, {"separators": (", ", ": ")}]))
def test_any_other_form_of_the_same_value_is_refused(value: Any, form: dict[str, Any]) -> None:
    other = json.dumps(value, sort_keys=True, **{"separators": (",", ":"), "ensure_ascii": False, **form}).encode()
    if other != encode(value):
        with pytest.raises(NotCanonical):
            decode(other)


def test_numbers_keep_their_kind() -> None:
    assert encode({"b": 1, "a": 1.0, "c": 10**30, "d": 0.1}) == b'{"a":1.0,"b":1,"c":1000000000000000000000000000000,"d":0.1}'


@pytest.mark.parametrize(
    "data",
    [
        b"", b" 1", b"1 ", b"{", b'{"b":1,"a":1}', b'{"a":1,"a":1}', b'{"a":1,"a":2}', b"NaN", b"Infinity", b"-Infinity", b"1e999",
        b"1.10", b"01", b"+1", b"1E5", b'"\\u0061"', b'"\\ud800"', b'"\\/"', b"\xff", b"\xef\xbb\xbf1", "1".encode("utf-16"), b"[1,]",
        b"[" * 100_000 + b"]" * 100_000, b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), b"9" * 5000,
    ],
)  # fmt: skip
def test_what_is_not_the_canonical_form_of_anything_is_refused(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        decode(data)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"a": {1, 2}}, {1: 2}, b"x", "\ud800", {"\ud800": 1}, [object()], 1j])
def test_what_json_has_no_form_for_is_refused(value: object) -> None:
    with pytest.raises(NotCanonical):
        encode(value)


def test_a_refusal_names_the_path() -> None:
    with pytest.raises(NotCanonical, match=r"\$\.a\[1\]\.b: nan"):
        encode({"a": [0, {"b": math.nan}]})


def test_depth_ends_where_it_says() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert decode(encode(deep)) == deep
    with pytest.raises(NotCanonical, match="nested deeper"):
        encode([deep])


def test_matches_is_what_decode_asks() -> None:
    assert canonical.matches({"a": 1}, b'{"a":1}')
    assert not canonical.matches({"a": 1}, b'{"a": 1}')
    assert not canonical.matches({"a": math.nan}, b'{"a":NaN}')
