"""docs/hashing.md states digests; each is read from the page and computed anew."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.prove.chain import PRIVATE, ring
from tests.toy import toy
from workflows.code import step_digest
from workflows.declare import Step
from workflows.plan import tasks
from workflows.prove import digest
from workflows.prove.gate import Rule
from workflows.prove.record import Item
from workflows.prove.signature import Signer, keyid_of
from workflows.run.driver import Arrived, _cache_key
from workflows.run.parameters import Settings
from workflows.run.session import Session, local_store, tree_digest

PAGE = Path(__file__).parents[2] / "docs/hashing.md"
GOLDEN = re.findall(r"^```golden\n(.*?)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def computed(what: str) -> dict[str, str]:
    """The digests that the page should state for `what`, by the project's own functions."""
    kind, _, rest = what.partition(" ")
    if kind == "file":
        d = digest.of_bytes(json.loads(rest).encode())
        return {"sha256": d.sha256, "md5": d.md5}
    if kind == "keyid":
        return {"sha256": keyid_of(load_der_public_key(base64.b64decode(rest)))}  # type: ignore[arg-type]  # it is Ed25519
    if kind == "envelope":
        return {"sha256": digest.of_bytes(Signer(PRIVATE).sign(rest.partition(" ")[0].encode())).sha256}
    tag, *parts = re.findall(r'"(?:[^"\\]|\\.)*"|[a-z-]+', rest)
    return {"sha256": digest.tagged(tag, *(json.loads(p) for p in parts))}


@pytest.mark.parametrize(("what", "stated"), GOLDEN)
def test_the_page_states_the_digests_that_are_computed(what: str, stated: str) -> None:
    assert dict(line.split(" ") for line in stated.splitlines()) == computed(what)


def test_every_tag_has_a_golden_digest() -> None:
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert listed == {what.split(" ")[1] for what, _ in GOLDEN if what.startswith("tagged ")}


# --- The engine hashes what the page says: its own functions on a checkout, against the page's words


@pytest.fixture
def session(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """The toy pipeline with everything that goes into a digest: parameters, rules, a secret, a source with a schema."""
    shutil.copytree(template, tmp_path / "repo")
    monkeypatch.setenv("COUNTERSIGN_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("COUNTERSIGN_MASKING_KEY", SECRET.hex())
    pick, *others = toy.pipeline.steps
    pipeline = replace(toy.pipeline, steps=(replace(pick, secrets=("masking_key",)), *others))
    rule = Rule(metric="total", at_least=100, because="so")
    settings = Settings(sections={"pick": {"at_least": 35}, "work": {"mode": "fine"}}, rules={"enough": (rule,)}, policies={})
    store, signer = local_store(tmp_path / "repo"), Signer(PRIVATE)
    made = Session(root=tmp_path / "repo", pipeline=pipeline, settings=settings, store=store, signer=signer, ring=ring(PRIVATE))
    made.take_sources()
    return made


SECRET = bytes(range(32))


def by_page(tag: str, *parts: str | bytes) -> str:
    """The recipe in the page's own words: each part behind its length in eight bytes, big endian."""
    encoded = [p if isinstance(p, bytes) else p.encode() for p in (f"countersign:v1:{tag}", *parts)]
    return hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in encoded)).hexdigest()


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_by_page(root: Path, step: Step, *files: str) -> str:
    return by_page("step-code", step.run, by_page("tree", *(x for f in sorted(files) for x in (f, file_digest(root / f)))))


CODE = ("steps/__init__.py", "steps/toy.py", "steps/types.py", "workflows/run/codec.py")
PRINT = {"masking_key": by_page("secret-fingerprint", "masking_key", SECRET)[:32]}
RULES = '{"enough":[{"at_least":100,"because":"so","if_missing":"no","metric":"total"}]}'


def test_the_engine_s_digests_are_those_of_the_page(session: Session) -> None:
    root, (pick, work, join) = session.root, session.pipeline.steps
    codes = {
        "pick": code_by_page(root, pick, *CODE, "data/toy/schema.yaml"),
        **{s.name: code_by_page(root, s, *CODE) for s in (work, join)},
    }
    assert {s.name: step_digest(root, s) for s in (pick, work, join)} == codes

    python = f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"
    environment = by_page("environment", file_digest(root / "requirements.lock"), python, platform.machine())
    assert session.environment_key == environment

    secrets = json.dumps(PRINT, separators=(",", ":"))
    asked = {
        "pick": f'{{"params":{{"at_least":35}},"rules":{{}},"secrets":{secrets}}}',
        "work@a": '{"params":{"mode":"fine"},"rules":{},"secrets":{}}',
        "work@b": '{"params":{"mode":"fine"},"rules":{},"secrets":{}}',
        "join": f'{{"params":{{}},"rules":{RULES},"secrets":{{}}}}',
    }
    people = file_digest(root / "data/toy/people.csv")
    parts = [x for task, text in asked.items() for x in (task, codes[task.partition("@")[0]], text)]
    assert session.plan_id() == f"toy-{by_page('plan', 'toy', environment, 'people', people, *parts)[:12]}"

    task = tasks(session.pipeline)[0]
    item = Item(name="toy/people", sha256=people, md5="0" * 32, size=1)
    key = _cache_key(session, task, (Arrived(name="people", path=root, item=item),), {"steps": []})
    text = f'{{"inputs":[["toy/people","{people}"]],"lineage":{{"steps":[]}},"params":{{"at_least":35}},"rules":{{}},"secrets":{secrets}}}'
    assert key == by_page("cache-key", "toy", "pick", codes["pick"], environment, text)

    assert session.holder == by_page("holder", session.signer.keyid, str(root))[:32]
    listed = ["params/toy.yaml", "steps/toy.py"]
    assert tree_digest(root, listed[::-1]) == by_page("tree", *(x for p in listed for x in (p, file_digest(root / p))))


def test_the_example_for_a_shell_gives_the_stated_digest() -> None:
    command = re.search(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert command
    done = subprocess.run(["bash", "-c", command[1]], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == computed('tagged trace "toy-0123456789ab"')["sha256"]


def test_a_tree_is_a_tagged_digest_of_paths_and_digests() -> None:
    sha = hashlib.sha256(b"a").hexdigest()
    assert digest.of_tree([("a.py", sha)]) == computed(f'tagged tree "a.py" "{sha}"')["sha256"]
