"""Every request is answered or sent away with what to mend; no request stops the server. In one process, without sockets."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.serve import hostile, world
from tests.serve.logs import KEYS, SIGNER, disk, no_room
from tests.serve.world import DECLINED, FEATURES, SUBJECT_KEY
from workflows.serve import api, openapi, protocol
from workflows.serve import contract as contracts
from workflows.serve.decide import Undecidable
from workflows.serve.entry import Keeper
from workflows.serve.front import Bounds, Front, State
from workflows.serve.loading import Served, load
from workflows.serve.log import DecisionLog, Limits, NotKept
from workflows.serve.release import read
from workflows.serve.replay import replay
from workflows.serve.service import Service
from workflows.serve.shipping import ship, verify_logs
from workflows.serve.watch import FEWEST, Metrics

SENT = {"subject": "somebody", "features": FEATURES}
INFER = "/v2/models/loan_approval/infer"
TENSORS: dict[str, Any] = {
    "inputs": [
        {"name": "subject", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]},
        {"name": "features", "shape": [2, 4], "datatype": "FP64", "data": [0.1, 0.4, 0.25, 1, -2.0, 2.0, None, 2]},
    ]
}


@dataclass
class Said:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class World:
    """A server without its socket."""

    front: Front
    state: State
    service: Service
    log: DecisionLog
    metrics: Metrics

    async def ask(
        self, path: str = "/v1/decisions", body: Any = SENT, *, method: str = "POST", parts: int = 1, wait: float = 0.0, **headers: str
    ) -> Said:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {
            "content-type": "application/json",
            "content-length": str(len(data)),
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        size = -(-len(data) // parts) or 1
        pieces = [data[i : i + size] for i in range(0, len(data), size)] or [b""]
        said = Said()
        begun = 0

        async def receive() -> Any:
            if wait:
                await asyncio.sleep(wait)
            if not pieces:
                await asyncio.sleep(3600)
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun += 1
                assert begun == 1, "one request, two answers"
                said.status = message["status"]
                said.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                said.body += message.get("body", b"")

        raw = [(k.encode(), v.encode()) for k, v in given.items()]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": raw,
            "query_string": b"",
            "http_version": "1.1",
            "scheme": "http",
        }
        await self.front({**scope, "raw_path": path.encode(), "server": ("x", 1), "client": ("x", 1), "root_path": ""}, receive, send)
        return said


def run(
    tmp_path: Path,
    made: world.Made,
    work: Callable[[World], Awaitable[Any]],
    *variants: Any,
    bounds: Bounds | None = None,
    key: bytes = SUBJECT_KEY,
    **limits: Any,
) -> Any:
    async def inside() -> Any:
        release = read(world.release(*(variants or (made.variant(),))), "release")
        served = load(release, made.store, KEYS)
        log, metrics, state = DecisionLog(disk(tmp_path), Limits(**limits)), Metrics(), State()
        state.service = Service(release, served, log, Keeper(key), metrics)
        front = Front(state, api.make(state), metrics, bounds or Bounds())
        found = await work(World(front, state, state.service, log, metrics))
        await log.close()
        return found

    return asyncio.run(inside())


def test_an_answer_and_its_record(tmp_path: Path, made: world.Made) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"

    async def work(w: World) -> Any:
        good = await w.ask(parts=3)
        bad = await w.ask(body={"subject": " SOMEBODY ", "features": DECLINED}, traceparent=f"00-{trace}-b7ad6b7169203331-01")
        told = await w.ask(body={**SENT, "explain": True, "groups": {"race": "black"}})
        return good, bad, told

    good, bad, told = run(tmp_path, made, work)
    assert (good.status, good.json["decision"], good.json["reasons"]) == (200, "approved", [])
    assert bad.json["decision"] == "declined"
    assert bad.json["reasons"][0] == {"code": "C1", "words": "because of debt", "feature": "debt"}
    assert [r["feature"] for r in told.json["reasons"]]
    lines = (tmp_path / "log" / "000000000001.jsonl").read_bytes().splitlines()
    import hashlib

    assert [x.json["receipt"] for x in (good, bad, told)] == [hashlib.sha256(x).hexdigest() for x in lines]
    first, second, third = (json.loads(x)["body"] for x in lines)
    assert (first["id"], first["answer"]["score"]) == (good.json["id"], good.json["score"])
    assert first["asked"]["subject"] == second["asked"]["subject"]  # spelt otherwise
    assert second["trace"] == trace
    assert first["by"] == {"variant": "champion", "run": made.run, "root": made.root, "model": made.model} | {
        k: made.items[v].sha256 for k, v in (("policy", "decision_rule"), ("contract", "contract"))
    }
    # Neither the subject, nor a sealed value, nor a group that no rule needs stands in the log.
    text = b"".join(lines).lower()
    assert not any(x in text for x in (b"somebody", b'"debt":0.4', b"black"))
    assert third["asked"]["explain"] is True


async def statuses(w: World, sent: list[tuple[dict[str, Any], int, str]]) -> list[str]:
    wrong = []
    for how, status, words in sent:
        said = await w.ask(**how)
        if (
            said.status != status
            or words not in said.body.decode()
            or (status != 200 and "problem+json" not in said.headers["content-type"])
        ):
            wrong.append(f"{str(how)[:80]}: {said.status} {said.body[:200]!r}, expected {status} {words}")
    return wrong


def test_what_cannot_be_decided_says_what_to_mend(tmp_path: Path, made: world.Made) -> None:
    sent: list[tuple[dict[str, Any], int, str]] = [
        ({"body": b""}, 400, "malformed JSON"),
        ({"body": b'{"subject": "a", '}, 400, "line 1, column"),
        ({"body": b'{"subject": "\xff"}'}, 400, "not UTF-8 at byte"),
        ({"body": b'{"a": NaN}'}, 400, "NaN is no JSON"),
        ({"body": b'{"subject": "a", "subject": "b"}'}, 400, "stands twice"),
        ({"body": b"[" * 60_000}, 400, "nested too deeply"),
        ({"body": b'{"a":' * 10_000 + b"1" + b"}" * 10_000}, 400, "nested too deeply"),
        ({"body": b"1" * 10_000}, 400, "malformed JSON"),
        ({"body": b"1e999"}, 422, "an object"),
        ({"body": b'"text"'}, 422, "an object"),
        ({"body": {**SENT, "extra": 1}}, 422, "unknown field"),
        ({"body": {"subject": "a", "features": {**FEATURES, "income": 11}}}, 422, "from -10 to 10"),
        ({"body": b" " * 70_000}, 413, "at most 65536 bytes"),
        ({"body": b" " * 70_000, "content_length": "10"}, 413, "at most 65536 bytes"),
        ({"body": b" " * 70_000, "content_length": "10", "parts": 30}, 413, "at most 65536 bytes"),
        ({"content_length": "-1"}, 413, "at most"),
        ({"content_length": "9" * 5000}, 413, "at most"),
        ({"content_type": "text/plain"}, 415, "application/json"),
        ({"content_type": "application/json; charset=latin-1"}, 415, "application/json"),
        ({"content_type": 'application/json;charset="UTF-8"'}, 200, "decision"),
        ({"method": "GET"}, 405, "POST"),
        ({"path": "/nowhere"}, 404, "Not Found"),
        ({"path": "/v1/contract", "method": "PUT"}, 405, "Method Not Allowed"),
        ({"path": "/v2/models/other/infer", "body": {"inputs": []}}, 422, "not a request of this protocol"),
        ({"path": "/v2/models/loan_approval/infer", "body": b" " * 70_000}, 413, "at most"),
    ]

    async def work(w: World) -> Any:
        wrong = await statuses(w, sent)
        return wrong, w.metrics.registry.get_sample_value("countersign_requests_total", {"route": "/v1/decisions", "status": "400"})

    wrong, counted = run(tmp_path, made, work)
    assert wrong == []
    assert counted == 8
    assert len((tmp_path / "log" / "000000000001.jsonl").read_bytes().splitlines()) == 1


def test_ten_thousand_broken_applications(tmp_path: Path, made: world.Made) -> None:
    """A sound application, broken in every way that a few random edits make: each is decided or sent away, none fails."""
    rng = random.Random(11)  # noqa: S311

    async def work(w: World) -> set[int]:
        return {(await w.ask(body=hostile.broken(json.dumps(SENT).encode(), rng))).status for _ in range(10_000)}

    assert run(tmp_path, made, work) <= {200, 400, 422}


def test_thousands_of_broken_tensors(tmp_path: Path, made: world.Made) -> None:
    rng = random.Random(12)  # noqa: S311

    async def work(w: World) -> set[int]:
        return {(await w.ask(INFER, hostile.broken(json.dumps(TENSORS).encode(), rng))).status for _ in range(3_000)}

    assert run(tmp_path, made, work) <= {200, 400, 422}


def test_text_without_utf_8_is_sent_away(tmp_path: Path, made: world.Made) -> None:
    """A lone surrogate is JSON, but no bytes of UTF-8: what repeats it must escape it."""
    [subject, wide] = TENSORS["inputs"]
    lone = "\ud800"
    bad = [[subject, {**wide, "datatype": lone}], [subject, wide, {**wide, "name": lone}], [subject, {**wide, lone: 1}]]

    async def work(w: World) -> Any:
        return [(await w.ask(INFER, how)).status for how in (*({"inputs": i} for i in bad), {**TENSORS, "id": lone})]

    assert run(tmp_path, made, work) == [422] * 4


def test_an_answer_that_has_begun_is_not_followed_by_another(tmp_path: Path, made: world.Made) -> None:
    """The framework answers what fails in it and tells of it: that is logged, and the client has its answer."""

    async def work(w: World) -> Any:
        async def broken(*_: Any) -> Any:
            raise ZeroDivisionError

        with capture_logs() as said, pytest.MonkeyPatch.context() as patch:
            patch.setattr(api, "_decided", broken)
            bad = await w.ask(INFER, TENSORS)
        return (
            bad.status,
            len(said),
            w.metrics.registry.get_sample_value("countersign_requests_total", {"route": "/v2/models/{name}/infer", "status": "500"}),
        )

    assert run(tmp_path, made, work) == (500, 1, 1)


def test_slow_ones_and_those_who_hang_up(tmp_path: Path, made: world.Made) -> None:
    async def work(w: World) -> Any:
        left = await w.ask(parts=2, wait=0.08, content_length="10")
        slow = await w.ask(parts=10, wait=0.1)

        async def gone() -> Any:
            return {"type": "http.disconnect"}

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        await w.front({"type": "http", "method": "POST", "path": "/v1/decisions", "headers": headers}, gone, send)
        measured = [
            w.metrics.registry.get_sample_value(f"countersign_request_seconds_{x}", {"route": "/v1/decisions"}) for x in ("count", "sum")
        ]
        return slow, left, sent, measured

    slow, left, sent, [count, seconds] = run(tmp_path, made, work, bounds=Bounds(seconds=0.2))
    assert (slow.status, slow.headers["connection"]) == (408, "close")
    assert left.status == 200
    assert sent == []
    assert count == 1, "only what arrived whole was answered"
    assert seconds < 0.16, "how long a client takes to send is not our latency"


def test_too_many_at_once_are_sent_away_at_once(tmp_path: Path, made: world.Made) -> None:
    """Those that are worked on count; however many still arrive, others are decided."""

    async def work(w: World) -> Any:
        arriving = [asyncio.create_task(w.ask(wait=1.5)) for _ in range(3)]
        await asyncio.sleep(0.05)
        meanwhile = await w.ask()
        keep = w.log.keep

        go_on = asyncio.Event()

        async def slowly(*what: Any) -> Any:
            await go_on.wait()
            return await keep(*what)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(w.log, "keep", slowly)
            waiting = [asyncio.create_task(w.ask()) for _ in range(3)]
            await asyncio.sleep(0.05)
            said, live = await w.ask(), await w.ask("/v2/health/live", method="GET")
            in_flight = w.metrics.registry.get_sample_value("countersign_in_flight")
            go_on.set()
            ended = [(await x).status for x in (*waiting, *arriving)]
        return meanwhile, said, live, in_flight, ended, w.front.at_work

    meanwhile, said, live, in_flight, waiting, left = run(tmp_path, made, work, bounds=Bounds(at_once=3))
    assert meanwhile.status == 200
    assert (said.status, said.headers["retry-after"], live.status, in_flight, waiting, left) == (503, "1", 200, 3, [200] * 6, 0)


def test_an_answer_that_takes_too_long_is_none(tmp_path: Path, made: world.Made) -> None:
    async def work(w: World) -> Any:
        keep = w.log.keep

        async def slowly(*what: Any) -> Any:
            await asyncio.sleep(0.5)
            return await keep(*what)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(w.log, "keep", slowly)
            late = await w.ask()
        return late, await w.ask()

    late, then = run(tmp_path, made, work, bounds=Bounds(seconds=0.2))
    assert (late.status, late.json["title"], late.headers["retry-after"]) == (503, "not decided in time", "1")
    assert then.status == 200


def test_a_model_without_a_lawful_answer_gives_none(tmp_path: Path, made: world.Made) -> None:
    """As the description says of both ways to ask; nothing is kept."""

    async def work(w: World) -> Any:
        def reasonless(*_: Any) -> Any:
            raise Undecidable("declined, but nothing lowered the score")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(w.service, "_made", reasonless)
            said = [await w.ask(), await w.ask(INFER, TENSORS)]
        return said, (await w.ask("/openapi.json", method="GET")).json["paths"]

    said, paths = run(tmp_path, made, work)
    assert [(s.status, s.json["title"]) for s in said] == [(500, "no decision")] * 2
    assert (tmp_path / "log" / "000000000001.jsonl").read_bytes() == b""
    for path in ("/v1/decisions", *api.INFER):
        described = {s: r["description"] for s, r in paths[path]["post"]["responses"].items()}
        assert "nothing was decided" in described["500"]
        assert all("may hold a decision all the same" in described[s] for s in ("500", "503"))


def test_a_log_that_takes_nothing_answers_nothing(tmp_path: Path, made: world.Made) -> None:
    async def work(w: World) -> Any:
        def full(*_: Any) -> Any:
            raise OSError(28, "No space left on device")

        with capture_logs(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(w.log.disk, "append", full)
            refused, ready = await w.ask(), await w.ask("/v2/health/ready", method="GET")
        return refused, ready, await w.ask()

    refused, ready, after = run(tmp_path, made, work)
    assert (refused.status, "nothing was decided" in refused.json["detail"]) == (503, True)
    assert (ready.status, ready.json["why"]) == (503, ["the decision log cannot be written"])
    assert after.status == 200
    assert len((tmp_path / "log" / "000000000001.jsonl").read_bytes().splitlines()) == 1


def test_a_defect_is_logged_and_the_server_goes_on(tmp_path: Path, made: world.Made) -> None:
    async def work(w: World) -> Any:
        async def broken(*_: Any) -> Any:
            raise ZeroDivisionError("secret words")

        with capture_logs() as said, pytest.MonkeyPatch.context() as patch:
            patch.setattr(w.service, "decide", broken)
            bad = await w.ask()
        return bad, said, await w.ask()

    bad, said, good = run(tmp_path, made, work)
    assert (bad.status, "secret" in bad.body.decode(), len(said), good.status) == (500, False, 1, 200)


def test_nothing_is_decided_before_it_is_ready(tmp_path: Path, made: world.Made) -> None:
    async def work(w: World) -> Any:
        w.state.service = None
        early = [await w.ask(), await w.ask("/v2/health/ready", method="GET"), await w.ask("/v2/models/loan_approval", method="GET")]
        return early, await w.ask("/v2/health/live", method="GET")

    early, live = run(tmp_path, made, work)
    assert [s.status for s in early] == [503] * 3
    assert early[1].json == {"ready": False, "why": ["models are being loaded and verified"]}
    assert live.status == 200


def test_told_to_go_it_is_not_ready_and_decides_for_whoever_is_still_sent_to_it(tmp_path: Path, made: world.Made) -> None:
    """A cluster that is slow to hear of it sends requests here for a while."""

    async def work(w: World) -> Any:
        w.state.draining = True
        late = await w.ask("/v2/health/ready", method="GET")
        model = await w.ask("/v2/models/loan_approval/ready", method="GET")
        return late, model, [await w.ask(), await w.ask(INFER, TENSORS)], await w.ask("/v2/health/live", method="GET")

    late, model, answered, live = run(tmp_path, made, work)
    assert (late.status, late.json["why"], live.status) == (503, ["the server is being shut down"], 200)
    assert (model.status, model.json) == (503, {"name": "loan_approval", "ready": False})
    for said in answered:
        assert (said.status, said.headers["connection"]) == (200, "close")


def test_the_open_inference_protocol(tmp_path: Path, made: world.Made) -> None:
    [subject, wide] = TENSORS["inputs"]
    narrow = [{"name": n, "shape": [2, 1], "datatype": "FP64", "data": [FEATURES[n], DECLINED[n]]} for n in FEATURES]
    bad: list[tuple[Any, str]] = [
        ({"inputs": [subject, {**wide, "shape": [8]}]}, "bad shape"),
        ({"inputs": [subject, {**wide, "data": [1]}]}, "as many values"),
        ({"inputs": [subject, {**wide, "datatype": "BYTES"}]}, "bad datatype"),
        ({"inputs": [wide]}, "missing, or too many rows"),
        ({"inputs": [subject, subject, wide]}, "two tensors"),
        ({"inputs": [subject, {**wide, "name": "wide"}]}, "unknown tensor"),
        ({"inputs": [subject, wide], "outputs": [{"name": "secret"}]}, "unknown output"),
        ({"inputs": [subject, {**wide, "data": [[1, 2], [3, 4]]}]}, "not nested as its shape says"),
        ({"inputs": [subject, {**wide, "data": [[1], *wide["data"][1:]]}]}, "not nested as its shape says"),
        ({"inputs": [subject, {**wide, "data": [[]] * 8}]}, "not nested as its shape says"),
        ({"inputs": [subject, {**wide, "data": [[1]] * 8}]}, "not nested as its shape says"),
        ({"inputs": [subject, {**wide, "data": [[[1, 2], [3, 4]]] * 2}]}, "8 values in one list, or nested as [2, 4]"),
        ({"inputs": [subject, {**wide, "data": [wide["data"]]}]}, "not nested as its shape says"),
        ({"inputs": [{**subject, "data": [["a"], ["b"]]}, wide]}, "2 values in one list"),
        ({"inputs": [subject, *narrow[:-1], {**narrow[-1], "data": [[1], [[2]]]}]}, "not nested as its shape says"),
        ({"inputs": [subject, *narrow[:-1], {**narrow[-1], "data": [[1], 2]}]}, "2 values in one list, or nested as [2, 1]"),
        (json.dumps({"inputs": [subject, {**wide, "data": "DEEP"}]}).replace('"DEEP"', "[" * 500 + "]" * 500).encode(), "not nested"),
        ({"inputs": [subject, {**wide, "data": [99, *wide["data"][1:]]}]}, "out of range"),
        ({"inputs": [subject, wide], "more": 1}, "Extra inputs"),
    ]

    async def work(w: World) -> Any:
        rows = [await w.ask(INFER, {"id": "x", "inputs": [subject, wide]}), await w.ask(INFER, {"inputs": [subject, *narrow]})]
        rows.append(await w.ask(INFER, {"inputs": [subject, {**wide, "data": [wide["data"][:4], wide["data"][4:]]}]}))
        nested = [{**t, "data": [[x] for x in t["data"]]} for t in ({**subject, "shape": [2, 1]}, *narrow)]
        rows.append(await w.ask(INFER, {"inputs": nested}))
        one = await w.ask("/v2/models/loan_approval/versions/7/infer", {"inputs": [subject, wide], "outputs": [{"name": "score"}]})
        known = [await w.ask(p, method="GET") for p in ("/v2", "/v2/models/loan_approval", "/v2/models/loan_approval/versions/7/ready")]
        none = [await w.ask(p, method="GET") for p in ("/v2/models/other", "/v2/models/loan_approval/versions/8")]
        return rows, one, known, none, await statuses(w, [({"path": INFER, "body": b}, 422, m) for b, m in bad])

    rows, one, known, none, wrong = run(tmp_path, made, work)
    said = [{o["name"]: o["data"] for o in r.json["outputs"]} for r in rows]
    assert [s["decision"] for s in said] == [["approved", "declined"]] * 4
    assert all(s["score"] == said[0]["score"] for s in said)
    assert [r.json.get("id", "none") for r in rows] == ["x", *["none"] * 3]
    assert "because of debt" in said[0]["reasons"][1]
    assert [o["name"] for o in one.json["outputs"]] == ["score"]
    assert [k.status for k in known] == [200] * 3
    assert [i["name"] for i in known[1].json["inputs"]] == ["subject", *FEATURES, "group:race"]
    assert known[1].json["inputs"][-1]["parameters"] == {"optional": True}
    assert known[2].json == {"name": "loan_approval", "ready": True}
    assert [n.status for n in none] == [404, 404]
    assert wrong == []
    assert len((tmp_path / "log" / "000000000001.jsonl").read_bytes().splitlines()) == 10  # a record a row, none of a refused request


def test_groups_in_tensors_are_those_of_an_application(tmp_path: Path, made: world.Made) -> None:
    """Counted, needed and refused alike; null is a row that states none."""
    [subject, wide] = TENSORS["inputs"]

    def stating(words: list[Any], attribute: str = "race", **how: Any) -> dict[str, Any]:
        group = {"name": f"group:{attribute}", "shape": [2], "datatype": "BYTES", "data": words}
        return {"inputs": [subject, wide, {**group, **how}]}

    bad = [
        (stating(["black", "martian"]), [("row 2: groups.race", "unknown group")]),
        (stating(["black", ["white"]]), [("inputs.group:race", "data is not nested as its shape says")]),
        (stating(["a", "b"], "age"), [(f"row {n}: groups.age", "unknown attribute") for n in (1, 2)]),
        (stating([1, 2], datatype="INT64"), [("inputs.group:race", "bad datatype")]),
        (
            stating(["black"], shape=[1]),
            [("inputs.group:race", what) for what in ("bad shape", "as many values as its shape says are wanted")],
        ),
    ]

    async def work(w: World) -> Any:
        refused = [(await w.ask(INFER, body)).json["problems"] for body, _ in bad]
        good = [await w.ask(INFER, stating(words)) for words in (["black", None], ["black", "white"])]
        return refused, good, w.metrics.registry

    refused, good, counted = run(tmp_path, made, work)
    assert [[(p["where"], p["what"]) for p in found] for found in refused] == [found for _, found in bad]
    assert [g.status for g in good] == [200, 200]
    labels = {"variant": "champion", "shadow": "false", "attribute": "race"}
    for group, decision, n in (("black", "approved", 2), ("white", "declined", 1)):
        found = counted.get_sample_value("countersign_group_decisions_total", {**labels, "group": group, "decision": decision})
        assert found == n


def test_a_rule_that_needs_a_group_is_asked_in_tensors(served: Served) -> None:
    """As its example asks it, with the group's tensor; without, the contract says what is missing."""
    needing = contracts.read({**served.report, "rule": {"kind": "per_group", "needs": ["race"]}})
    asked = openapi.tensors(needing)
    for inputs, groups in ((asked["inputs"], {"race": "black"}), (asked["inputs"][:-1], {})):
        [row] = protocol.applications(protocol.Inference.model_validate({"inputs": inputs}), needing)
        assert row.get("groups", {}) == groups
    assert needing.check(openapi.example(needing)).groups == {"race": "black"}
    with pytest.raises(contracts.BadApplication, match=r"groups\.race: missing: the decision rule needs it"):
        needing.check(row)
    assert protocol.metadata("x", ["1"], needing)["inputs"][-1]["parameters"] == {"optional": False}


def test_what_is_wrong_is_said_of_every_row(tmp_path: Path, made: world.Made) -> None:
    [subject, wide] = TENSORS["inputs"]

    async def work(w: World) -> Any:
        body = {"inputs": [subject, {**wide, "data": [99, *wide["data"][1:4], 99, *wide["data"][5:]]}]}
        return (await w.ask(INFER, body)).json["problems"]

    first, second = run(tmp_path, made, work)
    assert [p["where"].split(": ")[0] for p in (first, second)] == ["row 1", "row 2"]
    assert first["what"] == second["what"] == "out of range"


def test_a_request_of_several_rows_is_decided_whole_or_not_at_all(tmp_path: Path, made: world.Made) -> None:
    """There is room for the first row's record, and not for the second's: none is kept, answered or counted."""
    path = tmp_path / "log" / "000000000001.jsonl"

    async def work(w: World) -> Any:
        await w.ask()
        size = path.stat().st_size
        with no_room(5 * size // 2):
            refused = await w.ask(INFER, TENSORS)
        left = path.stat().st_size - size
        counted = w.metrics.registry.get_sample_value("countersign_score_count", {"variant": "champion", "shadow": "false"})
        return refused, left, counted, await w.ask(INFER, TENSORS)

    refused, left, counted, after = run(tmp_path, made, work)
    assert (refused.status, refused.headers["retry-after"], left, counted) == (503, "1", 0, 1)
    assert refused.json["error"] == "not decided: the decision log cannot be written; nothing was decided"
    assert after.status == 200
    ids = next(o["data"] for o in after.json["outputs"] if o["name"] == "id")
    assert [json.loads(x)["body"]["id"] for x in path.read_bytes().splitlines()[1:]] == ids


def test_errors_of_the_protocol_have_its_member(tmp_path: Path, made: world.Made) -> None:
    """`error`, all in one text, beside what problems have; elsewhere there is none."""
    [subject, wide] = TENSORS["inputs"]
    sent: list[tuple[dict[str, Any], str]] = [
        (
            {"path": INFER, "body": {"inputs": [subject, {**wide, "shape": [8]}]}},
            "the request cannot be decided: inputs.features: bad shape",
        ),
        ({"path": INFER, "body": {}}, "not a request of this protocol: body.inputs: Field required"),
        ({"path": INFER, "body": b" " * 70_000}, "too large: at most 65536 bytes"),
        ({"path": "/v2/models/other", "method": "GET"}, "no such model: loan_approval, version 7"),
        ({"path": "/v2/nowhere", "method": "GET"}, "Not Found: GET /docs lists what there is"),
    ]
    elsewhere: list[dict[str, Any]] = [{"body": {}}, {"path": "/nowhere"}, {"path": "/v1/contract"}]

    async def work(w: World) -> Any:
        said = [(await w.ask(**how)).json for how, _ in sent]
        others = [(await w.ask(**how)).json for how in elsewhere]
        w.state.service = None
        return said, others, (await w.ask(INFER, TENSORS)).json

    said, others, last = run(tmp_path, made, work)
    assert [s["error"] for s in said] == [error for _, error in sent]
    assert all(s["title"] and s["error"].startswith(s["title"]) for s in said)
    assert not any("error" in o for o in others)
    assert last["error"] == "not ready: models are being loaded and verified"


def test_the_description_is_true(tmp_path: Path, made: world.Made) -> None:
    """The example is decided; bounds in the description are those of the contract."""

    async def work(w: World) -> Any:
        described = (await w.ask("/openapi.json", method="GET")).json
        post = described["paths"]["/v1/decisions"]["post"]
        example = post["requestBody"]["content"]["application/json"]["examples"]["application"]["value"]
        return described, post, await w.ask(body=example), (await w.ask("/v1/contract", method="GET")).json

    described, post, decided, contract = run(tmp_path, made, work)
    assert decided.status == 200
    assert set(decided.json) == set(openapi.ANSWER["required"]) == set(openapi.EXAMPLE)
    features = post["requestBody"]["content"]["application/json"]["schema"]["properties"]["features"]
    assert features["properties"]["code"]["enum"] == [0, 1, 2]
    assert features["required"] == ["income", "debt", "code"]
    assert {"/v2/health/ready", "/v2/models/{name}/infer", "/v1/contract"} <= set(described["paths"])
    assert [f["name"] for f in contract["features"]] == [*FEATURES]


# --- variants


def test_a_subject_keeps_its_variant_and_a_shadow_answers_nobody(tmp_path: Path, made: world.Made) -> None:
    variants = (made.variant("a", 0.5), made.variant("b", 0.5), made.variant("c", 0.0, shadow=True))

    async def work(w: World) -> Any:
        said = [[(await w.ask(body={**SENT, "subject": f"s{i}"})).json["variant"] for i in range(40)] for _ in range(2)]
        rows = {name: window.seen for name, window in w.service.windows.items()}
        await w.ask(body={**SENT, "groups": {"race": "black"}})
        return said, rows, w.metrics.registry

    [first, second], rows, counted = run(tmp_path, made, work, *variants)
    assert first == second
    assert set(first) == {"a", "b"}
    assert rows == {"a": 2 * first.count("a"), "b": 2 * first.count("b"), "c": 80}
    for shadow in ("false", "true"):  # whoever counts answers leaves a shadow's out
        labels = {"shadow": shadow, "decision": "approved"}
        variants_of = "c" if shadow == "true" else "ab"
        assert sum(counted.get_sample_value("countersign_decisions_total", {**labels, "variant": v}) for v in variants_of) == 81
        assert sum(counted.get_sample_value("countersign_score_count", {"shadow": shadow, "variant": v}) for v in variants_of) == 81
        group = {**labels, "attribute": "race", "group": "black"}
        by_group = [counted.get_sample_value("countersign_group_decisions_total", {**group, "variant": v}) for v in variants_of]
        assert sum(n or 0 for n in by_group) == 1
    record = json.loads((tmp_path / "log" / "000000000001.jsonl").read_bytes().splitlines()[0])["body"]
    assert record["shadows"][0]["by"]["variant"] == "c"
    assert record["shadows"][0]["answer"] == record["answer"]


def test_live_data_is_held_against_the_reference(tmp_path: Path, made: world.Made) -> None:
    """Rows like those learned from are stable; rows from elsewhere are not (0.25 is the usual alarm)."""
    from tests.steps.example import ROWS

    like = [{n: row[n] for n in FEATURES} for row in ROWS.slice(0, 300).to_pylist()]

    async def work(w: World) -> Any:
        for i in range(FEWEST - 1):
            await w.ask(body={"subject": "x", "features": like[i]})
        few = w.metrics.registry.get_sample_value("countersign_psi", {"variant": "champion", "feature": "income"})
        for row in like[FEWEST:]:
            await w.ask(body={"subject": "x", "features": row})
        stable = dict(w.service.windows["champion"].stability())
        for _ in range(300):
            await w.ask(body={"subject": "x", "features": {**FEATURES, "debt": 5.0}})
        return few, stable, w.metrics.registry.get_sample_value("countersign_psi", {"variant": "champion", "feature": "debt"})

    few, stable, moved = run(tmp_path, made, work, strict=False)
    assert few is None
    assert set(stable) == set(FEATURES)
    assert max(stable.values()) < 0.1
    assert moved > 1


# --- replay


def test_every_decision_is_replayed_bit_for_bit(tmp_path: Path, made: world.Made) -> None:
    import shutil

    from workflows.run.store.local import LocalStore

    async def work(w: World) -> Any:
        bodies = [SENT, {"subject": "b", "features": DECLINED}, {**SENT, "explain": True}]
        return [(await w.ask(body=b)).json for b in bodies]

    said = run(tmp_path, made, work)
    shutil.copytree(made.store.documents, tmp_path / "store")
    store = LocalStore(content=tmp_path / "store", documents=tmp_path / "store")
    ship(tmp_path / "log", store, SIGNER, KEYS)
    assert [s.findings for s in verify_logs(store, "prod", KEYS)] == [()]
    for answer in said:
        found = replay(answer["id"], store, ["dev", "prod"], KEYS, Keeper(SUBJECT_KEY))
        assert found.same
        assert json.loads(found.now)["score"] == answer["score"]
        assert [r["feature"] for r in json.loads(found.now)["reasons"]] == [r["feature"] for r in answer["reasons"]]


def test_the_log_refuses_what_it_cannot_hold(tmp_path: Path, made: world.Made) -> None:
    async def work(w: World) -> Any:
        said = [await w.ask() for _ in range(4)]
        with pytest.raises(NotKept):
            await w.log.keep(b"{}", 1)
        return [s.status for s in said], said[0].json["receipt"]

    assert run(tmp_path, made, work, strict=False, most_waiting=3) == ([200, 200, 200, 503], None)
