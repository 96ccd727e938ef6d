"""Starts Python programs from a process that has the third-party libraries loaded already.

Most of what a short command of ours takes is the import of libraries. Here one process imports them once, and each program is
a fork of it: in its own folder, with its own environment, arguments and process group, and with the project's own modules from
that folder, as `python -m MODULE` would. Those are read once for all folders that hold the same ones, file by file. What an
interpreter reads only as it starts (`PYTHON...`, `TZ`, the locale, numbers of threads) cannot be given this way; `suits` says so.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARIES = (
    "boto3",
    "botocore.session",
    "botocore.client",
    "botocore.httpsession",
    "cryptography.hazmat.primitives.serialization",
    "hera.workflows",
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "pydantic",
    "rich.console",
    "rich.live",
    "rich.progress",
    "rich.table",
    "rich.traceback",
    "ruamel.yaml",
    "securesystemslib.dsse",
    "securesystemslib.signer",
    "structlog",
    "typer",
    "urllib3",
)
OURS = "workflows"
"""The package that programs have from their own folder."""
READ_BEFOREHAND = ("workflows.cli", "workflows.run.driver")
READ_AT_START = ("PYTHON", "TZ", "LC_", "LANG", "OMP_", "OPENBLAS_", "MKL_", "LD_", "MALLOC_", "ARROW_")


def suits(env: Mapping[str, str]) -> bool:
    """Whether a program with this environment can be started here: nothing that is read at the start differs from this process's."""

    def read_at_start(names: Mapping[str, str]) -> dict[str, str]:
        return {k: v for k, v in names.items() if k.startswith(READ_AT_START)}

    return read_at_start(env) == read_at_start(os.environ)


@dataclass(frozen=True, slots=True)
class Starter:
    """A way to a process that has the libraries, and in a branch our own modules, too. Programs may run at the same time."""

    process: subprocess.Popen[bytes]
    line: socket.socket

    def run(self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], within: float) -> tuple[int, str, str]:
        """`python -m WORDS`: exit code (negative: ended by that signal), stdout, stderr. Killed, with its group, after `within` seconds."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            mine, theirs = _ends()
            with mine:
                with theirs:
                    self._ask({"words": list(words), "cwd": str(cwd), "env": dict(env)}, out, err, theirs)
                code = self._await(mine, int(mine.recv(32) or b"0"), within)
            return code, _text(out), _text(err)

    def branch(self, folder: Path) -> Starter:
        """A fork of this starter that has read our own modules from `folder`."""
        line, its = _ends()
        mine, theirs = _ends()
        with mine, theirs, its, Path(os.devnull).open("wb") as out:
            self._ask({"cwd": str(folder), "env": dict(os.environ)}, out, sys.__stderr__, theirs, its)
        return Starter(process=self.process, line=line)

    def _ask(self, asked: Mapping[str, Any], *passed: Any) -> None:
        """Ask for a fork, with the files and sockets that it gets: its stdout, stderr, where to say how it ended, perhaps a line."""
        with tempfile.TemporaryFile() as kept:
            kept.write(json.dumps(asked).encode())
            kept.flush()
            socket.send_fds(self.line, [b"x"], [f.fileno() for f in (kept, *passed)])

    @staticmethod
    def _await(line: socket.socket, pid: int, within: float) -> int:
        line.settimeout(within)
        try:
            if not pid or not (ended := line.recv(32)):
                raise RuntimeError("the process that starts programs is gone")
            return os.waitstatus_to_exitcode(int(ended))
        except TimeoutError:
            os.killpg(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(str(pid), within) from None

    def stop(self) -> None:
        for branch in filter(None, _branches.values()):
            branch.line.close()
        self.line.close()
        self.process.wait(timeout=30)


@functools.cache
def starter() -> Starter:
    """The one of this process; it ends with it."""
    mine, theirs = _ends()
    with theirs:
        process = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    found = Starter(process=process, line=mine)
    atexit.register(found.stop)
    return found


_branches: dict[tuple[Any, ...], Starter | None] = {}
"""By the modules that a folder holds; None where such a folder was met once."""


def starter_for(folder: Path) -> Starter:
    """The one that has read the same modules of ours as stand in this folder; the plain one where there are none.

    It also is for a folder that is met first: mostly a test's own change of our code, and nothing is won by reading that beforehand.
    """
    held = tuple(sorted((str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in (folder / OURS).rglob("*.py")))
    if not held or held not in _branches:
        _branches[held] = None
        return starter()
    branch = _branches[held] = _branches[held] or starter().branch(folder)
    return branch


def _ends() -> tuple[socket.socket, socket.socket]:
    """Two ends of a line that keeps messages apart: who reads late does not read two numbers as one."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode())


# --- In the process that has the libraries


def _serve(line: socket.socket) -> dict[str, Any] | None:
    """Fork for each request, and say how each ended. Comes back in the forks, with what is asked of them; with None at the end."""
    running: dict[int, tuple[int, socket.socket]] = {}
    ready = selectors.DefaultSelector()
    ready.register(line, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fd in running:
                ready.unregister(key.fd)
                pid, to = running.pop(key.fd)
                _answer(to, os.waitpid(pid, 0)[1])
                to.close()
                os.close(key.fd)
                continue
            message, fds, *_ = socket.recv_fds(line, 1, 5)
            if not message:
                return None
            to = socket.socket(fileno=fds[3])
            if not (pid := os.fork()):
                for other in (line, to, *(s for _, s in running.values())):
                    other.detach()  # `_become` closes it; an object that is forgotten later must not close its number again
                ready.close()
                return _become(fds)
            for fd in (*fds[:3], *fds[4:]):
                os.close(fd)
            _answer(to, pid)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = (pid, to)
            ready.register(pidfd, selectors.EVENT_READ)


def _answer(to: socket.socket, number: int) -> None:
    try:
        to.send(str(number).encode())
    except OSError:  # whoever asked has given up
        return


def _become(fds: Sequence[int]) -> dict[str, Any]:
    """What a process of its own would be: group, streams, folder, environment. Where a fifth number is given, its `line` stays open."""
    os.setsid()
    with os.fdopen(fds[0]) as file:
        file.seek(0)
        asked: dict[str, Any] = json.load(file)
    os.dup2(fds[1], 1)
    os.dup2(fds[2], 2)
    if fds[4:]:
        asked["line"] = os.dup2(fds[4], 3)
    os.closerange(4 if fds[4:] else 3, 256)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    return asked


def _move(old: str, new: str) -> None:
    """Let modules that were read from one folder be those of another one that holds the same."""
    for module in list(sys.modules.values()):
        file, path = getattr(module, "__file__", None), getattr(module, "__path__", None)
        if file and file.startswith(old + os.sep):
            module.__file__ = new + file[len(old) :]
            if path is not None:
                module.__path__ = [new + p[len(old) :] for p in path]


def _main() -> None:
    for name in LIBRARIES:
        __import__(name)
    gc.freeze()
    asked, read = _serve(socket.socket(fileno=int(sys.argv[1]))), ""
    while asked and "line" in asked:
        read = sys.path[0] = asked["cwd"]
        for name in READ_BEFOREHAND:
            __import__(name)
        gc.freeze()
        asked = _serve(socket.socket(fileno=asked["line"]))
    if asked is None:
        return
    if read:
        _move(read, asked["cwd"])
    sys.path[0] = asked["cwd"]
    sys.argv = ["-m", *asked["words"][1:]]
    sys.modules.pop(asked["words"][0], None)  # it runs as __main__
    _leave(_run(asked["words"][0]))


def _run(module: str) -> int:
    """`python -m MODULE`, to its exit code."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:  # noqa: BLE001 - as an interpreter does at its end
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _leave(code: int) -> None:
    """Ends as an interpreter does, but for taking every object apart: with these libraries that takes most of a second."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _main()
