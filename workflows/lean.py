"""Importing a library without what it imports only to offer more than is used here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*names: str) -> Iterator[None]:
    """While this lasts, importing these modules is an ImportError, which libraries that can do without them expect.

    A step's process starts anew for every step under DVC and Argo, so a fifth of a second counts. Modules that were
    imported already stay.
    """
    hidden = [n for n in names if n not in sys.modules]
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]  # None is how Python itself marks a module as not to be found
    try:
        yield
    finally:
        for n in hidden:
            del sys.modules[n]
