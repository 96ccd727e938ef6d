from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.keyed import check_key, keyed_digest, normalise, share
from steps.types import BadData

KEY = bytes(range(32))
keys = st.binary(min_size=32, max_size=64)
texts = st.text(max_size=40)


def test_pre_image_is_what_the_module_says() -> None:
    """Written out by hand, so that a change of the format cannot pass unseen: it would give everybody another token."""
    fields = [b"countersign/keyed/v1", b"token", b"national_id", b"912-01-0001"]
    message = b"".join(len(f).to_bytes(8, "big") + f for f in fields)
    expected = hmac.new(KEY, message, hashlib.sha256).hexdigest()
    assert keyed_digest(KEY, "token", "national_id", "912-01-0001").hex() == expected
    assert expected == "39357b1a341b03dc4882dfedea7e9c95ff0edd4e042df4270d258082624e7239"


@given(key=keys, purpose=texts, parts=st.lists(texts, max_size=3))
def test_same_input_same_digest(key: bytes, purpose: str, parts: list[str]) -> None:
    assert keyed_digest(key, purpose, *parts) == keyed_digest(key, purpose, *parts)


@given(a=keys, b=keys, value=texts)
def test_another_key_gives_another_digest(a: bytes, b: bytes, value: str) -> None:
    """HMAC pads keys up to 64 bytes with zeros, so keys that differ only in trailing zeros are one key."""
    same = a.ljust(64, b"\0") == b.ljust(64, b"\0")
    assert (keyed_digest(a, "token", value) == keyed_digest(b, "token", value)) == same


@given(a=st.lists(texts, max_size=3), b=st.lists(texts, max_size=3))
def test_parts_cannot_run_into_each_other(a: list[str], b: list[str]) -> None:
    assert (keyed_digest(KEY, "token", *a) == keyed_digest(KEY, "token", *b)) == (a == b)


@given(value=texts)
def test_purposes_are_apart(value: str) -> None:
    assert keyed_digest(KEY, "token", value) != keyed_digest(KEY, "split/side", value)


@given(value=texts)
def test_normalising_twice_changes_nothing_more(value: str) -> None:
    assert normalise(normalise(value)) == normalise(value)


def test_normalise_forgives_case_width_and_space_only() -> None:
    assert normalise(" Ana \t LÓPEZ ") == normalise("ana lópez") == normalise("\uff21na LO\u0301PEZ")
    assert normalise("ana lopez") != normalise("ana lópez")
    assert normalise("912010001") != normalise("912-01-0001")


def test_share_covers_zero_to_one() -> None:
    assert share(bytes(32)) == 0.0
    assert share(b"\xff" * 32) == 1 - 2**-53
    assert share(b"\x80" + bytes(31)) == 0.5


@pytest.mark.parametrize("length", [0, 1, 31])
def test_short_key_is_refused_without_showing_it(length: int) -> None:
    with pytest.raises(BadData) as caught:
        check_key(b"z" * length, "masking_key")
    assert caught.value.where == "masking_key"
    assert caught.value.got == f"{length} bytes"
    assert "zz" not in f"{caught.value}{caught.value.got}{caught.value.expected}"
