"""As many requests as an hour brings, to one server: whether it takes more and more memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import HERE, ROOT, CannotMeasure, Contest, Goal, environment, say, scratch, timed
from serving import STRICT, contestants, on_core, running

from tests.s3server import free_port
from tests.serve.process import metrics_of, total

RATE, HOUR = 100, 3600  # requests a second that an hour is counted at, seconds
LONGEST = 360.0  # seconds; a slower machine sends fewer, and says so
SCRAPE = 5.0  # seconds between two looks, as Prometheus has them; the population stability is worked out each time
WARM = 0.1  # of the requests, until libraries, windows and buffers have what they take
MOST = 5.0  # percent of growth after that
ROWS = 10
SPACE = 3 * 2**30  # bytes of disk: an hour's log, here and in the store


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """After so many requests, so many MiB of memory."""

    sent: int
    mib: float


def contest(most: int = RATE * HOUR) -> Contest:
    with scratch() as top:
        env = environment(top) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        timed([sys.executable, str(HERE / "serving_world.py"), str(top)], cwd=ROOT, env=env)
        mixed(top)
        port = free_port()
        ours = contestants(STRICT, top, env, port)
        with running(ours, port, top) as process:
            begun = time.monotonic()
            words = [*on_core(1), sys.executable, str(HERE / "serving_load.py"), str(port), "/v1/decisions", str(top / "mixed.jsonl")]
            load = subprocess.Popen([*words, "16", str(LONGEST), str(most)], env=env, stdout=subprocess.PIPE, text=True)
            looks = list(looked(load, process.pid, int(ours.env["COUNTERSIGN_METRICS_PORT"])))
            said = json.loads(load.communicate()[0])
            seconds = time.monotonic() - begun
    if load.returncode or set(said["statuses"]) - {"200", "422"}:
        raise CannotMeasure(f"answers with other statuses than 200 and 422: {said['statuses']}")
    return report(looks, most, seconds)


def mixed(top: Path) -> None:
    """Applications as they come: a few ask for reasons, a few cannot be decided."""
    ours, explained = ((top / f"{form}.jsonl").read_text().splitlines() for form in ("ours", "explained"))
    bad = [line.replace('"f00"', '"unknown"') for line in ours[:20]]
    (top / "mixed.jsonl").write_text("\n".join([*ours[:960], *explained[960:980], *bad]))


def looked(load: subprocess.Popen[str], server: int, metrics_port: int) -> Iterator[Look]:
    at = 0.0
    while load.poll() is None:
        time.sleep(0.2)
        if time.monotonic() - at > SCRAPE:
            at = time.monotonic()
            yield Look(sent=answered(metrics_port), mib=resident(server))
    yield Look(sent=answered(metrics_port), mib=resident(server))


def answered(metrics_port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=60) as said:
        return total(metrics_of(said.read().decode()), 'countersign_requests_total{route="/v1/decisions"')


def resident(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[0]) / 1024


def report(looks: list[Look], most: int, seconds: float) -> Contest:
    warm = [look for look in looks if look.sent >= WARM * looks[-1].sent]
    every = [next(look for look in warm if look.sent >= looks[-1].sent * (i + 1) / ROWS) for i in range(ROWS)]
    # A single look may fall on an allocation that is about to be freed.
    first, last = (sum(x.mib for x in part) / len(part) for part in (warm[: len(warm) // ROWS or 1], warm[-(len(warm) // ROWS or 1) :]))
    grown = 100 * (last - first) / first
    hour = looks[-1].sent >= most
    say(f"  {looks[-1].sent} requests in {seconds:.0f} s; {first:.1f} MiB, then {last:.1f} MiB; highest {max(x.mib for x in warm):.1f} MiB")
    return Contest(
        title="Serving: memory after an hour's requests",
        about=(
            f"One server, log `strict`, the model of the contest before. As many requests as an hour has at {RATE} a second, as fast as it "
            f"takes them over 16 connections ({looks[-1].sent:,} in {seconds:.0f} s): 2 % ask for reasons, 2 % cannot be decided. Its "
            f"metrics are read every {SCRAPE:g} s, and its log goes to a store in a folder."
        ),
        header=("requests", "memory"),
        rows=tuple((f"{look.sent:,}", f"{look.mib:.1f} MiB") for look in every),
        goals=(
            Goal(
                what=f"serving: memory grows by at most {MOST:g} % from the first tenth of an hour's requests to the last",
                measured=f"{grown:+.1f} %, from {first:.1f} to {last:.1f} MiB" + ("" if hour else f" after {looks[-1].sent:,}"),
                met=grown <= MOST if hour else None,
            ),
        ),
    )
