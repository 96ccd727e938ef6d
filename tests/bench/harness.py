"""What every contest needs: timing side by side, child processes with their peak memory, tables, and the competitors' environment.

Kept free of heavy imports: a child inherits the peak memory of the process it is forked from.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
LOCK = HERE / "requirements.lock"


class CannotMeasure(Exception):
    """This contest, or one of its contestants, cannot be measured here, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What was aimed at, what was measured, and whether that is enough; `met` is None where it could not be measured."""

    what: str
    measured: str
    met: bool | None

    def line(self) -> str:
        verdict = {True: "met", False: "not met", None: "not measured"}[self.met]
        return f"| {self.what} | {self.measured} | {verdict} |"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """The outcome of a contest, ready to be written down."""

    title: str
    about: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()

    def markdown(self, name: str) -> str:
        def table(header: tuple[str, ...], lines: list[str]) -> list[str]:
            return [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *lines]

        parts = [f"## {self.title}", "", self.about, "", *table(self.header, [f"| {' | '.join(r)} |" for r in self.rows])]
        if self.goals:
            parts += ["", *table(("goal", "measured", ""), [g.line() for g in self.goals])]
        parts += [x for n in self.notes for x in ("", n)]
        return "\n".join([*parts, "", f"Measured on {machine()}. Repeat it with `make bench ONLY={name}`."])


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A child process that ended well."""

    seconds: float
    peak_mb: float
    out: str


@dataclass(kw_only=True)
class Measured:
    """Seconds of every round, by contestant, in the order in which they were listed."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Contestants that could not be measured, and why."""

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def spread(self, name: str) -> str:
        return f"{short(min(self.seconds[name]))} to {short(max(self.seconds[name]))}"

    def has(self, *names: str) -> bool:
        return all(n in self.seconds for n in names)


def side_by_side(contestants: Mapping[str, Callable[[], float]], rounds: int) -> Measured:
    """Run every contestant once a round, starting with another one in each round; each returns the seconds it took."""
    measured = Measured()
    names = list(contestants)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if name in measured.absent:
                continue
            try:
                measured.seconds.setdefault(name, []).append(contestants[name]())
            except CannotMeasure as error:
                measured.absent[name] = str(error)
                measured.seconds.pop(name, None)
            say(f"  round {turn + 1} of {rounds}: {name}: {measured.absent.get(name) or short(measured.seconds[name][-1])}")
    return Measured(seconds={n: measured.seconds[n] for n in names if n in measured.seconds}, absent=measured.absent)


def timed(words: list[str], *, cwd: Path, env: Mapping[str, str]) -> Done:
    """Run a program to its end; `CannotMeasure` with the end of what it said where it fails."""
    with tempfile.TemporaryFile("w+") as out:
        begun = time.perf_counter()
        child = subprocess.Popen(words, cwd=cwd, env=dict(env), stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read()
    if child.returncode:
        last = re.sub(r"\S*/\S*", "…", (said.strip().splitlines() or [""])[-1])[-200:]  # no paths of this machine
        raise CannotMeasure(f"{Path(words[0]).name} ended with {child.returncode}: {last}")
    return Done(seconds=seconds, peak_mb=usage.ru_maxrss / 1024, out=said)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for a contest, gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="countersign-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def environment(scratch: Path, *first_on_path: Path) -> dict[str, str]:
    """A clean environment: settings of this machine stay out, nobody reports usage, and no contestant reaches the network."""
    home = scratch / "home"
    home.mkdir(exist_ok=True)
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": os.pathsep.join([*(str(p) for p in first_on_path), str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "COUNTERSIGN_KEYS": str(scratch / "keys"),
        "DO_NOT_TRACK": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(scratch / "dvc-site"),
        "METAFLOW_DEFAULT_DATASTORE": "local",
        "METAFLOW_DEFAULT_METADATA": "local",
        "METAFLOW_USER": "bench",
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere),
        **{name: os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name in os.environ},
    }


def competitors(lock: Path = LOCK) -> Path:
    """The programs of a competitors' environment, made from its lock when first needed."""
    if not lock.exists():
        raise CannotMeasure(f"{lock.name} is missing")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "countersign" / "bench"
    venv = cache / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if not (venv / "installed").exists():
        say("installing the competitors (once, several minutes)")
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
            # The lock is complete; pip would stumble over a pin whose extra is named elsewhere.
            pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
            subprocess.run([*pip, "-r", str(lock)], check=True)
        except subprocess.CalledProcessError as error:
            raise CannotMeasure("could not be installed here") from error
        (venv / "installed").touch()
    return venv / "bin"


def versions(python: Path, *packages: str) -> dict[str, str]:
    """Installed versions, as that interpreter sees them."""
    script = "import sys, importlib.metadata as m\nfor n in sys.argv[1:]: print(m.version(n))"
    said = subprocess.run([str(python), "-c", script, *packages], capture_output=True, text=True, check=True).stdout
    return dict(zip(packages, said.split(), strict=True))


def machine() -> str:
    """What a reader needs to judge the figures: processor, cores, system, interpreter. No names of machines or people."""
    cores = len(os.sched_getaffinity(0))
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{cores} cores of {model}, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def short(seconds: float) -> str:
    """Seconds as a person reads them, three digits."""
    if seconds >= 100:
        return f"{seconds:.0f} s"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.3g} ms"


def times(ratio: float) -> str:
    """A ratio as a person reads it."""
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def project(folder: Path, name: str, steps: str, declaration: str, params: str = "{}\n") -> Path:
    """A checkout of this project's code with one pipeline of its own, under git, as a person would have it."""
    folder.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", "loan_approval.py")
    for part in ("workflows", "steps"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignore)
    for part in ("requirements.lock", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / part, folder / part)
    (folder / "steps" / f"{name}.py").write_text(steps)
    (folder / "workflows" / f"{name}.py").write_text(declaration)
    (folder / "params").mkdir()
    (folder / "params" / f"{name}.yaml").write_text(params)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=bench", "-c", "user.email=bench@example.org", "commit", "--quiet", "--message", "bench")
    return folder


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)
