"""A run in one file, for someone who has nothing else: bytes in, members out, and back, strictly.

A bundle is a zip file in one form only: members stored as they are, sorted by name, without times, comments or anything
between them. The same run gives the same bytes, and a bundle that is not in this form is refused. Its members:

| member | what | what vouches for it |
|---|---|---|
| `bundle.json` | every other member by name, sha256 and size | nothing: it is checked, not trusted |
| `records/<sha256>` | the seal, the run's records, records that reused ones name | their names, the chain, signatures |
| `runs/<run>/root`, `runs/<run>/steps/...` | the run's folder as the store has it | the seal |
| `keys/<keyid>.pem` | public keys of those who signed | their names; **who** holds them must be known from elsewhere |
| `artifacts/<pipeline>/...` | verdicts, reports and pages for people | the records |
| `manifests/...` | `dvc.yaml`, `dvc.lock`, Argo manifest of the checkout that it was packed in | nothing |
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TypedDict

from workflows.errors import NotVerified, Problem
from workflows.prove import canonical, digest
from workflows.prove.digest import Digests
from workflows.prove.record import Item, Record
from workflows.prove.signature import BadKey, Keyring, stored_ring
from workflows.prove.verify import Finding, Verification, digest_in, verify

FORMAT = "urn:countersign:bundle:v1"
INDEX = "bundle.json"
MAX_SIZE = 256 * 1024 * 1024  # bytes; a bundle is read into memory
FOLDERS = {"artifacts", "keys", "manifests", "records", "runs"}
MAX_MEMBERS = 65_000  # the zip format's own limit, near enough
# Each part begins with a letter, digit or underscore: no part is hidden, `..`, a drive or an option.
MEMBER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]*(/[A-Za-z0-9_][A-Za-z0-9._@-]*)*")
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, RuntimeError, OSError, EOFError, OverflowError)


class _Listed(TypedDict):
    name: str
    sha256: str
    size: int


class _Index(TypedDict):
    format: str
    pipeline: str
    run: str
    root: str
    members: list[_Listed]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle that was read: what its index says it is, and its members by name."""

    run: str
    root: str
    pipeline: str
    members: Mapping[str, bytes]


def pack(*, pipeline: str, run: str, root: str, members: Mapping[str, bytes]) -> bytes:
    """The bytes of a bundle; its index is added. The same members give the same bytes."""
    listed = [{"name": n, "sha256": sha256(members[n]).hexdigest(), "size": len(members[n])} for n in sorted(members)]
    index = {"format": FORMAT, "pipeline": pipeline, "run": run, "root": root, "members": listed}
    return _zip({**members, INDEX: canonical.encode(index)})


def read(data: bytes, where: str) -> Bundle:
    """The bundle that these bytes are; `NotVerified` says what is wrong with them. Nothing is written anywhere."""
    if len(data) > MAX_SIZE:
        raise _refused(where, "larger than a bundle may be", expected=f"at most {MAX_SIZE} bytes", got=str(len(data)))
    members = _members(data, where)
    index = _index(members, where)
    listed = {m["name"]: m for m in index["members"]}
    for name in sorted({*listed, *members} - {INDEX}):
        _check_member(f"{where}: {name}", listed.get(name), members.get(name))
    if _zip(members) != data:
        raise _refused(where, "not in the one form that bundles are written in: something stands beside or between its members")
    return Bundle(run=index["run"], root=index["root"], pipeline=index["pipeline"], members=members)


def verify_bundle(bundle: Bundle, keys: Keyring | None = None, *, expected_root: str | None = None) -> Verification:
    """Everything that is wrong with the run in a bundle. Without `keys`, its own are used, and show only that it agrees with itself."""
    try:
        ring = keys or stored_ring({n: d for n, d in bundle.members.items() if n.startswith("keys/")})
    except BadKey as error:
        return Verification(run=bundle.run, root=bundle.root, findings=(Finding(where="bundle", what=str(error)),))
    result = verify(bundle.run, BundleReader(bundle), ring, expected_root=expected_root)
    return replace(result, findings=(*result.findings, *_beside(bundle, result)))


class BundleReader:
    """The port `Reader` on a bundle."""

    holds_content = False

    def __init__(self, bundle: Bundle) -> None:
        self._members = bundle.members
        self._artifacts = {sha256(d).hexdigest(): d for n, d in bundle.members.items() if n.startswith("artifacts/")}

    def root(self, run: str) -> str | None:
        data = self._members.get(f"runs/{run}/root")
        return None if data is None else digest_in(data)

    def index(self, run: str) -> Mapping[str, str]:
        top = f"runs/{run}/"
        return {n.removeprefix(top): digest_in(d) for n, d in self._members.items() if n.startswith(top) and n != f"{top}root"}

    def record(self, sha256: str) -> bytes | None:
        return self._members.get(f"records/{sha256}")

    def content(self, item: Item) -> Digests | None:
        data = self._artifacts.get(item.sha256)
        return None if data is None else digest.of_bytes(data)


def artifact_member(item: Item, suffix: str) -> str:
    """Where an artifact lies in a bundle: under its own name, so that a person finds it."""
    return f"artifacts/{item.name}{suffix}"


def _beside(bundle: Bundle, result: Verification) -> Iterator[Finding]:
    """Members that the chain does not account for."""
    if bundle.root != result.root or (result.seal and bundle.pipeline != result.seal.pipeline):
        yield Finding(where=INDEX, what=f"it says root {bundle.root} of {bundle.pipeline}, the run's folder has {result.root}")
    named = {result.root, *result.records, *reused_by(result.records)}
    made = {i.name: i for i in result.seal.outputs} if result.seal else {}
    for name, data in sorted(bundle.members.items()):
        top, _, rest = name.partition("/")
        if top == "records" and result.seal and not result.findings and rest not in named:
            yield Finding(where=name, what="a record that nothing in the run names")
        elif top == "artifacts" and result.seal:
            item = made.get(rest.rpartition(".")[0])
            if item is None or item.sha256 != sha256(data).hexdigest():
                yield Finding(where=name, what=f"not what the run made: expected {item.sha256 if item else 'nothing of this name'}")
        elif (top == "runs" and not rest.startswith(f"{bundle.run}/")) or (top not in FOLDERS and name != INDEX):
            yield Finding(where=name, what="does not belong into the bundle of this run")


def signers_of(envelopes: Mapping[str, bytes]) -> set[str]:
    """Key ids that envelopes of a verified run name."""
    return {canonical.decode(e)["signatures"][0]["keyid"] for e in envelopes.values()}


def reused_by(records: Mapping[str, Record]) -> set[str]:
    """Digests of the earlier records that a run's reused ones name."""
    return {r.reused.sha256 for r in records.values() if r.reused}


def _refused(where: str, what: str, *, expected: str = "", got: str = "") -> NotVerified:
    return NotVerified(Problem(what=what, where=where, expected=expected, got=got))


def _members(data: bytes, where: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            listed = archive.infolist()
            _check_listing(listed, len(data), where)
            return {i.filename: archive.read(i) for i in listed}
    except ZIP_ERRORS as error:
        raise _refused(where, f"no bundle, or cut short or damaged: {error}") from None


def _check_listing(listed: list[zipfile.ZipInfo], size: int, where: str) -> None:
    """Before anything is read: no member that climbs out, hides, repeats, unpacks to more than there is."""
    seen: set[str] = set()
    for i in listed:
        at = f"{where}: {i.filename!a}"
        if not MEMBER.fullmatch(i.filename):
            raise _refused(at, "a member with a name that could lie outside, be hidden or be no file")
        if i.filename in seen:
            raise _refused(at, "two members of this name")
        if stat.S_IFMT(i.external_attr >> 16) != stat.S_IFREG:
            raise _refused(at, "a link, or no plain file")
        if i.compress_type != zipfile.ZIP_STORED or i.compress_size != i.file_size or i.flag_bits:
            raise _refused(at, "compressed or encrypted; a bundle's members are stored as they are")
        seen.add(i.filename)
    if len(listed) > MAX_MEMBERS or sum(i.file_size for i in listed) > size:
        raise _refused(where, "its members claim to be more than the file holds")


def _index(members: Mapping[str, bytes], where: str) -> _Index:
    try:
        raw = canonical.decode(members[INDEX])
        names = [m["name"] for m in raw["members"]]
        sound = (
            set(raw) == {"format", "pipeline", "run", "root", "members"}
            and raw["format"] == FORMAT
            and all(isinstance(raw[k], str) for k in ("pipeline", "run", "root"))
            and all(set(m) == {"name", "sha256", "size"} for m in raw["members"])
            and names == sorted(set(names))
            and MEMBER.fullmatch(raw["run"]) is not None
        )
    except KeyError as error:
        raise _refused(f"{where}: {INDEX}", f"missing, or without {error}") from None
    except (canonical.NotCanonical, TypeError) as error:
        raise _refused(f"{where}: {INDEX}", f"not the index of a bundle: {error}") from None
    if not sound:
        raise _refused(f"{where}: {INDEX}", f"not the index of a bundle of this version, {FORMAT}")
    index: _Index = raw
    return index


def _check_member(at: str, listed: _Listed | None, data: bytes | None) -> None:
    if listed is None:
        raise _refused(at, f"a member that {INDEX} does not list")
    if data is None:
        raise _refused(at, f"missing; {INDEX} lists it")
    if (got := sha256(data).hexdigest()) != listed["sha256"] or len(data) != listed["size"]:
        raise _refused(at, f"not what {INDEX} lists", expected=listed["sha256"], got=got)


def _zip(members: Mapping[str, bytes]) -> bytes:
    """A zip file, written out by hand: libraries differ in details, and a detail is a byte."""
    body, directory = bytearray(), bytearray()
    for name in sorted(members):
        data, path = members[name], name.encode()
        crc, size, offset = zlib.crc32(data), len(members[name]), len(body)
        # Version 2.0, no flags, stored, 1980-01-01 00:00.
        same = struct.pack("<5H3I2H", 20, 0, 0, 0, 0x21, crc, size, size, len(path), 0)
        body += b"PK\x03\x04" + same + path + data
        # Made on Unix: a plain file that all may read.
        directory += b"PK\x01\x02" + struct.pack("<H", 0x0314) + same + struct.pack("<3H2I", 0, 0, 0, 0o100644 << 16, offset) + path
    end = struct.pack("<4H2IH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return bytes(body + directory + b"PK\x05\x06" + end)
