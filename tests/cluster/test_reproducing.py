"""A cluster's run, computed again by someone who has but the store to read and the public key."""

from __future__ import annotations

import pytest

from tests.cluster.audited import LONG, Bank, digests
from tests.conftest import Home

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]


def test_it_is_reproduced_to_the_byte_in_another_folder(bank: Bank, auditor: Home, key: str) -> None:
    said = auditor.ask("reproduce", bank.run, "--key", key, "--into", "again", "--json", within=LONG)
    assert said.code == 0, said.out + said.err
    assert {a["name"]: a["verdict"] for a in said.json["artifacts"]} == dict.fromkeys(digests(bank.answer), "bytes")
    assert (auditor.path / "again/artifacts/loan_approval/evidence.html").is_file()
