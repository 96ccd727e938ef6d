"""The releases of an environment, in a store: a chain that is checked whenever it is read, and to which one adds at a time.

`releases/<environment>/<n>/begun` takes the number before anything is touched, `.../ended` says what came of it. Both are
create-only. The rules, each held by a test:
1. numbers run from 1 without a gap, and only the last may be without an end;
2. `begun` names the end of the release before, `ended` the beginning of its own, and repeats what it said;
3. each is signed by the key it names, which has the role that the policy asks for and was not revoked then;
4. time does not run backwards (clocks may be apart by a minute).

That the newest were taken away as a whole cannot be seen from here: the installation names its release, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from workflows.errors import NotVerified, Problem, Temporary
from workflows.promote.policy import Policies, of
from workflows.prove import digest
from workflows.prove.record import SHA256
from workflows.prove.release import Kind, Release, State, Variant, decode_release, encode_release
from workflows.prove.signature import BadSignature, Keyring, Signer
from workflows.prove.statement import MAX_STATEMENT, NotAStatement
from workflows.prove.verify import CLOCK_SKEW
from workflows.run import keys
from workflows.run.store.interface import Store

BEGUN, ENDED = "begun", "ended"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One number of the ledger."""

    begun: Release
    sha256: str
    """Digest of the envelope that took the number: how the installation names its release."""
    ended: Release | None = None
    end_sha256: str | None = None

    @property
    def sequence(self) -> int:
        return self.begun.sequence

    @property
    def done(self) -> bool:
        return self.ended is not None and self.ended.state is State.DONE

    @property
    def variants(self) -> tuple[Variant, ...]:
        return self.begun.variants


class Ledger:
    """The releases of one environment."""

    def __init__(self, store: Store, policies: Policies, environment: str) -> None:
        self.store, self.policies, self.environment = store, policies, environment
        self.policy = of(policies, environment)

    @property
    def folder(self) -> str:
        return f"releases/{self.environment}"

    def read(self) -> tuple[Entry, ...]:
        """Every release, checked; `NotVerified` lists all that is wrong."""
        found = self.store.list_documents(self.folder)
        ring = keys.ring(self.store) if found else Keyring({})
        problems = [
            Problem(what="no release belongs here", where=f"{self.folder}/{n[:100]!a}") for n in found if n not in _names(len(found))
        ]
        entries: list[Entry] = []
        for n in range(1, len(found) + 1):
            if f"{n}/{BEGUN}" not in found and f"{n}/{ENDED}" not in found:
                break
            entry, wrong = self._entry(n, found, ring, entries[-1] if entries else None)
            problems += wrong
            if entry is None:
                break
            entries.append(entry)
        seen = {f"{e.sequence}/{w}" for e in entries for w in (BEGUN, ENDED)}
        problems += [
            Problem(what="a release before it is missing", where=f"{self.folder}/{n}") for n in sorted(set(found) - seen) if not problems
        ]
        if problems:
            raise NotVerified(*problems, hint="somebody meddled with the releases, or the policy no longer lists who signed them")
        return tuple(entries)

    def _entry(self, n: int, found: Mapping[str, bytes], ring: Keyring, last: Entry | None) -> tuple[Entry | None, list[Problem]]:
        where = f"{self.folder}/{n}"
        if f"{n}/{BEGUN}" not in found:
            return None, [Problem(what="it ended and never began", where=where)]
        begun, wrong = self._open(found[f"{n}/{BEGUN}"], f"{where}/{BEGUN}", ring)
        if begun is None:
            return None, wrong
        wrong += [Problem(what=w, where=f"{where}/{BEGUN}") for w in self._wrong_beginning(n, begun, last)]
        sha = digest.of_bytes(found[f"{n}/{BEGUN}"]).sha256
        if f"{n}/{ENDED}" not in found:
            return Entry(begun=begun, sha256=sha), wrong
        ended, more = self._open(found[f"{n}/{ENDED}"], f"{where}/{ENDED}", ring)
        if ended is not None:
            more += [Problem(what=w, where=f"{where}/{ENDED}") for w in _wrong_end(begun, sha, ended)]
        end_sha = digest.of_bytes(found[f"{n}/{ENDED}"]).sha256
        return Entry(begun=begun, sha256=sha, ended=ended, end_sha256=end_sha), [*wrong, *more]

    def _open(self, data: bytes, where: str, ring: Keyring) -> tuple[Release | None, list[Problem]]:
        try:
            if len(data) > MAX_STATEMENT:
                raise NotAStatement("larger than any release")
            opened = ring.open(data)
            release = decode_release(opened.payload)
        except (BadSignature, NotAStatement) as error:
            return None, [Problem(what=str(error), where=where)]
        said = []
        if release.by != opened.keyid:
            said.append(f"it says it is by {release.by}, and is signed by {opened.keyid}")
        allowed = self.policies.keys_of(self.policy.released_by.value)
        if allowed is not None and release.by not in allowed:
            said.append(f"it is signed by {release.by}, which has not the role {self.policy.released_by.value}")
        if why := self.policies.why_revoked(release.by, release.at):
            said.append(f"it is signed with a revoked key: {why}")
        if release.environment != self.environment:
            said.append(f"it is a release of {release.environment}")
        return release, [Problem(what=w, where=where) for w in said]

    def _wrong_beginning(self, n: int, begun: Release, last: Entry | None) -> list[str]:
        said = []
        if (begun.sequence, begun.state) != (n, State.BEGUN):
            said.append(f"it says {begun.state} of release {begun.sequence}")
        if last is not None and last.ended is None:
            said.append(f"release {last.sequence} before it never ended")
        if begun.previous != (last.end_sha256 if last else None):
            said.append("it does not name the release before it")
        if last is not None and last.ended is not None and _earlier(begun.at, last.ended.at):
            said.append(f"it began at {begun.at}, before release {last.sequence} ended")
        return said

    def take(self, wanted: Release, signer: Signer) -> Entry:
        """Take the number of `wanted`; `Temporary` where somebody else has it now."""
        sha = self._kept(wanted, BEGUN, signer)
        if sha is None:
            raise Temporary(
                Problem(
                    what="somebody else changes this environment at this moment", where=f"{self.environment}, release {wanted.sequence}"
                ),
                hint="see what they do with: countersign history; then ask again",
            )
        return Entry(begun=wanted, sha256=sha)

    def end(self, entry: Entry, ended: Release, signer: Signer) -> Entry:
        """Say what came of a release; `NotVerified` where somebody else has said it already, and something else."""
        ended = replace(ended, previous=entry.sha256)
        sha = self._kept(ended, ENDED, signer)
        if sha is None:
            raise NotVerified(
                Problem(
                    what="somebody else took it for dead, and has said how it ended", where=f"{self.environment}, release {entry.sequence}"
                ),
                hint="see what serves now with: countersign history",
            )
        return replace(entry, ended=ended, end_sha256=sha)

    def _kept(self, said: Release, when: str, signer: Signer) -> str | None:
        """Sign it and keep it; the digest of its envelope, or None where somebody else's stands there."""
        envelope = signer.sign(encode_release(said))
        keys.publish(self.store, signer)
        there = self.store.put_if_absent(f"{self.folder}/{said.sequence}/{when}", envelope)
        return digest.of_bytes(envelope).sha256 if there == envelope else None


def serving(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """What serves and what it came after, the newest last: a promotion is put on top, a rollback takes the top away.

    So a rollback never goes back to what another one took away, nor to what that one passed over.
    """
    stack: list[Entry] = []
    for e in entries:
        if not e.done:
            continue
        if e.begun.kind is Kind.ROLLBACK and len(stack) > 1:
            del stack[-1]
            while stack and stack.pop().variants != e.variants:
                pass  # what it passed over, as it no longer verified
        stack.append(e)
    return tuple(stack)


def serving_at(entries: Sequence[Entry], moment: datetime | None = None) -> tuple[Entry, ...]:
    """What served at a moment, or serves now: of each pipeline the last release that had come to serve, by pipeline."""
    last: dict[str, Entry] = {}
    for e in entries:
        if e.done and e.ended and (moment is None or datetime.fromisoformat(e.ended.at) <= moment):
            last[e.begun.pipeline] = e
    return tuple(last[name] for name in sorted(last))


def on_their_way(entries: Sequence[Entry], moment: datetime) -> tuple[Entry, ...]:
    """Releases that had begun at a moment and not ended: a canary answers then, beside what served, whatever comes of it."""
    return tuple(
        e
        for e in entries
        if datetime.fromisoformat(e.begun.at) <= moment and (e.ended is None or moment < datetime.fromisoformat(e.ended.at))
    )


def served(entries: Sequence[Entry], root: str) -> bool:
    """Whether a run was served ever, to anybody."""
    return any(v.root == root for e in entries if e.done for v in e.variants if not v.shadow)


def _names(count: int) -> set[str]:
    return {f"{n}/{w}" for n in range(1, count + 1) for w in (BEGUN, ENDED)}


def _wrong_end(begun: Release, sha256: str, ended: Release) -> list[str]:
    said = []
    if not SHA256.fullmatch(str(ended.previous)) or ended.previous != sha256:
        said.append("it does not name the beginning of its release")
    if not ended.state.ended:
        said.append("it says that it began")
    if _of_both(ended) != _of_both(begun):
        said.append("it says something else of the release than its beginning")
    if _earlier(ended.at, begun.at):
        said.append(f"it ended at {ended.at}, before it began")
    return said


def _of_both(r: Release) -> tuple[object, ...]:
    """What beginning and end must agree in. Who puts right what a dead process left may be another one, with another key."""
    return (r.environment, r.sequence, r.kind, r.pipeline, r.variants, r.approvals, r.policy)


def _earlier(one: str, other: str) -> bool:
    return datetime.fromisoformat(one) + CLOCK_SKEW < datetime.fromisoformat(other)
