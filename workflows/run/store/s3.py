"""A store in a bucket of S3, or of any server that speaks it: `s3://bucket/prefix`, which is a remote of DVC, too.

Endpoint, region and credentials come from the AWS environment variables and files. What is uploaded carries its sha256:
as a checksum that the server compares with what arrived, and as metadata for whoever looks later.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workflows.errors import BadInput, NotVerified, Problem, Temporary
from workflows.prove import digest
from workflows.prove.digest import Digests
from workflows.prove.record import MAX_RECORD, Item
from workflows.run import files
from workflows.run.logs import structlog
from workflows.run.store import download, upload
from workflows.run.store.bucket import Absent, Bucket, Standing, Unsupported
from workflows.run.store.interface import REPLACEABLE
from workflows.run.store.parallel import in_order
from workflows.run.store.patience import Patience

SOON = (0.0, 0.05, 0.2, 1.0)  # seconds between looks for what a server says is there
AT_ONCE = 256 * 1024  # bytes: sending so few where they are already costs less than asking before
log = structlog.get_logger()


class S3Store:
    """Usable by threads, and by processes forked from the one that made it."""

    def __init__(self, bucket: str, prefix: str = "", *, patience: Patience | None = None) -> None:
        self.bucket = Bucket(bucket, patience=patience)
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._conditional: bool | None = None
        """Whether the server obeys `If-None-Match`; None while nobody knows."""
        self._damaged: set[str] = set()
        """Addresses of what was read here and was not what it should be: its metadata may still say that it is."""

    @property
    def place(self) -> str:
        return f"s3://{self.bucket.name}/{self.prefix}".rstrip("/")

    # --- Content

    def put_content(self, path: Path) -> Digests:
        with path.open("rb") as source:
            data = source.read(upload.PART + 1)
            if len(data) <= upload.PART:
                d = digest.of_bytes(data)
                self._put_piece(data, d)
                return d
            del data
            source.seek(0)
            file = upload.known(path, source)
            if not self._already(file.digests):
                key = self._address(file.digests.md5)
                self._confirm(file.digests, confirmed=upload.put_parts(self.bucket, key, source, file))
            return file.digests

    def fetch_content(self, item: Item, to: Path) -> None:
        where = f"artifact {item.name} ({item.sha256})"
        with self._reading(item.md5, where, empty=item.size == 0) as arriving:
            if arriving.size != item.size:
                self._damaged.add(item.md5)
                raise self._changed(item.md5, where, f"{item.size} bytes", f"{arriving.size} bytes")
            with files.whole(to, durable=False) as copy, copy.open("r+b") as file, arriving.into(file) as landed:
                if (got := hashlib.file_digest(landed, "sha256").hexdigest()) != item.sha256:
                    self._damaged.add(item.md5)
                    raise self._changed(item.md5, where, item.sha256, got)

    def fetch_pointer(self, md5: str, size: int | None, to: Path) -> Digests:
        where = f"data {md5}"
        with (
            self._reading(md5, where, empty=size == 0) as arriving,
            files.whole(to, durable=False) as copy,
            copy.open("r+b") as file,
            arriving.into(file) as landed,
        ):
            d = digest.of_stream(landed)
            if d.md5 != md5 or size not in {None, d.size}:
                self._damaged.add(md5)
                raise self._changed(md5, where, f"md5 {md5}, {size} bytes", f"md5 {d.md5}, {d.size} bytes")
        return d

    def check_content(self, item: Item) -> Digests | None:
        try:
            with self._reading(item.md5, item.name, empty=item.size == 0) as arriving, arriving.stream() as stream:
                d = digest.of_stream(stream)
        except _Missing:
            return None
        if d.sha256 != item.sha256:
            self._damaged.add(item.md5)
        return d

    def holds(self, item: Item) -> bool:
        return self._already(item.digests)

    def _address(self, md5: str) -> str:
        return f"{self.prefix}files/md5/{md5[:2]}/{md5[2:]}"

    @contextlib.contextmanager
    def _reading(self, md5: str, where: str, *, empty: bool) -> Iterator[download.Arriving]:
        key = self._address(md5)
        try:
            yield download.get(self.bucket, key, empty=empty)
        except Absent:
            raise _Missing(Problem(what="missing from the store", where=where, got=f"nothing at s3://{self.bucket.name}/{key}")) from None
        except download.Replaced:
            raise NotVerified(Problem(what="replaced in the store while it was read", where=where)) from None

    def _changed(self, md5: str, where: str, expected: str, got: str) -> NotVerified:
        hint = f"s3://{self.bucket.name}/{self._address(md5)} is not what it was: whoever keeps the right bytes again mends it"
        return NotVerified(Problem(what="changed in the store", where=where, expected=expected, got=got), hint=hint)

    def _put_piece(self, data: bytes, d: Digests) -> None:
        key = self._address(d.md5)
        if len(data) <= AT_ONCE and d.md5 not in self._damaged:
            with contextlib.suppress(Standing, Unsupported):
                return self._confirm(d, confirmed=upload.put(self.bucket, key, data, d, new=True))
        if not self._already(d):
            self._confirm(d, confirmed=upload.put(self.bucket, key, data, d, new=False))
        return None

    def _already(self, d: Digests) -> bool:
        """Whether the right bytes are there. Wrong ones are to be replaced: an address allows one content only, so no right one is lost."""
        found = self._look(d)
        if found is False:
            where = f"s3://{self.bucket.name}/{self._address(d.md5)}"
            log.warning("content in the store is not what it should be; it is put there again", where=where)
        return bool(found)

    def _look(self, d: Digests) -> bool | None:
        """Whether what is there is right, by what the server says of it; None where nothing is there."""
        key = self._address(d.md5)
        try:
            head = self.bucket.ask(key, lambda s3: s3.head_object(Bucket=self.bucket.name, Key=key))
        except Absent:
            return None
        right = d.md5 not in self._damaged and _says(head, d)
        if right is None:  # it came in parts, and not from here: nothing tells what it is but itself
            got = self.check_content(_item(d))
            right = got is not None and got.sha256 == d.sha256
        return right

    def _confirm(self, d: Digests, *, confirmed: bool) -> None:
        """Read back what a server took without saying what it took."""
        if not confirmed and self.check_content(_item(d)) != d:
            raise Temporary(Problem(what="S3 did not keep what it was given", where=f"s3://{self.bucket.name}/{self._address(d.md5)}"))
        self._damaged.discard(d.md5)

    # --- Documents

    def put_document(self, name: str, data: bytes) -> None:
        if name.startswith(REPLACEABLE):
            upload.put(self.bucket, self.prefix + name, data, digest.of_bytes(data), new=False)
        elif self._stands(name, data, atomic=False) != data:
            raise NotVerified(Problem(what="the store already has other bytes under this name", where=f"{self.place}/{name}"))

    def put_if_absent(self, name: str, data: bytes) -> bytes:
        return self._stands(name, data, atomic=True)

    def _stands(self, name: str, data: bytes, *, atomic: bool) -> bytes:
        """What is there after `data` was put there if there was nothing."""
        key, d = self.prefix + name, digest.of_bytes(data)
        if self._conditional is not True and (kept := self.get_document(name)) is not None:
            return kept
        if self._conditional is not False:
            try:
                upload.put(self.bucket, key, data, d, new=True)
                self._conditional = self._conditional or self._obeys(key, data, d)
            except Unsupported:
                self._conditional = False
            except Standing:
                self._conditional = True
                return self._standing(name)
        if self._conditional is False:
            if atomic:
                hint = "claims need it: use a server that does, such as AWS, MinIO, Ceph, versitygw in their newer versions"
                raise BadInput(Problem(what="this S3 server does not obey If-None-Match", where=self.place), hint=hint)
            upload.put(self.bucket, key, data, d, new=False)
        return data

    def _standing(self, name: str) -> bytes:
        """What somebody else has just put there: a server may refuse the second before the first one's bytes can be read."""
        for seconds in SOON:
            time.sleep(seconds)
            if (kept := self.get_document(name)) is not None:
                return kept
        raise Temporary(Problem(what="a document is there and is not there", where=f"{self.place}/{name}"))

    def _obeys(self, key: str, data: bytes, d: Digests) -> bool:
        """Whether the server refuses to write a second time what it has just written. Asked once."""
        try:
            upload.put(self.bucket, key, data, d, new=True)
        except Standing:
            return True
        return False

    def get_document(self, name: str) -> bytes | None:
        try:
            arriving = download.get(self.bucket, self.prefix + name)
            if arriving.size > MAX_RECORD:
                raise _too_large(f"{self.place}/{name}", arriving.size)
            with arriving.stream() as stream:
                return stream.read()
        except Absent:
            return None
        except download.Replaced:
            raise NotVerified(Problem(what="replaced in the store while it was read", where=f"{self.place}/{name}")) from None

    def list_documents(self, folder: str) -> Mapping[str, bytes]:
        top = f"{self.prefix}{folder}/"
        listed = [o for page in self._pages(top) for o in page.get("Contents", ()) if not o["Key"].endswith("/")]
        for o in listed:
            if o["Size"] > MAX_RECORD:
                raise _too_large(f"s3://{self.bucket.name}/{o['Key']}", o["Size"])
        names = sorted(o["Key"].removeprefix(top) for o in listed)
        found = in_order(lambda n: self.get_document(f"{folder}/{n}"), names)
        return {n: data for n, data in zip(names, found, strict=True) if data is not None}

    def list_folders(self, folder: str) -> list[str]:
        top = f"{self.prefix}{folder}/"
        return sorted(
            p["Prefix"].removeprefix(top).rstrip("/") for page in self._pages(top, Delimiter="/") for p in page.get("CommonPrefixes", ())
        )

    def _pages(self, prefix: str, **words: str) -> Iterator[dict[str, Any]]:
        while True:
            page: dict[str, Any] = self.bucket.ask(
                prefix, lambda s3: s3.list_objects_v2(Bucket=self.bucket.name, Prefix=prefix, **words)
            )  # fmt: skip
            yield page
            if not page.get("IsTruncated"):
                return
            words["ContinuationToken"] = page["NextContinuationToken"]


def _says(head: Mapping[str, Any], d: Digests) -> bool | None:
    """Whether the answer to a HEAD is that of the right bytes; None where it does not tell."""
    if head["ContentLength"] != d.size:
        return False
    recorded, etag = head.get("Metadata", {}).get(upload.RECORDED), head["ETag"].strip('"')
    # What came in one piece has its md5 as its tag, unless it is encrypted with a key of its own.
    own_key = head.get("ServerSideEncryption") not in {None, "AES256"} or "SSECustomerAlgorithm" in head
    is_md5 = not own_key and re.fullmatch(r"[0-9a-f]{32}", etag)
    if is_md5 and etag != d.md5:
        return False
    return recorded == d.sha256 if recorded else True if is_md5 else None


def _item(d: Digests) -> Item:
    return Item.of(f"content {d.md5}", d)


def _too_large(where: str, size: int) -> NotVerified:
    return NotVerified(Problem(what="larger than any document of a run", where=where, got=f"{size} bytes"))


class _Missing(NotVerified):
    """There is nothing at the address of some content."""
