"""docs/hashing.md states digests; each is read from the page and computed anew."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.prove.chain import PRIVATE
from workflows.prove import digest
from workflows.prove.signature import Signer, keyid_of

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


def test_the_example_for_a_shell_gives_the_stated_digest() -> None:
    command = re.search(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert command
    done = subprocess.run(["bash", "-c", command[1]], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == computed('tagged trace "toy-0123456789ab"')["sha256"]


def test_a_tree_is_a_tagged_digest_of_paths_and_digests() -> None:
    sha = hashlib.sha256(b"a").hexdigest()
    assert digest.of_tree([("a.py", sha)]) == computed(f'tagged tree "a.py" "{sha}"')["sha256"]
