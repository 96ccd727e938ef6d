"""A real server over real sockets: killed, drained, without room, without its store; nothing that it answered is ever lost."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import eventually
from tests.serve import hostile, world
from tests.serve.logs import KEYS, SIGNER, disk
from tests.serve.process import ROOT, Server, serving
from tests.serve.world import DECLINED, FEATURES
from workflows.prove import canonical
from workflows.run.store.local import LocalStore
from workflows.serve.log import FLUSH
from workflows.serve.server import MOST_CONNECTIONS, STILL_SENT, _aside
from workflows.serve.shipping import ship, verify_logs
from workflows.serve.watch import FEWEST

SENT = {"subject": "somebody", "features": FEATURES}


def logged(store: LocalStore) -> list[Any]:
    """Every record in the store, the logs verified."""
    said = verify_logs(store, "prod", KEYS)
    assert [f for s in said for f in s.findings] == []
    batches = sorted((store.documents / "decisions").rglob("00000000????"))
    contents = [p.read_bytes() for p in (store.documents / "files").rglob("*") if p.is_file()]
    lines = [x for data in contents if data.startswith(b'{"body"') for x in data.splitlines()]
    assert bool(lines) == bool(batches)
    return [json.loads(x)["body"] for x in lines]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What four clients were answered before the server was killed: each one's decisions in order, with the time of the answer."""

    answered: list[list[tuple[str, float]]]
    killed: float

    @property
    def ids(self) -> set[str]:
        return {name for own in self.answered for name, _ in own}


def killed_while_asked(server: Server) -> Asked:
    answered: list[list[tuple[str, float]]] = [[] for _ in range(4)]

    def client(n: int) -> None:
        killed = suppress(OSError, http.client.HTTPException, json.JSONDecodeError)
        with killed, closing(server.connection()) as over:
            for i in range(10_000):
                features = DECLINED if i % 2 else FEATURES
                status, said = server.ask("/v1/decisions", {"subject": f"{n}-{i}", "features": features}, over)
                assert status == 200
                answered[n].append((said["id"], time.monotonic()))

    clients = [threading.Thread(target=client, args=(n,)) for n in range(4)]
    for c in clients:
        c.start()
    while sum(map(len, answered)) < 400 and any(c.is_alive() for c in clients):
        time.sleep(0.01)
    killed = time.monotonic()
    server.stop(signal.SIGKILL)
    for c in clients:
        c.join()
    return Asked(answered=answered, killed=killed)


def test_kill_9_and_go_on(own: world.Made, tmp_path: Path) -> None:
    """Clients ask all the time; the server is killed; another takes up its log. Every answer is there, exactly once."""
    with serving(tmp_path, own) as server:
        asked = killed_while_asked(server)
    with serving(tmp_path, own) as second:
        assert second.ask("/v1/decisions", SENT)[0] == 200
        assert second.stop() == 0
    ids = [r["id"] for r in logged(own.store)]
    assert len(set(ids)) == len(ids) > 400
    assert asked.ids <= set(ids)


def test_kill_9_in_batched_mode_loses_the_last_moment_at_most(own: world.Made, tmp_path: Path) -> None:
    """What was answered up to `FLUSH` seconds before, and the time that a write takes, is there; of the rest, the last is lost first."""
    with serving(tmp_path, own, COUNTERSIGN_LOG_MODE="batched") as server:
        asked = killed_while_asked(server)
    with serving(tmp_path, own, COUNTERSIGN_LOG_MODE="batched") as second:
        assert second.ask("/v1/decisions", SENT)[0] == 200
        assert second.stop() == 0
    assert [len(said.recovered) for said in verify_logs(own.store, "prod", KEYS)] == [1]
    ids = {r["id"] for r in logged(own.store)}
    a_write = 1.0  # seconds, on a machine that does much else
    for one in asked.answered:
        kept = [name in ids for name, _ in one]
        assert kept == sorted(kept, reverse=True), "a hole before the end"
        assert all(asked.killed - at < FLUSH + a_write for (_, at), there in zip(one, kept, strict=True) if not there)


def test_told_to_go_it_finishes_what_goes_on(own: world.Made, tmp_path: Path) -> None:
    """Unready at once, still answering while it drains, everything signed and sent, exit 0."""
    with serving(tmp_path, own, COUNTERSIGN_DRAIN="1") as server:
        over = server.connection()
        assert server.ask("/v1/decisions", SENT, over)[0] == 200
        half = socket.create_connection(("127.0.0.1", server.port))
        data = json.dumps(SENT).encode()
        head = f"POST /v1/decisions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        half.sendall(head.encode() + data[:10])
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        status, why = server.ask("/v2/health/ready", None)
        assert (status, why["why"]) == (503, ["the server is being shut down"])
        half.sendall(data[10:])
        answer = half.recv(10_000)
        half.close()
        assert b" 200 OK" in answer
        assert b"connection: close" in answer.lower()
        assert server.ask("/v1/decisions", SENT)[0] == 200, "who is still sent here is answered"
        over.close()
        assert server.stop() == 0
    assert len(logged(own.store)) == 3


def test_told_to_go_it_listens_while_somebody_is_still_sent_to_it(own: world.Made, tmp_path: Path) -> None:
    """And not for ever."""
    with serving(tmp_path, own, COUNTERSIGN_DRAIN="2") as server:
        server.process.send_signal(signal.SIGTERM)
        began, answered = time.monotonic(), 0
        with suppress(OSError, http.client.HTTPException):
            while time.monotonic() - began < 60:
                assert server.ask("/v1/decisions", SENT)[0] == 200
                answered += 1
                time.sleep(0.1)
        assert 2 + STILL_SENT / 2 < time.monotonic() - began < 60
        assert server.stop() == 0
    assert len(logged(own.store)) == answered


@contextmanager
def store_away(own: world.Made) -> Iterator[None]:
    away = own.store.documents.with_name("away")
    own.store.documents.rename(away)
    own.store.documents.write_text("no folder, so nothing can be put into it")
    try:
        yield
    finally:
        own.store.documents.unlink()
        away.rename(own.store.documents)


def test_told_to_go_while_the_store_is_away_it_waits_for_it(own: world.Made, tmp_path: Path) -> None:
    """A pod's disk goes with it: what was answered is in the store before the process ends."""
    with serving(tmp_path, own) as server:
        with store_away(own):
            answered = [server.ask("/v1/decisions", SENT)[1]["id"] for _ in range(3)]
            server.process.send_signal(signal.SIGTERM)
            time.sleep(3)
            assert server.process.poll() is None, server.log
        assert server.stop() == 0
    assert [r["id"] for r in logged(own.store)] == answered


def test_told_to_go_while_the_store_stays_away_it_says_so(own: world.Made, tmp_path: Path) -> None:
    """The exit code and the last line tell that answered decisions are on the disk only, and where; a server on that folder sends them."""
    with serving(tmp_path, own, COUNTERSIGN_SEND="2") as server, store_away(own):
        answer = server.ask("/v1/decisions", SENT)[1]
        begun = time.monotonic()
        assert server.stop() == 75
        assert time.monotonic() - begun < 20
        [said] = [x for x in server.log.splitlines() if "answered are not in the store" in x]
        told = json.loads(said)
        assert (told["folder"], told["batches"], told["unsigned"]) == (str(tmp_path / "log"), 1, 0)
    [lines] = (x for x in (tmp_path / "log").glob("*.jsonl") if x.stat().st_size)
    data = lines.read_bytes()
    lines.write_bytes(data.replace(b'"score"', b'"SCORE"', 1))
    damaged = Server(tmp_path, own)
    try:
        eventually(lambda: "damaged" in why(damaged))
        assert damaged.stop() == 75, "it cannot take the log up, and says so"
        assert '"why":"the log was not opened"' in damaged.log.replace('": "', '":"')
    finally:
        damaged.stop(signal.SIGKILL)
    lines.write_bytes(data)
    with serving(tmp_path, own) as second:
        assert second.stop() == 0
    assert [r["id"] for r in logged(own.store)] == [answer["id"]]


def test_a_store_that_never_answers_does_not_keep_the_process() -> None:
    """What asks it is left behind: asyncio's own threads would be waited for, until the process is killed."""
    answer = threading.Event()

    async def end() -> None:
        async with asyncio.timeout(0.2):
            await _aside(lambda: answer.wait(20))

    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(end())
    assert time.monotonic() - begun < 10
    answer.set()


def test_no_room_and_then_room_again(own: world.Made, tmp_path: Path) -> None:
    """While its files cannot grow it refuses within milliseconds, and when they can it decides again, by itself."""
    with serving(tmp_path, own) as server:
        assert server.ask("/v1/decisions", SENT)[0] == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        status, said = server.ask("/v1/decisions", SENT)
        assert (status, said["title"]) == (503, "not decided")
        assert server.ask("/v2/health/ready", None)[0] == 503
        assert server.ask("/v2/health/live", None)[0] == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        server.ready(within=10)
        assert server.ask("/v1/decisions", SENT)[0] == 200
        assert server.stop() == 0
    assert len(logged(own.store)) == 2


def test_its_log_takes_no_more_than_it_may(own: world.Made, tmp_path: Path) -> None:
    """A volume's limit that the disk itself does not know: near it nothing is decided, and below it again everything."""
    statuses: list[int] = []
    with serving(tmp_path, own, COUNTERSIGN_LOG_SIZE="2Mi") as server:

        def ask() -> int:
            statuses.append(server.ask("/v1/decisions", SENT)[0])
            return statuses[-1]

        assert ask() == 200
        filler = tmp_path / "log" / "filler"
        filler.write_bytes(bytes(1_900_000))
        eventually(lambda: ask() == 503)
        assert why(server) == "['the decision log cannot be written']"
        assert server.ask("/v2/health/live", None)[0] == 200
        assert "nothing was decided" in server.ask("/v1/decisions", SENT)[1]["detail"]
        filler.unlink()
        server.ready()
        assert ask() == 200
        assert server.stop() == 0
    assert len(logged(own.store)) == statuses.count(200)


def why(server: Server) -> str:
    """What it says about why it is not ready; nothing before it listens, or once it is."""
    assert server.process.poll() is None, server.log
    try:
        status, said = server.ask("/v2/health/ready", None)
    except OSError:
        return ""
    return str(said["why"]) if status == 503 else ""  # HTTP names it by this number


def test_started_on_a_full_disk_it_serves_once_there_is_room(own: world.Made, tmp_path: Path) -> None:
    server = Server(tmp_path, own)
    try:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        eventually(lambda: "no room left" in why(server))
        assert server.ask("/v2/health/live", None)[0] == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        server.ready()
        assert server.ask("/v1/decisions", SENT)[0] == 200
    finally:
        server.stop(signal.SIGKILL)


def test_slow_ones_do_not_keep_others_waiting(own: world.Made, tmp_path: Path) -> None:
    """More of them than requests may be at work, and some who hang up: nobody else notices, and each is sent away in time."""
    body = json.dumps(SENT).encode()
    with serving(tmp_path, own) as server, ThreadPoolExecutor() as pool:
        address = ("127.0.0.1", server.port)
        slow = [pool.submit(hostile.slow, address, body, 300), pool.submit(hostile.slow, address, body, 20, head_only=True)]
        for n in range(40):
            hostile.hang_up(address, body, sent=10 + 9 * n, rudely=n % 2 == 0)
        over = server.connection()
        taken = []
        while not all(s.done() for s in slow):
            begun = time.monotonic()
            assert server.ask("/v1/decisions", SENT, over)[0] == 200
            taken.append(time.monotonic() - begun)
            time.sleep(0.02)
        over.close()
        [bodies, heads] = [s.result() for s in slow]
        assert {e.status for e in bodies} == {408}
        assert max(e.seconds for e in bodies) < 12
        assert {e.status for e in heads} == {0}
        assert max(e.seconds for e in heads) < 25
        assert sorted(taken)[len(taken) // 2] < 0.1
        assert max(taken) < 3
        requests = {k: v for k, v in server.metrics().items() if k.startswith('countersign_requests_total{route="/v1/decisions"')}
        assert requests['countersign_requests_total{route="/v1/decisions",status="408"}'] == 300
        assert not any('status="5' in k for k in requests)


def test_with_all_connections_taken_it_is_alive(own: world.Made, tmp_path: Path) -> None:
    """More are sent away at once; probes are answered all the same, and everybody once there is room."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with serving(tmp_path, own) as server, ExitStack() as held:

        def asked(path: str, body: Any = None) -> http.client.HTTPResponse:
            with closing(server.connection()) as over:
                over.request("POST" if body else "GET", path, json.dumps(body), {"content-type": "application/json"})
                return over.getresponse()

        for _ in range(MOST_CONNECTIONS):
            held.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        assert [asked("/v2/health/live").status, asked("/v2/health/ready?why").status] == [200, 200]
        away = asked("/v1/decisions", SENT)
        assert (away.status, away.headers["retry-after"], away.headers["connection"]) == (503, "1", "close")
        assert json.loads(away.read())["title"] == "too many connections"
        held.close()
        eventually(lambda: asked("/v1/decisions", SENT).status == 200)
        assert server.metrics()['countersign_requests_total{route="/v1/decisions",status="503"}'] >= 1


def test_what_does_not_verify_is_not_served(own: world.Made, tmp_path: Path) -> None:
    """One byte of the model is changed: alive, not ready, and the reason is said; mended, the same process serves."""
    path = own.store._address(own.items["model"].md5)
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good.replace(b"leaf_value=", b"leaf_walue=", 1))
    server = Server(tmp_path, own)
    try:
        eventually(lambda: "changed" in why(server))
        assert server.ask("/v1/decisions", SENT)[0] == 503
        assert server.ask("/v2/health/live", None)[0] == 200
        path.write_bytes(good)
        server.ready(within=30)
        assert server.ask("/v1/decisions", SENT)[0] == 200
    finally:
        server.stop(signal.SIGKILL)


def command(own: world.Made, top: Path, *words: str, **env: str) -> tuple[int, Any]:
    """`countersign` as whoever has the server's keys asks it: exit code, and what it answered."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), **world.environment(top, own), **env}
    asked = [sys.executable, "-m", "workflows.cli", *words, "--json"]
    done = subprocess.run(asked, env=given, cwd=top, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout or "null")


def test_a_decision_is_replayed_on_the_command_line(own: world.Made, tmp_path: Path) -> None:
    with serving(tmp_path, own) as server:
        assert server.metrics()["countersign_ready"] == 1
        answer = server.ask("/v1/decisions", {"subject": "somebody", "features": DECLINED})[1]
        metrics = server.metrics()
        assert metrics['countersign_decisions_total{decision="declined",shadow="false",variant="champion"}'] == 1
        assert metrics['countersign_requests_total{route="/v1/decisions",status="200"}'] == 1
        assert server.stop() == 0
    asked = partial(command, own, tmp_path)
    code, said = asked("replay", answer["id"])
    assert (code, said["same"], said["now"]["score"]) == (0, True, answer["score"])
    (tmp_path / "other").write_text("00" * 32)
    code, said = asked("replay", answer["id"], COUNTERSIGN_SUBJECT_KEY_FILE=str(tmp_path / "other"))
    assert (code, "cannot be opened with this subject key" in said["problems"][0]) == (4, True)
    code, said = asked("replay", answer["id"][:-1] + ("0" if answer["id"][-1] != "0" else "1"))
    assert (code, "no log in the store has this decision" in said["problems"][0]) == (2, True)
    chain = answer["id"].partition("-")[0]
    code, said = asked("decisions", "--noted", f"{chain}={answer['receipt']}")
    assert (code, said["environments"]["prod"][0]["records"]) == (0, 1)
    code, said = asked("decisions", "--env", "prod", "--noted", f"{chain}={'0' * 64}")
    assert code == 4


TABLE = re.compile(r"^\| (`countersign_.*`) \| .*\|$", re.MULTILINE)
NAME = re.compile(r"`(?:countersign)?(_[a-z_]+)(?:\{([a-z,]+)\})?`")
SERIES = re.compile(r"(\w+?)(?:_bucket|_count|_sum|_created)?(?:\{(.*)\})?")


def promised() -> dict[str, set[str]]:
    """Metric -> labels, as docs/serving.md has them."""
    text = (ROOT / "docs/serving.md").read_text()
    return {f"countersign{n}": set(filter(None, labels.split(","))) for cell in TABLE.findall(text) for n, labels in NAME.findall(cell)}


def measured(metrics: Mapping[str, float]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for series in metrics:
        match = SERIES.fullmatch(series)
        assert match, series
        found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return {name: labels - {"le"} for name, labels in found.items()}


def test_every_metric_that_is_promised_moves(own: world.Made, tmp_path: Path) -> None:
    """A real server, decisions with a shadow that is stricter, a refusal, a disk without room, a store that is away; scraped throughout."""
    stricter = world.make(own.store.documents, training={"threshold": 0.95}, run="stricter-0123456789ab")
    variants = (own.variant(), stricter.variant("challenger", 0.0, shadow=True))
    with serving(tmp_path, own, *variants, COUNTERSIGN_LOG_MODE="batched") as server, closing(server.connection()) as over:
        first = server.metrics()
        for i in range(FEWEST):
            body = {"subject": "x", "features": DECLINED if i % 10 == 0 else FEATURES, "groups": {"race": "black"}}
            assert server.ask("/v1/decisions", body, over)[0] == 200
        assert server.ask("/v1/decisions", {**SENT, "features": {**FEATURES, "income": 99}}, over)[0] == 422
        said = server.metrics()
        assert {n: labels for n, labels in measured(said).items() if n in promised()} == promised()
        for series, value in {
            'requests_total{route="/v1/decisions",status="200"}': 100,
            'requests_total{route="/v1/decisions",status="422"}': 1,
            'request_seconds_count{route="/v1/decisions"}': 101,
            "in_flight": 0,
            'refused_applications_total{what="out of range"}': 1,
            'decisions_total{decision="approved",shadow="false",variant="champion"}': 90,
            'decisions_total{decision="declined",shadow="false",variant="champion"}': 10,
            'decisions_total{decision="declined",shadow="true",variant="challenger"}': 100,
            'score_count{shadow="false",variant="champion"}': 100,
            'score_count{shadow="true",variant="challenger"}': 100,
            'group_decisions_total{attribute="race",decision="approved",group="black",shadow="false",variant="champion"}': 90,
            'shadow_disagreements_total{variant="challenger"}': 90,
            "ready": 1,
            f'release{{environment="prod",model="{own.model}",sequence="7",variant="champion"}}': 1,
        }.items():
            assert said[f"countersign_{series}"] == value, series
        assert said['countersign_request_seconds_sum{route="/v1/decisions"}'] > 0
        assert said['countersign_psi{feature="debt",variant="champion"}'] > 0.25
        assert first['countersign_shadow_disagreements_total{variant="challenger"}'] == 0

        def now(name: str) -> float:
            return sum(v for k, v in server.metrics().items() if k.partition("{")[0] == f"countersign_{name}")

        with store_away(own):
            eventually(lambda: now("log_unsent_batches") >= 1 and now("log_unsigned_records") == 0)
            assert (now("log_records"), now("log_waiting_records"), now("log_failures")) == (100, 0, 0)
            sent = now("log_sent_timestamp_seconds")
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
            assert server.ask("/v1/decisions", SENT)[0] == 200
            eventually(lambda: now("log_waiting_records") == 1 and now("ready") == 0)
            assert now("log_failures") >= 1
            assert server.ask("/v1/decisions", SENT)[0] == 503
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            eventually(lambda: now("log_waiting_records") == 0 and now("ready") == 1)
            assert (now("log_records"), now("log_sent_timestamp_seconds")) == (101, sent)
        eventually(lambda: now("log_unsent_batches") == 0 and now("log_sent_timestamp_seconds") > sent)
        eventually(lambda: server.ask("/v1/decisions", SENT)[0] == 200 and now("log_unsigned_records") > 0)


def test_an_answer_that_the_model_would_not_give_again_is_told(own: world.Made, made: world.Made, tmp_path: Path) -> None:
    """A record that whoever has the log's key wrote anew: all signatures hold, and the score is another."""
    with serving(tmp_path, own) as server:
        answer = server.ask("/v1/decisions", {"subject": "somebody", "features": DECLINED})[1]
        assert server.stop() == 0
    (line,) = (tmp_path / "log/000000000001.jsonl").read_bytes().splitlines()
    body = json.loads(line)["body"]
    body["answer"]["score"] = math.nextafter(body["answer"]["score"], 1)
    (tmp_path / "anew/log").mkdir(parents=True)
    shutil.copy(tmp_path / "log/chain.json", tmp_path / "anew/log")
    log = disk(tmp_path / "anew")
    log.append([(canonical.encode(body), int(answer["id"].split("-")[1], 16))])
    log.seal()
    log.close()
    shutil.copytree(made.store.documents, tmp_path / "anew/store")
    other = replace(made, store=LocalStore(content=tmp_path / "anew/store", documents=tmp_path / "anew/store"))
    assert ship(tmp_path / "anew/log", other.store, SIGNER, KEYS) == 1
    code, said = command(other, tmp_path, "replay", answer["id"])
    assert (code, said["same"], said["now"]["score"]) == (4, False, answer["score"])


def test_what_is_wrong_with_its_environment_is_said_at_once(own: world.Made, tmp_path: Path) -> None:
    server = Server(tmp_path, own, COUNTERSIGN_STORE="", COUNTERSIGN_LOG_MODE="loose", COUNTERSIGN_PORT="http", COUNTERSIGN_LOG_SIZE="1 GB")
    assert server.process.wait(30) == 2
    said = (
        "COUNTERSIGN_STORE: not set",
        "expected strict or batched, got loose",
        "COUNTERSIGN_PORT: not a whole",
        "512Mi or 1Gi, got 1 GB",
    )
    assert [x for x in said if x not in server.log] == []
    server.said.close()
