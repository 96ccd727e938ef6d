"""`verify` of a chain of a thousand steps, beside what it takes to hash the same files."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from harness import ROOT, Contest, Goal, environment, scratch, short, side_by_side, timed, times

STEPS = 1000
ROUNDS = 5
VERIFY, HASH = "countersign verify, without the start of Python", "reading and hashing the same files (sha256 and md5)"
MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from workflows.prove import digest
from workflows.prove.record import *
from workflows.prove.signature import Signer
from workflows.run.session import local_store
root, steps = Path(sys.argv[2]), int(sys.argv[3])
store, signer = local_store(root), Signer(Ed25519PrivateKey.generate())
store.put_document(f"keys/{signer.keyid}.pem", signer.public_pem)
scratch = root / "content"
entries, outputs, link, made = [], [], (), ()
code = Code(step="1" * 64, tree="2" * 64, commit="a" * 40, dirty=False)
def keep(payload):
    envelope = signer.sign(payload)
    sha = digest.of_bytes(envelope).sha256
    store.put_document(f"records/{sha}", envelope)
    return sha
for i in range(steps):
    scratch.write_bytes(b"%09d" % i * 1000)
    d = store.put_content(scratch)
    out = (Item(name=f"chain/n{i}", sha256=d.sha256, md5=d.md5, size=d.size),)
    at = f"2026-01-01T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}.000000+00:00"
    record = Record(pipeline="chain", run="chain-0123456789ab", task=f"n{i}", attempt=1, outcome=Outcome.DONE, started=at, finished=at,
        params={"n": i}, inputs=made, outputs=out, upstream=link, code=code, lock="3" * 64,
        environment={"python": "3.11", "packages": {f"p{k}": "1.0" for k in range(40)}}, cache_key=digest.tagged("cache-key", str(i)))
    sha = keep(encode_record(record))
    store.put_document(f"runs/{record.run}/steps/n{i}/1", f"{sha}\\n".encode())
    entries.append(SealEntry(task=f"n{i}", attempt=1, outcome=Outcome.DONE, sha256=sha))
    outputs += out
    link, made = (Link(task=f"n{i}", sha256=sha),), out
seal = Seal(pipeline="chain", run="chain-0123456789ab", outcome=Outcome.DONE, tasks=tuple(e.task for e in entries),
    records=tuple(entries), outputs=tuple(outputs), sealed="2026-01-02T00:00:00.000000+00:00")
store.put_document("runs/chain-0123456789ab/root", f"{keep(encode_seal(seal))}\\n".encode())
"""
ASK = """
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from workflows.prove import digest
from workflows.prove.verify import verify
from workflows.run import keys
from workflows.run.reader import StoreReader
from workflows.run.session import local_store
root = Path(sys.argv[2])
store = local_store(root)
begun = time.perf_counter()
if sys.argv[3] == "verify":
    result = verify("chain-0123456789ab", StoreReader(store), keys.ring(store))
    assert result.ok, result.findings[:3]
else:
    files = [p for top in (root / ".countersign", root / ".dvc") for p in top.rglob("*") if p.is_file()]
    def one(path):
        with path.open("rb") as stream:
            return digest.of_stream(stream)
    digest.in_parallel(one, files)
print(json.dumps({"seconds": time.perf_counter() - begun, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def contest() -> Contest:
    with scratch() as top:
        env = environment(top)
        chain = top / "chain"
        chain.mkdir()
        timed([sys.executable, "-c", MAKE, str(ROOT), str(chain), str(STEPS)], cwd=top, env=env)
        measured = side_by_side({VERIFY: partial(_ask, chain, "verify", env), HASH: partial(_ask, chain, "hash", env)}, ROUNDS)
        peak = json.loads(timed(_words(chain, "verify"), cwd=top, env=env).out)["peak"]
    beyond = measured.median(VERIFY) - measured.median(HASH)
    return Contest(
        title="Verification",
        about=f"A sealed run of {STEPS:,} steps in a chain, each with a signed record that names forty packages, and an artifact of 9 kB. "
        "Checked: every signature, every rule of the chain, every artifact byte for byte.",
        header=("", "seconds", "times hashing"),
        rows=tuple((n, short(measured.median(n)), times(measured.median(n) / measured.median(HASH))) for n in (VERIFY, HASH)),
        goals=(
            Goal(what=f"verify of {STEPS:,} steps: under 1 s beyond hashing", measured=short(beyond), met=beyond < 1),
            Goal(what=f"verify of {STEPS:,} steps: under 300 MB", measured=f"{peak:.0f} MB", met=peak < 300),
        ),
    )


def _words(chain: Path, what: str) -> list[str]:
    return [sys.executable, "-c", ASK, str(ROOT), str(chain), what]


def _ask(chain: Path, what: str, env: dict[str, str]) -> float:
    seconds: float = json.loads(timed(_words(chain, what), cwd=chain, env=env).out)["seconds"]
    return seconds
