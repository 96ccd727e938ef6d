"""The decision log on a disk: lines appended and made durable, files signed when they are full, and what a crash left mended.

| file | what |
|---|---|
| `chain.json` | the chain's id, environment and pipeline |
| `open` | empty: a process writes here, or was killed before it had signed all that it wrote |
| `000000000001.jsonl` | lines, named by the number of the first |
| `000000000001.batch` | the signed statement about that file; without one, it is being written |
| `000000000001.sent` | empty: file and statement are in the store |
| `000000000001.torn-<offset>` | what a crash left of requests that nobody was answered for |

One process at a time; its methods are called by one thread at a time.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from workflows.errors import BadInput, NotVerified, Problem, Temporary
from workflows.prove import canonical
from workflows.prove.signature import BadSignature, Keyring, Signer
from workflows.run import files
from workflows.serve import chain as chains
from workflows.serve.chain import Batch, Broken, Head, NotABatch

LINES, SIGNED, SENT = ".jsonl", ".batch", ".sent"
OPEN = "open"
NEVER = 2**44  # milliseconds since 1970, later than any decision
PROBE = 64 * 1024  # bytes that must find room before a full disk counts as mended
MOST_SENT = 200  # batches in the store that also stay here: each takes blocks of the disk and time at every look, however small
Records = Sequence[tuple[bytes, int]]
"""Of one request: the body of each decision's record, canonical JSON, and its time in milliseconds since 1970."""
ASIDE = "keep the folder for whoever looks into it, and start with an empty one: that begins a new chain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """Whose log it is, who signs it, and whose signatures count when it is taken up again."""

    environment: str
    pipeline: str
    signer: Signer
    keys: Keyring
    now: Callable[[], str]
    """The time, as RFC 3339 has it."""


class Disk:
    """One chain in a folder. Making it mends what a crash left, or raises `NotVerified` where more than that is wrong.

    `most`: bytes of the disk that lines may fill with all else in the folder; None where only the disk sets a limit.
    """

    def __init__(self, folder: Path, owner: Owner, *, most: int | None = None) -> None:
        self.folder, self._owner, self._most = folder, owner, most
        self._lock = _locked(folder)
        self._handle: int | None = None
        self._size, self._begun, self._ended, self._unclean = 0, NEVER, 0, False
        try:
            self._take_up()
        except BaseException:
            self.close(whole=False)  # whoever tries again in this process must find the folder free
            raise

    def _take_up(self) -> None:
        self.chain = _identity(self.folder, self._owner)
        self._before: str | None = None
        self.head = chains.start(self.chain)
        self.torn = 0
        """Bytes of unfinished requests that the last crash left."""
        self._settled()
        self._begin()
        self._killed = (self.folder / OPEN).exists()
        """Whether the process before was killed, and no batch says so yet: in batched mode it may have lost what it answered."""
        self._recover()
        files.write(self.folder / OPEN, b"")
        self._taken = taken(self.folder)

    @property
    def waiting(self) -> int:
        """Lines that no statement covers yet."""
        return self.head.number - self._first + 1

    def append(self, *requests: Records) -> list[list[Head]]:
        """Add a line for each record of each request, all durable on return, and say where each stands.

        On an OSError none of them stands, and the next call may work. A crash leaves no request by halves.
        """
        data, found, head = bytearray(), [], self.head
        for records in requests:
            heads, more = [], len(records)
            for body, _ in records:
                more -= 1
                text, head = chains.line(body, self.chain, head, more)
                heads.append(head)
                data += text + b"\n"
            found.append(heads)
        self._find_room(len(data))
        self._write(data)
        self._taken += len(data)
        self._count(data, head, [at for records in requests for _, at in records])
        return found

    def seal(self) -> Batch | None:
        """Sign what was written since the last time; None where that is nothing."""
        if not self.waiting:
            return None
        batch = Batch(
            chain=self.chain,
            environment=self._owner.environment,
            pipeline=self._owner.pipeline,
            first=self._first,
            last=self.head.number,
            previous=self._previous,
            head=self.head.sha256,
            before=self._before,
            sha256=self._sha.hexdigest(),
            md5=self._md5.hexdigest(),
            size=self._size,
            begun=self._begun,
            ended=self._ended,
            recovered=self._killed,
            at=self._owner.now(),
        )
        envelope = self._owner.signer.sign(chains.encode(batch))
        files.write(self.folder / f"{batch.name}{SIGNED}", envelope)
        self._before, self._killed = hashlib.sha256(envelope).hexdigest(), False
        self._release()
        self._begin()
        self._taken = taken(self.folder)
        return batch

    def probe(self) -> None:
        """OSError, or `Temporary`, while there is no room for more."""
        self._taken = taken(self.folder)
        self._find_room(PROBE)
        with files.scratch(self.folder) as path, path.open("wb", buffering=0) as file:
            if file.write(bytes(PROBE)) < PROBE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())

    def close(self, *, whole: bool = True) -> None:
        """Let the folder go. What was not sealed is sealed by whoever opens it next, who says so, too, where not `whole`."""
        self._release()
        if whole and not self.waiting and not self._killed:
            (self.folder / OPEN).unlink(missing_ok=True)
        os.close(self._lock)

    def _find_room(self, size: int) -> None:
        if self._most is not None and self._taken + size > self._most:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write(self, data: bytearray) -> None:
        handle = self._opened()
        if self._unclean:
            os.ftruncate(handle, self._size)
        self._unclean = True
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(handle, view) :]
            os.fdatasync(handle)
        except OSError:
            with suppress(OSError):  # else the next write does it
                os.ftruncate(handle, self._size)
            raise
        self._unclean = False

    def _count(self, data: bytes | bytearray, head: Head, times: Sequence[int]) -> None:
        self._size += len(data)
        self._sha.update(data)
        self._md5.update(data)
        self._begun, self._ended = min(self._begun, *times), max(self._ended, *times)
        self.head = head

    def _begin(self) -> None:
        """Open the file that the next line goes into."""
        self._first, self._previous = self.head.number + 1, self.head.sha256
        self._sha, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._size, self._begun, self._ended, self._unclean = 0, NEVER, 0, False
        self._opened()

    def _opened(self) -> int:
        """The handle of that file. Where a full disk had no room for its name, the next line's turn makes it."""
        if self._handle is None:
            path = self.folder / f"{self._first:012d}{LINES}"
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                _durable(self.folder)
            except OSError:
                os.close(handle)
                raise
            self._handle = handle
        return self._handle

    def _release(self) -> None:
        """Close the file. Its number is forgotten first: the system gives it to the next file, or socket, that is opened."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def _settled(self) -> None:
        """Follow the signed batches that lie here; the first may follow one that was sent and cleared away."""
        for i, path in enumerate(sorted(self.folder.glob(f"*{SIGNED}"))):
            try:
                opened = chains.open_batch(path.read_bytes(), self._owner.keys)
                b = opened.batch
                if i == 0 and b.first > 1:
                    self._before, self.head = b.before, Head(number=b.first - 1, sha256=b.previous)
                if (b.chain, b.name, b.first, b.previous, b.before) != (
                    self.chain, path.stem, self.head.number + 1, self.head.sha256, self._before
                ):  # fmt: skip
                    raise Broken("it does not follow the batch before it")
                chains.bodies(b, path.with_suffix(LINES).read_bytes())
            except (BadSignature, NotABatch, Broken, FileNotFoundError) as error:
                raise NotVerified(Problem(what=f"the decision log is damaged: {error}", where=str(path)), hint=ASIDE) from error
            self._before, self.head = opened.sha256, Head(number=b.last, sha256=b.head)

    def _recover(self) -> None:
        """Take up the file that was being written: whole requests stay and are signed; what has no end nobody was answered for."""
        path = self.folder / f"{self._first:012d}{LINES}"
        for lines in sorted(self.folder.glob(f"*{LINES}")):
            if lines != path and not lines.with_suffix(SIGNED).exists():
                if not lines.with_suffix(SENT).exists():
                    raise NotVerified(Problem(what="lines that no batch leads to", where=str(lines)), hint=ASIDE)
                lines.unlink()
        data = path.read_bytes()
        whole = chains.whole(data)
        if torn := data[len(whole) :]:
            self.torn = len(torn)
            files.write(path.with_suffix(f".torn-{len(whole)}"), torn)
            os.ftruncate(self._opened(), len(whole))
            os.fsync(self._opened())
        if not whole:
            return
        try:
            found = list(chains.follow(whole.split(b"\n")[:-1], self.chain, self.head))
        except Broken as error:
            raise NotVerified(Problem(what=f"the decision log is damaged: {error}", where=str(path)), hint=ASIDE) from error
        self._count(whole, found[-1][1], [_time_of(body) for body, _ in found])
        self._killed = True
        self.seal()


def unsent(folder: Path) -> list[Path]:
    """Statements that are not in the store yet, in order."""
    return [p for p in sorted(folder.glob(f"*{SIGNED}")) if not p.with_suffix(SENT).exists()]


def clear(folder: Path, keep: int, most: int = MOST_SENT) -> None:
    """Remove what was sent, the oldest first, while more than `keep` bytes lie here, or more than `most` batches besides the last.

    The last batch stays: the next follows it.
    """
    sent = [p for p in sorted(folder.glob(f"*{SIGNED}"))[:-1] if p.with_suffix(SENT).exists()]
    size = taken(folder)
    for i, path in enumerate(sent):
        if size <= keep and len(sent) - i <= most:
            return
        # In this order: lines without a statement that say they were sent are what an interrupted clearing left.
        for suffix in (SIGNED, LINES, SENT):
            size -= _blocks(path.with_suffix(suffix))
            path.with_suffix(suffix).unlink(missing_ok=True)


def taken(folder: Path) -> int:
    """Bytes of the disk that the folder's files take, in whole blocks as the disk counts them."""
    return sum(_blocks(path) for path in folder.iterdir())


def _blocks(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512  # POSIX's unit, whatever the disk's own blocks are
    except FileNotFoundError:
        return 0  # it has just gone


def _time_of(body: bytes) -> int:
    return int(canonical.read(body)["id"].split("-")[1], 16)


def _durable(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _locked(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise Temporary(Problem(what="another server writes its decision log here", where=str(folder))) from None
    return handle


def _identity(folder: Path, owner: Owner) -> str:
    """The chain that lies in the folder; a new one in an empty folder."""
    path = folder / "chain.json"
    if not path.exists():
        said = {"chain": secrets.token_hex(6), "environment": owner.environment, "pipeline": owner.pipeline}
        files.write(path, canonical.encode(said))
    try:
        said = canonical.decode(path.read_bytes())
        chain, there = said["chain"], (said["environment"], said["pipeline"])
    except (canonical.NotCanonical, KeyError, TypeError) as error:
        raise NotVerified(Problem(what=f"cannot be read: {error}", where=str(path)), hint=ASIDE) from error
    if there != (owner.environment, owner.pipeline) or not chains.CHAIN.fullmatch(chain):
        expected, got = f"{owner.environment}, {owner.pipeline}", f"{there[0]}, {there[1]}"
        raise BadInput(Problem(what="a decision log of something else lies here", where=str(path), expected=expected, got=got))
    return str(chain)
