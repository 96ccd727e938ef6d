"""Canonical JSON: one value, one byte string.

Keys sorted by code point, no white space, UTF-8 without escapes beyond JSON's own, integers stay integers, floats in
the shortest form that reads back to the same double. NaN, infinity and repeated keys are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_DEPTH = 64
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class NotCanonical(ValueError):
    """The value has no canonical form, or the bytes are not the canonical form of any value."""


def encode(value: object) -> bytes:
    """The canonical bytes of a JSON value; `NotCanonical` names the path of what cannot be written."""
    _check(value, "$", 0)
    return dump(value)


def decode(data: bytes) -> Any:
    """The value whose canonical form is `data`; anything else, even other white space, is `NotCanonical`."""
    value = read(data)
    if not matches(value, data):
        raise NotCanonical("JSON, but not in canonical form")
    return value


def read(data: bytes) -> Any:
    """The value of JSON of any form, for a caller who then asks `matches`. Nothing deeper than `MAX_DEPTH` is let in."""
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise NotCanonical(f"not JSON that can be read: {error}") from None
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [x for c in level for x in _inside(c) if isinstance(x, dict | list)]
        if not level:
            return value
    raise NotCanonical(f"nested deeper than {MAX_DEPTH}")


def matches(value: object, data: bytes) -> bool:
    """Whether `data` is the canonical form of a value that came from JSON: it is written anew and compared."""
    try:
        return dump(value) == data
    except (ValueError, RecursionError):
        return False


def dump(value: object) -> bytes:
    """The canonical bytes of a value that is known to have such; `encode` also says where in a value it has none."""
    return text(value).encode()


def text(value: object) -> str:
    """What `dump` gives, as text."""
    return _ENCODER.encode(value)


class Form:
    """Objects that have the same names every time: their names are sorted and written once, only values are put between them."""

    def __init__(self, places: Mapping[str, int]) -> None:
        """Name -> where its value stands in what `of` is given."""
        names = sorted(places)
        self._form = f"{{{','.join(f'{text(n)}:'.replace('%', '%%') + '%s' for n in names)}}}"
        self._order = [places[n] for n in names]

    def of(self, texts: Sequence[str]) -> str:
        """The canonical text of the object, from the canonical texts of its values."""
        return self._form % tuple([texts[i] for i in self._order])


def _inside(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


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
