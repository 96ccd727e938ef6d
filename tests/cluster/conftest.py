from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.fake_api import FakeApi, serving


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """A stand-in for a cluster's API, empty."""
    with serving() as found:
        yield found
