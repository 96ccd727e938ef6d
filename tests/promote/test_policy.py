"""`params/environments.yaml`: everything that is wrong is said at once, and nothing is let through by being left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.promote.world import KEYS, WHY, because, policies, raw
from workflows.compile.promotion import RELEASE_TIMEOUT
from workflows.errors import BadInput
from workflows.promote.policy import parse, read

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("prod", "said"),
    [
        ({"after": because("nowhere")}, "environments.prod.after: no environment nowhere"),
        ({"after": because("prod")}, "wait for each other in a circle"),
        ({"runs_by": because("nobody")}, "environments.prod.runs_by: no role nobody"),
        ({"approvals": [{"role": "anyone", "count": 1, "because": WHY}]}, "environments.prod.approvals.0: no role anyone"),
        ({"approvals": [{"role": "owner", "count": 1, "because": WHY}] * 2}, "a role is asked twice"),
        ({"approvals": [{"role": "owner", "count": 0, "because": WHY}]}, "environments.prod.approvals.0.count"),
        ({"gates": because([])}, "an empty list lets everything pass"),
        ({"floors": [{"gate": "enough", "metric": "x", "because": WHY}]}, "exactly one of at_least and at_most"),
        ({"namespace": "prod"}, "environments.prod.namespace"),
        ({"namespace": {"value": "prod"}}, "environments.prod.namespace.because"),
        ({"longest_days": because("7")}, "environments.prod.longest_days.value"),
        ({"known_submitter": because("no")}, "environments.prod.known_submitter.value"),
        ({"pipelines": {}}, "environments.prod.pipelines"),
        ({"extra": 1}, "environments.prod.extra"),
    ],
)
def test_what_cannot_be_meant(prod: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        policies(**prod)
    assert said in str(caught.value)


@pytest.mark.parametrize("field", ["gates", "approvals", "runs_by", "released_by", "after", "longest_days", "deploy", "known_submitter"])
def test_nothing_may_be_left_out(field: str) -> None:
    with pytest.raises(BadInput, match=f"environments.prod.{field}"):
        policies(lambda r: r["environments"]["prod"].pop(field))


def test_every_problem_is_said_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        policies(runs_by=because("nobody"), after=because("nowhere"), approvals=[{"role": "chief", "count": 1, "because": WHY}])
    assert len(caught.value.problems) == 3


def test_a_key_is_listed_once_in_a_role() -> None:
    with pytest.raises(BadInput, match=r"roles.owner.members: a key is listed twice"):
        policies(lambda r: r["roles"]["owner"]["members"].append({"key": KEYS["olga"], "name": "o"}))


def test_nobody_has_two_keys() -> None:
    """Not in another role either: each would approve what the other made."""
    with pytest.raises(BadInput, match=r"roles: olga has 2 keys"):
        policies(lambda r: r["roles"]["validator"]["members"].append({"key": KEYS["vera"][::-1], "name": "olga"}))


def test_a_circle_of_environments() -> None:
    def change(r: dict[str, Any]) -> None:
        r["environments"]["dev"]["after"]["value"] = "prod"
        r["environments"]["prod"]["after"]["value"] = "dev"

    with pytest.raises(BadInput, match="in a circle"):
        policies(change)


def test_a_file_that_is_not_there_lets_nobody_promote(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nobody may promote"):
        read(tmp_path / "environments.yaml")


def test_the_file_reads_as_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "environments.yaml"
    YAML().dump(raw(), path)
    assert read(path) == parse(raw())


def test_this_repositorys_own_policies() -> None:
    """Production asks for two people and for staging; and while no key is listed, nobody gets in."""
    found = read(ROOT / "params/environments.yaml")
    longest = max(e.longest_minutes.value for e in found.environments.values())
    assert (2 * longest + 30) * 60 <= RELEASE_TIMEOUT, "a pod puts right what died and then releases: neither is cut off"
    assert set(found.environments) == {"dev", "staging", "prod"}
    prod = found.environments["prod"]
    assert (prod.after.value, sum(n.count for n in prod.approvals)) == ("staging", 2)
    assert set(prod.gates.value) >= {"fair", "performance", "privacy", "data_quality"}
    assert found.environments["staging"].after.value == "dev"
    for e in found.environments.values():
        assert e.known_submitter.value == bool(e.approvals), "an approval is worth what is known of whose run it approves"
