"""A small repository with a toy pipeline, to be run as a person would run it: as a program, in a folder of its own."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests import s3server, warm

ROOT = Path(__file__).parents[1]
NAMES = ("Ada Lovelace", "Grace Hopper", "Edith Clarke")
PEOPLE = "name,age\n" + "".join(f"{n},{30 + 10 * i}\n" for i, n in enumerate(NAMES))
SCHEMA = """format: {delimiter: ",", encoding: utf-8, "null": ""}
columns:
  - {name: name, type: string, nullable: false}
  - {name: age, type: int64, nullable: false}
"""
PARAMS = "pick:\n  at_least: 0\nwork:\n  mode: fine\n  seconds: 0.0\n"
# Files that take a minute or more. They are begun first, so that no worker waits for another one at the end.
LONGEST = (
    "run/test_loan_approval.py",
    "run/test_shared.py",
    "run/test_auditor.py",
    "run/test_pod.py",
    "run/test_s3.py",
    "cluster/test_commands.py",
    "compile/test_dvc_itself.py",
    "compile/test_compile.py",
    "docs/test_auditing.py",
    "docs/test_tutorial.py",
    "docs/test_operating.py",
    "steps/test_model.py",
    "infra/test_kustomize.py",
    "infra/test_with_code.py",
    "run/test_codec.py",
    "run/test_clock.py",
    "run/test_store.py",
    "prove/test_verify.py",
    "cluster/test_releasing.py",
    "cluster/test_auditor.py",
    "cluster/test_rights.py",
    "cluster/test_submit.py",
    "cluster/test_tampering.py",
    "cluster/test_by_hand.py",
    "cluster/test_clock.py",
    "cluster/test_dvc_alone.py",
    "cluster/test_reproducing.py",
    "cluster/test_promotion.py",
    "cluster/test_faults.py",
    "cluster/test_sharing.py",
    "cluster/test_submitter.py",
    "cluster/test_schedule.py",
    "cluster/test_push.py",
    "cluster/test_events.py",
    "cluster/test_fan_out.py",
    "cluster/test_helm.py",
)
HELD = ("--set", "work.mode=held")
POLICY = "enough:\n  - metric: total\n    at_least: 100\n    because: three people of forty are a hundred and twenty years, twice\n"


@pytest.hookimpl(trylast=True)  # after the order was drawn by lot
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(ROOT / "tests").as_posix()
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=rank)


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, kw_only=True)
class Home:
    """A checkout, and how to use it."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    def start(self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=cwd or self.path,
            env={**self.env, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ask(self, *words: str, cwd: Path | None = None, within: float = 240, env: Mapping[str, str] | None = None) -> Said:
        """`countersign` with these words."""
        return self.python_m("workflows.cli", *words, cwd=cwd, within=within, env=env)

    def python_m(self, *words: str, cwd: Path | None = None, within: float = 240, env: Mapping[str, str] | None = None) -> Said:
        """`python -m` with these words, to its end."""
        given = {**self.env, **(env or {})}
        if not warm.suits(given):
            return self.finish(self.start("-m", *words, cwd=cwd, env=env), within)
        folder = cwd or self.path
        code, out, err = warm.starter_for(folder).run(words, cwd=folder, env=given, within=within)
        return Said(code=code, out=out, err=err)

    def drive(self, *words: str, env: Mapping[str, str] | None = None) -> Said:
        """One task, as DVC or Argo start it."""
        return self.python_m("workflows.run.driver", *words, env=env)

    def hold(self) -> subprocess.Popen[str]:
        """A run whose two slow steps are at work, and stay so until `let_go`."""
        self.toy.mkdir(exist_ok=True)
        (self.toy / "hold").touch()
        process = self.start("-m", "workflows.cli", "run", "toy", *HELD)
        deadline = time.monotonic() + 120
        while len(list(self.toy.glob("at-work-*"))) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the steps did not begin"
            time.sleep(0.02)
        return process

    def let_go(self) -> None:
        (self.toy / "hold").unlink()

    @property
    def toy(self) -> Path:
        """Where held steps say that they are at work, and look whether they may go on."""
        return Path(self.env["TOY_FOLDER"])

    def finish(self, process: subprocess.Popen[str], within: float = 240) -> Said:
        try:
            out, err = process.communicate(timeout=within)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return Said(code=process.returncode, out=out, err=err)

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> Any:
        """A run that must work; its answer."""
        said = self.ask("run", "toy", "--json", *words, env=env)
        assert said.code == 0, said.err + said.out
        return said.json

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def leftovers(self) -> list[Path]:
        """Temporary files that should not be there."""
        return [p for p in self.path.rglob(".writing-*") if ".git" not in p.parts]

    def everything_written(self) -> bytes:
        """All that runs left behind except the source, kept content and the store's copy of it."""
        tops = [self.path / ".countersign", self.path / "artifacts"]
        return b"\0".join(p.read_bytes() for top in tops for p in sorted(top.rglob("*")) if p.is_file())


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("template") / "repo"
    ignore = shutil.ignore_patterns("__pycache__", "loan_approval.py")
    shutil.copytree(ROOT / "workflows", top / "workflows", ignore=ignore)
    (top / "steps").mkdir()
    for name in ("__init__.py", "types.py", "dataset.py"):
        shutil.copy(ROOT / "steps" / name, top / "steps")
    shutil.copy(ROOT / "tests/toy/steps_toy.py", top / "steps/toy.py")
    shutil.copy(ROOT / "tests/toy/toy.py", top / "workflows/toy.py")
    shutil.copy(ROOT / "requirements.lock", top)
    home = Home(path=top)
    home.write("params/toy.yaml", PARAMS)
    home.write("params/policies/toy.yaml", POLICY)
    home.write("data/toy/people.csv", PEOPLE)
    home.write("data/toy/schema.yaml", SCHEMA)
    home.write(".gitignore", "/artifacts/\n/.countersign/\n/.dvc/cache/\n/.dvc/tmp/\n__pycache__/\n")
    git(top, "init", "-q")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "toy")
    for package in ("workflows", "steps"):  # else the first command of every test would compile them anew
        compileall.compile_dir(top / package, quiet=2)
    return top


def git(top: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], cwd=top, check=True, capture_output=True)


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Home:
    return home_from(template, tmp_path)


SHARED = """\
work:
  seconds: 0.0
  mode: fine
  bands: &bands
    young: 0
    old: 90
pick:
  bands: *bands
  at_least: 0
"""


def with_lineage(home: Home) -> None:
    """Let the last step state the lineage, and two steps have parameters that the file writes once, in no order of theirs."""
    declared, steps = home.read("workflows/toy.py"), home.read("steps/toy.py")
    home.write("workflows/toy.py", declared.replace(b'run="steps.toy:join",', b'run="steps.toy:join", lineage=True,'))
    steps = steps.replace(b"def join(*,", b"def join(*, lineage: Report,")
    for first in (b"    at_least: int", b"    mode: Literal"):
        steps = steps.replace(first, b"    bands: dict[str, int]\n" + first)
    home.write("steps/toy.py", steps)
    home.write("params/toy.yaml", SHARED)


def with_secret(home: Home) -> None:
    """Let the first step be given the masking key."""
    home.write("workflows/toy.py", home.read("workflows/toy.py").replace(b"outputs=(ages,)", b'outputs=(ages,), secrets=("masking_key",)'))
    home.write("steps/toy.py", home.read("steps/toy.py").replace(b"people: pa.Table, ", b"people: pa.Table, masking_key: bytes, "))


def other_locale(folder: Path) -> dict[str, str]:
    """The environment of a Turkish user, whose dotless letters and decimal commas differ from C's in most; else plain UTF-8."""
    try:
        words = ["localedef", "-i", "tr_TR", "-f", "UTF-8", str(folder / "tr_TR.UTF-8")]
        subprocess.run(words, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return {"LC_ALL": "C.UTF-8"}  # every image has it beside C
    return {"LC_ALL": "tr_TR.UTF-8", "LOCPATH": str(folder)}


def lacking(what: str) -> NoReturn:
    """Leave a test out because of what this machine lacks; where everything is said to be there, that is a failure."""
    if os.environ.get("COUNTERSIGN_TEST_ALL"):
        pytest.fail(f"this machine lacks {what}")
    pytest.skip(f"this machine lacks {what}")


def eventually(holds: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def home_from(template: Path, scratch: Path) -> Home:
    """A fresh checkout of the toy pipeline, with keys of its own."""
    shutil.copytree(template, scratch / "repo")
    return make_home(scratch / "repo", scratch)


def make_home(top: Path, scratch: Path) -> Home:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COUNTERSIGN_", "AWS_", "PG", "KUBE", "ARGO_", "OTEL_"))}
    env = {
        **kept,
        "COUNTERSIGN_KEYS": str(scratch / "keys"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "200",
        "TOY_FOLDER": str(scratch / "toy"),
    }
    return Home(path=top, env={**env, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(scratch / "dvc"), "HOME": str(scratch)})


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3server.Server]:
    """An S3 server with a bucket `bank`, for the tests of a session; each takes a prefix of its own."""
    if s3server.program() is None and os.environ.get("COUNTERSIGN_TEST_ALL"):
        lacking("versitygw: make cluster-up builds it")
    with s3server.serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: s3server.Server, monkeypatch: pytest.MonkeyPatch) -> s3server.Server:
    """The server, with this process as its client."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def real_s3(s3: s3server.Server) -> s3server.Server:
    """The server, where it is one whose disk can be looked at and that can be stopped."""
    if not s3.real:
        lacking("versitygw: make cluster-up builds it")
    return s3
