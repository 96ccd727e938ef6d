"""A small run, built in memory as the engine would write it, and a way to build it wrong."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from workflows.errors import NotVerified
from workflows.prove import bundle, canonical, digest
from workflows.prove.bundle import verify_bundle
from workflows.prove.digest import Digests
from workflows.prove.record import Code, Item, Link, Outcome, Record, Seal, SealEntry, encode_record, encode_seal, outcome_of
from workflows.prove.signature import Keyring, Signer
from workflows.prove.verify import Verification, verify

SCRIPT = Path(__file__).parents[2] / "infra/verify/verify_bundle.py"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_bundle", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _script()
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
RUN, EARLIER = "toy-0123456789ab-2", "toy-0123456789ab"
TASKS = ("make", "part@a", "part@b", "total")
VERDICTS: list[dict[str, Any]] = [
    {
        "gate": "enough",
        "says": "yes",
        "rules": [{"metric": "total", "where": "total", "at_least": 5, "value": 20, "says": "yes", "because": "just so"}],
    }
]
REFUSAL = [{**VERDICTS[0], "says": "no", "rules": [{**VERDICTS[0]["rules"][0], "value": 4, "says": "no", "why": "too few"}]}]

Change = Callable[[Record], Record]


def ring(*keys: Ed25519PrivateKey) -> Keyring:
    return Keyring({Signer(k).keyid: k.public_key() for k in keys})


def at(second: int) -> str:
    return f"2026-03-01T12:{second // 60:02}:{second % 60:02}.000000+00:00"


@dataclass
class Chain:
    """The port `Reader` on dictionaries: `documents` by path as in a store, `contents` by sha256."""

    documents: dict[str, bytes] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    written: dict[str, tuple[Record, str]] = field(default_factory=dict)
    holds_content: bool = True
    key: Ed25519PrivateKey = PRIVATE

    def root(self, run: str) -> str | None:
        data = self.documents.get(f"runs/{run}/root")
        return None if data is None else data.decode().removesuffix("\n")

    def index(self, run: str) -> Mapping[str, str]:
        top = f"runs/{run}/"
        found = {n.removeprefix(top): d for n, d in self.documents.items() if n.startswith(top)}
        return {n: d.decode().removesuffix("\n") for n, d in found.items() if n != "root"}

    def record(self, sha256: str) -> bytes | None:
        return self.documents.get(f"records/{sha256}")

    def content(self, item: Item) -> Digests | None:
        data = self.contents.get(item.sha256)
        return None if data is None else digest.of_bytes(data)

    def verify(self, keys: Keyring | None = None, **how: Any) -> Verification:
        if keys is None and all(bundle.MEMBER.fullmatch(n) for n in self.documents):
            self.both_verifiers_agree(**how)
        return verify(RUN, self, keys or ring(PRIVATE), **how)

    def both_verifiers_agree(self, expected_root: str | None = None) -> None:
        """Whatever a test does to a run: the verifier that is one file must find the same of it in a bundle."""
        data = self.packed()
        try:
            ours = verify_bundle(bundle.read(data, "it"), ring(PRIVATE), expected_root=expected_root).ok
        except NotVerified:
            ours = False
        wrong = script.check(data, {Signer(PRIVATE).keyid: PRIVATE.public_key()}, expected_root)[2]
        assert ours == (not wrong), wrong

    def packed(self, **more: bytes) -> bytes:
        """The run as a bundle, with its verdicts and the keys of who signed."""
        keys = {f"keys/{Signer(k).keyid}.pem": Signer(k).public_pem for k in (PRIVATE,)}
        return bundle.pack(pipeline="toy", run=RUN, root=self.root(RUN) or "", members={**self.documents, **keys, **more})

    def keep(self, name: str, data: bytes) -> Item:
        d = digest.of_bytes(data)
        self.contents[d.sha256] = data
        return Item(name=name, sha256=d.sha256, md5=d.md5, size=d.size)

    def sign(self, payload: bytes, key: Ed25519PrivateKey | None = None) -> str:
        envelope = Signer(key or self.key).sign(payload)
        sha = digest.of_bytes(envelope).sha256
        self.documents[f"records/{sha}"] = envelope
        return sha

    def add(self, record: Record) -> None:
        sha = self.sign(encode_record(record))
        self.documents[f"runs/{record.run}/steps/{record.task}/{record.attempt}"] = f"{sha}\n".encode()
        self.written[record.task] = (record, sha)

    def link(self, task: str) -> Link:
        return Link(task=task, sha256=self.written[task][1])

    def made(self, *tasks: str) -> tuple[Item, ...]:
        return tuple(i for t in tasks for i in self.written[t][0].outputs)

    def seal(self, change: Callable[[Seal], Seal] = lambda s: s) -> str:
        last = {t: self.written[t][0] for t in TASKS if t in self.written}
        seal = Seal(
            pipeline="toy",
            run=RUN,
            outcome=outcome_of(TASKS, {t: r.outcome for t, r in last.items()}),
            tasks=TASKS,
            records=tuple(SealEntry(task=t, attempt=r.attempt, outcome=r.outcome, sha256=self.written[t][1]) for t, r in last.items()),
            outputs=tuple(i for r in last.values() for i in r.outputs),
            sealed=at(100),
        )
        root = self.sign(encode_seal(change(seal)))
        self.documents[f"runs/{RUN}/root"] = f"{root}\n".encode()
        return root


def step(task: str, start: int, **more: Any) -> Record:
    """A record of a step, all that matters little filled in."""
    given: dict[str, Any] = {
        "pipeline": "toy", "run": RUN, "task": task, "attempt": 1, "outcome": Outcome.DONE,
        "started": at(start), "finished": at(start + 5), "params": {"rows": 10}, "inputs": (), "outputs": (), "upstream": (),
        "code": Code(step="1" * 64, tree="2" * 64, commit="a" * 40, dirty=False), "lock": "3" * 64,
        "environment": {"python": "3.11", "cores": 2}, "cache_key": digest.tagged("cache-key", task),
        "secrets": {"masking_key": "4" * 32},
    }  # fmt: skip
    return Record(**{**given, **more})


def build(changes: Mapping[str, Change] | None = None, seal: Callable[[Seal], Seal] = lambda s: s, **how: Any) -> Chain:
    """make -> part@a (reused from an earlier run), part@b -> total, which has a gate. `changes` are made before signing."""
    chain = Chain(**how)
    change = {t: (lambda r: r) for t in (*TASKS, "earlier")} | dict(changes or {})
    source = chain.keep("toy/application", b"name,amount\nx,1\n")
    chain.add(change["make"](step("make", 10, inputs=(source,), outputs=(chain.keep("toy/numbers", b"numbers"),))))
    numbers = chain.made("make")
    part_a = (chain.keep("toy/part@a", b'{"n":10,"which":"a"}'),)
    common = {"inputs": numbers, "upstream": (chain.link("make"),)}
    old = change["earlier"](step("part@a", 0, run=EARLIER, inputs=numbers, upstream=(Link(task="make", sha256="5" * 64),), outputs=part_a))
    reused = Link(task="part@a", sha256=chain.sign(encode_record(old)))
    part = step("part@a", 20, **common, outputs=part_a, outcome=Outcome.REUSED, reused=reused, environment={})
    chain.add(change["part@a"](part))
    chain.add(change["part@b"](step("part@b", 20, **common, outputs=(chain.keep("toy/part@b", b'{"n":10,"which":"b"}'),))))
    made = (chain.keep("toy/total", b'{"total":20}'), chain.keep("toy/verdicts", canonical.encode({"gates": VERDICTS})))
    parts = {"inputs": chain.made("part@a", "part@b"), "upstream": (chain.link("part@a"), chain.link("part@b"))}
    chain.add(change["total"](step("total", 30, **parts, outputs=made, verdicts=VERDICTS)))
    chain.seal(seal)
    return chain


def but(**fields: Any) -> Callable[[Any], Any]:
    """The same value with other fields."""
    return lambda value: replace(value, **fields)
