"""Several models in one release: each answers with its own score, shadows answer nobody, and callers notice only the decision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.serve import world
from tests.serve.logs import KEYS, SIGNER
from tests.serve.test_front import SENT, World, run
from tests.serve.world import DECLINED, FEATURES
from tests.steps.test_contract import PARAMS
from workflows.errors import BadInput
from workflows.serve.entry import Keeper
from workflows.serve.loading import Served, load
from workflows.serve.release import read
from workflows.serve.replay import replay
from workflows.serve.shipping import ship

BETTER: dict[str, Any] = {"profile": {"seed": 2, "max_bin": 7}, "threshold": 0.95}
"""Another model than the champion, and stricter."""
NARROW = {"ranges": {**PARAMS["ranges"], "income": [-5.0, 5.0]}, "most_reasons": 3}
ROWS = [FEATURES, DECLINED, {**FEATURES, "income": 0.5, "debt": 0.2}, {**FEATURES, "debt": -3.0}]
SUBJECTS = [f"s{i}" for i in range(40)]


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> world.Made:
    return world.make(tmp_path_factory.mktemp("variants") / "store")


@pytest.fixture(scope="module")
def better(champion: world.Made) -> world.Made:
    return world.make(champion.store.documents, training=BETTER, run="better-0123456789ab")


@pytest.fixture(scope="module")
def narrow(champion: world.Made) -> world.Made:
    return world.make(champion.store.documents, training={"contract": NARROW}, run="narrow-0123456789ab")


def loaded(store: world.Made, *variants: Any) -> dict[str, Served]:
    return {s.variant.name: s for s in load(read(world.release(*variants), "release"), store.store, KEYS)}


def asked(features: Any, subject: str = "somebody") -> dict[str, Any]:
    return {"subject": subject, "features": features}


def logged(top: Path) -> list[Any]:
    return [json.loads(x)["body"] for x in (top / "log" / "000000000001.jsonl").read_bytes().splitlines()]


def test_each_answers_with_its_own_model(tmp_path: Path, champion: world.Made, better: world.Made) -> None:
    """Score and digest are those of the variant that the subject has, in the answer, the log and the replay."""
    variants = (champion.variant("champion", 0.5), better.variant("challenger", 0.5))
    scores = {n: s.model.decide(s.model.contract.check(SENT)).score for n, s in loaded(champion, *variants).items()}
    assert scores["champion"] != scores["challenger"]
    assert champion.model != better.model

    async def work(w: World) -> Any:
        said = [(await w.ask(body=asked(FEATURES, s))).json for s in SUBJECTS]
        tensors = {
            "inputs": [
                {"name": "subject", "shape": [40], "datatype": "BYTES", "data": SUBJECTS},
                *({"name": n, "shape": [40], "datatype": "FP64", "data": [v] * 40} for n, v in FEATURES.items()),
            ]
        }
        return said, (await w.ask("/v2/models/loan_approval/infer", tensors)).json["outputs"]

    said, [score, *_] = run(tmp_path, champion, work, *variants)
    models = {"champion": champion, "challenger": better}
    assert {s["variant"] for s in said} == set(models)
    assert [s["score"] for s in said] == [scores[s["variant"]] for s in said] == score["data"]
    assert [s["model"] for s in said] == [models[s["variant"]].model for s in said]
    for answer, record in zip(said, logged(tmp_path), strict=False):
        assert (record["by"]["model"], record["by"]["run"]) == (answer["model"], models[answer["variant"]].run)
    store = champion.store
    ship(tmp_path / "log", store, SIGNER, KEYS)
    for name in models:
        answer = next(s for s in said if s["variant"] == name)
        again = replay(answer["id"], store, ["prod"], KEYS, Keeper(world.SUBJECT_KEY))
        assert again.same
        assert json.loads(again.now)["score"] == scores[name]


def test_where_a_shadow_decides_otherwise_is_counted_and_kept(tmp_path: Path, champion: world.Made, better: world.Made) -> None:
    variants = (champion.variant(), better.variant("challenger", 0.0, shadow=True))
    models = loaded(champion, *variants)
    decided = {n: [s.model.decide(s.model.contract.check(asked(f))) for f in ROWS] for n, s in models.items()}
    apart = [a.decision != b.decision for a, b in zip(*decided.values(), strict=True)]
    assert set(apart) == {True, False}

    async def work(w: World) -> Any:
        said = [(await w.ask(body=asked(f))).json for f in ROWS]
        return said, w.metrics.registry.get_sample_value("countersign_shadow_disagreements_total", {"variant": "challenger"})

    said, counted = run(tmp_path, champion, work, *variants)
    assert counted == sum(apart)
    assert [s["decision"] for s in said] == [d.decision for d in decided["champion"]]
    for record, shadow in zip(logged(tmp_path), decided["challenger"], strict=True):
        [beside] = record["shadows"]
        assert (beside["answer"]["score"], beside["answer"]["decision"]) == (shadow.score, shadow.decision)
        assert beside["by"]["model"] == better.model != record["by"]["model"] == champion.model


def test_a_shadow_that_cannot_answer_keeps_nobody_from_being_answered(tmp_path: Path, champion: world.Made, narrow: world.Made) -> None:
    variants = (narrow.variant("challenger", 0.0, shadow=True), champion.variant())

    async def work(w: World) -> Any:
        outside = await w.ask(body=asked({**FEATURES, "income": 7}))
        inside = await w.ask()
        contract = (await w.ask("/v1/contract", method="GET")).json
        labels = {"variant": "challenger", "shadow": "true", "decision": "approved"}
        counted = [
            w.metrics.registry.get_sample_value("countersign_decisions_total", labels),
            w.metrics.registry.get_sample_value("countersign_shadow_disagreements_total", {"variant": "challenger"}),
        ]
        return outside, inside, contract, counted, w.service.windows["challenger"].seen

    outside, inside, contract, counted, seen = run(tmp_path, champion, work, *variants)
    assert (outside.status, inside.status) == (200, 200)
    first, second = (r["shadows"][0] for r in logged(tmp_path))
    assert (first["answer"], first["why"], first["by"]["run"]) == (None, "BadApplication", narrow.run)
    assert (second["answer"]["decision"], second["why"]) == ("approved", None)
    assert (counted, seen) == ([1, 0], 1)
    assert contract["features"][0]["highest"] == 10, "the contract is that of whoever answers, wherever it stands in the release"


def test_variants_that_answer_have_one_contract(champion: world.Made, better: world.Made, narrow: world.Made) -> None:
    """Else it would depend on a subject's hash whether the application can be decided."""
    half = champion.variant("champion", 0.5)
    with pytest.raises(BadInput) as error:
        loaded(champion, half, narrow.variant("challenger", 0.5))
    where = f"variant challenger, {narrow.run}: another contract than variant champion has"
    assert [str(p) for p in error.value.problems] == [
        f"{where}: features.income.lowest; expected -10.0, got -5.0",
        f"{where}: features.income.highest; expected 10.0, got 5.0",
        f"{where}: most_reasons; expected 4, got 3",
    ]
    assert "as a shadow" in error.value.hint
    assert set(loaded(champion, champion.variant(), narrow.variant("challenger", 0.0, shadow=True))) == {"champion", "challenger"}
    assert set(loaded(champion, half, better.variant("challenger", 0.5))) == {"champion", "challenger"}


def test_another_key_deals_subjects_out_otherwise(tmp_path: Path, champion: world.Made, better: world.Made) -> None:
    """Nobody who lacks the key can tell which variant a subject will have."""

    async def work(w: World) -> Any:
        return [(await w.ask(body=asked(FEATURES, s))).json["variant"] for s in SUBJECTS]

    def dealt(top: str, key: bytes) -> Any:
        return run(tmp_path / top, champion, work, champion.variant("champion", 0.5), better.variant("challenger", 0.5), key=key)

    first, again, other = dealt("a", world.SUBJECT_KEY), dealt("b", world.SUBJECT_KEY), dealt("c", bytes(32))
    assert first == again != other
    assert set(first) == set(other) == {"champion", "challenger"}
