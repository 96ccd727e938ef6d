"""The decision log: nobody thins it out unseen, a crash loses nothing that was answered, a full disk mends itself."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.serve.logs import KEYS, SIGNER, disk, no_room, record
from workflows.errors import BadInput, NotVerified, Temporary
from workflows.prove import canonical
from workflows.prove.digest import of_bytes
from workflows.prove.signature import Keyring
from workflows.run.store.local import LocalStore
from workflows.serve import chain as chains
from workflows.serve.disk import Disk, clear, taken, unsent
from workflows.serve.log import DecisionLog, Limits, NotKept
from workflows.serve.shipping import ship, verify_logs


def written(top: Path, *batches: int) -> Disk:
    """A log with batches of so many records each, signed but for the last batch."""
    log, n = disk(top), 0
    for i, size in enumerate(batches):
        if i:
            log.seal()
        log.append(*([record(n + j)] for j in range(size)))
        n += size
    return log


def store_of(top: Path) -> LocalStore:
    (top / "store").mkdir(exist_ok=True)
    return LocalStore(content=top / "store", documents=top / "store")


def shipped(top: Path, *batches: int) -> tuple[LocalStore, Disk]:
    log = written(top, *batches)
    log.seal()
    store = store_of(top)
    assert ship(top / "log", store, SIGNER, KEYS) == len(batches)
    return store, log


def findings(store: LocalStore, **noted: str) -> list[str]:
    return [f for said in verify_logs(store, "prod", KEYS, noted) for f in said.findings]


# --- the chain in the store


def test_a_whole_log(tmp_path: Path) -> None:
    store, log = shipped(tmp_path, 3, 1, 4)
    [said] = verify_logs(store, "prod", KEYS)
    assert (said.records, said.head, said.findings, said.signers) == (8, log.head, (), (SIGNER.keyid,))
    assert ship(tmp_path / "log", store, SIGNER, KEYS) == 0
    assert findings(store, **{log.chain: log.head.sha256}) == []


def names(store: LocalStore) -> list[Path]:
    return sorted((store.documents / "decisions" / "prod").rglob("00000000????"))


def swap(paths: list[Path]) -> None:
    a, b = paths[0].read_bytes(), paths[1].read_bytes()
    paths[0].write_bytes(b)
    paths[1].write_bytes(a)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


MEDDLED: list[tuple[Callable[[list[Path]], object], str]] = [
    (lambda p: p[0].unlink(), "records 1 to 3 are missing"),
    (lambda p: p[1].unlink(), "records 4 to 4 are missing"),
    (lambda p: p[2].unlink(), "its end is missing"),
    (swap, "it is batch 000000000004 of"),
    (lambda p: flip(p[1]), "000000000004: "),
    (lambda p: p[1].write_bytes(b"{}"), "not an envelope"),
    (lambda p: p[1].rename(p[1].with_name("000000000005")), "it is batch 000000000004"),
]


@pytest.mark.parametrize(("meddle", "message"), MEDDLED)
def test_what_is_done_to_batches_is_found(tmp_path: Path, meddle: Callable[[list[Path]], object], message: str) -> None:
    store, _ = shipped(tmp_path, 3, 1, 4)
    meddle(names(store))
    assert any(message in f for f in findings(store))


def test_records_that_are_changed_or_gone(tmp_path: Path) -> None:
    store, log = shipped(tmp_path, 3)
    [content] = (tmp_path / "store" / "files" / "md5").rglob("*/*")
    data = content.read_bytes()
    content.chmod(0o644)
    content.write_bytes(data.replace(b'"n":1', b'"n":7'))
    assert [f for f in findings(store) if "its records are missing" in f]  # the store has other bytes at that address
    content.unlink()
    assert findings(store) == [f"{log.chain}/000000000001: its records are missing"]


def test_a_batch_that_its_signer_made_wrong(tmp_path: Path) -> None:
    """Even with the key, lines that do not follow one another are no batch."""
    log = written(tmp_path, 3)
    batch = log.seal()
    assert batch
    lines = (tmp_path / "log" / "000000000001.jsonl").read_bytes().splitlines(keepends=True)
    for data, message in (
        (lines[0] + lines[2], "line 2 of .* is missing"),
        (lines[1] + lines[0] + lines[2], "line 1 of .* is missing"),
        (lines[0] + lines[1].replace(b'"n":1', b'"n":2') + lines[2], "line 3 does not follow line 2"),
        (lines[0] + lines[1], "do not end where"),
        (b"".join(lines)[:-1], "its last line has no end"),
        (b"".join(lines) + b"{}\n", "line 4 is none"),
    ):
        d = of_bytes(data)
        other = replace(batch, sha256=d.sha256, md5=d.md5, size=d.size)
        with pytest.raises(chains.Broken, match=message):
            chains.bodies(other, data)


def test_a_receipt_finds_the_tail_that_is_gone(tmp_path: Path) -> None:
    store, log = shipped(tmp_path, 3, 2)
    receipt = log.head.sha256
    names(store)[1].unlink()
    (store.documents / "cache" / "decisions" / "prod" / log.chain).unlink()
    assert findings(store) == []  # nothing in the store tells
    assert findings(store, **{log.chain: receipt}) == [f"{log.chain}: its end is missing: {receipt} was noted elsewhere and is not in it"]
    assert findings(store, ba9876543210=receipt)  # a chain that is gone as a whole


def test_a_server_that_sends_more_while_one_looks_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, log = shipped(tmp_path, 3)
    listed = store.list_documents

    def at_work(folder: str) -> Any:
        found = listed(folder)
        log.append([record(3), record(4)])
        log.seal()
        ship(tmp_path / "log", store, SIGNER, KEYS)
        return found

    monkeypatch.setattr(store, "list_documents", at_work)
    assert [(s.records, s.findings) for s in verify_logs(store, "prod", KEYS)] == [(3, ())]


def test_other_keys_are_not_trusted(tmp_path: Path) -> None:
    store, _ = shipped(tmp_path, 2)
    assert "signed by a key that is not at hand" in verify_logs(store, "prod", Keyring({}))[0].findings[0]


@pytest.mark.parametrize(
    "change", [{"first": 0}, {"last": "2"}, {"chain": "x"}, {"before": "0" * 64}, {"extra": 1}, {"recovered": 0}, {"head": ""}]
)
def test_a_statement_is_read_strictly(tmp_path: Path, change: dict[str, Any]) -> None:
    batch = written(tmp_path, 2).seal()
    assert batch
    assert chains.decode(chains.encode(batch)) == batch
    said = canonical.read(chains.encode(batch))
    said["predicate"] |= change
    with pytest.raises(chains.NotABatch):
        chains.decode(canonical.encode(said))


# --- the disk


def test_lines_are_canonical_json(tmp_path: Path) -> None:
    written(tmp_path, 3)
    for line in (tmp_path / "log" / "000000000001.jsonl").read_bytes().splitlines():
        canonical.decode(line)


def test_a_torn_line_is_cut_and_kept_aside(tmp_path: Path) -> None:
    log = written(tmp_path, 2, 3)
    head, chain = log.head, log.chain
    log.close()
    path = tmp_path / "log" / "000000000003.jsonl"
    with path.open("ab") as file:
        file.write(b'{"body":{"id":"half')
    again = disk(tmp_path)
    assert (again.chain, again.head, again.torn) == (chain, head, 19)
    assert (tmp_path / "log" / path.with_suffix(f".torn-{path.stat().st_size}")).read_bytes().startswith(b'{"body"')
    again.append([record(5)])
    again.seal()
    store = store_of(tmp_path)
    ship(tmp_path / "log", store, SIGNER, KEYS)
    [said] = verify_logs(store, "prod", KEYS)
    assert (said.records, said.findings) == (6, ())
    signed = [chains.open_batch(p.read_bytes(), KEYS).batch for p in names(store)]
    assert [b.recovered for b in signed] == [False, True, False]


def test_a_kill_after_everything_was_signed_is_told_all_the_same(tmp_path: Path) -> None:
    """In batched mode what was answered last lay in memory alone: nothing torn, nothing unsigned, and yet something is missing."""
    killed = written(tmp_path, 2)
    killed.seal()
    os.close(killed._lock)  # as the system does where a process ends without a word
    for n in (2, 3):
        log = disk(tmp_path)
        log.append([record(n)])
        log.seal()
        log.close()
    store = store_of(tmp_path)
    ship(tmp_path / "log", store, SIGNER, KEYS)
    [said] = verify_logs(store, "prod", KEYS)
    assert (said.findings, [(b.first, b.last) for b in said.recovered]) == ((), [(3, 3)])


def test_a_log_that_could_not_keep_everything_is_not_closed_as_whole(tmp_path: Path) -> None:
    log = written(tmp_path, 2)
    log.seal()
    log.close(whole=False)
    again = disk(tmp_path)
    again.append([record(2)])
    batch = again.seal()
    assert batch is not None
    assert batch.recovered


def test_a_crash_leaves_no_request_by_halves(tmp_path: Path) -> None:
    """However far the write of a request of three came: it stands whole, or it does not stand, and nobody was answered."""
    log = written(tmp_path, 2)
    path = tmp_path / "log" / "000000000001.jsonl"
    before, head = path.stat().st_size, log.head
    shutil.copytree(tmp_path / "log", tmp_path / "before")
    [heads] = log.append([record(2), record(3), record(4)])
    log.close()
    data = path.read_bytes()
    ends = [i for i in range(before, len(data)) if data[i - 1 : i] == b"\n"]
    assert len(ends) == 3
    for end in sorted({*ends, *(e + 1 for e in ends), *(e - 1 for e in ends[1:]), before + 40, len(data) - 1}):
        shutil.rmtree(tmp_path / "log")
        shutil.copytree(tmp_path / "before", tmp_path / "log")
        path.write_bytes(data[:end])
        again = disk(tmp_path)
        assert (again.head, again.torn) == (head, end - before)
        assert not again.torn or path.with_suffix(f".torn-{before}").read_bytes() == data[before:end]
        assert again.append([record(2), record(3), record(4)]) == [heads]
        again.close()


def test_half_a_request_is_found(tmp_path: Path) -> None:
    """Whoever has the key may sign lines that follow one another; a request that is not whole is found all the same."""
    log = disk(tmp_path)
    log.append([record(0), record(1), record(2)])
    batch = log.seal()
    assert batch
    data = (tmp_path / "log" / "000000000001.jsonl").read_bytes()
    assert [b'"more":%d,' % n in line for n, line in zip((2, 1), data.splitlines(), strict=False)] == [True, True]
    assert len(chains.bodies(batch, data)) == 3
    for mores, message in (
        ((2, 1), "1 lines of it are missing"),
        ((2, 0), "line 2 is not the next"),
        ((1, 2, 0), "line 2 is not the next"),
    ):
        head, lines = chains.start(log.chain), b""
        for n, more in enumerate(mores):
            line, head = chains.line(record(n)[0], log.chain, head, more)
            lines += line + b"\n"
        d = of_bytes(lines)
        other = replace(batch, last=head.number, head=head.sha256, sha256=d.sha256, md5=d.md5, size=d.size)
        with pytest.raises(chains.Broken, match=message):
            chains.bodies(other, lines)


@pytest.mark.parametrize("left", [b"", b'{"body":{"id'])
def test_a_crash_before_the_first_whole_line(tmp_path: Path, left: bytes) -> None:
    disk(tmp_path).close()
    (tmp_path / "log" / "000000000001.jsonl").write_bytes(left)
    assert disk(tmp_path).head.number == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda top: flip(top / "000000000003.jsonl"),
        lambda top: flip(top / "000000000001.jsonl"),
        lambda top: flip(top / "000000000001.batch"),
        lambda top: (top / "000000000001.jsonl").unlink(),
        lambda top: (top / "000000000001.batch").unlink(),
        lambda top: (top / "000000000003.jsonl").rename(top / "000000000002.jsonl"),
        lambda top: (top / "chain.json").write_bytes(b"{}"),
    ],
)
def test_more_than_a_crash_is_refused(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    written(tmp_path, 2, 3).close()
    damage(tmp_path / "log")
    with pytest.raises(NotVerified):
        disk(tmp_path)


def test_one_process_a_folder_and_one_environment(tmp_path: Path) -> None:
    first = written(tmp_path, 1)
    with pytest.raises(Temporary, match="another server"):
        disk(tmp_path)
    first.close()
    with pytest.raises(BadInput, match="something else"):
        disk(tmp_path, environment="dev")


def test_what_was_sent_is_cleared_the_oldest_first(tmp_path: Path) -> None:
    _, log = shipped(tmp_path, 2, 2, 2)
    clear(tmp_path / "log", keep=10**9)
    assert len(list((tmp_path / "log").glob("*.batch"))) == 3
    clear(tmp_path / "log", keep=0)
    assert [p.name for p in sorted((tmp_path / "log").glob("*.batch"))] == ["000000000005.batch"]
    head = log.head
    log.close()
    (tmp_path / "log" / "000000000001.jsonl").write_bytes(b"left by a clearing that was killed")
    (tmp_path / "log" / "000000000001.sent").touch()
    again = disk(tmp_path)
    assert again.head == head
    again.append([record(6)])
    again.seal()
    assert len(unsent(tmp_path / "log")) == 1
    assert ship(tmp_path / "log", store_of(tmp_path), SIGNER, KEYS) == 1
    assert findings(store_of(tmp_path)) == []


def test_however_small_only_so_many_that_were_sent_stay(tmp_path: Path) -> None:
    _, log = shipped(tmp_path, 1, 1, 1, 1)
    clear(tmp_path / "log", keep=10**9, most=2)
    assert [p.stem for p in sorted((tmp_path / "log").glob("*.batch"))] == [f"{n:012d}" for n in (2, 3, 4)]
    log.append([record(4)])
    log.seal()
    clear(tmp_path / "log", keep=0, most=0)
    assert len(unsent(tmp_path / "log")) == 1, "what was not sent stays, however much it is"


def test_what_the_folder_takes_is_counted_in_blocks_of_the_disk(tmp_path: Path) -> None:
    """A file of one line takes a block like any other, and a volume's limit counts blocks."""
    shipped(tmp_path, 1, 1, 1)
    size = sum(p.stat().st_size for p in (tmp_path / "log").iterdir())
    blocks = taken(tmp_path / "log")
    assert blocks >= 7 * 4096 > 2 * size
    clear(tmp_path / "log", keep=blocks - 1)
    assert len(list((tmp_path / "log").glob("*.batch"))) == 2


def test_it_takes_no_more_than_it_may(tmp_path: Path) -> None:
    """Beyond that it refuses, still signs what it has, and goes on once there is room."""
    log = disk(tmp_path, most=300_000)
    log.append([record(0)])
    head = log.head
    (tmp_path / "log" / "of-somebody-else").write_bytes(bytes(280_000))
    log.append([record(1)])  # what others put there is seen when a batch is signed
    log.seal()
    with pytest.raises(OSError, match="No space"):
        log.append([record(n) for n in range(200)])
    with pytest.raises(OSError, match="No space"):
        log.probe()
    assert log.head.number == head.number + 1
    (tmp_path / "log" / "of-somebody-else").unlink()
    log.probe()
    log.append([record(2)])
    log.seal()
    store = store_of(tmp_path)
    ship(tmp_path / "log", store, SIGNER, KEYS)
    [said] = verify_logs(store, "prod", KEYS)
    assert (said.records, said.findings) == (3, ())


def test_a_full_disk_takes_nothing_by_halves(tmp_path: Path) -> None:
    log = written(tmp_path, 2)
    head, path = log.head, tmp_path / "log" / "000000000001.jsonl"
    size = path.stat().st_size
    with no_room(size + 40):
        with pytest.raises(OSError, match="large"):
            log.append([record(2), record(3)])
        assert (log.head, path.stat().st_size) == (head, size)
        with pytest.raises((OSError, Temporary)):
            log.probe()
    log.probe()
    log.append([record(4)])
    batch = log.seal()
    assert batch
    assert len(chains.bodies(batch, path.read_bytes())) == 3


def test_no_room_for_the_next_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch before is signed, nothing is written anywhere else, and the file is made once there is room."""
    log, real = written(tmp_path, 2), os.open

    def full(path: Any, flags: int, *more: Any) -> int:
        if flags & os.O_CREAT and str(path).endswith(".jsonl"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space"):
        log.seal()
    other = tmp_path / "of-somebody-else"
    handle = real(other, os.O_RDWR | os.O_CREAT)  # likely gets the number that the closed file had
    with pytest.raises(OSError, match="No space"):
        log.append([record(2)])
    assert log.seal() is None
    monkeypatch.setattr(os, "open", real)
    log.append([record(3)])
    log.seal()
    log.close()
    os.close(handle)
    assert other.read_bytes() == b""
    assert disk(tmp_path).head.number == 3
    store = store_of(tmp_path)
    ship(tmp_path / "log", store, SIGNER, KEYS)
    assert findings(store) == []


def test_taken_up_on_a_full_disk_and_again_when_there_is_room(tmp_path: Path) -> None:
    written(tmp_path, 2, 3).close()
    lines = tmp_path / "log" / "000000000003.jsonl"
    lines.write_bytes(lines.read_bytes() + b'{"half')  # puts it aside, and signs the rest
    with no_room(0), pytest.raises((OSError, Temporary)):
        disk(tmp_path)
    again = disk(tmp_path)  # in the same process: the first try keeps no lock
    assert (again.head.number, again.torn) == (5, 6)
    again.close()


# --- while requests come in


def run(tmp_path: Path, work: Callable[[DecisionLog], Any], **limits: Any) -> Any:
    async def inside() -> Any:
        log = DecisionLog(disk(tmp_path), Limits(**limits))
        found = await work(log)
        await log.close()
        return found

    return asyncio.run(inside())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while True:
            if true():
                return
            await asyncio.sleep(0.02)


def test_many_at_once_share_writes_and_each_knows_its_place(tmp_path: Path) -> None:
    async def work(log: DecisionLog) -> Any:
        calls = 0
        append = log.disk.append

        def counted(*requests: Any) -> Any:
            nonlocal calls
            calls += 1
            return append(*requests)

        log.disk.append = counted  # type: ignore[method-assign]
        heads = await asyncio.gather(*(log.keep(*record(n)) for n in range(100)))
        return calls, heads

    calls, heads = run(tmp_path, work)
    assert sorted(h.number for h in heads) == list(range(1, 101))
    assert calls <= 2
    lines = (tmp_path / "log" / "000000000001.jsonl").read_bytes().splitlines()
    assert {h.sha256 for h in heads} == {hashlib.sha256(x).hexdigest() for x in lines}
    assert (tmp_path / "log" / "000000000001.batch").exists()


def test_under_constant_load_it_still_signs(tmp_path: Path) -> None:
    async def work(log: DecisionLog) -> Any:
        ticking = asyncio.create_task(log.run())
        stop = False

        async def client(n: int) -> None:
            while not stop:
                await log.keep(*record(n))

        clients = [asyncio.create_task(client(n)) for n in range(8)]
        await until(lambda: len(list((tmp_path / "log").glob("*.batch"))) > 1)
        stop = True
        await asyncio.gather(*clients)
        ticking.cancel()

    run(tmp_path, work, seal_records=10)


def test_nothing_is_kept_before_the_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed loses nothing of what the system has; a machine without power does."""
    may, synced = threading.Event(), os.fdatasync

    def slow(handle: int) -> None:
        assert may.wait(20)
        synced(handle)

    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def work(log: DecisionLog) -> Any:
        monkeypatch.setattr(os, "fdatasync", slow)
        keeping = asyncio.create_task(log.keep(*record(0)))
        done, _ = await asyncio.wait({keeping}, timeout=0.3)
        assert not done
        may.set()
        first = await keeping
        monkeypatch.setattr(os, "fdatasync", broken)
        with pytest.raises(NotKept):
            await log.keep(*record(1))
        monkeypatch.setattr(os, "fdatasync", synced)
        return first, log.disk.head, await log.keep(*record(2))

    first, then, after = run(tmp_path, work)
    assert then == first, "what was not synced has no place in the chain"
    assert after.number == 2


def test_what_cannot_be_kept_is_not_answered_and_then_it_goes_on(tmp_path: Path) -> None:
    async def work(log: DecisionLog) -> Any:
        await log.keep(*record(0))
        ticking = asyncio.create_task(log.run())
        with no_room((tmp_path / "log" / "000000000001.jsonl").stat().st_size):
            for n in (1, 2):
                with pytest.raises(NotKept):
                    await log.keep(*record(n))
            assert not log.well
        await until(lambda: log.well)  # mends itself
        head = await log.keep(*record(3))
        ticking.cancel()
        return head

    assert run(tmp_path, work).number == 2


def test_a_request_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "log" / "000000000001.jsonl"

    async def work(log: DecisionLog) -> Any:
        await log.keep(*record(0))
        one = path.stat().st_size
        with no_room(3 * one), pytest.raises(NotKept):  # there is room for one of them, and a half
            await log.keep_all([record(1), record(2), record(3)])
        assert path.stat().st_size == one
        return await log.keep_all([record(1), record(2), record(3)])

    assert [h.number for h in run(tmp_path, work)] == [2, 3, 4]


def test_batched_mode_takes_no_request_by_halves(tmp_path: Path) -> None:
    async def work(log: DecisionLog) -> Any:
        await log.keep(*record(0))
        with pytest.raises(NotKept):
            await log.keep_all([record(1), record(2), record(3)])
        assert (log.waiting, log.failures) == (1, 1)
        await log.keep_all([record(1), record(2)])
        assert log.waiting == 3

    run(tmp_path, work, strict=False, most_waiting=3)
    assert disk(tmp_path).head.number == 3


def test_what_is_being_written_waits_too(tmp_path: Path) -> None:
    """A disk that is slow must not let twice as many decisions wait as may: a crash could lose them all."""
    begun, go = threading.Event(), threading.Event()

    async def work(log: DecisionLog) -> Any:
        append = log.disk.append

        def slow(*requests: Any) -> Any:
            begun.set()
            assert go.wait(10)
            return append(*requests)

        log.disk.append = slow  # type: ignore[method-assign]
        await log.keep_all([record(0), record(1)])
        await until(begun.is_set)
        assert log.waiting == 2
        with pytest.raises(NotKept):
            await log.keep_all([record(2), record(3)])
        await log.keep(*record(4))
        go.set()
        await until(lambda: not log.waiting)

    run(tmp_path, work, strict=False, most_waiting=3)
    assert disk(tmp_path).head.number == 3


def test_whatever_the_disk_raises_the_thread_goes_on(tmp_path: Path) -> None:
    """A panic of a library in another language is no `Exception`."""

    class Panic(BaseException):
        pass

    async def work(log: DecisionLog) -> Any:
        append = log.disk.append

        def panics(*_: Any) -> Any:
            raise Panic("out of memory")

        log.disk.append = panics  # type: ignore[method-assign]
        with pytest.raises(NotKept, match="out of memory"):
            await asyncio.wait_for(log.keep(*record(0)), 10)
        assert not log.well
        log.disk.append = append  # type: ignore[method-assign]
        return await asyncio.wait_for(log.keep(*record(1)), 10)

    assert run(tmp_path, work).number == 1


def test_batched_mode_does_not_wait_and_is_bounded(tmp_path: Path) -> None:
    async def work(log: DecisionLog) -> Any:
        assert [await log.keep(*record(n)) for n in range(5)] == [None] * 5
        with pytest.raises(NotKept):
            await log.keep(*record(5))
        await until(lambda: not log.waiting)
        await log.keep(*record(6))

    run(tmp_path, work, strict=False, most_waiting=5)
    ship(tmp_path / "log", store_of(tmp_path), SIGNER, KEYS)
    [said] = verify_logs(store_of(tmp_path), "prod", KEYS)
    assert (said.records, said.findings) == (6, ())


def test_batched_mode_keeps_what_a_full_disk_refused(tmp_path: Path) -> None:
    async def work(log: DecisionLog) -> Any:
        with no_room(10):
            await log.keep(*record(0))
            await until(lambda: not log.well)
            with pytest.raises(NotKept):  # else a crash could lose whatever was answered meanwhile
                await log.keep(*record(1))
        await until(lambda: log.well)
        await log.keep(*record(2))

    run(tmp_path, work, strict=False)
    lines = (tmp_path / "log" / "000000000001.jsonl").read_bytes().splitlines()
    assert [canonical.decode(x)["body"]["n"] for x in lines] == [0, 2]


WRITER = """
import asyncio, pathlib, sys
from tests.serve.logs import disk, record
from workflows.serve.log import DecisionLog, Limits
async def main():
    log = DecisionLog(disk(pathlib.Path(sys.argv[1])), Limits(seal_records=20))
    ticking = asyncio.create_task(log.run())
    async def one(n):
        for head in await log.keep_all([record(n)] if n % 3 else [record(n), record(n + 1), record(n + 2)]):
            print(head.number, head.sha256, flush=True)
    for begin in range(0, 10**6, 10):
        await asyncio.gather(*(one(begin + i) for i in range(10)))
asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    """Whatever was acknowledged before the kill stands in the chain afterwards, with the digest that was told."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout
        answered = [process.stdout.readline().split() for _ in range(300)]
        process.kill()
        rest = [line.split() for line in process.stdout.read().splitlines()]
    answered += [words for words in rest if len(words) == 2 and len(words[1]) == 64]
    log = disk(tmp_path)
    log.seal()
    assert log.head.number >= max(int(n) for n, _ in answered) >= 300
    store = store_of(tmp_path)
    ship(tmp_path / "log", store, SIGNER, KEYS)
    assert findings(store) == []
    lines = b"".join(p.read_bytes() for p in sorted((tmp_path / "log").glob("*.jsonl"))).splitlines()
    known = {str(i): hashlib.sha256(x).hexdigest() for i, x in enumerate(lines, 1)}
    assert all(known[n] == sha for n, sha in answered)
