"""What a canary is judged by, asked of a real Prometheus that has watched a good release, a bad one and a silent one."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from tests.conftest import lacking
from tests.infra.test_chart import CHART, render
from tests.s3server import free_port

STABLE, GOOD, BAD, NARROW, SILENT = "stable", "good", "bad", "narrow", "silent"
WINDOW = 10  # seconds
TRAFFIC, PRODUCTIONS = 6, 9  # requests a second, old and new together, that the chart's and production's values say a canary needs
# Events a second of each release: requests answered well and badly; approved and declined by group.
RATES: dict[str, dict[str, float]] = {
    STABLE: {"200": 20, "503": 0, "approved a": 8, "declined a": 2, "approved b": 8, "declined b": 2},
    # Of group c there are too few to say anything.
    GOOD: {"200": 20, "503": 0.1, "approved a": 8, "declined a": 2, "approved b": 7, "declined b": 3, "declined c": 0.5},
    # Of group b nobody is approved: no such series exists.
    BAD: {"200": 10, "503": 10, "approved a": 5, "declined a": 5, "declined b": 10},
    # Of one group alone there is enough.
    NARROW: {"200": 20, "approved a": 8, "declined a": 2, "declined c": 0.5},
}
# Both new releases have a shadow, which would be refused by itself. The stable one is of a server that knew no such label.
SHADOW = {"approved a": 40.0, "declined b": 40.0}


def exposition(seconds: float) -> str:
    """The metrics of all releases after so many seconds, as the server exposes them."""
    lines = []
    for release, rates in RATES.items():
        where = f'namespace="prod",pod_template_hash="{release}"'
        for name, rate in rates.items():
            value = rate * seconds
            if name.isdecimal():
                lines.append(f'countersign_requests_total{{{where},route="/v1/decisions",status="{name}"}} {value}')
        # Whoever reads the description of a bad release, or of a silent one, is answered well and at once.
        lines.append(f'countersign_requests_total{{{where},route="other",status="200"}} {100 * seconds}')
        lines.append(f'countersign_request_seconds_bucket{{{where},route="other",le="0.1"}} {100 * seconds}')
        lines.append(f'countersign_request_seconds_bucket{{{where},route="other",le="+Inf"}} {100 * seconds}')
        lines += decided(where if release == STABLE else f'{where},shadow="false"', rates, seconds)
        if release != STABLE:
            lines += decided(f'{where},shadow="true"', SHADOW, seconds)
        slow = release == BAD
        for le, share in (("0.1", 0.0 if slow else 1.0), ("1", 0.5 if slow else 1.0), ("+Inf", 1.0)):
            lines.append(f'countersign_request_seconds_bucket{{{where},route="/v1/decisions",le="{le}"}} {share * 20 * seconds}')
    return "\n".join([*lines, ""])


def decided(where: str, rates: Mapping[str, float], seconds: float) -> Iterator[str]:
    """The decisions in all, and by group."""
    for decision in ("approved", "declined"):
        by = {name.partition(" ")[2]: rate * seconds for name, rate in rates.items() if name.startswith(decision)}
        yield f'countersign_decisions_total{{{where},decision="{decision}"}} {sum(by.values())}'
        for group, value in by.items():
            yield f'countersign_group_decisions_total{{{where},attribute="race",group="{group}",decision="{decision}"}} {value}'


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[float]]]:
    program = shutil.which("prometheus")
    if not program:
        lacking("prometheus: python infra/cluster programs prometheus says where it is")
    began = time.monotonic()

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = exposition(time.monotonic() - began).encode()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    job = {"job_name": "servers", "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    words = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        yield lambda query: _values(port, query)
    finally:
        process.terminate()
        process.wait(30)
        server.shutdown()
        server.server_close()


def _values(port: int, query: str) -> list[float]:
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        said = json.loads(answer.read())
    assert said["status"] == "success", said
    return [float(r["value"][1]) for r in said["data"]["result"]]


def metrics() -> list[dict[str, Any]]:
    analysis = {"window": WINDOW, "requests": 50, "attributes": ["race"], "group": 20}
    rendered = yaml.safe_load_all(render({"canary": {"enabled": True, "analysis": analysis}}))
    (template,) = [o for o in rendered if o["kind"] == "AnalysisTemplate"]
    return list(template["spec"]["metrics"])


def says(metric: dict[str, Any], values: list[float]) -> bool:
    """Success as Argo Rollouts works it out: this much of its language is Python's, but for its signs.

    Of success and failure exactly one holds: where both do it fails, and where neither does it is inconclusive and waits for ever.
    """

    def holds(condition: str) -> bool:
        python = condition.replace("||", " or ").replace("&&", " and ").replace("!", " not ")
        found = eval(python, {"__builtins__": {}}, {"len": len, "isNaN": math.isnan, "result": values})  # noqa: S307
        assert isinstance(found, bool), condition
        return found

    success, failure = holds(metric["successCondition"]), holds(metric["failureCondition"])
    assert success != failure, (metric["name"], values)
    return success


@pytest.mark.parametrize("values", [[], [math.nan], [-1.0], [0.0], [0.01], [0.1], [0.5], [0.8], [1.0], [50.0], [1e9], [math.inf]])
def test_each_number_says_either_yes_or_no(values: list[float]) -> None:
    said = {m["name"]: says(m, values) for m in metrics()}
    if not values or math.isnan(values[0]):
        assert not any(said.values())


def test_chance_alone_refuses_no_sound_release() -> None:
    """By the chart's own numbers, at the first share and with the traffic that they name: it takes three standard errors."""
    canary = yaml.safe_load((CHART / "values.yaml").read_text())["canary"]
    a, first = canary["analysis"], canary["weights"][0] / 100
    new, old = a["requests"], a["requests"] * (1 - first) / first
    for approved in (0.5, 0.6, 0.75, 0.9):
        spread = approved * (1 - approved)
        assert 3 * math.sqrt(spread / new + spread / old) <= a["shift"]
    arrive = TRAFFIC * first * a["window"]
    assert arrive - 3 * math.sqrt(arrive) >= a["requests"]
    # Of the logarithm of a ratio of two shares (Katz and others, 1978).
    for approved, group in ((0.75, a["group"]), (0.5, 3 * a["group"])):
        assert math.exp(-3 * math.sqrt(2 * (1 - approved) / (approved * group))) >= a["fairness"]
    assert canary["seconds"] >= a["window"], "the window looks back beyond the time of this share"
    prod = yaml.safe_load((CHART / "environments/prod.yaml").read_text())["canary"]
    assert prod["seconds"] >= prod["analysis"]["window"]
    assert PRODUCTIONS * first * prod["analysis"]["window"] / 10 >= a["group"], "of a tenth of the applicants"


@pytest.fixture(scope="module")
def verdicts(ask: Callable[[str], list[float]]) -> dict[str, dict[str, tuple[bool, list[float]]]]:
    """Release -> metric -> what it says, and the number."""
    deadline = time.monotonic() + 60
    query = f'sum(increase(countersign_requests_total{{pod_template_hash="stable",route="/v1/decisions"}}[{WINDOW}s]))'
    while time.monotonic() < deadline:
        try:
            if (found := ask(query)) and found[0] > WINDOW * 15:
                break
        except OSError:
            pass
        time.sleep(0.5)
    asked = metrics()
    return {
        release: {
            m["name"]: (says(m, v), v)
            for m in asked
            for v in [ask(m["provider"]["prometheus"]["query"].replace("{{args.canary}}", release).replace("{{args.stable}}", STABLE))]
        }
        for release in (GOOD, BAD, NARROW, SILENT)
    }


def test_a_good_release_passes_by_all(verdicts: Any) -> None:
    assert {name: said for name, (said, _) in verdicts[GOOD].items()} == dict.fromkeys(
        ["requests", "errors", "p99", "shift", "fairness-race"], True
    ), verdicts[GOOD]


def test_a_bad_one_fails_by_each_that_it_is_bad_in(verdicts: Any) -> None:
    found = verdicts[BAD]
    assert {name for name, (said, _) in found.items() if not said} == {"errors", "p99", "shift", "fairness-race"}
    assert found["errors"][1] == [pytest.approx(0.5, abs=0.05)]
    assert found["shift"][1] == [pytest.approx(0.8 - 0.25, abs=0.05)]
    assert found["fairness-race"][1] == [0.0], "a group that nobody was approved of counts, and with nought"


def test_one_group_alone_is_not_found_fair(verdicts: Any) -> None:
    assert {name for name, (said, _) in verdicts[NARROW].items() if not said} == {"fairness-race"}, verdicts[NARROW]
    assert verdicts[NARROW]["fairness-race"][1] == []


def test_of_a_silent_one_nothing_can_be_said_and_that_is_no(verdicts: Any) -> None:
    assert not any(said for said, _ in verdicts[SILENT].values()), verdicts[SILENT]
