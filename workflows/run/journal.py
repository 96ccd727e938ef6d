"""A run's documents in the store: which record each attempt left, and the seal that ends it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from workflows.errors import BadInput, NotVerified, Problem
from workflows.prove import digest
from workflows.prove.record import (
    SHA256,
    NotARecord,
    Record,
    Seal,
    SealEntry,
    decode_record,
    decode_seal,
    encode_record,
    encode_seal,
    outcome_of,
)
from workflows.prove.signature import BadSignature, Keyring, Signer
from workflows.prove.verify import POINTER, digest_in, last_entries
from workflows.run.keys import publish
from workflows.run.store.interface import Store
from workflows.run.store.parallel import at_once

LATEST = "cache/latest"
ATTEMPT = re.compile(r"[1-9][0-9]{0,8}")
RUN_ID = re.compile(r"(?P<plan>[a-z0-9-]+-[0-9a-f]{12})(-[0-9]+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A record with the digest of its envelope: its address, and how later records name it."""

    record: Record
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """The end of a run: its seal, the digest of that, and when its first record was begun."""

    seal: Seal
    root: str
    began: str


class Journal:
    """One run in a store. Records are only ever added; after the seal, none."""

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run
        self.added: list[Written] = []
        """Records that this process has written."""
        self.ended: Ended | None = None
        """The seal, where this process has written it."""
        self._read: dict[str, Written] = {}
        """Records that were read and checked: what is addressed by its digest need not be read again."""

    @property
    def plan(self) -> str:
        """The run's id without the number of its attempt: equal for runs that would do the same."""
        matched = RUN_ID.fullmatch(self.run)
        return matched["plan"] if matched else self.run

    @property
    def sealed(self) -> bool:
        return self.store.get_document(f"runs/{self.run}/root") is not None

    def begun(self) -> set[str]:
        """Tasks that have a record. One look, however long the run is."""
        return set(self.store.list_folders(f"runs/{self.run}/steps"))

    def attempts(self) -> dict[str, dict[int, str]]:
        """Task -> attempt -> digest of the record."""
        found: dict[str, dict[int, str]] = {}
        for name, sha in self._pointers("").items():
            task, _, attempt = name.rpartition("/")
            found.setdefault(task, {})[int(attempt)] = sha
        return found

    def attempts_of(self, task: str) -> dict[int, str]:
        """Attempt -> digest of the record. Looks at one task only, however long the run is."""
        return {int(attempt): sha for attempt, sha in self._pointers(f"/{task}").items()}

    def _pointers(self, below: str) -> dict[str, str]:
        folder = f"runs/{self.run}/steps{below}"
        listed = self.store.list_documents(folder)
        for name, data in listed.items():
            if not ATTEMPT.fullmatch(name.rpartition("/")[2]) or not POINTER.fullmatch(data):
                raise NotVerified(
                    Problem(what="not the pointer to a record that stood here", where=f"{folder}/{name}"),
                    hint="a run whose folder was meddled with cannot go on: make a new one with --again",
                )
        return {name: data.decode()[:-1] for name, data in listed.items()}

    def append(self, record: Record, signer: Signer) -> Written:
        """Sign a record and keep it; the run's index names it last, so a crash leaves no name without a record."""
        written = self._kept(record, signer)
        self.store.put_document(*self._pointer_to(written))
        self.added.append(written)
        return written

    def offer(self, record: Record, signer: Signer, keys: Keyring) -> Written:
        """`append` where several processes may say the same of a task at once: the record that is there first stands."""
        mine = self._kept(record, signer)
        name, pointer = self._pointer_to(mine)
        if self.store.put_if_absent(name, pointer) == pointer:
            self.added.append(mine)
            return mine
        found = self._record(keys, self.attempts_of(record.task)[record.attempt], record.task)
        if not found.record.outcome.good:
            where = f"{self.run}/{record.task}"
            raise NotVerified(Problem(what="another process left another record", where=where, got=found.record.outcome.value))
        return found

    def _kept(self, record: Record, signer: Signer) -> Written:
        envelope = signer.sign(encode_record(record))
        sha = digest.of_bytes(envelope).sha256
        publish(self.store, signer)
        self.store.put_document(f"records/{sha}", envelope)
        return Written(record=record, sha256=sha)

    def _pointer_to(self, written: Written) -> tuple[str, bytes]:
        """Name and bytes of the run's entry for a record."""
        return f"runs/{self.run}/steps/{written.record.task}/{written.record.attempt}", f"{written.sha256}\n".encode()

    def last(self, keys: Keyring, tasks: Iterable[str]) -> dict[str, Written]:
        """The last record of each of `tasks` that has one, checked."""

        def look(task: str) -> Written | None:
            attempts = self.attempts_of(task)
            return self._record(keys, attempts[max(attempts)], task) if attempts else None

        named = tuple(tasks)
        return {t: w for t, w in zip(named, at_once(look, named), strict=True) if w}

    def _record(self, keys: Keyring, sha256: str, task: str) -> Written:
        if sha256 not in self._read:
            self._read[sha256] = read_record(self.store, keys, sha256, f"{self.run}/{task}")
        return self._read[sha256]

    def seal(  # noqa: PLR0913  # what a seal says, by keyword
        self, *, pipeline: str, tasks: tuple[str, ...], keys: Keyring, signer: Signer, sealed: str, submitter: str | None = None
    ) -> tuple[Seal, str]:
        """End the run: sign the list of all its records, in the order of the tasks. The root is the digest of that."""
        attempts = self.attempts()
        listed = [(t, attempts[t][n]) for t in tasks for n in sorted(attempts.get(t, {}))]
        written = list(at_once(lambda one: self._record(keys, one[1], one[0]), listed))
        last = {w.record.task: w.record for w in written}
        seal = Seal(
            pipeline=pipeline,
            run=self.run,
            outcome=outcome_of(tasks, {t: r.outcome for t, r in last.items()}),
            tasks=tasks,
            records=tuple(
                SealEntry(task=w.record.task, attempt=w.record.attempt, outcome=w.record.outcome, sha256=w.sha256) for w in written
            ),
            outputs=tuple(i for t in tasks if t in last for i in last[t].outputs),
            sealed=max([sealed, *(w.record.finished for w in written)]),  # a clock set back must not make a seal that fails
            submitter=submitter,
        )
        envelope = signer.sign(encode_seal(seal))
        root = digest.of_bytes(envelope).sha256
        self.store.put_document(f"records/{root}", envelope)
        self.store.put_document(f"runs/{self.run}/root", f"{root}\n".encode())
        self.ended = Ended(seal=seal, root=root, began=min([seal.sealed, *(w.record.started for w in written)]))
        self.is_latest()
        return seal, root

    def is_latest(self) -> None:
        """Let `@latest` mean this run."""
        self.store.put_document(LATEST, f"{self.run}\n".encode())

    def read_seal(self, keys: Keyring) -> tuple[Seal, str]:
        """The seal and the root of a finished run, checked."""
        named = self.store.get_document(f"runs/{self.run}/root")
        if named is None:
            raise BadInput(Problem(what="no such finished run", where=self.run), hint="list the runs with: countersign show")
        root = digest_in(named)
        if not SHA256.fullmatch(root):
            raise NotVerified(Problem(what=f"not the digest of a seal: {root}", where=f"runs/{self.run}/root"))
        payload = _open(self.store, keys, root, f"seal of {self.run}")
        try:
            return decode_seal(payload), root
        except NotARecord as error:
            raise NotVerified(Problem(what=str(error), where=f"seal of {self.run}")) from None


def lock_document(run: str) -> str:
    """Where a run's `dvc.lock` lies in its store, for whoever has DVC alone."""
    return f"exports/{run}/dvc.lock"


def read_record(store: Store, keys: Keyring, sha256: str, where: str) -> Written:
    """A record by digest: its bytes, signature and form checked; `NotVerified` says which does not hold."""
    payload = _open(store, keys, sha256, where)
    try:
        return Written(record=decode_record(payload), sha256=sha256)
    except NotARecord as error:
        raise NotVerified(Problem(what=str(error), where=where)) from None


def standing(store: Store, keys: Keyring, seal: Seal) -> dict[str, Record]:
    """The last record of each task of a sealed run, by task, in the order of the tasks."""
    last = last_entries(seal)
    named = [t for t in seal.tasks if t in last]
    found = at_once(lambda t: read_record(store, keys, last[t].sha256, f"{seal.run}/{t}").record, named)
    return dict(zip(named, found, strict=True))


def find(store: Store, name: str) -> str:
    """The run meant by `@latest` or an id; `BadInput` where there is none. An id means that run and no later attempt at the same."""
    if name == "@latest":
        latest = store.get_document(LATEST)
        if not latest:
            raise BadInput(Problem(what="there is no run yet", where=store.place), hint="make one with: countersign run PIPELINE")
        latest_run = latest.decode("ascii", "replace").strip()
        if not RUN_ID.fullmatch(latest_run):
            raise BadInput(
                Problem(what="the note of the latest run cannot be read", where=store.place), hint="list the runs: countersign show"
            )
        return latest_run
    known = runs(store)
    if name not in known:
        listed = ", ".join(known[-5:]) or "none"
        raise BadInput(Problem(what=f"no run {name}", where=store.place, expected=f"@latest or one of: {listed}"))
    return name


def runs(store: Store) -> list[str]:
    """Ids of all runs, sorted."""
    return store.list_folders("runs")


def _open(store: Store, keys: Keyring, sha256: str, where: str) -> bytes:
    data = store.get_document(f"records/{sha256}")
    if data is None:
        raise NotVerified(Problem(what="record missing from the store", where=f"{where} ({sha256})"))
    if (got := digest.of_bytes(data).sha256) != sha256:
        raise NotVerified(Problem(what="record changed in the store", where=where, expected=sha256, got=got))
    try:
        return keys.open(data).payload
    except BadSignature as error:
        raise NotVerified(Problem(what=str(error), where=f"{where} ({sha256})")) from None
