"""Keyed hashes: what turns an identity into a token and a token into a side. Needs no table and no library.

The pre-image of every hash is a list of byte strings, each written as its length (8 bytes, big-endian) and then itself:
`countersign/keyed/v1`, the purpose, then the parts. So no two purposes and no two lists of parts share a pre-image.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata

from steps.types import BadData

VERSION = b"countersign/keyed/v1"
SMALLEST_KEY = 32
"""Bytes. A shorter key than the hash is long would be the weakest part (RFC 2104, section 3)."""


def keyed_digest(key: bytes, purpose: str, *parts: str) -> bytes:
    """HMAC-SHA256 (32 bytes) of `parts` for one purpose; see the module for the pre-image."""
    fields = (VERSION, purpose.encode(), *(p.encode() for p in parts))
    message = b"".join(len(f).to_bytes(8, "big") + f for f in fields)
    return hmac.new(key, message, hashlib.sha256).digest()


def share(digest: bytes) -> float:
    """Give a number in [0, 1) from the digest's first 53 bits: all that a float holds, so every step is equally likely."""
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def normalise(value: str) -> str:
    """Reduce spellings of one identity to one: Unicode NFKC, folded case, single spaces, none at the ends.

    `" Ana  LÓPEZ"` and `"ana lópez"` are one; punctuation and accents stay, since they can tell people apart.
    """
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).casefold()).split())


def check_key(key: bytes, name: str) -> None:
    """Refuse a key that could be guessed."""
    if len(key) < SMALLEST_KEY:
        raise BadData("key too short", where=name, expected=f"at least {SMALLEST_KEY} bytes", got=f"{len(key)} bytes")
