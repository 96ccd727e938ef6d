"""One bucket: a client for each process, requests that are repeated while the store is away, and errors that say what to do."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from workflows.errors import Temporary
from workflows.run.logs import structlog
from workflows.run.store import answers
from workflows.run.store.parallel import THREADS
from workflows.run.store.patience import Patience, delay

R = TypeVar("R")
CONNECT, READ = 5.0, 60.0  # seconds that a server gets to take a connection, and to say something on it
log = structlog.get_logger()


class Absent(Exception):
    """There is no object of this name."""


class Standing(Exception):
    """The object that is there rules out what was asked for: it was to be made, or it is another than the one meant."""


class Unsupported(Exception):
    """The server does not know what it was asked for."""


class Stopped(Exception):
    """The caller has left; nobody waits for the answer."""


class Bucket:
    """Requests to one bucket. Usable by threads, and by processes forked from the one that made it."""

    def __init__(self, name: str, *, patience: Patience | None = None) -> None:
        self.name = name
        self.patience = patience or Patience()
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[tuple[int, float], Any] = {}

    def client(self, read: float = READ) -> Any:
        """A client of this process: connections must not be shared with the process that this one was forked from."""
        made = self._clients.get((os.getpid(), read))
        if made is None:
            with self._lock:
                made = self._clients[os.getpid(), read] = self._make(read)
        return made

    def _make(self, read: float) -> Any:
        from botocore.config import Config

        if self._session is None:  # it reads files and keeps what it read; it has no connections
            self._session = _session()
        config = Config(
            connect_timeout=CONNECT,
            read_timeout=read,
            max_pool_connections=2 * THREADS,
            retries={"total_max_attempts": 1, "mode": "standard"},  # repeating is ours: botocore gives up within seconds
            # Every request carries a sha256 of its body that was computed already, and it is signed with the headers.
            s3={"payload_signing_enabled": False},
            user_agent="countersign",  # the usual one is put together for each request, which takes a twentieth of its time
            parameter_validation=False,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        # botocore reads only the other of the two variables, and SDKs of other languages only this one.
        return self._session.create_client("s3", config=config, region_name=os.environ.get("AWS_REGION"))

    def ask(self, key: str, work: Callable[[Any], R], *, read: float = READ, stop: threading.Event | None = None) -> R:
        """What `work` makes of the client. It is repeated while the store is away, so it must do no harm twice.

        Raises `Absent`, `Standing` and `Unsupported` for answers that a caller may expect, `BadInput` for what waiting
        will not mend, `Temporary` when patience has run out, `Stopped` when the caller has left.
        """
        where, tries = f"s3://{self.name}/{key}", 0
        while True:
            if stop and stop.is_set():
                raise Stopped
            try:
                answer = work(self.client(read))
            except Exception as error:  # noqa: BLE001  # which of them are defects, `answers` knows
                tries += 1
                self._bear(error, where, tries, stop or threading.Event())
            else:
                self.patience.answered()
                return answer

    def _bear(self, error: Exception, where: str, tries: int, stop: threading.Event) -> None:
        """Wait before the next try, or raise what the error means."""
        if expected := _expected(error):
            self.patience.answered()
            raise expected from error
        failure = answers.explained(error, where)
        # Signed anew, a request that lay about while the machine slept is in time; a wrong clock stays wrong.
        skewed = answers.is_skewed(error)
        if not isinstance(failure, Temporary) or (skewed and tries > 1):
            raise failure from error
        left, first = self.patience.failed()
        if left <= 0:
            raise failure from error
        if first and not skewed:
            log.warning("the store is away; trying again", where=where, why=failure.problems[0].what, seconds=round(left))
        stop.wait(min(delay(tries), left))


def _session() -> Any:
    """The one that fetched this code, where one did: it has read already what S3's requests look like."""
    import botocore.session

    return getattr(sys.modules.get("with_code"), "SESSION", None) or botocore.session.get_session()


def _expected(error: Exception) -> Exception | None:
    code = answers.code_of(error)
    if code in answers.ABSENT:
        return Absent()
    if code in answers.STANDING:
        return Standing()
    if code in {"NotImplemented", "501"}:
        return Unsupported()
    return None
