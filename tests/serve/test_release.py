"""What a server is told is read strictly; a subject keeps its variant; nothing that does not verify is served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.serve import world
from tests.serve.logs import KEYS
from tests.serve.world import VERDICTS
from workflows.errors import BadInput, NotVerified
from workflows.prove.record import Outcome
from workflows.prove.signature import Keyring, Signer
from workflows.run.store.local import LocalStore
from workflows.serve.loading import load, roles
from workflows.serve.release import Variant, chosen, read

D = "0" * 64
ONE = {"name": "champion", "run": "a-run", "root": D, "model": D, "share": 1.0, "shadow": False}


def said(data: bytes) -> str:
    with pytest.raises(BadInput) as error:
        read(data, "f")
    return str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Invalid JSON"),
        (world.release(ONE, extra=1), "f.extra: Extra inputs are not permitted"),
        (world.release({**ONE, "weight": 1}), "f.variants.0.weight"),
        (world.release({**ONE, "model": "latest"}), "f.variants.0.model"),
        (world.release({**ONE, "share": "1"}), "f.variants.0.share"),
        (world.release(), "f.variants"),
        (world.release(ONE, ONE), "a name stands twice"),
        (world.release({**ONE, "share": 0.5}), "the shares of those that answer come to 0.5, not 1"),
        (world.release({**ONE, "shadow": True}), "a shadow has a share"),
        (world.release(ONE, pipeline="../x"), "f.pipeline"),
    ],
)
def test_a_release_that_is_not_one(data: bytes, message: str) -> None:
    assert message in said(data)


def test_all_problems_at_once() -> None:
    data = json.loads(world.release({**ONE, "model": "x", "run": "X"}))
    data["release"]["sequence"] = -1
    assert said(json.dumps(data).encode()).count("\n") == 2


def variant(name: str, share: float) -> Variant:
    return Variant(name=name, run="r", root=D, model=D, share=share, shadow=False)


def test_shares_are_laid_end_to_end() -> None:
    a, b, c = variant("a", 0.5), variant("b", 0.25), variant("c", 0.25)
    found = [chosen((a, b, c), x).name for x in (0.0, 0.4999, 0.5, 0.7499, 0.75, 0.9999999)]
    assert found == ["a", "a", "b", "b", "c", "c"]
    assert chosen((variant("x", 0.1), variant("y", 0.9 - 1e-12), variant("z", 0.0)), 1 - 1e-13).name == "y"


def refused(made: world.Made, how: dict[str, Any] | None = None, keys: Keyring = KEYS) -> str:
    release = read(world.release(made.variant() | (how or {})), "f")
    with pytest.raises(NotVerified) as error:
        load(release, made.store, keys)
    return str(error.value)


def copy(made: world.Made, top: Path) -> LocalStore:
    import shutil

    shutil.copytree(made.store.documents, top / "copy")
    return LocalStore(content=top / "copy", documents=top / "copy")


def test_only_the_root_and_the_model_that_were_released(made: world.Made) -> None:
    assert f"the root is {made.root}, expected {D}" in refused(made, {"root": D})
    assert "not the model that was released" in refused(made, {"model": D})
    assert "the run has no seal" in refused(made, {"run": "another-run"})


def test_a_key_that_is_not_trusted(made: world.Made) -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
    assert "signed by a key that is not at hand" in refused(made, keys=Keyring({Signer(other).keyid: other.public_key()}))


@pytest.mark.parametrize("artifact", ["model", "decision_rule", "contract", "reference"])
def test_one_changed_byte_of_what_is_served(made: world.Made, tmp_path: Path, artifact: str) -> None:
    store = copy(made, tmp_path)
    path = store._address(made.items[artifact].md5)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "changed" in refused(replace(made, store=store))


def test_an_artifact_that_is_gone(made: world.Made, tmp_path: Path) -> None:
    store = copy(made, tmp_path)
    store._address(made.items["contract"].md5).unlink()
    assert "cannot be read from the store" in refused(replace(made, store=store))


def test_a_run_that_a_gate_refused_or_none_judged(made: world.Made, tmp_path: Path) -> None:
    store = copy(made, tmp_path)
    no = [{**VERDICTS[0], "says": "no", "rules": [{**VERDICTS[0]["rules"][0], "value": 0.4, "says": "no"}]}]
    failed = world.sealed(store, made.items, run="refused-0123456789ab", outcome=Outcome.REFUSED, verdicts=no)
    assert "a gate refused the run" in refused(failed)
    unjudged = world.sealed(store, made.items, run="unjudged-0123456789ab", verdicts=None)
    assert "no gate has judged this run" in refused(unjudged)
    less = world.sealed(store, {k: v for k, v in made.items.items() if k != "contract"}, run="less-0123456789ab")
    assert "it made no loan_approval/contract" in refused(less)


def test_a_contract_of_another_model(made: world.Made, tmp_path: Path) -> None:
    store = copy(made, tmp_path)
    kind, contract = world.artifacts()["contract"]
    contract["features"] = contract["features"][::-1]
    mixed = {**made.items, **world.keep(store, tmp_path, {"contract": (kind, contract)})}
    assert "the contract is of another model" in refused(world.sealed(store, mixed, run="mixed-0123456789ab"))


def test_a_pipeline_that_serves_nothing() -> None:
    assert {role: a.name for role, a in roles("loan_approval").artifacts.items()}["rule"] == "decision_rule"
    for name in ("nothing_here", "declare", "../etc"):
        with pytest.raises(BadInput):
            roles(name)
