"""Programs that are run to their end, and programs that are started to stay: those keep their own pid in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from infra.cluster.progress import wait_for
from workflows.errors import CountersignError

TAIL_LINES = 15
# The process writes its own id, before it becomes the program: so there is no moment in which it runs unrecorded.
RECORD_THEN_BECOME = 'echo $$ > "$0.partial" && mv "$0.partial" "$0" && exec "$@"'


class ProgramFailed(CountersignError):
    """A program that is needed ended with an error; its last words are in the message."""


def run(
    *words: str | Path,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> str:
    """Standard output. Raises ProgramFailed with the program's last lines."""
    done = attempt(*words, stdin=stdin, cwd=cwd, env=env, seconds=seconds)
    if done.returncode:
        told = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-TAIL_LINES:])
        raise ProgramFailed(f"{' '.join(map(str, words[:4]))} … ended with {done.returncode}:\n{told}")
    return done.stdout


def attempt(
    *words: str | Path,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """As it went, whatever its exit code. A program that outlives `seconds` is ended and counts as failed with 124."""
    given = [str(w) for w in words]
    try:
        return subprocess.run(
            given,
            input=stdin or "",
            cwd=cwd,
            env=env and {**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(given, 124, "", f"did not answer within {seconds} s")
    except FileNotFoundError:
        return subprocess.CompletedProcess(given, 127, "", f"{given[0]}: no such program")


@dataclass(frozen=True, kw_only=True, slots=True)
class Daemon:
    """A program of the local cluster that stays when `up` ends.

    `mark` is a path that only this cluster's process has among its words: it tells the process from a later one that
    got the same id.
    """

    name: str
    words: tuple[str, ...]
    mark: Path
    folder: Path

    @property
    def pid_file(self) -> Path:
        return self.folder / f"{self.name}.pid"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def pid(self) -> int | None:
        """The id of the running process; None when there is none."""
        try:
            number = int(self.pid_file.read_text())
            words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return number if any(str(self.mark).encode() in w for w in words) and not is_zombie(number) else None

    def runs(self) -> bool:
        return self.pid() is not None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pid_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            # In a session of its own and nobody's child: it stays when this command, its shell and its terminal go.
            subprocess.run(
                ["setsid", "--fork", "/bin/sh", "-c", RECORD_THEN_BECOME, str(self.pid_file), *self.words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
                cwd="/",
            )
        wait_for(f"{self.name} starts", self.pid_file.exists, seconds=10, every=0.05)

    def stop(self, seconds: float = 20) -> None:
        """Ends it, hard if it does not end by itself; nothing where it does not run."""
        number = self.pid()
        if number is not None:
            end(number, seconds=seconds)
        self.pid_file.unlink(missing_ok=True)

    def last_words(self) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        except OSError:
            return "(it left no log)"


def is_zombie(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] in {"Z", "X"}
    except OSError:
        return True


def end(number: int, *, seconds: float) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(number, how)
        except ProcessLookupError:
            return
        until = time.monotonic() + seconds
        while not is_zombie(number) and time.monotonic() < until:
            time.sleep(0.05)
        if is_zombie(number):
            return


def answers_http(url: str) -> bool:
    """Whether a health page of ours says that all is well."""
    with suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (http, on this machine)
        return bool(answer.status == HTTPStatus.OK)
    return False
