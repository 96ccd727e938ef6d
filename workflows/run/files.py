"""Files that are whole or not there: written beside their place, made durable, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from workflows.errors import BadInput, CountersignError, Problem, Temporary
from workflows.prove import digest
from workflows.prove.digest import Digests

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
BARRED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}


@contextlib.contextmanager
def scratch(folder: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary file in `folder`, gone when the block ends unless the block renamed it. A full disk is `Temporary`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".writing-", suffix=suffix, dir=folder)
        os.close(handle)
    except OSError as error:
        raise _explained(error, folder) from error
    temporary = Path(name)
    try:
        yield temporary
    except OSError as error:
        raise _explained(error, folder) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well."""
    with scratch(path.parent, path.suffix) as temporary:
        yield temporary
        settle(temporary, path, durable=durable)


def write(path: Path, data: bytes, *, durable: bool = True) -> None:
    """`data` at `path`, whole or not at all."""
    with whole(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def settle(temporary: Path, path: Path, *, durable: bool = True, mode: int = 0o644, replace: bool = True) -> None:
    """Bring a finished temporary file to its place, its bytes on the disk first where it must be durable.

    Without `replace` a file that is there already stays, also when it appears at the same moment.
    """
    if durable:
        handle = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    temporary.chmod(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    if replace:
        temporary.replace(path)
    else:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)


def digests(path: Path) -> Digests:
    """Digests of a file. A small one costs as few calls as can be: with many, Python's own files take a tenth of the time."""
    handle = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size
        data = os.read(handle, size + 1) if size < digest.SMALL else b""
    except OSError as error:
        error.filename = str(path)  # of a handle, the system knows no name
        raise
    finally:
        os.close(handle)
    if len(data) == size:
        return digest.of_bytes(data)
    with path.open("rb") as stream:  # large, or growing
        return digest.of_stream(stream)


def disk_full(path: Path) -> Temporary:
    """What to tell a person when there was no room to write at `path`."""
    return Temporary(
        Problem(what="no room left on the disk; nothing half-written was kept", where=str(path)),
        hint="make room and run the same command again: finished steps are not repeated",
    )


def trouble(error: OSError) -> CountersignError | None:
    """What to tell a person whose disk is full, or who may not read or write a file; None where it is something else."""
    if error.errno in FULL:
        return disk_full(Path(str(error.filename or ".")))
    if error.errno in BARRED:
        what = f"cannot be read or written: {error.strerror}"
        return BadInput(Problem(what=what, where=str(error.filename or "")), hint="see what it is, who owns it and who may use it: ls -l")
    return None


def _explained(error: OSError, folder: Path) -> OSError | Temporary:
    return disk_full(folder) if error.errno in FULL else error
