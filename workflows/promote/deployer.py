"""The port to what serves an environment: what promotion needs of it, and nothing else.

Adapters: `helm` drives Helm; `Nothing` is for environments where a person starts the server with the release's file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from workflows.errors import CountersignError
from workflows.prove.release import Deployed, State


class NotServed(CountersignError):
    """It was tried and does not serve; what served before serves on."""

    exit_code = 3

    def __init__(self, why: str, *, state: State, deployed: Deployed | None = None, hint: str = "") -> None:
        super().__init__(why, hint=hint)
        self.why, self.state, self.deployed = why, state, deployed


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """What an environment runs, as it says itself."""

    release: str | None
    """sha256 of the release that it was told to serve."""
    deployed: Deployed


class Deployer(Protocol):
    """One environment's installation of one pipeline's server."""

    def heal(self, release: str) -> str:
        """Bring what was interrupted half-way back to what served before; what was done, in words, or nothing.

        `release` is the sha256 of what was on its way: where it arrived whole, it must stand every test that it would have stood,
        and `NotServed` says that it did not, and was taken back.
        """

    def installed(self) -> Installed | None:
        """What is installed and whole; None where nothing is."""

    def deploy(self, values: Mapping[str, Any]) -> Deployed | None:
        """Serve what these values say, and return when it does; `NotServed` where it does not come to that."""


class Nothing:
    """Nothing is installed; the record is all there is."""

    def heal(self, release: str) -> str:  # noqa: ARG002  # the port asks for it
        return ""

    def installed(self) -> Installed | None:
        return None

    def deploy(self, values: Mapping[str, Any]) -> Deployed | None:  # noqa: ARG002  # the port asks for it
        return None
