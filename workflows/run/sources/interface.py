"""The port of a source, and the choice of its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from workflows.declare import Source


class Adapter(Protocol):
    """One way to get at data."""

    def suffix(self, source: Source) -> str:
        """The file suffix of what `take` writes: it says how to read it."""

    def take(self, source: Source, to: Path) -> None:
        """Write the source's bytes, as they are now, to the file `to`.

        `BadInput` where the source is not there or may not be read, `Temporary` where it does not answer.
        """
