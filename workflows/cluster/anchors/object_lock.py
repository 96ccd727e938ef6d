"""Roots in locked objects: `anchors/<run>` beside the records, which S3 itself lets nobody replace or delete until a date.

Every version of the object counts. A bucket with object lock keeps the versions, so whoever puts another root on top, or a
mark that it was deleted, only adds to what is there.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from workflows.cluster.anchors.interface import OBJECT_LOCK, unreached
from workflows.errors import BadInput, CountersignError, NotVerified, Problem, Temporary
from workflows.prove import digest
from workflows.prove.anchor import Looked, Noted, Unreached, line_of, roots_in
from workflows.run.store.bucket import Absent, Standing, Unsupported
from workflows.run.store.s3 import S3Store
from workflows.run.store.upload import checksum

LARGEST = 4096  # bytes: a root and a run's id are far less
MOST_DAYS = 36_500  # S3's own limit
NEARLY = timedelta(days=1)  # what is locked to within a day of what was asked need not be locked anew
NO_ROOT = "no root at all"
NO_LOCK = "ObjectLockConfigurationNotFoundError"
RIGHTS = "it takes s3:ListBucketVersions, s3:GetObjectVersion and s3:GetObjectRetention"
MAKE = "object lock is enabled when a bucket is made: aws s3api create-bucket --object-lock-enabled-for-bucket"


class Mode(StrEnum):
    """Who may undo a lock before its date."""

    COMPLIANCE = "COMPLIANCE"
    """Nobody, not even the owner of the account."""
    GOVERNANCE = "GOVERNANCE"
    """Whoever has s3:BypassGovernanceRetention."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One version of an anchor's object."""

    id: str
    text: str
    mode: str
    """Empty where it is not locked, or nobody says."""
    until: datetime | None

    def weakness(self, now: datetime) -> str:
        if not self.until:
            return "it is not locked, or you may not see whether it is (s3:GetObjectRetention)"
        return "" if self.until > now else f"its lock ended on {self.until:%Y-%m-%d}"

    @property
    def words(self) -> dict[str, str]:
        """What a request to this version says beside bucket and key."""
        return {"VersionId": self.id} if self.id else {}

    @property
    def where(self) -> str:
        return f", {self.mode} until {self.until:%Y-%m-%d}" if self.until else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedObjects:
    """The anchors of a store in S3."""

    store: S3Store
    name: str = OBJECT_LOCK

    def look(self, run: str) -> Looked:
        now = datetime.now(UTC)
        try:
            return tuple(
                Noted(root=root, where=f"{self._place(run)}{v.where}", weak=v.weakness(now))
                for v in self._versions(run)
                for root in roots_in(v.text, run) or [NO_ROOT]
            )
        except BadInput as error:
            return Unreached(why=f"{unreached(error).why}; {RIGHTS}")
        except CountersignError as error:
            return unreached(error)

    def lock(self, run: str, root: str, days: int, mode: Mode = Mode.COMPLIANCE) -> Version:
        """Note a root so that it stands for `days`. A lock that is there is never shortened, and keeps its mode.

        `BadInput` where the bucket cannot lock, `NotVerified` where another root stands there.
        """
        if not 1 <= days <= MOST_DAYS:
            raise BadInput(Problem(what="not a number of days", where="days of object lock", expected=f"1 to {MOST_DAYS}", got=str(days)))
        self._must_lock(run)
        until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
        if not self._versions(run):
            with contextlib.suppress(Standing):  # someone else was faster: what they wrote is looked at
                self._put(run, root, {"ObjectLockMode": mode.value, "ObjectLockRetainUntilDate": until})
        first = self._standing(run, root)
        if first.until and first.until < until - NEARLY:
            longer = {"Mode": first.mode, "RetainUntilDate": until}
            self._ask(run, lambda s3, words: s3.put_object_retention(**words, **first.words, Retention=longer))
            first = self._standing(run, root)
        if not first.until:
            what = "the server took the object and did not lock it, or you may not see whether it is (s3:GetObjectRetention)"
            raise BadInput(Problem(what=what, where=self._place(run)), hint=MAKE)
        return first

    def _standing(self, run: str, root: str) -> Version:
        found = self._versions(run)
        if other := [r for v in found for r in roots_in(v.text, run) or [NO_ROOT] if r != root]:
            raise NotVerified(Problem(what="another root is noted for this run", where=self._place(run), expected=root, got=other[0]))
        if not found:
            raise Temporary(Problem(what="S3 did not keep what it was given", where=self._place(run)))
        return found[0]

    def _must_lock(self, run: str) -> None:
        """Some servers put the object and only then say that they cannot lock it. So the bucket is asked first."""
        try:
            answer = self.store.bucket.ask(self._key(run), lambda s3: s3.get_object_lock_configuration(Bucket=self._bucket))
        except (Absent, Unsupported):
            answer = {}
        except BadInput as error:
            if NO_LOCK not in str(error):
                raise
            answer = {}
        if answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise BadInput(Problem(what="this bucket has no object lock", where=f"s3://{self._bucket}"), hint=MAKE)

    def _put(self, run: str, root: str, lock: dict[str, Any]) -> None:
        body = line_of(run, root).encode()
        # S3 locks nothing that comes without a checksum.
        sum_ = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": checksum(bytes.fromhex(digest.of_bytes(body).sha256))}
        self._ask(run, lambda s3, words: s3.put_object(**words, Body=body, IfNoneMatch="*", **sum_, **lock))

    def _versions(self, run: str) -> list[Version]:
        """Every version that is or was there, the oldest first."""
        try:
            listed = self._listed(run)
        except Unsupported:
            listed = [{}]  # a server that has no versions: the object itself
        with contextlib.suppress(Absent):
            return [self._version(run, _words(v)) for v in listed]
        return []

    def _listed(self, run: str) -> list[dict[str, Any]]:
        def all_pages(s3: Any, words: dict[str, str]) -> list[dict[str, Any]]:
            pages = s3.get_paginator("list_object_versions").paginate(Bucket=words["Bucket"], Prefix=words["Key"])
            return [v for page in pages for v in page.get("Versions", ()) if v["Key"] == words["Key"]]

        return sorted(self._ask(run, all_pages), key=lambda v: v["LastModified"])

    def _version(self, run: str, which: dict[str, str]) -> Version:
        def read(s3: Any, words: dict[str, str]) -> Version:
            head = s3.head_object(**words, **which)  # first: what is locked now cannot be another when it is read
            with contextlib.closing(s3.get_object(**words, **which)["Body"]) as body:
                text = body.read(LARGEST).decode("utf-8", "replace")
            mode, until = head.get("ObjectLockMode", ""), head.get("ObjectLockRetainUntilDate")
            return Version(id=which.get("VersionId", ""), text=text, mode=mode, until=until)

        found: Version = self._ask(run, read)
        return found

    def _ask(self, run: str, work: Any) -> Any:
        words = {"Bucket": self._bucket, "Key": self._key(run)}
        return self.store.bucket.ask(self._key(run), lambda s3: work(s3, words))

    def _key(self, run: str) -> str:
        return f"{self.store.prefix}anchors/{run}"

    def _place(self, run: str) -> str:
        return f"s3://{self._bucket}/{self._key(run)}"

    @property
    def _bucket(self) -> str:
        return self.store.bucket.name


def _words(listed: dict[str, Any]) -> dict[str, str]:
    """How a version in a list is asked for. A server that keeps no versions lists one called null, and may not know it by that."""
    name = listed.get("VersionId")
    return {} if not name or (name == "null" and listed.get("IsLatest")) else {"VersionId": name}
