"""One application after another: our server with validation, metrics and a durable log against servers without any of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import HERE, ROOT, CannotMeasure, Contest, Goal, competitors, environment, say, scratch, timed, versions

sys.path.insert(0, str(ROOT))
from tests.s3server import free_port

CONNECTIONS, SECONDS, ROUNDS = 16, 4.0, 3
SERVING_LOCK = HERE / "serving-requirements.lock"
STRICT, BATCHED = "ours, log `strict`", "ours, log `batched`"
BARE, MLSERVER, BENTO = "bare FastAPI", "MLServer, no worker process", "BentoML, one worker"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """How a server is started, when it is up, and what it is asked for a score and for a score with contributions."""

    words: tuple[str, ...]
    env: Mapping[str, str]
    up: str
    predict: tuple[str, str]
    """Path, and the file of requests."""
    explain: tuple[str, str]


def contest() -> Contest:
    with scratch() as top:
        env = environment(top) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        timed([sys.executable, str(HERE / "serving_world.py"), str(top)], cwd=ROOT, env=env)
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        absent: dict[str, str] = {}
        for turn in range(ROUNDS):
            for name in (STRICT, BATCHED, BARE, MLSERVER, BENTO):
                if name not in absent:
                    try:
                        for what, said in measured(name, top, env).items():
                            found.setdefault((name, what), []).append(said)
                    except CannotMeasure as error:
                        absent[name] = str(error)
                        say(f"  {name}: {error}")
            say(f"  round {turn + 1} of {ROUNDS} done")
        return report(found, absent)


def measured(name: str, top: Path, env: Mapping[str, str]) -> dict[str, dict[str, float]]:
    port = free_port()
    contestant = contestants(name, top, env, port)
    with running(contestant, port, top):
        return {what: loaded(port, *asked, top, env) for what, asked in (("predict", contestant.predict), ("explain", contestant.explain))}


def loaded(port: int, path: str, form: str, top: Path, env: Mapping[str, str]) -> dict[str, float]:
    words = [sys.executable, str(HERE / "serving_load.py"), str(port), path, str(top / f"{form}.jsonl"), str(CONNECTIONS), str(SECONDS)]
    said = json.loads(timed([*on_core(1), *words], cwd=ROOT, env=env).out.splitlines()[-1])
    if set(said["statuses"]) != {"200"}:
        raise CannotMeasure(f"answers with other statuses than 200: {said['statuses']}")
    return {k: float(said[k]) for k in ("a_second", "p50", "p99")}


def on_core(number: int) -> list[str]:
    """Servers have one core, the load the other."""
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[number % len(cores)])] if shutil.which("taskset") and len(cores) > 1 else []


def contestants(name: str, top: Path, env: Mapping[str, str], port: int) -> Contestant:
    model = {**env, "MODEL": str(top / "model.txt")}
    if name in {STRICT, BATCHED}:
        mode = "strict" if name == STRICT else "batched"
        ports = {"COUNTERSIGN_PORT": str(port), "COUNTERSIGN_METRICS_PORT": str(free_port()), "COUNTERSIGN_LOG_MODE": mode}
        given = {**env, **json.loads((top / "environment.json").read_text()), **ports}
        return Contestant(
            words=(sys.executable, "-m", "workflows.serve", "--release", str(top / "release.json")),
            env=given,
            up="/v2/health/ready",
            predict=("/v1/decisions", "ours"),
            explain=("/v1/decisions", "explained"),
        )
    if name == BARE:
        words: tuple[str, ...] = (sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "serving_bare:app", "--port", str(port))
        words += ("--no-access-log", "--log-level", "warning")
        return Contestant(words=words, env=model, up="/docs", predict=("/predict", "plain"), explain=("/explain", "plain"))
    programs = competitors(SERVING_LOCK)
    if name == BENTO:
        words = (str(programs / "bentoml"), "serve", "serving_bento:Lending", "--working-dir", str(HERE), "--port", str(port))
        bento = {**model, "BENTOML_HOME": str(top / "bento"), "BENTOML_DO_NOT_TRACK": "True"}
        return Contestant(words=words, env=bento, up="/readyz", predict=("/predict", "bento"), explain=("/explain", "bento"))
    mlserver_models(top, port)
    return Contestant(
        words=(str(programs / "mlserver"), "start", str(top / "mlserver")),
        env={**model, "PYTHONPATH": str(HERE)},
        up="/v2/health/ready",
        predict=("/v2/models/plain/infer", "tensor"),
        explain=("/v2/models/explained/infer", "tensor"),
    )


def mlserver_models(top: Path, port: int) -> None:
    folder = top / "mlserver"
    folder.mkdir(exist_ok=True)
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({**ports, "host": "127.0.0.1", "parallel_workers": 0, "debug": False}))
    for name, kind in (("plain", "mlserver_lightgbm.LightGBMModel"), ("explained", "serving_mlserver.Explained")):
        (folder / name).mkdir(exist_ok=True)
        settings = {"name": name, "implementation": kind, "parameters": {"uri": str(top / "model.txt")}}
        (folder / name / "model-settings.json").write_text(json.dumps(settings))


@contextmanager
def running(contestant: Contestant, port: int, top: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (top / "said").open("w+") as said:
        words = [*on_core(0), *contestant.words]
        process = subprocess.Popen(words, cwd=top, env=dict(contestant.env), stdout=said, stderr=said, start_new_session=True)
        try:
            until_up(process, f"http://127.0.0.1:{port}{contestant.up}", top)
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def until_up(process: subprocess.Popen[bytes], url: str, top: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own machine
                return
        except OSError:
            time.sleep(0.2)
    lines = (top / "said").read_text().strip().splitlines()
    raise CannotMeasure(f"did not start: {lines[-1][-200:] if lines else 'it said nothing'}")


def report(found: Mapping[tuple[str, str], list[dict[str, float]]], absent: Mapping[str, str]) -> Contest:
    def median(name: str, what: str, key: str) -> float:
        return statistics.median(r[key] for r in found[name, what])

    def row(name: str, what: str) -> tuple[str, ...]:
        rate, p50, p99 = (median(name, what, k) for k in ("a_second", "p50", "p99"))
        words = {"predict": "score and decision", "explain": "with contributions"}[what]
        return (name, words, f"{rate:,.0f}", f"{1e3 * p50:.2f} ms", f"{1e3 * p99:.2f} ms")

    def goal(what: str, ours: tuple[str, str], theirs: tuple[str, str], least: float) -> Goal:
        if ours not in found or theirs not in found:
            return Goal(what=what, measured="no", met=None)
        ratio = median(*ours, "a_second") / median(*theirs, "a_second")
        return Goal(what=what, measured=f"{ratio:.2f} times", met=ratio >= least)

    rows = tuple(row(n, w) for w in ("predict", "explain") for n in (STRICT, BATCHED, BARE, MLSERVER, BENTO) if (n, w) in found)
    known = versions(Path(sys.executable), "fastapi", "uvicorn", "lightgbm")
    return Contest(
        title="Serving: one model, one core, one application a request",
        about=(
            f"LightGBM, 200 trees of 31 leaves, 30 features. {CONNECTIONS} connections, each asking again as soon as it was answered, "
            f"for {SECONDS:g} s, {ROUNDS} rounds: equal concurrency, and more requests for whoever is faster. All are processes on this "
            "machine, in no cluster; our log and its store lie in folders. The server has one core, the load the other. Ours validates "
            "against the contract, counts, keeps every decision in a chained log (strict: on the disk before the answer), and gives "
            "reasons with adverse decisions; the others parse, score and answer. " + ", ".join(f"{n} {v}" for n, v in known.items()) + "."
        ),
        header=("server", "asked for", "a second", "p50", "p99"),
        rows=rows,
        goals=(
            goal("score: at least 0.9 of bare FastAPI (log strict)", (STRICT, "predict"), (BARE, "predict"), 0.9),
            goal("score: at least 0.9 of bare FastAPI (log batched)", (BATCHED, "predict"), (BARE, "predict"), 0.9),
            goal("score: ahead of MLServer", (STRICT, "predict"), (MLSERVER, "predict"), 1.0),
            goal("score: ahead of BentoML", (STRICT, "predict"), (BENTO, "predict"), 1.0),
            goal("with reasons for every decision: three times MLServer", (STRICT, "explain"), (MLSERVER, "explain"), 3.0),
        ),
        notes=tuple(f"{n} could not be measured: {why}" for n, why in absent.items()),
    )
