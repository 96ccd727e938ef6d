"""A run as a trace: one root, a span an attempt, ids that follow from the run; and a collector that is in nobody's way."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NAMES, Home, eventually
from tests.otlp import ENDLESS, Collector, Span, collecting, endless, silent, trickling
from tests.s3server import free_port
from workflows.errors import GateRefused, Problem
from workflows.run import tracing

ROOT = Path(__file__).parents[2]
LISTED = "OTEL_EXPORTER_OTLP_ENDPOINT"


def by_name(spans: list[Span]) -> dict[str, Span]:
    found = {s.name: s for s in spans}
    assert len(found) == len(spans), "none is sent twice"
    return found


def traced(home: Home, collector: Collector, *words: str, count: int = 5) -> tuple[dict[str, Any], dict[str, Span]]:
    answer = home.run(*words, env={LISTED: collector.address})
    return answer, by_name(collector.wait_for(count))


def not_sent(home: Home) -> int:
    """How many spans the log of the checkout says are lost."""
    lines = [json.loads(x) for x in home.read(".countersign/log.jsonl").splitlines()]
    return sum(x["spans"] for x in lines if x["event"] == "traces are not sent")


def between_steps(home: Home, run: str) -> float:
    """Seconds from the beginning of a run's first step to that of its last."""
    lines = [json.loads(x) for x in home.read(".countersign/log.jsonl").splitlines()]
    at = [datetime.fromisoformat(x["timestamp"]) for x in lines if x["event"] == "started" and x["run"] == run]
    assert len(at) == 4
    return (max(at) - min(at)).total_seconds()


def test_a_run_is_one_trace_with_a_span_a_step(home: Home) -> None:
    from workflows.run.tracing import trace_of

    with collecting() as collector:
        answer, spans = traced(home, collector)
        assert set(collector.paths) == {"/v1/traces"}
    assert set(spans) == {"toy", "toy/pick", "toy/work@a", "toy/work@b", "toy/join"}
    assert {s.trace for s in spans.values()} == {trace_of(answer["run"])}
    root = spans["toy"]
    assert (root.parent, root.error, root.said["countersign.run"], root.said["countersign.root"]) == (
        "",
        False,
        answer["run"],
        answer["root"],
    )
    for name, s in spans.items():
        assert s.sender["service.name"] == "countersign-pipeline"
        assert 0 <= s.seconds <= root.seconds
        if name != "toy":
            assert s.parent == root.id
            assert s.said["countersign.step"] == name.partition("/")[2]
            assert (s.said["process.exit.code"], s.said["countersign.step.cached"], s.error) == (0, False, False)
            assert len(s.said["countersign.step.key"]) == len(s.said["countersign.record"]) == 64


def test_what_is_reused_says_so(home: Home) -> None:
    first = home.run()
    with collecting() as collector:
        second, spans = traced(home, collector, "--set", "work.seconds=0.01")
        assert home.run("--set", "work.seconds=0.01", env={LISTED: collector.address})["run"] == second["run"]
        assert len(collector.spans) == 5, "nothing was done, so nothing is told"
    assert first["run"] != second["run"]
    cached = {n: s.said["countersign.step.cached"] for n, s in spans.items() if n != "toy"}
    assert cached == {"toy/pick": True, "toy/work@a": False, "toy/work@b": False, "toy/join": True}


def test_a_step_that_fails_says_how_and_not_why(home: Home) -> None:
    with collecting() as collector:
        said = home.ask("run", "toy", "--set", "work.mode=boom", "--jobs", "1", env={LISTED: collector.address})
        spans = by_name(collector.wait_for(3))
        raw = b"".join(collector.bodies)
    assert said.code == 1
    assert (spans["toy"].error, spans["toy"].said["countersign.run.outcome"]) == (True, "failed")
    failed = spans["toy/work@a"]
    assert (failed.error, failed.said["process.exit.code"], failed.said["error.type"]) == (True, 1, "CountersignError")
    assert b"KeyError" not in raw


def test_a_gate_that_says_no_is_exit_code_3(home: Home) -> None:
    with collecting() as collector:
        assert home.ask("run", "toy", "--set", "pick.at_least=35", env={LISTED: collector.address}).code in {0, 3}
        home.write("params/policies/toy.yaml", home.read("params/policies/toy.yaml").replace(b"at_least: 100", b"at_least: 1000"))
        collector.bodies.clear()
        assert home.ask("run", "toy", env={LISTED: collector.address}).code == 3
        spans = by_name(collector.wait_for(5))
    refused = spans["toy/join"].said
    assert (refused["process.exit.code"], refused["error.type"], refused["countersign.step.outcome"]) == (3, "GateRefused", "refused")


def test_steps_that_dvc_starts_one_by_one_come_together(home: Home) -> None:
    """Each is a process of its own, as in a pod; they agree on the trace without a word."""
    with collecting() as collector:
        env = {LISTED: collector.address}
        for words in (("pick",), ("work", "--item", "a"), ("work", "--item", "b"), ("join",)):
            said = home.drive("toy", *words, env=env)
            assert said.code == 0, said.err
        spans = by_name(collector.wait_for(5))
    assert len({s.trace for s in spans.values()}) == 1
    assert {s.parent for n, s in spans.items() if n != "toy"} == {spans["toy"].id}
    assert f'"trace": "{spans["toy"].trace}"' in said.err


def test_no_data_is_in_a_span(home: Home) -> None:
    """Names and ages of people, values of parameters, keys and places of this machine."""
    with collecting() as collector:
        traced(home, collector, "--set", "work.seconds=0.03125")
        raw = b"".join(collector.bodies)
    assert b"toy/pick" in raw
    for value in (*NAMES, "people.csv", "0.03125", str(home.path), str(home.path.parent)):
        assert value.encode() not in raw, value
    # The sum of the ages, which digests hold by chance.
    assert not re.search(rb"(?<![0-9a-f])240(?![0-9a-f])", raw)


@pytest.mark.parametrize("sampler", ["always_off", "parentbased_always_off"])
def test_a_run_that_is_not_sampled_sends_nothing(home: Home, sampler: str) -> None:
    with collecting() as collector:
        home.run(env={"OTEL_TRACES_SAMPLER": sampler, LISTED: collector.address})
        assert collector.bodies == []


def test_a_collector_that_is_away_fails_nothing(home: Home) -> None:
    said = home.ask("run", "toy", "--json", env={LISTED: f"http://127.0.0.1:{free_port()}"})
    assert said.code == 0
    assert not_sent(home) == 5
    assert "Traceback" not in said.err


@pytest.mark.parametrize("collector", [silent, trickling])
def test_a_collector_that_hangs_fails_nothing_and_is_waited_for_once(home: Home, collector: Callable[[], Any]) -> None:
    """Steps that have ended wait for it side by side, while others work, and the run once more; it takes 2.5 seconds each."""
    begun = time.monotonic()
    first = home.run("--jobs", "1")["run"]
    plain = time.monotonic() - begun
    calm = between_steps(home, first)
    with collector() as address:
        begun = time.monotonic()
        said = home.ask("run", "toy", "--json", "--no-cache", "--jobs", "1", env={LISTED: address})
        took = time.monotonic() - begun
        assert said.code == 0, said.err
        assert not_sent(home) == 5
        assert took < 2 * plain + 2 * 2.5 + 3, "two waits, however many steps"
        assert between_steps(home, said.json["run"]) < 3 * calm + 1.5, "no step waits for what the one before it sends"
        begun = time.monotonic()
        said = home.drive("toy", "pick", env={LISTED: address})
        assert (said.code, "traces are not sent" in said.err) == (0, True)
        assert time.monotonic() - begun < 2 * plain + 2.5 + 3


def test_of_an_answer_without_end_only_the_beginning_is_read(home: Home) -> None:
    with endless() as (address, took):
        said = home.drive("toy", "pick", env={LISTED: address})
        assert (said.code, "traces are not sent" in said.err) == (0, False)
        eventually(lambda: len(took) == 1)
    assert took[0] < ENDLESS / 4


def test_settings_that_cannot_be_read_fail_nothing(home: Home) -> None:
    """OpenTelemetry reads this one when it is imported."""
    said = home.ask("run", "toy", "--json", env={LISTED: "http://127.0.0.1:9", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "-1"})
    assert said.code == 0, said.err
    assert not_sent(home) == 5


def test_without_a_thread_to_be_had_a_gates_no_is_still_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(_: object) -> None:
        raise RuntimeError("can't start new thread")

    class Ended:
        run, added, ended = "toy-0", [object()], None

    monkeypatch.setenv(LISTED, "http://127.0.0.1:9")
    monkeypatch.setattr(threading.Thread, "start", exhausted)
    with pytest.raises(GateRefused), tracing.sending(Ended()):  # type: ignore[arg-type]  # a journal
        raise GateRefused(Problem(what="no"))


def test_a_reproduction_is_no_part_of_the_first_runs_trace(home: Home) -> None:
    with collecting() as collector:
        answer, _ = traced(home, collector)
        said = home.ask("reproduce", answer["run"], "--json", env={LISTED: collector.address})
        assert said.code == 0, said.err
        assert len(collector.spans) == 5


@pytest.mark.parametrize("more", [{}, {LISTED: ""}, {LISTED: "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}])
def test_without_a_collector_nothing_is_imported(home: Home, more: dict[str, str]) -> None:
    script = (
        "import sys; from workflows.run.driver import main; code = main(['toy', 'pick']); "
        "print(code, sorted(m for m in sys.modules if m.startswith('opentelemetry')))"
    )
    assert home.finish(home.start("-c", script, env=more)).out.split("\n")[-2] == "0 []"


def test_with_one_it_is() -> None:
    """What the test above looks for is what there would be."""
    script = "import sys; from workflows.run import tracing; tracing.preload(); print('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "True\n"
