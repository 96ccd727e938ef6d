#!/usr/bin/env python3
"""Check a Countersign bundle with nothing of Countersign: one file, Python 3.9 or later, and the package `cryptography`.

    python verify_bundle.py evidence.bundle --key bank.pem --root 0123...

Without --key, the keys in the bundle are used; then it is only shown that the bundle agrees with itself. Exit codes:
0 verified, 2 cannot be asked like this, 4 not verified. No network, no other file is read or written.

It was written apart from the project's own verifier and shares no code with it, so that one can be held against the
other. What it checks: the container's form, every digest, every signature, that the seal lists every attempt once and
in order, what each record builds on, clocks, gates, reuse, and that nothing is in the bundle that the chain does not
account for.
"""

import argparse
import base64
import hashlib
import io
import json
import re
import struct
import sys
import zipfile
import zlib
from datetime import datetime, timedelta
from pathlib import Path

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
except ImportError:
    sys.exit("error: this script needs the package cryptography: pip install cryptography")

FORMAT = "urn:countersign:bundle:v1"
SEAL = "urn:countersign:seal:v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
SKEW = timedelta(seconds=60)
MAX_SIZE = 256 * 1024 * 1024
MAX_RECORD = 64 * 1024 * 1024
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]*(/[A-Za-z0-9_][A-Za-z0-9._@-]*)*")
SHA256 = re.compile(r"[0-9a-f]{64}")
ACCOUNT = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,251}[\x21-\x7e])?")
GOOD = ("done", "reused")


class Refused(Exception):
    """Something is wrong; the message says where and what."""


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse(data, where):
    """JSON in canonical form only: two texts of one value would have two digests."""
    try:
        value = json.loads(data.decode())
        same = canonical(value) == data
    except (ValueError, RecursionError) as error:
        raise Refused(f"{where}: not JSON: {error}") from None
    if not same:
        raise Refused(f"{where}: JSON, but not in canonical form")
    return value


# --- the container


def members_of(data):
    """Name -> bytes of a bundle in the one form that bundles are written in."""
    if len(data) > MAX_SIZE:
        raise Refused("larger than a bundle may be")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            listed = archive.infolist()
            for i in listed:
                if not NAME.fullmatch(i.filename):
                    raise Refused(f"{i.filename!a}: a member with a name that could lie outside, be hidden or be no file")
                if i.compress_type != zipfile.ZIP_STORED or i.compress_size != i.file_size or i.flag_bits:
                    raise Refused(f"{i.filename}: compressed or encrypted")
            if len({i.filename for i in listed}) != len(listed):
                raise Refused("two members of one name")
            if sum(i.file_size for i in listed) > len(data):
                raise Refused("its members claim to be more than the file holds")
            members = {i.filename: archive.read(i) for i in listed}
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, RuntimeError, OSError, EOFError, OverflowError) as error:
        raise Refused(f"no bundle, or cut short or damaged: {error}") from None
    if written(members) != data:
        raise Refused("something stands beside or between its members")
    return members


def written(members):
    body, directory = b"", b""
    parts, entries, offset = [], [], 0
    for name in sorted(members):
        data, path = members[name], name.encode()
        same = struct.pack("<5H3I2H", 20, 0, 0, 0, 0x21, zlib.crc32(data), len(data), len(data), len(path), 0)
        parts.append(b"PK\x03\x04" + same + path + data)
        entries.append(b"PK\x01\x02" + struct.pack("<H", 0x0314) + same + struct.pack("<3H2I", 0, 0, 0, 0o100644 << 16, offset) + path)
        offset += len(parts[-1])
    body, directory = b"".join(parts), b"".join(entries)
    end = struct.pack("<4H2IH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + b"PK\x05\x06" + end


def index_of(members):
    if "bundle.json" not in members:
        raise Refused("bundle.json: missing")
    index = parse(members["bundle.json"], "bundle.json")
    try:
        if index["format"] != FORMAT:
            raise Refused(f"bundle.json: format {index['format']!r}, expected {FORMAT!r}")
        listed = {m["name"]: (m["sha256"], m["size"]) for m in index["members"]}
        index["run"], index["root"], index["pipeline"]
    except (KeyError, TypeError) as error:
        raise Refused(f"bundle.json: not the index of a bundle: {error!r}") from None
    for name in sorted({*members, *listed} - {"bundle.json"}):
        if name not in listed:
            raise Refused(f"{name}: a member that bundle.json does not list")
        if name not in members:
            raise Refused(f"{name}: missing; bundle.json lists it")
        if (sha256(members[name]), len(members[name])) != listed[name]:
            raise Refused(f"{name}: not what bundle.json lists")
    return index


# --- signatures


def key_of(pem, where):
    try:
        key = load_pem_public_key(pem)
    except Exception as error:  # noqa: BLE001 - whatever the library says, it is no key
        raise Refused(f"{where}: not a public key in PEM: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise Refused(f"{where}: not an Ed25519 key")
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)), key


def opened(data, keys, where):
    """The statement in a DSSE envelope with one valid signature, and the id of the key."""
    envelope = parse(data, where)
    try:
        (signature,) = envelope["signatures"]
        payload, raw = base64.b64decode(envelope["payload"], validate=True), base64.b64decode(signature["sig"], validate=True)
        keyid, kind = signature["keyid"], envelope["payloadType"]
        exact = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [{"keyid": keyid, "sig": base64.b64encode(raw).decode()}],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"{where}: not a DSSE envelope with one signature: {error}") from None
    if envelope != exact or kind != PAYLOAD_TYPE:
        raise Refused(f"{where}: not a DSSE envelope of an in-toto statement")
    if keyid not in keys:
        raise Refused(f"{where}: signed by a key that is not at hand: {keyid!r}")
    try:
        keys[keyid].verify(raw, b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload))
    except InvalidSignature:
        raise Refused(f"{where}: the signature by {keyid} does not fit the payload") from None
    return parse(payload, where), keyid


# --- the chain


class Record:
    """What the rules need of a record."""

    def __init__(self, statement, where):
        try:
            build, details = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
            inner, depends = build["internalParameters"], build["resolvedDependencies"]
            by = {b["name"]: b for b in details["byproducts"]}
            self.pipeline, self.run, self.task, self.attempt = inner["pipeline"], inner["run"], inner["task"], inner["attempt"]
            self.outcome = details["countersign_outcome"]
            self.started = datetime.fromisoformat(details["metadata"]["startedOn"])
            self.finished = datetime.fromisoformat(details["metadata"]["finishedOn"])
            made = [] if statement["subject"][0]["name"].endswith("#failure") else statement["subject"]
            self.outputs = [
                {
                    "name": s["name"],
                    "sha256": s["digest"]["sha256"],
                    "md5": by[s["name"]]["digest"]["md5"],
                    "size": by[s["name"]]["annotations"]["size"],
                }
                for s in made
            ]
            self.inputs = {d["name"][9:]: d["digest"]["sha256"] for d in depends if d["name"].startswith("artifact:")}
            self.upstream = [(d["name"][7:], d["digest"]["sha256"]) for d in depends if d["name"].startswith("record:")]
            self.reused = next((d["digest"]["sha256"] for d in depends if d["name"].startswith("reused:")), None)
            code = {d["name"]: d["digest"] for d in depends if d["name"] in ("code:step", "requirements")}
            self.gates = by["verdicts"]["annotations"]["gates"] if "verdicts" in by else None
            self.failed = "failure" in by
            self.computation = [
                inner["cacheKey"],
                inner["secrets"],
                code,
                build["externalParameters"],
                self.inputs,
                self.outputs,
                self.gates,
                sorted(t for t, _ in self.upstream),
            ]
            sound = (statement["_type"], statement["predicateType"]) == (STATEMENT, PROVENANCE)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise Refused(f"{where}: not a step's record: {error!r}") from None
        if not sound:
            raise Refused(f"{where}: not a statement of the kind that records are")


class Chain:
    """A run in a bundle, and everything that is wrong with it."""

    def __init__(self, members, index, keys):
        self.members, self.index, self.keys = members, index, keys
        self.wrong, self.signers, self.records, self.submitter = [], set(), {}, None
        self.run = index["run"]

    def statement(self, digest, where):
        data = self.members.get(f"records/{digest}")
        if data is None:
            raise Refused(f"{where}: missing")
        if len(data) > MAX_RECORD:
            raise Refused(f"{where}: larger than any record")
        if sha256(data) != digest:
            raise Refused(f"{where}: changed: its bytes have sha256 {sha256(data)}")
        statement, keyid = opened(data, self.keys, where)
        self.signers.add(keyid)
        return statement

    def note(self, where, what):
        self.wrong.append(f"{where}: {what}")

    def check(self, expected_root):
        top = f"runs/{self.run}/"
        pointers = {n[len(top) :]: d.decode("ascii", "replace") for n, d in self.members.items() if n.startswith(top)}
        for name, text in pointers.items():
            if not re.fullmatch(r"[0-9a-f]{64}\n", text):
                self.note(f"{top}{name}", "not the digest of a record")
        root = pointers.pop("root", "").strip()
        if not SHA256.fullmatch(root):
            raise Refused(f"{top}root: missing, or not a digest: the run has no seal")
        if expected_root and root != expected_root:
            self.note(f"{top}root", f"the root is {root}, expected {expected_root}")
        seal = self.statement(root, f"seal {root}")
        self.seal(seal, {k: v.strip() for k, v in pointers.items()}, root)
        self.beside(root)
        return root

    def seal(self, statement, pointers, root):
        where = f"seal of {self.run}"
        try:
            p = statement["predicate"]
            tasks, entries, outputs, outcome, sealed = (
                p["tasks"],
                p["records"],
                p["outputs"],
                p["outcome"],
                datetime.fromisoformat(p["sealed"]),
            )
            if statement["predicateType"] != SEAL or p["run"] != self.run or p["pipeline"] != self.index["pipeline"]:
                raise Refused(f"{where}: it is the seal of something else")
            listed = [(e["task"], e["attempt"], e["outcome"], e["sha256"]) for e in entries]
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"{where}: not a run's seal: {error!r}") from None
        self.submitter = submitter_of(p, where)
        if self.index["root"] != root:
            self.note("bundle.json", f"it says root {self.index['root']}, the run's folder has {root}")
        if pointers != {f"steps/{t}/{n}": s for t, n, _, s in listed}:
            self.note(f"runs/{self.run}", "its files are not what the seal lists")
        last = {}
        for t, n, o, s in listed:
            last[t] = max(last.get(t, (0, "", "")), (n, o, s))
        if not tasks or len(set(tasks)) != len(tasks) or set(last) - set(tasks):
            self.note(where, "its tasks are not those of its records")
        if [(t, n) for t, n, _, _ in listed] != [(t, n) for t in tasks if t in last for n in range(1, min(last[t][0], len(listed)) + 1)]:
            self.note(where, "its records are not every attempt at every task, once and in order")
        for t, n, o, s in listed:
            self.record(f"record {t}/{n} ({s})", t, n, o, s, sealed)
        self.outcome(where, tasks, last, outcome)
        standing = [i for t in tasks if t in last and last[t][2] in self.records for i in self.records[last[t][2]].outputs]
        if all(t not in last or last[t][2] in self.records for t in tasks) and standing != outputs:
            self.note(where, "its artifacts are not those of its last records")
        self.made = {i["name"]: i["sha256"] for i in outputs}
        self.links(last)

    def record(self, where, task, attempt, outcome, digest, sealed):
        try:
            r = Record(self.statement(digest, where), where)
        except Refused as error:
            self.wrong.append(str(error))
            return
        if (r.pipeline, r.run, r.task, r.attempt, r.outcome) != (self.index["pipeline"], self.run, task, attempt, outcome):
            self.note(where, f"it is the record of {r.run} {r.task} {r.attempt} {r.outcome}, in the place of another")
            return
        self.records[digest] = r
        if r.finished < r.started or sealed + SKEW < r.finished:
            self.note(where, "its times are not in order")
        if (outcome == "failed") != r.failed or (outcome == "failed") != (not r.outputs):
            self.note(where, f"it says {outcome}, which its failure and artifacts do not bear out")
        self.gates(where, r)

    def gates(self, where, r):
        if r.gates is None:
            if r.outcome == "refused":
                self.note(where, "it says refused, but no gate was judged")
            return
        try:
            says = ["no" if not g["rules"] or any(not holds(rule) for rule in g["rules"]) else "yes" for g in r.gates]
            honest = bool(says) and says == [g["says"] for g in r.gates]
        except (KeyError, TypeError, ValueError) as error:
            self.note(where, f"its gates cannot be read: {error!r}")
            return
        if not honest:
            self.note(where, "what its gates say does not follow from what they measured")
        if ("no" in says) != (r.outcome == "refused"):
            self.note(where, f"it says {r.outcome}, but its gates say {says}")
        if sha256(canonical({"gates": r.gates})) not in {i["sha256"] for i in r.outputs}:
            self.note(where, "what it says of its gates is not what it reported")

    def outcome(self, where, tasks, last, outcome):
        outcomes = [last[t][1] if t in last else "failed" for t in tasks]
        if all(o == "reused" for o in outcomes):
            expected = "reused"
        elif all(o in GOOD for o in outcomes):
            expected = "done"
        else:
            expected = "refused" if "refused" in outcomes and all(o != "failed" for _, o, _ in last.values()) else "failed"
        if outcome != expected:
            self.note(where, f"it says {outcome}, but its records come to {expected}")

    def links(self, last):
        makers = self.makers()
        sources, seen = {}, set()
        for digest, r in self.records.items():
            where = f"record {r.task}/{r.attempt} ({digest})"
            made = self.built_on(where, digest, r, last, seen)
            seen.add(digest)
            for name, got in r.inputs.items():
                if name in made and made[name] != got:
                    self.note(where, f"it read {name} as {got}, but {made[name]} was made")
                elif name not in made and name in makers:
                    self.note(where, f"it read {name} without naming the record that made it")
                elif name not in makers and sources.setdefault(name, got) != got:
                    self.note(where, f"it read {name} as {got}, another step as {sources[name]}")
            if (r.outcome == "reused") != (r.reused is not None):
                self.note(where, "it says it is reused and names no earlier record, or the other way round")
            elif r.reused:
                self.reuse(where, r)

    def makers(self):
        """Which task made each artifact."""
        found = {}
        for r in self.records.values():
            for i in r.outputs:
                if found.setdefault(i["name"], r.task) != r.task:
                    self.note(i["name"], f"made by {found[i['name']]} and by {r.task}")
        return found

    def built_on(self, where, digest, r, last, seen):
        """What the records that one builds on have made, by name."""
        made = {}
        for task, up in r.upstream:
            u = self.records.get(up)
            if u is None:
                self.note(where, f"it builds on {task} ({up}), which the seal does not list or which is not sound")
                continue
            made.update({i["name"]: i["sha256"] for i in u.outputs})
            if u.task != task or up not in seen or u.outcome not in GOOD or r.started + SKEW < u.finished:
                self.note(where, f"it cannot build on {u.task} ({up}): other task, later, or not done")
            if (
                last[r.task][2] == digest
                and task in last
                and last[task][2] in self.records
                and self.records[last[task][2]].outputs != u.outputs
            ):
                self.note(where, f"it stands, but the {task} it builds on does not")
        return made

    def reuse(self, where, r):
        try:
            old = Record(self.statement(r.reused, f"{where}, reusing {r.reused}"), where)
        except Refused as error:
            self.wrong.append(str(error))
            return
        if (old.pipeline, old.task, old.outcome, old.computation) != (
            r.pipeline,
            r.task,
            "done",
            r.computation,
        ) or old.finished > r.started + SKEW:
            self.note(where, f"it reuses {r.reused}, which is not the same step on the same inputs, done before")

    def beside(self, root):
        named = {root, *self.records, *(r.reused for r in self.records.values() if r.reused)}
        for name, data in sorted(self.members.items()):
            top, _, rest = name.partition("/")
            if top == "records" and rest not in named and not self.wrong:
                self.note(name, "a record that nothing in the run names")
            elif top == "artifacts" and self.made.get(rest.rpartition(".")[0]) != sha256(data):
                self.note(name, "not what the run made")
            elif (top == "runs" and not rest.startswith(f"{self.run}/")) or (
                top not in ("artifacts", "keys", "manifests", "records", "runs") and name != "bundle.json"
            ):
                self.note(name, "does not belong into the bundle of this run")


def submitter_of(predicate, where):
    """The account that a seal says submitted the run; None where it says nothing of it."""
    if "submitter" not in predicate:
        return None
    said = predicate["submitter"]
    if not isinstance(said, str) or not ACCOUNT.fullmatch(said):
        raise Refused(f"{where}: its submitter is no account's name")
    return said


def holds(rule):
    """Whether one rule of a gate is met by what was measured. Without a value, it says what its policy chose for that."""
    value = rule.get("value")
    if value is None:
        return rule["says"] == "yes"
    met = value >= rule["at_least"] if "at_least" in rule else value <= rule["at_most"]
    if (rule["says"] == "yes") != met:
        raise ValueError(f"{rule.get('metric')} says {rule['says']}")
    return met


def check(data, given=None, expected_root=None):
    """The chain in the bytes of a bundle, its root, and a line for everything that is wrong. `given` keys are trusted, by id."""
    chain, root = None, None
    try:
        members = members_of(data)
        index = index_of(members)
        found = {}
        for name in members:
            if name.startswith("keys/"):
                keyid, key = key_of(members[name], name)
                if name != f"keys/{keyid}.pem":
                    raise Refused(f"{name}: it holds another key, {keyid}")
                found[keyid] = key
        chain = Chain(members, index, given or found)
        root = chain.check(expected_root)
    except Refused as error:
        return chain, root, [*(chain.wrong if chain else []), str(error)]
    return chain, root, chain.wrong


def main(words=None):
    parser = argparse.ArgumentParser(description="Check a Countersign bundle without Countersign.")
    parser.add_argument("bundle")
    parser.add_argument("--key", action="append", help="trust only this public key (PEM); may be repeated")
    parser.add_argument("--root", help="the root that was noted elsewhere when the run was made")
    asked = parser.parse_args(words)
    try:
        data = Path(asked.bundle).read_bytes()
        given = dict(key_of(Path(k).read_bytes(), k) for k in asked.key or ())
    except (OSError, Refused) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chain, root, wrong = check(data, given, asked.root)
    for line in wrong:
        print(f"not verified {line}")
    if wrong:
        return 4
    print(f"verified {chain.run}: {len(chain.records)} records")
    print(f"  root       {root}")
    for keyid in sorted(chain.signers):
        print(f"  signed by  {keyid} ({'given with --key' if given else 'came with the bundle: ask its owner whether it is theirs'})")
    if chain.submitter:
        print(f"  submitted  by {chain.submitter}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
