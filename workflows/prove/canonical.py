"""Canonical JSON: one value, one byte string.

Keys sorted by code point, no white space, UTF-8 without escapes beyond JSON's own, integers stay integers, floats in
the shortest form that reads back to the same double. NaN, infinity and repeated keys are refused.
"""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64


class NotCanonical(ValueError):
    """The value has no canonical form, or the bytes are not the canonical form of any value."""


def encode(value: object) -> bytes:
    """The canonical bytes of a JSON value; `NotCanonical` names the path of what cannot be written."""
    _check(value, "$", 0)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode(data: bytes) -> Any:
    """The value whose canonical form is `data`; anything else, even other white space, is `NotCanonical`."""
    try:
        value = json.loads(data)
        again = encode(value)
    except (ValueError, RecursionError) as error:
        raise NotCanonical(f"not JSON that can be read: {error}") from None
    if again != data:
        raise NotCanonical("JSON, but not in canonical form")
    return value


def _check(value: object, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise NotCanonical(f"{path[:200]}: nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise NotCanonical(f"{path}: key {key!r} is not a string")
            _check_text(key, path)
            _check(inner, f"{path}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _check(inner, f"{path}[{i}]", depth + 1)
    else:
        _check_leaf(value, path)


def _check_leaf(value: object, path: str) -> None:
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise NotCanonical(f"{path}: {value} has no place in JSON")
    elif not (value is None or isinstance(value, bool | int | float)):
        raise NotCanonical(f"{path}: a {type(value).__name__} has no place in JSON")


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotCanonical(f"{path}: a lone surrogate has no UTF-8 form") from None
