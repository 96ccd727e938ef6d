"""A decision log of records that say nothing, and the key that signs it. Imports no model library: it starts processes that get killed."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from workflows.prove import canonical
from workflows.prove.signature import Keyring, Signer
from workflows.serve.disk import Disk, Owner

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER = Signer(PRIVATE)
KEYS = Keyring({SIGNER.keyid: PRIVATE.public_key()})
AT = 1_764_000_000_000
NOW = "2026-03-01T12:00:00.000000+00:00"


def disk(top: Path, *, most: int | None = None, **how: Any) -> Disk:
    given = {"environment": "prod", "pipeline": "loan_approval", "signer": SIGNER, "keys": KEYS, "now": lambda: NOW, **how}
    return Disk(top / "log", Owner(**given), most=most)


def record(n: int) -> tuple[bytes, int]:
    return canonical.encode({"id": f"0123456789ab-{AT + n:011x}-{n:016x}", "n": n}), AT + n


@contextmanager
def no_room(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond `size` bytes, as on a full disk."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with capture_logs():  # pytest would have them in a file, too
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
